"""Text into sentences: paragraphs, then sentence ends, then the repair of what was cut in two."""

from __future__ import annotations

import re
from itertools import pairwise

# A period after these does not end a sentence ...
TITLES = frozenset(
    "mr mrs ms dr prof rev hon gen col maj capt lt cmdr adm sgt cpl gov sen rep pres messrs mme "
    "st mt ft vs nos vol fig pp eds approx ca cf viz e.g i.e feat "
    "jan feb mar apr jun jul aug sept sep oct nov dec".split()
)
# ... and after these, as after initials, only where the next word is one that opens sentences.
ABBREVIATIONS = frozenset("jr sr inc ltd co corp bros llc etc al esq dept univ assn ph.d".split())
OPENERS = frozenset(
    "he she it they we i his her its their the this that these those in on at after before during "
    "since while when although however as by from with for throughout despite one some many there "
    "if but and please".split()
)

STOPS = ".!?\u2026"
CLOSING = "\"')]\u2019\u201d"
OPENING = "\"'([\u2018\u201c"

_WORD = re.compile(r"\S+")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")


def split(text: str) -> list[str]:
    """The sentences of `text`, in order; a line break always ends one.

    A sentence does not end after a title, nor after an abbreviation or initials ("J. R. R.")
    unless a word that opens sentences follows. What begins in lower case belongs to the sentence
    before, and so does a single word; a paragraph's first word belongs to what follows.
    """
    return [sentence for line in text.splitlines() for sentence in _of_paragraph(line.strip())]


def _of_paragraph(text: str) -> list[str]:
    words = list(_WORD.finditer(text))
    pieces = []
    start = 0
    for word, following in pairwise(words):
        if _ends(word.group(), following.group()):
            pieces.append(text[start : word.end()])
            start = following.start()
    pieces.append(text[start:])
    return _repaired([piece for piece in pieces if piece])


def _ends(word: str, following: str) -> bool:
    """Whether a sentence ends between two words."""
    stopped = word.rstrip(CLOSING)
    plain = stopped.rstrip(STOPS).lstrip(OPENING)
    if not stopped.endswith(tuple(STOPS)) or plain.lower() in TITLES:
        return False
    if plain.lower() in ABBREVIATIONS or _INITIALS.fullmatch(plain):
        return following.rstrip(",").lower() in OPENERS
    return True


def _repaired(pieces: list[str]) -> list[str]:
    sentences: list[list[str]] = []
    alone = False
    for piece in pieces:
        single = len(piece.split(maxsplit=1)) == 1
        if sentences and (alone or single or piece[0].islower()):
            sentences[-1].append(piece)
            alone = False
        else:
            sentences.append([piece])
            alone = single
    return [" ".join(parts) for parts in sentences]
