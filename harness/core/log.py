"""Print: results on stdout, log lines on stderr. Nothing else in the project prints.

Log lines go through the standard `logging`, by the logger "harness" and its children. With
RLRF_LOG=json each line on stderr is a JSON object, whoever writes it: this program, the `logging`
and `warnings` of any library, a library that prints, a traceback.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

from harness.core.run_status import current_stage
from harness.core.text import terminal

MAX_LINE_CHARS = 1024 * 1024  # of a line that does not end


def say(line: str, level: str = "info") -> None:
    """Log progress or a finding, for people, on stderr."""
    _LOGGER.log(logging.getLevelNamesMapping()[level.upper()], line)


def show(result: object) -> None:
    """Print a result for people on stdout, with characters that steer a terminal made visible."""
    print(terminal(str(result)))


def write_out(document: str) -> None:
    """Print a document on stdout that a renderer has prepared: JSON, CSV, LaTeX, HTML."""
    print(document, end="")


def annotate(commands: Iterable[str]) -> None:
    """Print commands for the runner of a CI job on stderr, unchanged, also in a JSON log.

    A runner reads only lines that begin with the command.
    """
    stream = getattr(sys.stderr, "stream", sys.stderr)  # what a JSON log is written to
    for command in commands:
        print(command, file=stream, flush=True)


def logs_are_json() -> bool:
    """Tell whether each line on stderr is to be a JSON object."""
    return os.environ.get("RLRF_LOG") == "json"


def json_line(message: str, level: str = "info") -> str:
    """Return `message` as a line of a JSON log, with the time and the stage of the run."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "stage": current_stage(), "message": message})


class _Formatter(logging.Formatter):
    """Format a record as a JSON object, or as text that steers no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if logs_are_json():
            return json_line(message, record.levelname.lower())
        return terminal(message)


class _StderrHandler(logging.Handler):
    """Print records on whatever `sys.stderr` is at the time. A write that fails raises."""

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(sys.stderr, JsonLines):  # what a library has begun is a line of its own
            sys.stderr.end_line()
        print(self.format(record), file=sys.stderr, flush=True)


class _LibraryHandler(_StderrHandler):
    """The same for records of libraries, which do not expect that logging raises."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except Exception:
            self.handleError(record)


def _with_format(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(_Formatter())
    return handler


_LOGGER = logging.getLogger("harness")
_LOGGER.setLevel(logging.INFO)
_LOGGER.propagate = False  # a root logger that a notebook configures would print each line again
_LOGGER.addHandler(_with_format(_StderrHandler()))


@contextlib.contextmanager
def structured() -> Iterator[None]:
    """Make each line on stderr a JSON object while the block runs, if RLRF_LOG asks for that."""
    if not logs_are_json():
        yield
        return
    handler, before = _with_format(_LibraryHandler()), sys.stderr
    lines = JsonLines(before)
    root = logging.getLogger()
    sys.stderr = lines
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        lines.end_line()
        sys.stderr = before


class JsonLines(io.TextIOBase):
    """Pass JSON objects on line by line, and turn any other line into one."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = re.split(r"[\r\n]", self._begun + text)
        for line in lines:
            self._put(line)
        if len(self._begun) > MAX_LINE_CHARS:
            self.end_line()
        return len(text)

    def end_line(self) -> None:
        """Write the line that was begun, although it does not end."""
        line, self._begun = self._begun, ""
        self._put(line)
        self.flush()

    def flush(self) -> None:
        self.stream.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    def _put(self, line: str) -> None:
        if not line.strip():
            return
        if not _is_object(line):
            line = json_line(line)
        self.stream.write(f"{line}\n")


def _is_object(line: str) -> bool:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "message" in value
