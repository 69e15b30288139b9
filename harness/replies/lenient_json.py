"""A lenient reader of JSON, for what language models write.

Single quotes, raw line breaks, unescaped inner quotes, trailing commas and bare words are read.
Scalars stay text. A quote ends a string only where one may end, before `,` `:` `}` or `]`; a key
that comes twice makes the object broken. Possessive matching keeps the time linear.
"""

from __future__ import annotations

import re
from typing import Any

MAX_DEPTH = 8

_SPACE = re.compile(r"\s*+")
_STRINGS = {
    quote: re.compile(
        rf"{quote}((?:[^{quote}\\]|\\.|{quote}(?!\s*+[,:\}}\]]))*+){quote}", re.DOTALL
    )
    for quote in "\"'"
}
_BARE = re.compile(r"[^\s\"'{}\[\],:][^\"'{}\[\],:\n]*+")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


class MalformedError(Exception):
    """This cannot be read as an object, or can be read in two ways."""


def read_object(text: str, at: int, depth: int = 0) -> tuple[dict[str, Any], int]:
    """The object whose brace opens at `at`, its keys in lower case, and where it ends.

    Raises:
        MalformedError: what stands there is no object, or one nested deeper than `MAX_DEPTH`.
    """
    found: dict[str, Any] = {}
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        key, at = _read_scalar(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise MalformedError
        key = key.lower()
        if key in found:
            raise MalformedError
        found[key], at = _read_value(text, _skip(text, at + 1), depth + 1)
        at = _after_comma(text, at, "}")
    return found, at + 1


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _read_list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found = []
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        value, at = _read_value(text, at, depth + 1)
        found.append(value)
        at = _after_comma(text, at, "]")
    return found, at + 1


def _after_comma(text: str, at: int, closing: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] == ",":
        return _skip(text, at + 1)
    if text[at : at + 1] != closing:
        raise MalformedError
    return at


def _read_value(text: str, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise MalformedError
    if text[at : at + 1] == "{":
        return read_object(text, at, depth)
    if text[at : at + 1] == "[":
        return _read_list(text, at, depth)
    return _read_scalar(text, at)


def _read_scalar(text: str, at: int) -> tuple[str, int]:
    if string := _STRINGS.get(text[at : at + 1]):
        if match := string.match(text, at):
            return _unescape(match.group(1)).strip(), match.end()
        raise MalformedError
    if match := _BARE.match(text, at):
        return match.group().strip(), match.end()
    raise MalformedError


def _unescape(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        code = match.group(1)
        return chr(int(code[1:], 16)) if len(code) == 5 else _ESCAPED.get(code, code)

    plain = _ESCAPE.sub(character, text)
    # Two escapes of a surrogate pair are one character; a lone one is replaced.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
