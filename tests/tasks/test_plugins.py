"""Benchmarks outside the package are known by name, and broken ones are named with the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.plugins import SCORING, write_plugin

import tasks
from harness.core.errors import UserError
from harness.core.schema import Sample


def refusal(*folders: Path, name: str = "letters") -> str:
    with pytest.raises(UserError) as refused:
        tasks.load(name, folders)
    return str(refused.value)


def test_a_benchmark_in_an_included_folder_is_known_by_name_there_only(tmp_path):
    write_plugin(tmp_path / "mine" / "letters")
    task = tasks.load("letters", [tmp_path / "mine"])
    item = task.items("gate")[0]
    sample = Sample(task="letters", item=item.digest, index=0, prompt="", response="It has 3 .")
    assert task.score([(item, sample)])[0].values == {"right": 1.0}
    assert "letters" in tasks.names([tmp_path / "mine"])
    assert "letters" not in tasks.names()
    assert "There is no task 'letters'" in refusal()


def test_the_folder_of_the_plugin_itself_can_be_named_and_both_ways_give_the_same_task(tmp_path):
    plugin = write_plugin(tmp_path / "letters")
    both = tasks.load("letters", [tmp_path, plugin, tmp_path / "letters" / ".."])
    assert both is tasks.load("letters", [plugin])


def test_what_is_included_is_searched_until_the_end_of_the_block(tmp_path):
    write_plugin(tmp_path / "letters")
    with tasks.including([tmp_path]):
        assert tasks.installed("letters", "1") is not None
        assert tasks.installed("letters", "2") is None
        assert tmp_path in tasks.folders()
    assert tasks.installed("letters", "1") is None


def test_plugins_of_two_folders_may_have_folders_of_one_name(tmp_path):
    write_plugin(tmp_path / "a" / "letters", "letters_a")
    write_plugin(tmp_path / "b" / "letters", "letters_b")
    folders = [tmp_path / "a", tmp_path / "b"]
    assert tasks.load("letters_a", folders).items("gate")[0].task == "letters_a"
    assert tasks.load("letters_b", folders).items("gate")[0].task == "letters_b"


@pytest.mark.parametrize("folder", ["json", "tasks", "harness", "gsm8k", "torch", "scoring"])
def test_a_folder_may_be_called_like_any_module_and_hides_none(tmp_path, folder):
    before = sys.modules.get(folder)
    path = list(sys.path)
    write_plugin(tmp_path / folder)
    assert tasks.load("letters", [tmp_path]).name == "letters"
    assert sys.modules.get(folder) is before
    assert sys.path == path


def test_plugins_of_a_folder_can_share_a_module(tmp_path):
    write_plugin(tmp_path / "letters")
    (tmp_path / "common.py").write_text(SCORING)
    (tmp_path / "letters" / "scoring.py").write_text(
        "from ..common import METRICS, feedback, score\n"
    )
    assert tasks.load("letters", [tmp_path]).primary.name == "right"


def test_two_benchmarks_of_one_name_are_refused_with_their_folders(tmp_path):
    write_plugin(tmp_path / "a" / "letters")
    write_plugin(tmp_path / "b" / "letters")
    said = refusal(tmp_path / "a", tmp_path / "b")
    assert f"defined by {tmp_path / 'a' / 'letters'} and by {tmp_path / 'b' / 'letters'}" in said
    with (tmp_path / "a" / "letters" / "__init__.py").open("a") as file:
        file.write("TASKS = TASKS * 2\n")
    for name in list(sys.modules):
        if name.startswith("rlrf_plugins."):
            del sys.modules[name]
    assert f"{tmp_path / 'a' / 'letters'} twice" in refusal(tmp_path / "a")


def test_a_benchmark_with_the_name_of_one_of_ours_is_refused(tmp_path):
    write_plugin(tmp_path / "mine", "gsm8k")
    said = refusal(tmp_path, name="gsm8k")
    assert "called 'gsm8k', which this package has, too. Rename it" in said
    assert "gsm8k" in tasks.names()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("scoring.py", "import nowhere_to_be_had\n", "No module named 'nowhere_to_be_had'"),
        ("scoring.py", "def broken(:\n", "SyntaxError: invalid syntax"),
        ("scoring.py", "METRICS = 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("scoring.py", "raise SystemExit(3)\n", "SystemExit: 3"),
        ("scoring.py", "x = '\0'\n", "source code"),
        ("__init__.py", "from .missing import TASKS\n", "No module named 'letters.missing'"),
        ("__init__.py", "from tasks.letters.scoring import TASKS\n", "by a dot"),
        ("__init__.py", "from letters.scoring import TASKS\n", "by a dot"),
        ("__init__.py", "from tasks.task import Task\nTASKS = [Task(name='letters')]\n", "missing"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_file_and_line(tmp_path, file, text, said):
    plugin = write_plugin(tmp_path / "letters")
    (plugin / file).write_text(text)
    refused = refusal(tmp_path)
    assert f"The plugin {plugin} cannot be imported: " in refused
    assert said in refused
    assert "rlrf_plugins" not in refused
    if "\0" not in text:
        assert f"{plugin / file}, line " in refused


def test_a_plugin_can_be_loaded_once_it_is_mended(tmp_path):
    plugin = write_plugin(tmp_path / "letters")
    good = (plugin / "scoring.py").read_text()
    (plugin / "scoring.py").write_text("1 / 0")
    refusal(tmp_path)
    (plugin / "scoring.py").write_text(good)
    assert tasks.load("letters", [tmp_path]).name == "letters"


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("TASKS = []", "has to list its benchmarks: TASKS = [Task(...)]"),
        ("TASKS = {t.name: t for t in TASKS}", "TASKS is dict"),
        ("TASKS = TASKS[0]", "TASKS is Task"),
        ("TASKS = ['letters']", "lists 'letters' in TASKS, which is a str"),
        ("TASKS = [Task]", "which is a type"),
        ("del TASKS", "TASKS is missing"),
        ("TASKS = [replace(TASKS[0], name='a/b')]", "its name is 'a/b'"),
        ("TASKS = [replace(TASKS[0], name='..')]", "its name is '..'"),
        ("TASKS = [replace(TASKS[0], name=7)]", "its name is 7"),
        ("TASKS = [replace(TASKS[0], version=1)]", "the version of letters is 1"),
        ("TASKS = [replace(TASKS[0], splits='gate')]", "the splits of letters are 'gate'"),
        ("TASKS = [replace(TASKS[0], splits=())]", "the splits of letters are ()"),
        ("TASKS = [replace(TASKS[0], metrics=())]", "the metrics of letters are ()"),
        ("TASKS = [replace(TASKS[0], metrics=METRICS * 2)]", "have one name"),
        (
            "TASKS = [replace(TASKS[0], metrics=(Metric(name='a', kind='binary'),))]",
            "0 metrics of letters are primary",
        ),
        ("TASKS = [replace(TASKS[0], items=[])]", "items of letters is not a function"),
        ("TASKS = [replace(TASKS[0], score=None)]", "score of letters is not a function"),
        ("TASKS = [replace(TASKS[0], feedback='good')]", "feedback of letters is not a function"),
        ("TASKS = [replace(TASKS[0], generation={})]", "give max_tokens and stop"),
        ("TASKS = [replace(TASKS[0], generation={'max_tokens': 5})]", "give max_tokens and stop"),
    ],
)
def test_a_malformed_list_of_tasks_is_refused(tmp_path, end, said):
    plugin = write_plugin(tmp_path / "letters")
    with (plugin / "__init__.py").open("a") as file:
        file.write(
            "from dataclasses import replace\nfrom harness.core.schema import Metric\n" + end
        )
    refused = refusal(tmp_path)
    assert str(plugin) in refused
    assert said in refused


def test_a_package_that_mentions_no_tasks_is_not_imported_and_is_named_where_a_task_is_missing(
    tmp_path,
):
    other = tmp_path / "other"
    other.mkdir()
    (other / "__init__.py").write_text("raise RuntimeError('imported')\n")
    write_plugin(tmp_path / "letters")
    assert tasks.load("letters", [tmp_path]).name == "letters"
    assert f"{other}/__init__.py lists no TASKS" in refusal(tmp_path, name="other")


def test_a_folder_whose_name_is_no_identifier_is_refused(tmp_path):
    write_plugin(tmp_path / "my-letters")
    assert "Rename the folder with letters, digits and underscores" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "file.txt"])
def test_an_include_path_that_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file.txt").write_text("")
    said = refusal(tmp_path / name, name="gsm8k")
    assert f"The include path {tmp_path / name} is not a folder that can be read" in said


def with_packages(site: Path, code: str) -> dict[str, object]:
    """Run code where the packages in `site` are installed; return what it assigns to `said`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, tasks\n{code}\nprint(json.dumps(said))"],
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def install(site: Path, package: str, entry: str) -> None:
    folder = site / f"{package}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[rlrf.tasks]\n{entry}\n")


