"""Print what a command returns, and let its exit code stand where nobody can read the output."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

import click

from harness.core.log import show, write_out
from harness.core.text import json_text

ERROR, OUT_OF_TIME, HUNG_UP, INTERRUPTED, TERMINATED = 3, 75, 129, 130, 143
EXIT = {"pass": 0, "fail": 1, "inconclusive": 2}
_JSON = "rlrf.json"  # key of a command's context


def set_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    """Remember whether the user asked for JSON."""
    context.meta[_JSON] = value


def print_result(result: Any, text: object) -> None:
    """Print `text` for people; with --json print `result`, of records, dicts and lists."""
    print_json(result) if wants_json() else show(text)


def wants_json() -> bool:
    """Tell whether the command was called with --json."""
    return bool(click.get_current_context().meta.get(_JSON))


def print_json(value: Any) -> None:
    """Print a result for programs: JSON that any parser takes, on stdout."""
    text = json.dumps(
        value, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False, default=_plain
    )
    write_out(json_text(text) + "\n")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


class Stream:
    """A text stream that remembers the error of a write instead of raising it.

    After an error nothing more is written. Characters that the encoding of the stream lacks are
    written as escapes. `error` is empty as long as all was written.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.error = ""
        self._stream = stream

    def write(self, text: str) -> int:
        with self._remembering() as stream:
            try:
                stream.write(text)
            except UnicodeEncodeError as error:
                encoded = text.encode(error.encoding, "backslashreplace")
                stream.write(encoded.decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            with self._remembering() as stream:
                stream.flush()

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[Any]:
        if self._stream is None:
            self.error = self.error or "it is closed"
        if self.error:
            yield _Nowhere()
            return
        try:
            yield self._stream
        except OSError as error:
            self.error = error.strerror or str(error)
            _discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Nowhere:
    def write(self, _: str) -> None: ...

    def flush(self) -> None: ...


def _discard(stream: TextIO | None) -> None:
    """Let what `stream` still buffers go nowhere, or the interpreter would fail when it exits."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, cast(TextIO, stream).fileno())
        os.close(nowhere)


@contextlib.contextmanager
def forgiving() -> Iterator[Stream]:
    """Replace stdout and stderr by forgiving streams in the block; yield the one for stdout."""
    out, error = sys.stdout, sys.stderr
    ours, complaints = Stream(out), Stream(error)
    sys.stdout, sys.stderr = cast(TextIO, ours), cast(TextIO, complaints)
    try:
        yield ours
    finally:
        ours.flush()
        complaints.flush()
        sys.stdout, sys.stderr = out, error
