"""Read large JSON documents value by value, in memory that the largest value bounds.

    with open_text(path) as file:
        document = JsonStream(file, str(path))
        for key in document.members():
            if key == "samples":
                for _ in document.elements():
                    sample = document.value()

After each key and each element that is handed out, the caller takes what follows by `value`,
`members`, `elements` or `skip`; what it does not take is skipped.
"""

from __future__ import annotations

import codecs
import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from harness.core.errors import UserError
from harness.core.files import open_plain, unique_keys

BLOCK_CHARS = 256 * 1024
MAX_VALUE_CHARS = 16 * 1024**2  # of one value that is read whole
MAX_DEPTH = 200  # of objects and lists that are skipped
_SPACE = " \t\n\r"
_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


class Readable(Protocol):
    """Text or bytes, block by block."""

    def read(self, size: int, /) -> Any: ...


class JsonStream:
    """A JSON document that is read from left to right.

    Raises:
        UserError: by every method: what is read is not JSON, ends too early, or has a value that
            is too large to be read whole. The message names `where`.
    """

    def __init__(self, file: Readable, where: str) -> None:
        self.where = where
        self._file = file
        self._text, self._at, self._ended = "", 0, False
        self._taken = 0  # counts what the caller took, to see what it left

    def kind(self) -> str:
        """Return the character that the next value begins with, "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def value(self) -> Any:
        """Parse the next value whole."""
        self._taken += 1
        self.kind()
        wanted = BLOCK_CHARS
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                # A number at the end of the block may have more digits in the next.
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            except RecursionError as error:
                raise self._fault("it is nested too deeply") from error
            except ValueError as error:
                is_repeated_key = not isinstance(error, json.JSONDecodeError)
                if self._ended or is_repeated_key:
                    raise self._fault(self._explain(error)) from error
            room = MAX_VALUE_CHARS - (len(self._text) - self._at)
            if room <= 0:
                raise self._fault(f"one value has more than {MAX_VALUE_CHARS:,} characters")
            self._more(min(wanted, room))
            wanted *= 4

    def members(self) -> Iterator[str]:
        """Iterate over the keys of the next value, an object; take the value after each key."""
        self._take("{", "an object")
        seen: set[str] = set()
        first = True
        while self.kind() != "}":
            if not first:
                self._take(",", "',' or '}'")
                if self.kind() == "}":
                    raise self._fault("a key is expected after ','")
            first = False
            if self.kind() != '"':
                raise self._fault("a key in quotation marks is expected")
            key = self.value()
            if key in seen:
                raise self._fault(f"the key {key[:200]!r} is there twice: keep one")
            seen.add(key)
            self._take(":", "':'")
            taken = self._taken
            yield key
            if self._taken == taken:
                self.skip()
        self._at += 1

    def elements(self) -> Iterator[None]:
        """Iterate over the next value, a list; take each element."""
        self._take("[", "a list")
        first = True
        while self.kind() != "]":
            if not first:
                self._take(",", "',' or ']'")
                if self.kind() == "]":
                    raise self._fault("a value is expected after ','")
            first = False
            taken = self._taken
            yield
            if self._taken == taken:
                self.skip()
        self._at += 1

    def skip(self, depth: int = 0) -> None:
        """Pass over the next value, of any size."""
        kind = self.kind()
        if depth > MAX_DEPTH:
            raise self._fault("it is nested too deeply")
        if kind == "{":
            for _ in self.members():
                self.skip(depth + 1)
        elif kind == "[":
            for _ in self.elements():
                self.skip(depth + 1)
        else:
            self.value()

    def end(self) -> None:
        """Require that nothing follows."""
        if self.kind():
            raise self._fault("there is more after the end of the document")

    def _take(self, character: str, expected: str) -> None:
        self._taken += 1
        if self.kind() != character:
            shown = self._text[self._at : self._at + 20]
            what = f"{expected} is expected, not {shown!r}" if shown else "it ends too early"
            raise self._fault(what)
        self._at += 1

    def _more(self, size: int = BLOCK_CHARS) -> bool:
        """Read another block; drop what was parsed."""
        if self._ended:
            return False
        try:
            block = self._file.read(size)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where} is not UTF-8 text: save it as UTF-8.") from error
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{self.where} is damaged or cut short ({error}).") from error
        self._text, self._at = self._text[self._at :] + block, 0
        self._ended = not block
        return not self._ended

    def _explain(self, error: ValueError) -> str:
        if not isinstance(error, json.JSONDecodeError):
            return str(error)
        cut_short = error.pos >= len(self._text) or error.msg.startswith("Unterminated")
        return "it ends too early" if cut_short else error.msg

    def _fault(self, what: str) -> UserError:
        return UserError(f"{self.where} is not a whole JSON document: {what}.")


MAX_FIRST_KEYS = 12


def first_keys(path: Path) -> set[str]:
    """Return the first keys of a file that holds a JSON object, by which its tool is recognised.

    After `results`, an object, comes RESULTS.KEY for its first key, and nothing more. Lists are not
    passed over: a file may be large. Returns the empty set if it is not a JSON object.
    """
    keys: set[str] = set()
    try:
        with open_json(path) as document:
            if document.kind() != "{":
                return set()
            for key in document.members():
                keys.add(key)
                if document.kind() == "{" and key in ("results", "testRunData"):
                    keys.update(
                        f"{key}.{inner}" for inner in itertools.islice(document.members(), 1)
                    )
                    return keys
                if document.kind() == "[" or len(keys) == MAX_FIRST_KEYS:
                    return keys
    except UserError:
        return keys
    return keys


class _Text:
    """UTF-8 text of a file of bytes, with or without a byte-order mark."""

    def __init__(self, file: Readable) -> None:
        self._file, self._decoder, self._first = file, codecs.getincrementaldecoder("utf-8")(), True

    def read(self, size: int, /) -> str:
        while True:
            block = self._file.read(size)
            text = self._decoder.decode(block, final=not block)
            if self._first and text:
                text, self._first = text.removeprefix("\ufeff"), False
            if text or not block:
                return text


def decoded(file: Readable) -> Readable:
    """Decode a file of bytes as UTF-8, block by block."""
    return _Text(file)


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file; unpack it if its name ends in .gz.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    try:
        with open_plain(path) as file:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield unpacked  # type: ignore[misc]
            else:
                yield file
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}).") from error
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror or error}).") from error


@contextmanager
def open_json(path: Path) -> Iterator[JsonStream]:
    """Open a JSON file, which may be gzipped.

    Raises:
        UserError: as `open_bytes`.
    """
    with open_bytes(path) as file:
        yield JsonStream(decoded(file), str(path))