def test_plugins_of_installed_packages_are_known_and_a_broken_one_disables_only_its_own(tmp_path):
    write_plugin(tmp_path / "site" / "spelling" / "letters")
    (tmp_path / "site" / "spelling" / "__init__.py").write_text("")
    install(tmp_path / "site", "spelling", "letters = spelling.letters")
    install(tmp_path / "site", "gone", "gone = gone.benchmarks")
    write_plugin(tmp_path / "site" / "hiding", "gsm8k")
    install(tmp_path / "site", "hiding", "gsm8k = hiding")
    said = with_packages(
        tmp_path / "site",
        "from harness.core.errors import UserError\n"
        "task = tasks.load('letters')\n"
        "said = {'module': task.feedback.__module__}\n"
        "said['ours'] = tasks.load('gsm8k').feedback.__module__\n"
        "said['folders'] = [str(folder) for folder in tasks.folders()]\n"
        "try: tasks.load('lettres')\n"
        "except UserError as error: said['error'] = str(error)",
    )
    assert said["module"] == "spelling.letters.scoring"
    assert str(said["ours"]).startswith("tasks.gsm8k")
    assert str(tmp_path / "site" / "spelling" / "letters") in said["folders"]
    assert "Did you mean 'letters'?" in said["error"]
    assert "defines a benchmark called 'gsm8k', which this package has, too: ours" in said["error"]
    assert "The plugin gone (rlrf.tasks: gone.benchmarks) cannot be imported" in said["error"]


def test_doctor_names_a_broken_plugin_of_an_installed_package(tmp_path):
    install(tmp_path / "site", "gone", "gone = gone.benchmarks")
    said = with_packages(
        tmp_path / "site",
        "from rlrf.doctor import examine\n"
        "said = [one.advice for one in examine() if one.name == 'benchmarks']",
    )
    assert "The plugin gone (rlrf.tasks: gone.benchmarks) cannot be imported" in str(said)


def test_an_included_plugin_stands_in_for_the_installed_one(tmp_path):
    write_plugin(tmp_path / "site" / "spelling")
    install(tmp_path / "site", "spelling", "letters = spelling")
    write_plugin(tmp_path / "draft" / "letters")
    said = with_packages(
        tmp_path / "site",
        f"said = tasks.load('letters', [{str(tmp_path / 'draft')!r}]).items.items.__module__",
    )
    assert str(said).startswith("rlrf_plugins.")
