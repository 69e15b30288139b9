"""`rlrf tasks new` writes benchmarks; what they do is tested with the recipes."""

from __future__ import annotations

import pytest

import tasks
from harness.core.errors import UserError
from rlrf.cli import run
from rlrf.new_task import new_task


@pytest.mark.parametrize("judged", [False, True])
def test_a_benchmark_is_complete_and_its_test_lies_with_the_tests(tmp_path, judged):
    (tmp_path / "tests" / "tasks").mkdir(parents=True)
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


def test_outside_a_checkout_the_test_lies_in_the_folder(tmp_path):
    assert new_task("capitals", tmp_path)[-1] == tmp_path / "capitals" / "test_capitals.py"


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


def test_an_installed_package_asks_for_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "FOLDER", tmp_path / "tasks")
    (tmp_path / "tasks").mkdir()
    with pytest.raises(UserError, match="Clone the project"):
        new_task("capitals")


def test_the_command_names_the_files_and_the_next_step(tmp_path, capsys):
    assert run(["tasks", "new", "capitals", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert str(tmp_path / "capitals" / "scoring.py") in shown.out
    assert "pytest" in shown.err and "move" in shown.err
