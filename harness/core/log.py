"""A log that programs read: with RLRF_LOG=json each line on stderr is a JSON object.

That holds whoever writes: this program, the `logging` and `warnings` of any library, a library that
prints, a traceback.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from harness.core.progress import as_object, logs_are_json, say

MAX_LINE_CHARS = 1024 * 1024  # of a line that does not end


@contextlib.contextmanager
def structured() -> Iterator[None]:
    """Make each line on stderr a JSON object while the block runs, if RLRF_LOG asks for that."""
    if not logs_are_json():
        yield
        return
    handler, before = _Said(), sys.stderr
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


class _Said(logging.Handler):
    """Say what is logged, with its level."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(self.format(record), record.levelname.lower())
        except Exception:
            self.handleError(record)


class JsonLines(io.TextIOBase):
    """A stream that passes JSON objects on line by line, and makes one of any other line."""

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
        """Write what was begun, although its line does not end."""
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
            line = as_object(line)
        self.stream.write(f"{line}\n")


def _is_object(line: str) -> bool:
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "message" in found
