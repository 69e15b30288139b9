"""Run commands in this process."""

from __future__ import annotations

import pytest

from rlrf.cli import run


def rlrf(*arguments: object) -> int:
    """Run a command and return its exit status."""
    return run([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that has to end with one sentence on stderr, and return that sentence."""
    capsys.readouterr()
    assert rlrf(*arguments) == 3
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and "unexpected" not in err
    return " ".join(err.split())
