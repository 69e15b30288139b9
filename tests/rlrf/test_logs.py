"""Who writes to stderr, and what is left as it was found."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from harness.core.log import annotate, say, structured
from rlrf.cli import run
from rlrf.quiet import quiet


def written(capsys: Any) -> list[dict[str, Any]]:
    """The lines on stderr, each of which is an object."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_whoever_writes_a_structured_log_is_an_object_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("RLRF_LOG", "json")
    handler = logging.getLogger("a library with its own handler")
    handler.propagate = False
    with structured():
        handler.addHandler(logging.StreamHandler())
        logging.getLogger("somebody").warning("it is %s", "late")
        handler.error("of its\nown")
        warnings.warn("be careful", UserWarning, stacklevel=1)
        print("printed", file=sys.stderr)
        sys.stderr.write("10%|#   \r20%|##  \rhalf a line")
        say("ours")
    found = written(capsys)
    told = [(one["level"], one["message"]) for one in found]
    assert ("warning", "it is late") in told and ("info", "ours") in told
    for message in ("of its", "own", "printed", "10%|#   ", "20%|##  "):
        assert ("info", message) in told
    assert any(level == "warning" and "be careful" in message for level, message in told)
    assert any("half a line" in message for _, message in told)
    assert all({"time", "level", "stage", "message"} == one.keys() for one in found)


def test_the_commands_of_a_ci_runner_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("RLRF_LOG", "json")
    with structured():
        annotate(["::error title=gate::it fell"])
        print("::error::smuggled", file=sys.stderr)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "::error title=gate::it fell"
    assert json.loads(second)["message"] == "::error::smuggled"


def test_a_log_for_people_is_not_touched(capsys: Any) -> None:
    before = sys.stderr
    with structured():
        assert sys.stderr is before
        print("as it is", file=sys.stderr)
    assert capsys.readouterr().err == "as it is\n"


def test_stderr_is_as_it_was_after_a_command(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("RLRF_LOG", "json")
    before, handlers = sys.stderr, list(logging.getLogger().handlers)
    assert run(["score", "no_such_task", "no_such_file"]) == 3
    assert sys.stderr is before and logging.getLogger().handlers == handlers
    assert [one["level"] for one in written(capsys)] == ["error"]


@pytest.mark.slow
def test_a_command_whose_libraries_warn_writes_objects_alone(tmp_path: Path) -> None:
    script = (
        "import logging, warnings, sys\n"
        "from rlrf import cli\n"
        "def loud(path=None):\n"
        "    import transformers\n"
        "    logging.getLogger('x').warning('a')\n"
        "    transformers.utils.logging.get_logger('transformers.x').warning('b')\n"
        "    warnings.warn('c')\n"
        "    raise RuntimeError('d')\n"
        "import rlrf.doctor; rlrf.doctor.examine = loud\n"
        "sys.exit(cli.run(['doctor']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"RLRF_LOG": "json", "RLRF_DEBUG": "1"},
        check=False,
    )
    assert done.returncode == 3
    said = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert "a" in said and any("b" in line for line in said) and any("c" in line for line in said)
    assert any("Traceback" in line for line in said)


def state() -> dict[str, Any]:
    """What `quiet` changes."""
    import datasets
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as notices

    return {
        "environment": dict(os.environ),
        "datasets": datasets.utils.are_progress_bars_disabled(),
        "transformers": notices.is_progress_bar_enabled(),
        "hub": are_progress_bars_disabled(),
        "verbosity": notices.get_verbosity(),
        "warnings": list(warnings.filters),
    }


@pytest.mark.parametrize("tqdm", [None, "0", "1"])
@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_what_is_silenced_is_as_it_was_afterwards(
    monkeypatch: pytest.MonkeyPatch, tqdm: str | None, shown: bool, fails: bool
) -> None:
    import datasets
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as notices

    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if tqdm is not None:
        monkeypatch.setenv("TQDM_DISABLE", tqdm)
    original = state()
    try:
        (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
        (notices.enable_progress_bar if shown else notices.disable_progress_bar)()
        (disable_progress_bars if shown else enable_progress_bars)()
        notices.set_verbosity_info()
        before = state()
        try:
            with quiet():
                during = state()
                notices.set_verbosity_warning()  # a trainer sets its own
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert fails
        assert state() == before
        assert during["environment"]["TQDM_DISABLE"] == "1"
        assert during["datasets"] and during["hub"] and not during["transformers"]
    finally:
        (
            datasets.disable_progress_bars
            if original["datasets"]
            else datasets.enable_progress_bars
        )()
        (
            notices.enable_progress_bar
            if original["transformers"]
            else notices.disable_progress_bar
        )()
        (disable_progress_bars if original["hub"] else enable_progress_bars)()
        notices.set_verbosity(original["verbosity"])
