"""A stage is made again when the code or the words that shaped it have changed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import pytest
from helpers import toy
from helpers.plugins import write_plugin

import tasks
from harness.core.schema import Feedback, Item, Sample, Score
from rlrf import reflect
from rlrf.code_digests import generation_settings, source, tasks_code
from rlrf.config import Config
from rlrf.loop import train
from rlrf.run import open_run
from rlrf.stage_folder import MANIFEST

CONFIG = {
    "iterations": 1,
    "tasks": [{"name": "toy_letters", "prompts": 4}],
    "explore": {"n": 4},
    "reflect": {"m": 1},
    "pairs": {"threshold": 0.05},
    "train": {"learning_rate": 2e-2, "batch_size": 8, "max_length": 200},
    "gate": {"slice": 6, "sealed": 3, "enforce": False},
    "engine": {"device": "cpu"},
}


def strict(item: Item, sample: Sample, score: Score) -> Feedback:
    said = toy.LETTERS.feedback(item, sample, score)
    aspects = [
        aspect.model_copy(update={"justification": f"Really: {aspect.justification}"})
        for aspect in said.aspects
    ]
    return said.model_copy(update={"aspects": aspects})


@pytest.fixture
def trained(tmp_path, tiny_model, toy_letters, capsys):
    """Train in one folder, and return what is said, stage by stage."""
    config = Config.model_validate(CONFIG | {"model": str(tiny_model)})

    def once() -> list[str]:
        capsys.readouterr()
        train(config, tmp_path / "run")
        return capsys.readouterr().err.splitlines()

    once.run = tmp_path / "run"
    return once


def said_of(lines: list[str], stage: str) -> str:
    return "; ".join(line for line in lines if line.startswith(f"iter_1/{stage}:"))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


@pytest.mark.slow
def test_an_edited_feedback_makes_its_stage_and_what_rests_on_it_again(trained, monkeypatch):
    trained()
    explored = contents(trained.run / "iter_1" / "explore")
    before = contents(trained.run / "iter_1" / "feedback")
    edited = replace(toy.LETTERS, feedback=strict)
    monkeypatch.setattr(tasks, "_all", lambda: {"toy_letters": edited})
    lines = trained()
    assert said_of(lines, "explore") == "iter_1/explore: done before"
    assert said_of(lines, "feedback") == (
        "iter_1/feedback: the code of task toy_letters changed since it was made: it is made again"
    )
    assert contents(trained.run / "iter_1" / "explore") == explored
    assert contents(trained.run / "iter_1" / "feedback") != before
    assert b"Really: " in (trained.run / "iter_1" / "reflect_feedback/records.jsonl").read_bytes()
    refinements = (trained.run / "iter_1" / "reflect" / "records.jsonl").read_text()
    assert "Really: " in refinements
    assert said_of(trained(), "feedback") == "iter_1/feedback: done before"


@pytest.mark.slow
def test_an_edited_feedback_generates_no_evaluation_again(trained, monkeypatch):
    trained()
    samples = contents(trained.run / "iter_1" / "evaluate_M0")["toy_letters/samples.jsonl"]
    edited = replace(toy.LETTERS, feedback=strict)
    monkeypatch.setattr(tasks, "_all", lambda: {"toy_letters": edited})
    lines = trained()
    assert "it is made again" in said_of(lines, "evaluate_M0")
    assert lines.count("evaluate toy_letters: answered before") >= 1
    assert contents(trained.run / "iter_1" / "evaluate_M0")["toy_letters/samples.jsonl"] == samples


@pytest.mark.slow
def test_an_unchanged_run_is_resumed_stage_by_stage_to_the_same_bytes(trained):
    trained()
    before = contents(trained.run)
    lines = trained()
    assert contents(trained.run) == before
    assert not [line for line in lines if "made again" in line or "recorded" in line]


@pytest.mark.slow
def test_a_run_whose_stages_name_no_code_is_resumed_and_that_is_said(trained):
    trained()
    for path in trained.run.rglob(MANIFEST):
        manifest = json.loads(path.read_text())
        manifest.pop("code", None)
        path.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    before = contents(trained.run)
    lines = trained()
    assert said_of(lines, "feedback") == (
        "iter_1/feedback: done before by a version that did not record the code of task "
        "toy_letters, the code of feedback, so that a change since cannot be seen"
    )
    assert contents(trained.run) == before


@pytest.mark.slow
def test_changed_words_of_reflection_make_the_rewrites_again(trained, monkeypatch):
    trained()
    code = source("the words of reflection", reflect)
    assert code == source("the words of reflection", reflect)
    changed = ModuleType(reflect.__name__)
    vars(changed).update(vars(reflect) | {"__file__": toy.__file__})
    monkeypatch.setattr("rlrf.stages.reflect", changed)
    lines = trained()
    assert "the words of reflection changed since it was made" in said_of(lines, "reflect")
    assert said_of(lines, "feedback") == "iter_1/feedback: done before"


@pytest.mark.slow
def test_another_length_limit_of_a_task_explores_again(trained, monkeypatch):
    trained()
    shorter = replace(toy.LETTERS, generation=dict(toy.LETTERS.generation) | {"max_tokens": 5})
    monkeypatch.setattr(tasks, "_all", lambda: {"toy_letters": shorter})
    lines = trained()
    assert "the generation settings of task toy_letters changed" in said_of(lines, "explore")


def test_a_stage_without_code_is_stored_as_before(tmp_path):
    with open_run(tmp_path / "run", {"config": "c"}) as run:
        run.stage("a", [], lambda folder: (folder / "file").write_text("x") and None)
    assert "code" not in json.loads((tmp_path / "run" / "a" / MANIFEST).read_text())


def test_a_changed_stage_keeps_files_that_somebody_else_put_there(tmp_path):
    from harness.core.errors import UserError

    def make(folder):
        (folder / "file").write_text("x")

    with open_run(tmp_path / "run", {"config": "c"}) as run:
        stage = run.stage("a", [], make, {"the code of task t": "1"})
        (stage.folder / "notes.txt").write_text("mine")
        with pytest.raises(UserError, match=r"notes\.txt, which this program did not write"):
            run.stage("a", [], make, {"the code of task t": "2"})
    assert (tmp_path / "run" / "a" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["gsm8k", "just_eval", "factscore", "mini_gsm8k"])
def test_the_code_of_a_task_is_its_modules_and_what_they_import_from_the_tasks(
    name, tmp_path, monkeypatch
):
    from rlrf import code_digests

    task = tasks.load(name)
    before = tasks_code({name: task})
    assert tasks_code({name: task}) == before
    (module,) = {task.feedback.__module__}
    true_digest = code_digests.file_digest
    monkeypatch.setattr(
        code_digests,
        "file_digest",
        lambda path: "edited" if str(path).endswith(module.replace(".", "/") + ".py")
        else true_digest(path),
    )  # fmt: skip
    assert tasks_code({name: task}) != before


def test_what_editors_and_desktops_leave_next_to_a_task_is_not_its_code(tmp_path, monkeypatch):
    from rlrf import code_digests

    (tmp_path / "tasks" / "mine").mkdir(parents=True)
    module = tmp_path / "tasks" / "mine" / "feedback.py"
    module.write_text("")
    monkeypatch.setattr(code_digests, "_file", lambda name: module)
    monkeypatch.setattr(code_digests, "_is_plugin", lambda name: True)
    with_folder = tasks_code({"toy": toy.LETTERS})
    for name in (".feedback.py.swp", ".DS_Store", "words.txt~"):
        (module.parent / name).write_text("draft")
    assert tasks_code({"toy": toy.LETTERS}) == with_folder
    (module.parent / "words.txt").write_text("draft")
    assert tasks_code({"toy": toy.LETTERS}) != with_folder


def test_words_that_a_function_holds_count():
    def critic(words: str):
        def feedback(item: Item, sample: Sample, score: Score) -> Feedback:
            return Feedback(task=words, item=sample.item, aspects=[])

        return feedback

    one, same, other = (replace(toy.TASK, feedback=critic(w)) for w in ("a", "a", "b"))
    assert tasks_code({"t": one}) == tasks_code({"t": same}) != tasks_code({"t": other})
    assert generation_settings({"t": one}) == generation_settings({"t": other})


@pytest.fixture
def digest_of(tmp_path):
    """Digest the code of the benchmark of a plugin, in a process of its own."""

    def digest(place: str = "mine") -> str:
        code = (
            "import tasks; from rlrf.code_digests import tasks_code; "
            f"print(*tasks_code({{'t': tasks.load('letters', ['{place}'])}}).values())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return digest


def test_every_module_that_a_plugin_imports_is_code_of_its_benchmark(tmp_path, digest_of):
    plugin = write_plugin(tmp_path / "mine" / "letters")
    scoring = plugin / "scoring.py"
    text = scoring.read_text()
    (tmp_path / "mine" / "common.py").write_text("UNIT = 'letters'\n")
    (plugin / "grades").mkdir()
    (plugin / "grades" / "__init__.py").write_text("from .best import BEST\n")
    (plugin / "grades" / "best.py").write_text("BEST = 2\n")
    scoring.write_text(f"from .grades import BEST\nfrom ..common import UNIT\n{text}")
    digests = [digest_of()]
    for edited in (
        scoring,
        plugin / "grades" / "best.py",
        plugin / "grades" / "__init__.py",
        tmp_path / "mine" / "common.py",
        plugin / "__init__.py",
    ):
        edited.write_text(f"{edited.read_text()}# a change\n")
        digests.append(digest_of())
    (plugin / "rubric.txt").write_text("Count.")
    digests.append(digest_of())
    assert len(set(digests)) == len(digests)
    (tmp_path / "mine" / "notes.txt").write_text("not of the plugin")
    assert digest_of() == digests[-1]


def test_where_a_plugin_lies_is_not_its_code(tmp_path, digest_of):
    write_plugin(tmp_path / "mine" / "letters")
    before = digest_of()
    (tmp_path / "mine").rename(tmp_path / "yours")
    assert digest_of("yours") == before == digest_of("yours/letters")
