"""Judge replies: untrusted text in, one verdict an aspect out.

A reply is read as JSON with the slips that judges make: fences and prose around it, single quotes,
raw line breaks, unescaped inner quotes, trailing commas, bare words, "4/5". The last verdict that
is not a quotation of the answer binds. What cannot be read, or can be read in two ways, is
unscored with the reason: a score is never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.just_eval.aspects import ASPECTS, HIGHEST, LOWEST

MAX_REPLY = 100_000  # characters
MAX_OBJECTS = 200  # openings tried in one reply: bounds the time
MAX_DEPTH = 8
MAX_REASON = 2_000  # characters kept

REASON_KEYS = ("reason", "rationale", "justification", "explanation")
SCORE_KEYS = ("score", "rating")


@dataclass(frozen=True)
class Verdict:
    """One aspect's grade: a number from 1 to 5, "N/A", or None where the reply gives none.

    `reason` is the judge's; of an unscored aspect it says why there is no score.
    """

    score: float | Literal["N/A"] | None
    reason: str


def parse(reply: str, aspects: Sequence[str], answer: str = "") -> dict[str, Verdict]:
    """The verdict on each of `aspects`; `answer` is what was judged.

    A JSON object that stands word for word in `answer` is a quotation, not a verdict. Of what
    remains the last object binds; earlier ones add only aspects that no later one judges, so
    that one object an aspect is read too. If the last object is broken, nothing before it counts.
    """
    if len(reply) > MAX_REPLY:
        return _unscored(aspects, f"the reply is longer than {MAX_REPLY} characters")
    try:
        found = _objects(reply)
    except _TooManyError:
        return _unscored(aspects, f"the reply opens more than {MAX_OBJECTS} objects")
    quotable = _squeezed(answer)
    judged: dict[str, Any] = {}
    broken = False
    for source, value in reversed(found):
        if _squeezed(source) in quotable:
            continue
        if value is None:
            broken = True
            break
        pairs = _judgements(value)
        if any(aspect in judged for aspect, _ in pairs):
            break
        for aspect, judgement in pairs:
            judged[aspect] = judgement if aspect not in judged else _TWICE
    if broken and not judged:
        return _unscored(aspects, "the verdict is not readable JSON")
    if not judged:
        return _unscored(aspects, "the reply is empty" if not reply.strip() else "no JSON verdict")
    return {
        aspect: _verdict(judged[aspect])
        if aspect in judged
        else Verdict(None, f"the verdict says nothing of {aspect}")
        for aspect in aspects
    }


def _unscored(aspects: Sequence[str], why: str) -> dict[str, Verdict]:
    return {aspect: Verdict(None, why) for aspect in aspects}


# Finding verdicts ---------------------------------------------------------------------------------

_TWICE = object()
_OPENING = re.compile(r"\{\s*+(?:[\"']|\w+\s*:)")
_KEY = re.compile(rf"[\"']?\b(?:{'|'.join(ASPECTS)})[\"']?\s*:", re.IGNORECASE)
_STARTS_WITH_KEY = re.compile(rf"\{{\s*+{_KEY.pattern}", re.IGNORECASE)
_BRACE = re.compile(r"[{}]")


class _TooManyError(Exception):
    pass


def _objects(reply: str) -> list[tuple[str, dict[str, Any] | None]]:
    """(source text, object) of each outermost object; None for a broken one that judges.

    Nothing inside a broken verdict is looked at: it may be a quotation that lost its quotes.
    """
    found: list[tuple[str, dict[str, Any] | None]] = []
    closings = _closings(reply)
    at = tried = 0
    while opening := _OPENING.search(reply, at):
        tried += 1
        if tried > MAX_OBJECTS:
            raise _TooManyError
        start = opening.start()
        value: dict[str, Any] | None = None
        try:
            value, at = _read_object(reply, start, 0)
        except _MalformedError:
            end = closings.get(start)
            if end is not None and _KEY.search(reply, start, end):
                at = end
            elif end is None and _STARTS_WITH_KEY.match(reply, start):
                at = len(reply)
            else:
                at = start + 1
                continue
        if value is None or _judgements(value):
            found.append((reply[start:at], value))
    return found


def _closings(text: str) -> dict[int, int]:
    """Start of each opening brace -> end of the brace that closes it, quotes disregarded."""
    closings: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            opened.append(brace.start())
        elif opened:
            closings[opened.pop()] = brace.end()
    return closings


def _squeezed(text: str) -> str:
    """Without what quoting changes: white space and the marks of quoted lines and code."""
    return re.sub(r"[\s>`]+", "", text)


def _judgements(value: Any) -> list[tuple[str, Any]]:
    """(aspect, its judgement) at whatever level they stand; nothing inside a judgement counts."""
    if isinstance(value, list):
        return [pair for part in value for pair in _judgements(part)]
    if not isinstance(value, dict):
        return []
    named = value.get("aspect")
    if isinstance(named, str) and named.lower() in ASPECTS:
        return [(named.lower(), value)]
    return [
        pair
        for key, part in value.items()
        for pair in ([(key, part)] if key in ASPECTS else _judgements(part))
    ]


# Reading one judgement ----------------------------------------------------------------------------

_NUMBER = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)(?:\s*(?:/|out of)\s*5(?:\.0)?)?", re.I)
_NOT_APPLICABLE = re.compile(r"n\s?/\s?a|n\.a\.|na|not applicable", re.IGNORECASE)


def _verdict(judgement: Any) -> Verdict:
    if judgement is _TWICE:
        return Verdict(None, "judged twice in one verdict")
    reason = ""
    if isinstance(judgement, dict):
        reason = next((r for k in REASON_KEYS if isinstance(r := judgement.get(k), str)), "")
        judgement = next((judgement[k] for k in SCORE_KEYS if k in judgement), None)
    if not isinstance(judgement, str):
        return Verdict(None, "judged without a score")
    text = judgement.strip().strip("*").strip()
    if _NOT_APPLICABLE.fullmatch(text):
        return Verdict("N/A", reason[:MAX_REASON])
    number = _NUMBER.fullmatch(text)
    if number is None:
        return Verdict(None, f"the score {text[:40]!r} is not a number from {LOWEST} to {HIGHEST}")
    score = float(number.group(1))
    if not LOWEST <= score <= HIGHEST:
        return Verdict(None, f"the score {text} is outside {LOWEST} to {HIGHEST}")
    return Verdict(score, reason[:MAX_REASON])


# A lenient reader of JSON -------------------------------------------------------------------------
# Scalars stay text. A quote ends a string only where one may end, before `,` `:` `}` or `]`; a key
# that comes twice makes the object broken. Possessive matching keeps the time linear.

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


class _MalformedError(Exception):
    pass


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _read_object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        key, at = _read_scalar(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise _MalformedError
        key = key.lower()
        if key in found:
            raise _MalformedError
        found[key], at = _read_value(text, _skip(text, at + 1), depth + 1)
        at = _after_comma(text, at, "}")
    return found, at + 1


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
        raise _MalformedError
    return at


def _read_value(text: str, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise _MalformedError
    if text[at : at + 1] == "{":
        return _read_object(text, at, depth)
    if text[at : at + 1] == "[":
        return _read_list(text, at, depth)
    return _read_scalar(text, at)


def _read_scalar(text: str, at: int) -> tuple[str, int]:
    if string := _STRINGS.get(text[at : at + 1]):
        if match := string.match(text, at):
            return _unescape(match.group(1)).strip(), match.end()
        raise _MalformedError
    if match := _BARE.match(text, at):
        return match.group().strip(), match.end()
    raise _MalformedError


def _unescape(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        code = match.group(1)
        return chr(int(code[1:], 16)) if len(code) == 5 else _ESCAPED.get(code, code)

    plain = _ESCAPE.sub(character, text)
    # Two escapes of a surrogate pair are one character; a lone one is replaced.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
