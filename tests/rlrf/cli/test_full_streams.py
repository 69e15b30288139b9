"""A finished verdict stands where nobody can read it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlrf.cli import run
from tasks.mini import world

RLRF = Path(sys.executable).parent / "rlrf"
GATE = ("gate", "good", "bad")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two evaluations, `good` and `bad`, and a board."""
    root = tmp_path_factory.mktemp("evaluations")
    items = world.items("mini_gsm8k", "gate")
    for name, wrong in (("good", 0), ("bad", 400)):
        lines = [
            json.dumps({"id": i, "response": "#### -1" if i < wrong else item.reference["answer"]})
            for i, item in enumerate(items)
        ]
        (root / f"{name}.jsonl").write_text("\n".join(lines))
        answers, out = str(root / f"{name}.jsonl"), str(root / name)
        assert run(["score", "mini_gsm8k", answers, "--out", out]) == 0
    assert run(["board", "add", str(root / "board"), str(root / "good")]) == 0
    return root


def ended(folder: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command line as a shell runs it."""
    return subprocess.run(
        ["bash", "-c", f"{RLRF} {command}"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", " --json", " --github"])
@pytest.mark.parametrize(("sides", "code"), [("good good", 0), ("good bad", 1)])
def test_a_verdict_stands_where_standard_output_is_full(
    folder: Path, sides: str, code: int, options: str, tmp_path: Path
) -> None:
    junit = tmp_path / "gate.xml"
    done = ended(folder, f"gate {sides}{options} --junit {junit} > /dev/full")
    assert done.returncode == code
    assert "could not be written to standard output (No space left on device)" in done.stderr
    assert f"The exit code {code} stands." in done.stderr
    assert "unexpected" not in done.stderr and "Traceback" not in done.stderr
    assert "testsuites" in junit.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("end", [">&-", "| true; exit ${PIPESTATUS[0]}"], ids=["closed", "pipe"])
def test_a_verdict_stands_where_nobody_listens(folder: Path, end: str) -> None:
    command = f"gate good bad --json {end}"
    done = ended(folder, command)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "unexpected" not in done.stderr
    assert "standard output (" in done.stderr


@pytest.mark.slow
def test_a_verdict_stands_where_the_log_is_full(folder: Path) -> None:
    done = ended(folder, "gate good bad --github 2> /dev/full")
    assert done.returncode == 1 and done.stdout.startswith("## Gate: fail")


@pytest.mark.slow
def test_a_full_job_summary_is_said_and_the_rest_is_shown(folder: Path, tmp_path: Path) -> None:
    for place in ("/dev/full", str(tmp_path / "no" / "summary")):
        done = ended(folder, "gate good bad --github", GITHUB_STEP_SUMMARY=place)
        assert done.returncode == 1 and done.stdout.startswith("## Gate: fail")
        assert f"The job summary {place} could not be written" in done.stderr


@pytest.mark.slow
def test_a_result_that_is_lost_is_an_error_where_there_is_no_verdict(folder: Path) -> None:
    done = ended(folder, "board render board > /dev/full")
    assert done.returncode == 3 and "All files were written." in done.stderr
    done = ended(folder, "board verify board > /dev/full")
    assert done.returncode == 0 and "The exit code 0 stands." in done.stderr


@pytest.mark.slow
def test_help_and_errors_end_without_a_traceback(folder: Path) -> None:
    for command in ("--help", "gate --help", "tasks", "nonsense", "gate good nowhere"):
        for full in ("> /dev/full", "2> /dev/full", "> /dev/full 2>&1"):
            done = ended(folder, f"{command} {full}")
            assert done.returncode in (0, 3), (command, full, done.stderr)
            assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_text_that_the_terminal_cannot_show_is_written_as_escapes(folder: Path) -> None:
    done = ended(folder, "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    done = ended(folder, "gate good bad", PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 1 and "## Gate: fail" in done.stdout


def test_watching_ends_when_nobody_reads(folder: Path, tmp_path: Path) -> None:
    from rlrf.run import open_run

    with open_run(tmp_path / "run", {"config": "c"}):
        done = subprocess.run(
            ["bash", "-c", f"{RLRF} status run --watch | true; exit ${{PIPESTATUS[0]}}"],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 3 and "standard output (" in done.stderr
