"""Text as the words that matching compares: without case, accents and endings.

The stemmer only has to bring "painted", "painting" and "painter" together within one page; it
strips the longest known ending that leaves four letters.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

_WORD = re.compile(r"[^\W_]+(?:[.,]\d+)*")
_QUOTE = re.compile("['\N{RIGHT SINGLE QUOTATION MARK}](?:s\\b)?")
_ENDINGS = tuple(
    sorted(
        "ations ation ators ator ively ional ments ment ings ing ances ance ences ence ities ity "
        "iness ness ists ist isms ism ives ive ions ion ians ian ans an ers er ors or ies ied ed "
        "es ly al s e y".split(),
        key=len,
        reverse=True,
    )
)

# Words that say nothing of anybody.
STOP = frozenset(
    "a an the and or but of in on at to for from by with as is are was were be been being has have "
    "had he she it they his her its their him them who whom which that this these those also not "
    "no than then so such into over under about after before during while since until when where "
    "there can could may might will would shall should do does did one more most many other some "
    "any all both each own same very just up out if because through between i you we my our your "
    "me us".split()
)
MONTHS = frozenset(
    "january february march april may june july august september october november december".split()
)
# Numbers that a page may write out and a fact in digits, or the other way round.
NUMERALS = {
    word: str(value)
    for row, first in (
        ("one two three four five six seven eight nine ten eleven twelve", 1),
        ("first second third fourth fifth sixth seventh eighth ninth tenth", 1),
    )
    for value, word in enumerate(row.split(), first)
}


class Word(NamedTuple):
    """A word as it is compared, its stem, and whether it was capitalised."""

    text: str
    stem: str
    capital: bool

    @property
    def is_number(self) -> bool:
        return self.text[0].isdigit()


def words(text: str) -> list[Word]:
    """The words of `text`, in order."""
    return [_word(found) for found in _WORD.findall(_QUOTE.sub("", text)) if _word(found).text]


def stems(text: str) -> list[str]:
    """The stems of `text` but for stop words, in order: what BM25 counts."""
    return [word.stem for word in words(text) if word.text not in STOP]


@lru_cache(65_536)
def _word(raw: str) -> Word:
    folded = unicodedata.normalize("NFKD", raw)
    text = "".join(c for c in folded if not unicodedata.combining(c)).lower()
    return Word(text, _stem(text), raw[0].isupper())


def _stem(word: str) -> str:
    if word[:1].isdigit():
        return word.replace(",", "")
    for ending in _ENDINGS:
        if len(word) - len(ending) >= 4 and word.endswith(ending):
            return word[: -len(ending)]
    return word
