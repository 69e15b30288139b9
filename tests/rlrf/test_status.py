"""How far a run is, as another process reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.core import run_status
from harness.core.log import say
from harness.core.progress import track
from rlrf.cli import cli
from rlrf.run import PROGRESS, open_run
from rlrf.status import markdown, status


def told(folder: Path) -> str:
    return markdown(status(folder))


def test_a_run_that_was_never_started(tmp_path: Path) -> None:
    assert status(tmp_path / "run").state == "never started"
    assert "no run yet" in told(tmp_path / "run")


def test_what_a_run_says_of_itself_steers_no_terminal(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    told_by = {"pid": 1, "host": "h", "since": 1.0, "at": 1.0, "stage": "\x1b[2J\u202e"}
    (tmp_path / PROGRESS).write_text(json.dumps(told_by))
    assert "killed in ⟨U+001B⟩[2J⟨U+202E⟩" in told(tmp_path)


def test_a_run_at_each_of_its_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_status, "PUBLISH_EVERY_SECONDS", 0.0)
    folder = tmp_path / "run"
    seen = []

    def explore(new: Path) -> None:
        with track("explore quiz", 10, "responses") as advance:
            advance(4)
            seen.append((status(folder), told(folder)))

    with open_run(folder, {"config": "abc"}) as run:
        run.stage("iter_1/explore", [], explore)
        between = status(folder)
    ((found, said),) = seen
    assert found.state == "running"
    assert found.progress is not None
    assert (found.progress.stage, found.progress.done, found.progress.total) == (
        "iter_1/explore",
        4,
        10,
    )
    assert found.progress.rate > 0 and found.progress.left is not None
    assert "iter_1/explore: explore quiz, 4/10 responses" in said and "left" in said
    assert list(between.stages) == ["iter_1/explore"]
    assert status(folder).state == "stopped"
    assert "run the same command again to resume" in told(folder)
    assert not (folder / PROGRESS).exists()
    (folder / "result.json").write_text("{}")
    assert status(folder).state == "finished"


def test_progress_is_no_part_of_a_stage(tmp_path: Path) -> None:
    def make(new: Path) -> None:
        with track("work", 1) as advance:
            advance(1)

    with open_run(tmp_path / "run", {}) as run:
        stage = run.stage("a", [], make)
    assert {path.name for path in stage.folder.iterdir()} == {"manifest.json"}


def test_the_command_prints_json_and_watches_until_the_end(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", {}):
        pass
    done = CliRunner().invoke(cli, ["status", str(tmp_path / "run"), "--json", "--watch"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["state"] == "stopped" and found["iterations"] == []


def test_a_structured_log_is_an_object_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLRF_LOG", "json")

    def make(new: Path) -> None:
        with track("explore quiz", 2, "responses") as advance:
            advance(2)
        say("one\nthing", "error")

    with open_run(tmp_path / "run", {}) as run:
        run.stage("iter_1/explore", [], make)
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["message"].startswith("explore quiz: 2 responses")
    assert first["stage"] == second["stage"] == "iter_1/explore"
    assert (first["level"], second["level"]) == ("info", "error")
    assert second["message"] == "one\nthing"
