"""A command that is asked to stop cleans up, says so, and exits with the code of who asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rlrf.cli import cli
from rlrf.cli.stopping import Duration, Stopped, listen
from rlrf.quickstart import seed_policy
from rlrf.status import status

CONFIG = """
model: {model}
iterations: 1
tasks: [{{name: mini_gsm8k, prompts: 400}}]
explore: {{n: 8}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "long.yaml").write_text(CONFIG.format(model=seed_policy()))
    return tmp_path


def start(folder: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).parent / "rlrf", "train", "long.yaml", "--out", "run", *options],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def exploring(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the run is in its first stage."""
    while not list(folder.glob("run/iter_1/.explore.*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (signal.SIGTERM, 143, "Terminated"),
        (signal.SIGUSR1, 75, "Out of time"),
        (signal.SIGINT, 130, "Interrupted"),
        (signal.SIGHUP, 129, "The terminal was closed (SIGHUP)"),
    ],
    ids=["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"],
)
def test_a_signal_ends_a_run_cleanly(
    folder: Path, asked: signal.Signals, code: int, said: str
) -> None:
    process = start(folder, RLRF_LOG="json")
    exploring(folder, process)
    assert status(folder / "run").state == "running"
    process.send_signal(asked)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    last = json.loads(err.splitlines()[-1])
    assert (
        last["message"].startswith(f"{said}. ")
        and "run the same command again to resume" in last["message"]
    )
    assert status(folder / "run").state == "stopped"
    left = {str(path.relative_to(folder / "run")) for path in (folder / "run").rglob("*")}
    assert {name for name in left if not name.startswith(".parts")} == {
        "run.json",
        ".lock",
        "iter_1",
    }


@pytest.mark.slow
def test_a_deadline_ends_a_run_with_the_code_for_try_again(folder: Path) -> None:
    process = start(folder, "--deadline", "12s")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert err.splitlines()[-1].startswith("Out of time. ")
    assert not list(folder.rglob("*.rlrf.tmp"))


@pytest.mark.slow
def test_a_killed_run_says_where_it_was(folder: Path) -> None:
    process = start(folder)
    exploring(folder, process)
    process.kill()
    process.communicate()
    found = status(folder / "run")
    assert found.state == "stopped"
    assert found.progress is not None and found.progress.stage == "iter_1/explore"


@pytest.mark.parametrize(
    ("written", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("1d", 86400), ("5s", 5)]
)
def test_times_are_written_as_people_write_them(written: str, seconds: int) -> None:
    assert Duration().convert(written, None, None) == seconds


@pytest.mark.parametrize("written", ["", "2", "h", "0h", "-2h", "2h 3", "1e9s", "99999d"])
def test_what_is_no_time_is_said(written: str) -> None:
    with pytest.raises(click.BadParameter, match="90m"):
        Duration().convert(written, None, None)


def test_a_hangup_is_ignored_where_nohup_asks_for_that() -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        listen()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        listen()
        with pytest.raises(Stopped) as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.value.exit_code == 129
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_help_names_the_exit_codes() -> None:
    told = CliRunner().invoke(cli, ["--help"]).output
    assert all(code in told for code in ("75", "129", "130", "143"))
