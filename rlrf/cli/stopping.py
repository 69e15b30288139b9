"""Stop a command before it is done, so that the same command can resume it.

Ctrl-C, SIGTERM, SIGHUP and a deadline do the same: work under way is abandoned and cleaned up at
once, and the exit code names the cause.
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from harness.core.log import say
from rlrf.cli.output import HUNG_UP, INTERRUPTED, OUT_OF_TIME, TERMINATED

DURATION = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,4})h)?(?:(\d{1,4})m)?(?:(\d{1,4})s)?")


class Stopped(SystemExit):
    """End the process on request; no library catches a SystemExit as an error of its own."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(exit_code)
        self.reason, self.exit_code = reason, exit_code


def exit_code(stop: BaseException) -> int:
    """Log why the command stopped, and return its exit code."""
    reason, code = "Interrupted", INTERRUPTED
    if isinstance(stop, Stopped):
        reason, code = stop.reason, stop.exit_code
    say(f"{reason}. Nothing half done was kept; run the same command again to resume.")
    return code


def listen() -> None:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does, and SIGUSR1 as a deadline.

    Schedulers send SIGTERM or SIGUSR1, a terminal that is closed sends SIGHUP. Where SIGHUP is
    ignored, as `nohup` asks for, it stays so.
    """
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGUSR1, _out_of_time)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _hung_up)


@contextlib.contextmanager
def deadline(seconds: int | None) -> Iterator[None]:
    """Stop the block after so many seconds; None: never."""
    if seconds is None:
        yield
        return
    listen()
    main = threading.main_thread().ident
    timer = threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGUSR1))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Duration(click.ParamType[int]):
    """A time such as 2h, 90m or 1h30m, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = DURATION.fullmatch(str(value))
        parts = found.groups(default="0") if found else ()
        seconds = sum(
            int(part) * unit for part, unit in zip(parts, (86_400, 3600, 60, 1), strict=False)
        )
        if not seconds:
            self.fail(f"'{value}' is not a time; write it as 2h, 90m or 1h30m.", param, ctx)
        return seconds


def _terminated(*_: Any) -> NoReturn:
    raise Stopped("Terminated", TERMINATED)


def _hung_up(*_: Any) -> NoReturn:
    raise Stopped("The terminal was closed (SIGHUP)", HUNG_UP)


def _out_of_time(*_: Any) -> NoReturn:
    raise Stopped("Out of time", OUT_OF_TIME)
