"""The steps of a response: its lines, or the sentences of its only line."""

from __future__ import annotations

import re

# Possessive, and of text that ends in no white space: else the time is quadratic.
_LINE = re.compile(r"\s*+\S[^\n]*\n?")
_SENTENCE = re.compile(r"\s*+\S.*?(?:[.!?](?=\s)|\Z)", re.DOTALL)


def steps(text: str) -> list[str]:
    """The steps, with the white space about them: together they are `text`.

    White space after the last one belongs to it; a blank text has no steps.
    """
    told = text.rstrip()
    lines = _LINE.findall(told)
    found = lines if len(lines) > 1 else _SENTENCE.findall(told)
    if found:
        found[-1] += text[sum(map(len, found)) :]
    return found


def first_wrong(response: str, rewrite: str) -> int:
    """The number, from 1, of the first step of `response` that `rewrite` changes; 0: none.

    One more than there are steps where all are kept and more follow.
    """
    given, right = ([step.strip() for step in steps(text)] for text in (response, rewrite))
    if given == right:
        return 0
    shorter = min(len(given), len(right))
    return next((i for i in range(shorter) if given[i] != right[i]), shorter) + 1
