"""`rlrf tasks new` writes benchmarks; what they do is tested with the recipes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from harness.core.errors import UserError
from rlrf.cli import run
from rlrf.new_task import new_task


@pytest.mark.parametrize("judged", [False, True])
def test_a_benchmark_is_complete_and_its_test_lies_with_the_tests(tmp_path, judged, monkeypatch):
    (tmp_path / "tests" / "tasks").mkdir(parents=True)
    (tmp_path / "tasks").mkdir()
    monkeypatch.setattr(tasks, "FOLDER", tmp_path / "tasks")
    written = new_task("capitals", tmp_path / "tasks", judged=judged)
    names = {str(path.relative_to(tmp_path)) for path in written}
    modules = ("__init__.py", "items.py", "scoring.py", "feedback.py")
    files = {f"tasks/capitals/{name}" for name in (*modules, "items.jsonl", "capitals.yaml")}
    assert names == files | {"tests/tasks/capitals/test_capitals.py"}
    for path in written:
        text = path.read_text()
        assert "$" not in text
        if path.suffix == ".py":
            compile(text, str(path), "exec")


@pytest.mark.parametrize("judged", [False, True])
def test_outside_a_checkout_it_is_a_plugin_with_its_test_in_the_folder(tmp_path, judged):
    written = new_task("capitals", tmp_path / "mine", judged=judged)
    assert written[-1] == tmp_path / "mine" / "capitals" / "test_capitals.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "mine"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    task = tasks.load("capitals", [tmp_path / "mine"])
    assert [len(task.items(split)) for split in task.splits] == [3, 3, 3]


@pytest.mark.parametrize("name", ["statistics", "json", "calendar"])
def test_a_plugin_is_not_called_like_a_module_of_python(tmp_path, name):
    with pytest.raises(UserError, match="is a module of Python"):
        new_task(name, tmp_path)


def test_stock_lm_eval_reads_a_plugin_with_nothing_but_its_folder(tmp_path):
    new_task("capitals", tmp_path / "mine")
    code = (
        "from lm_eval.tasks import TaskManager\n"
        "manager = TaskManager(include_path='mine', include_defaults=False)\n"
        "task = manager.load('capitals')['tasks']['capitals']\n"
        "doc = task.dataset['gate'][0]\n"
        "print(doc['prompt'], task.process_results(doc, ['Tokyo, of course']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "What is the capital of Japan? {'accuracy': 1.0}\n", done.stderr


@pytest.mark.parametrize("name", ["Capitals", "9a", "a-b", "../a", "class", "", "a" * 51])
def test_a_name_that_cannot_be_a_package_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot name a benchmark"):
        new_task(name, tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["gsm8k", "mini_gsm8k", "hooks", "mini"])
def test_a_name_that_is_taken_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="already has"):
        new_task(name, tmp_path)


def test_an_existing_folder_is_left_alone(tmp_path):
    kept = tmp_path / "capitals" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(UserError, match="exists"):
        new_task("capitals", tmp_path)
    assert [*kept.parent.iterdir()] == [kept]


def test_the_default_folder_is_that_of_the_checkout_only_within_it(tmp_path, monkeypatch):
    (tmp_path / "checkout" / "tasks").mkdir(parents=True)
    (tmp_path / "checkout" / "pyproject.toml").write_text("")
    monkeypatch.setattr(tasks, "FOLDER", tmp_path / "checkout" / "tasks")
    monkeypatch.chdir(tmp_path)
    assert new_task("capitals")[-1] == Path("benchmarks/capitals/test_capitals.py")
    monkeypatch.chdir(tmp_path / "checkout")
    assert new_task("capitals")[0].parent == tmp_path / "checkout" / "tasks" / "capitals"


def test_the_command_names_the_files_and_the_next_step(tmp_path, capsys):
    assert run(["tasks", "new", "capitals", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert str(tmp_path / "capitals" / "scoring.py") in shown.out
    assert f"pytest {tmp_path}" in shown.err
    assert f"rlrf eval --include-path {tmp_path} --tasks capitals" in shown.err
