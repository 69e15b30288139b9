"""Atomic facts as a decomposer writes them: parsed from its list, then cleaned.

A decomposer is a language model asked for the facts of one sentence. It writes "- " lines, leaves
stubs behind ("She was born."), and now and then puts in a date that the sentence does not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MAX_REPLY = 20_000  # characters read of one reply

_BULLET = re.compile(r"\s*(?:[-*\u2022]|\d{1,3}[.)])\s+(\S.*)")

# A fact that ends in one of these says nothing by itself.
STUBS = "born appointed characterized described known member advocate served elected".split()
NOT_STUBS = ("founding member",)

_CAPITALISED = re.compile(r"[^\W\d_a-z]\w*(?:[ -][^\W\d_a-z]\w*)*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_MONTH = re.compile(
    r"\b(?:January|February|March|April|May|June|July|August|September|October|November|December)\b"
)


def parse_facts(reply: str) -> list[str]:
    """The facts in a decomposer's reply: its lines that begin with a bullet, as sentences."""
    lines = (_BULLET.fullmatch(line) for line in reply[:MAX_REPLY].splitlines())
    facts = [line.group(1).strip() for line in lines if line]
    return [fact if fact.endswith((".", "!", "?")) else f"{fact}." for fact in facts]


def clean_facts(sentence: str, facts: Sequence[str]) -> list[str]:
    """The facts of `sentence` without repetitions, stubs and invented numbers.

    A stub is dropped where another fact contains it. A number or month that the sentence does not
    have is completed if it is the beginning of exactly one that it has ("197" for "1975"); if
    not, its fact is dropped. Where this would lose a number or a name of the sentence that the
    facts did cover, nothing is cleaned: the facts are returned as they came.
    """
    has = _numbers(sentence)
    names = _names(sentence)
    different = dict.fromkeys(facts)
    telling = [fact for fact in different if not _is_stub(fact, different)]
    repaired = [_repaired(fact, has) for fact in telling]
    kept = list(dict.fromkeys(fact for fact in repaired if fact is not None))
    if has & _numbers(*facts) <= _numbers(*kept) and _told(names, facts) <= _told(names, kept):
        return kept
    return list(facts)


def _is_stub(fact: str, facts: Iterable[str]) -> bool:
    words = fact.removesuffix(".")
    return (
        words.endswith(tuple(f" {stub}" for stub in STUBS))
        and not words.endswith(NOT_STUBS)
        and any(words in other for other in facts if other != fact)
    )


def _numbers(*texts: str) -> set[str]:
    """Numbers, without the commas that group their digits, and months."""
    return {
        found.replace(",", "")
        for text in texts
        for pattern in (_NUMBER, _MONTH)
        for found in pattern.findall(text)
    }


def _names(sentence: str) -> set[str]:
    """Runs of capitalised words, but for the word that a sentence begins with anyway."""
    runs = _CAPITALISED.findall(sentence)
    first = sentence.split(maxsplit=1)[:1]
    return {run for run in runs if [run] != first}


def _told(names: set[str], facts: Iterable[str]) -> set[str]:
    together = "\n".join(facts)
    return {name for name in names if name in together}


def _repaired(fact: str, has: set[str]) -> str | None:
    """`fact` with only numbers of `has`, or None if one of its own cannot be completed."""
    for number in _numbers(fact) - has:
        whole = [known for known in has if len(number) > 2 and known.startswith(number)]
        if len(whole) != 1:
            return None
        fact = re.sub(rf"(?<![\d.,]){re.escape(number)}(?!\d)", whole[0], fact)
    return fact
