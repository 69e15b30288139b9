"""Read the JSON verdict in a judge's reply, which is untrusted text.

Fences and prose around the verdict, and the slips that `read_object` accepts, are tolerated. A
quotation from the judged answer is never a verdict. A reply that cannot be read, or can be read in
two ways, is refused with the reason; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

MAX_REPLY = 100_000  # characters
MAX_OBJECTS = 200  # openings tried in one reply: bounds the time
MIN_QUOTE = 40  # characters; a shorter answer may be in a reply by chance
MIN_HARM = 9  # characters: `",score:5`; a shorter answer cannot end a reason and add a score

TWICE = object()  # the judgement of a name that one object judges twice


class UnparsableReplyError(Exception):
    """A reply that cannot be read; the message is the reason."""


def judgements(reply: str, names: Sequence[str], *answers: str) -> dict[str, Any]:
    """Return the reply's judgement of each name, such as an aspect; scalars are text.

    `names` are in lower case; `answers` are the judged texts. A repetition of a whole answer is
    skipped, and an object that is part of an answer is a quotation. The last remaining object
    binds. Earlier objects add only names that no later one judges, so a reply with one object per
    name is read, too. If the last object is broken, nothing before it counts.

    Raises:
        UnparsableReplyError: the reply is empty, too long, without a judgement, or broken.
    """
    if len(reply) > MAX_REPLY:
        raise UnparsableReplyError(f"the reply is longer than {MAX_REPLY} characters")
    judged: dict[str, Any] = {}
    for value in reversed(_objects(reply, tuple(names), answers)):
        if value is None:
            if judged:
                break
            raise UnparsableReplyError("the verdict is not readable JSON")
        pairs = _named(value, frozenset(names))
        if any(name in judged for name, _ in pairs):
            break
        for name, judgement in pairs:
            judged[name] = judgement if name not in judged else TWICE
    if not judged:
        raise UnparsableReplyError("no JSON verdict" if reply.strip() else "the reply is empty")
    return judged


_OPENING = re.compile(r"\{\s*+(?:[\"']|\w+\s*:)")
_BRACE = re.compile(r"[{}]")
_HARMLESS = "\ufffc"  # replaces a quotation; not part of JSON


@cache
def _key(names: tuple[str, ...]) -> re.Pattern[str]:
    words = "|".join(re.escape(name) for name in names)
    return re.compile(rf"[\"']?\b(?:{words})[\"']?\s*:", re.IGNORECASE)


@cache
def _starts_with_key(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\{{\s*+{_key(names).pattern}", re.IGNORECASE)


def _objects(
    reply: str, names: tuple[str, ...], answers: Sequence[str]
) -> list[dict[str, Any] | None]:
    """Return the outermost objects that judge and are not quotations; None for a broken one.

    The inside of a broken verdict is not read: it may be a quotation that lost its quotes.
    """
    objects: list[dict[str, Any] | None] = []
    quotable = [_squeezed(answer) for answer in answers]
    closings = _closings(reply)
    places = {squeezed: _quotes(reply, squeezed) for squeezed in quotable}
    quotes = _apart(places.values())
    apart = iter(_apart(where for squeezed, where in places.items() if len(squeezed) >= MIN_QUOTE))
    quote = next(apart, None)
    at = tried = 0
    while opening := _OPENING.search(reply, at):
        start = opening.start()
        while quote and quote[1] <= start:
            quote = next(apart, None)
        if quote and quote[0] <= start:
            at = quote[1]
            continue
        tried += 1
        if tried > MAX_OBJECTS:
            raise UnparsableReplyError(f"the reply opens more than {MAX_OBJECTS} objects")
        value: dict[str, Any] | None = None
        try:
            value, at = read_object(reply, start)
        except MalformedError:
            end = closings.get(start)
            if end is not None and _key(names).search(reply, start, end):
                at = end
            elif end is None and _starts_with_key(names).match(reply, start):
                at = len(reply)
            else:
                at = start + 1
                continue
        if value is not None and not _named(value, frozenset(names)):
            continue
        object_ = _squeezed(reply[start:at])
        if any(object_ in squeezed for squeezed in quotable):
            continue
        within = [(max(begin, start), end) for begin, end in quotes if begin < at and end > start]
        if value and within and not _same_without(reply, start, value, within):
            value, at = None, len(reply)
        objects.append(value)
    return objects


def _same_without(
    reply: str, start: int, value: dict[str, Any], quotes: Sequence[tuple[int, int]]
) -> bool:
    """Return whether the object at `start` still reads as `value` without its quotations.

    An unescaped quotation in a reason can end the reason and continue in the judge's place; one
    before the verdict can open an object that swallows the verdict.
    """
    parts, at = [], start
    for begin, end in quotes:
        parts += [reply[at:begin], _HARMLESS * (end - begin)]
        at = end
    try:
        again, _ = read_object("".join([*parts, reply[at:]]), 0)
    except MalformedError:
        return False
    return _same(value, again)


def _same(value: Any, again: Any) -> bool:
    if isinstance(value, dict) and isinstance(again, dict):
        return value.keys() == again.keys() and all(_same(value[k], again[k]) for k in value)
    if isinstance(value, list) and isinstance(again, list):
        return len(value) == len(again) and all(map(_same, value, again))
    return bool(value == again) or (isinstance(again, str) and _HARMLESS in again)


def _closings(text: str) -> dict[int, int]:
    """Return start of each opening brace -> end of its closing brace, ignoring quotes."""
    closings: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            opened.append(brace.start())
        elif opened:
            closings[opened.pop()] = brace.end()
    return closings


# Quoting changes white space, the marks of quoted lines and code, and escapes.
_KEPT = re.compile(r"(?:\\[nrt])|[^\s>`\\]")


def _squeezed(text: str) -> str:
    return "".join(part for part in _KEPT.findall(text) if len(part) == 1)


def _quotes(reply: str, wanted: str) -> list[tuple[int, int]]:
    """Return (start, end) of each place where the reply repeats a whole squeezed answer.

    An answer that can neither contain a score nor swallow one is not searched for.
    """
    if len(wanted) < MIN_HARM or ":" not in wanted:
        return []
    places = [match.start() for match in _KEPT.finditer(reply) if len(match.group()) == 1]
    squeezed = "".join(reply[place] for place in places)
    places_found = []
    at = squeezed.find(wanted)
    while at >= 0:
        last = at + len(wanted) - 1
        places_found.append((places[at], places[last] + 1))
        at = squeezed.find(wanted, last + 1)
    return places_found


def _apart(places: Iterable[Sequence[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Return the places in order, with overlapping ones merged."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(place for answer_places in places for place in answer_places):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged


def _named(value: Any, names: frozenset[str]) -> list[tuple[str, Any]]:
    """Return (name, judgement) at any level; the inside of a judgement does not count."""
    if isinstance(value, list):
        return [pair for part in value for pair in _named(part, names)]
    if not isinstance(value, dict):
        return []
    aspect = value.get("aspect")
    if isinstance(aspect, str) and aspect.lower() in names:
        return [(aspect.lower(), value)]
    return [
        pair
        for key, part in value.items()
        for pair in ([(key, part)] if key in names else _named(part, names))
    ]


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
    """A text that cannot be read as an object, or in two ways."""


def read_object(text: str, at: int, depth: int = 0) -> tuple[dict[str, Any], int]:
    """Read JSON as language models write it: the object that opens at `at`, and where it ends.

    Single quotes, raw line breaks, unescaped inner quotes, trailing commas and bare words are
    accepted. Keys are in lower case, scalars stay text. A quote ends a string only before `,` `:`
    `}` or `]`. A repeated key makes the object broken. Possessive matching keeps the time linear.

    Raises:
        MalformedError: there is no object, or it is nested deeper than `MAX_DEPTH`.
    """
    members: dict[str, Any] = {}
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        key, at = _read_scalar(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise MalformedError
        key = key.lower()
        if key in members:
            raise MalformedError
        members[key], at = _read_value(text, _skip(text, at + 1), depth + 1)
        at = _after_comma(text, at, "}")
    return members, at + 1


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _read_list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    values = []
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        value, at = _read_value(text, at, depth + 1)
        values.append(value)
        at = _after_comma(text, at, "]")
    return values, at + 1


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


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an object with exactly these properties, in this order."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
