"""Read the words that a number is multiplied by: million, thousand, dozen, k, M, tenths.

The word is part of the number: "1.5 million" is 1,500,000. What was counted (1.5) is the answer
only to a question that asks for millions, or that itself counts in them ("had $32 million").
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

_FILE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_WORDS = {word: (spellings, Fraction(factor)) for word, (spellings, factor) in _FILE.items()}
# Letters, their words, and the units of a question for which they may stand: a run of 5k.
_LETTERS = {
    "k": ("thousand", r"kilo\w+|k[mg]|k"),
    "K": ("thousand", r"kilo\w+|k[mg]|k|kelvin"),
    "M": ("million", r"meters?|metres?|miles?|m"),
    "MM": ("million", r"millimet\w+|mm"),
    "B": ("billion", r"bytes?|b"),
}
_SPELLINGS = "|".join(
    f"(?P<{word}>{'|'.join(spellings.split())})" for word, (spellings, _) in _WORDS.items()
)
_SCALE = re.compile(  # "18 B vitamins" and "18 M&Ms" have none
    rf"[*_-]?[^\S\n]?[*_-]{{0,2}}(?:(?i:{_SPELLINGS})|(?P<letter>MM|[kKMB](?!(?<= B) [A-Za-z])))"
    r"(?![\w&])"
)
MONEY = 1000  # the least factor of sums that are told and asked for in the same unit
_MAX_WORDS = 3  # "2 hundred thousand million"


@dataclass(frozen=True)
class Scale:
    """What a number is multiplied by for the words up to `end`."""

    words: tuple[str, ...]
    factor: Fraction
    end: int


def scale_after(text: str, at: int) -> Scale | None:
    """Read the scale words that follow the number that ends at `at`."""
    words: list[str] = []
    factor = Fraction(1)
    while len(words) < _MAX_WORDS and (match := _SCALE.match(text, at)):
        words.append(match["letter"] or str(match.lastgroup))
        factor *= _WORDS[_LETTERS.get(words[-1], (words[-1],))[0]][1]
        at = match.end()
    return Scale(tuple(words), factor, at) if words else None


def asks_in(prompt: str, words: tuple[str, ...]) -> bool:
    """Check whether a question asks for, or itself counts in, millions or the like."""
    return bool(words) and all(_asks_in(prompt, word) for word in words)


def _asks_in(prompt: str, word: str) -> bool:
    if word in _LETTERS:
        word, unit = _LETTERS[word]
        asks = rf"how (?:many|far|long|tall|high|deep)\b[^.?!]{{0,80}}?\b(?:{unit})\b"
        if re.search(asks, prompt, re.IGNORECASE):
            return True
    names, factor = _WORDS[word]
    spellings = "|".join([word, *names.split()])
    # A question about eggs by the dozen still asks for eggs; one about $32 million does not.
    if factor >= MONEY and re.search(rf"\d[\s-]?(?:{spellings})\b", prompt, re.IGNORECASE):
        return True
    return bool(
        re.search(
            r"\b(?:how many|number of) (?:(?:more|total|whole|full|extra|additional|fewer|complete|"
            rf"such) ){{0,2}}(?:{spellings})\b|\bin (?:the )?(?:{spellings})\b(?! years\b)",
            prompt,
            re.IGNORECASE,
        )
    )
