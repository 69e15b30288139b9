"""Split text into sentences, clauses and words."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

_FILE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
TITLES = frozenset(_FILE["titles"].split())
NUMBERED = frozenset(_FILE["numbered"].split())
ABBREVIATIONS = frozenset(_FILE["abbreviations"].split())
CAPITALISED = frozenset(_FILE["capitalised"].split())
OPENERS = frozenset(_FILE["openers"].split())
STOP_WORDS = frozenset(_FILE["stop_words"].split())
MONTHS = frozenset(_FILE["months"].split())


STOPS = ".!?\u2026"
CLOSING = "\"')]\u2019\u201d"
OPENING = "\"'([\u2018\u201c"

_WORD = re.compile(r"\S+")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_DOTTED = re.compile(r"(?:[^\W\d_]{1,5}\.)+[^\W\d_]{1,5}")  # Ph.D, B.Sc, p.m
# "No. IV", but not "He said no. I left."
_NUMBER = re.compile(r"#?\d.*|[IVXLC]{2,7}\b.*|[VX]\b.*")


def split(text: str) -> list[str]:
    """Split `text` into sentences, in order; a line break always ends one.

    A sentence does not end after a title ("Lt."), nor before the number that an abbreviation
    announces ("No. 10"), nor after another abbreviation or initials ("J. R. R.") unless a word
    that opens sentences follows. What begins in lower case belongs to the sentence before, and so
    does a single word; a paragraph's first word belongs to what follows.
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
    """Return whether a sentence ends between two words."""
    stopped = word.rstrip(CLOSING)
    plain = stopped.rstrip(STOPS).lstrip(OPENING)
    lower = plain.lower()
    if not stopped.endswith(tuple(STOPS)):
        return False
    if stopped.endswith("."):
        if lower in TITLES:
            return False
        if lower in NUMBERED and _NUMBER.fullmatch(following.lstrip(OPENING)):
            return False
    if is_abbreviation(plain):
        return following.rstrip(",").lower() in OPENERS
    return True


def is_abbreviation(word: str) -> bool:
    """Return whether `word`, without its last period, is an abbreviation."""
    return bool(
        word.lower() in ABBREVIATIONS
        or word in CAPITALISED
        or _INITIALS.fullmatch(word)
        or _DOTTED.fullmatch(word)
    )


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


MAX_TEXT = 200_000  # characters read of a response
MAX_SENTENCES = 200
MAX_SENTENCE = 2_000  # characters read of one

# Phrases that chat models put around an answer.
_CHAT = re.compile(r"(?:Sure|Certainly|Of course|Here is|Here's|Here are)\b.{0,200}:")
_CHAT_END = re.compile(r"(?:Please (?:note|let|feel|tell)|I hope|Let me know|Feel free)\b")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t].*$", re.MULTILINE)
_MARKUP = re.compile(r"\*\*|__|^[ \t]*(?:[-*\u2022]|\d{1,2}[.)])[ \t]+", re.MULTILINE)


def sentences(response: str) -> tuple[list[str], str]:
    """Return the sentences of a response that may state facts, and what was left unread.

    A very long response is read up to fixed limits.
    """
    whole = split(_MARKUP.sub("", _HEADING.sub("", response[:MAX_TEXT])))
    cut = []
    if len(response) > MAX_TEXT:
        cut.append(f"characters after {MAX_TEXT:,}")
    if len(whole) > MAX_SENTENCES:
        cut.append(f"sentences after {MAX_SENTENCES}, of {len(whole):,}")
    if any(len(sentence) > MAX_SENTENCE for sentence in whole[:MAX_SENTENCES]):
        cut.append(f"what stands after {MAX_SENTENCE:,} characters in a sentence")
    kept = [sentence[:MAX_SENTENCE] for sentence in whole[:MAX_SENTENCES]]
    if kept and _CHAT.fullmatch(kept[0]):
        kept = kept[1:]
    if len(kept) > 1 and _CHAT_END.match(kept[-1]):
        kept = kept[:-1]
    return kept, f"not read: {'; '.join(cut)}" if cut else ""


_TOKEN = re.compile(r"[^\W_]+(?:[.,]\d+)*")
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

# Numbers that may be written as words or as digits.
NUMERALS = {
    word: str(value)
    for row, first in (
        ("one two three four five six seven eight nine ten eleven twelve", 1),
        ("first second third fourth fifth sixth seventh eighth ninth tenth", 1),
    )
    for value, word in enumerate(row.split(), first)
}


class Word(NamedTuple):
    """A word in lower case without accents, its stem, and whether it was capitalised."""

    text: str
    stem: str
    capital: bool

    @property
    def is_number(self) -> bool:
        return self.text[0].isdigit()


def words(text: str) -> list[Word]:
    """Return the words of `text`, in order."""
    return [_word(found) for found in _TOKEN.findall(_QUOTE.sub("", text)) if _word(found).text]


def stems(text: str) -> list[str]:
    """Return the stems of `text` without stop words, in order, as BM25 counts them."""
    return [word.stem for word in words(text) if word.text not in STOP_WORDS]


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


_JOINTS = "and|or|but|who|which|where|while|as well as|before|after|when|including|such as"
_CUT = re.compile(
    rf"""
      \s* [;()\N{{EM DASH}}] \s*
    | : \s+
    | , \s+ (?!\d{{4}})               # not within a date
    | \s+ (?=(?:{_JOINTS})\s)
    """,
    re.VERBOSE,
)
_JOINT = re.compile(rf"\A(?:{_JOINTS})\s+|\s+(?:{_JOINTS})\Z")
_SUBJECTS = frozenset("he she they it his her their its this these".split())


def clauses(entity: str, sentence: str) -> list[str]:
    """Split a sentence into clauses by punctuation and conjunctions, without a model.

        Ada Lund (born 1931) was a painter and won the Eugen Medal.
        -> Ada Lund born 1931 | Ada Lund was a painter | Ada Lund won the Eugen Medal.

    A clause without a subject gets `entity` as its subject; clauses without content are dropped.
    A clause keeps the words that a verifier looks for, not always the grammar of a sentence.
    """
    name = set(stems(entity))
    results = []
    for number, piece in enumerate(_CUT.split(sentence)):
        clause = _JOINT.sub("", piece.strip())
        if set(stems(clause)) - name:
            first = words(clause)[0]
            headed = first.text in _SUBJECTS or first.stem in name or number == 0
            results.append(clause if headed else f"{entity} {clause}")
    return results or [sentence]
