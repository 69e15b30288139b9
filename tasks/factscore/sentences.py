"""Text into sentences: paragraphs, then sentence ends, then the repair of what was cut in two."""

from __future__ import annotations

import re
from itertools import pairwise

# A period after these never ends a sentence: what they belong to follows.
TITLES = frozenset(
    "mr mrs ms mx dr drs messrs mme mlle prof profs rev revd fr msgr bp abp hon rt gen gens brig "
    "col maj capt lt lts cmdr cdr comdr adm sgt sgts cpl pvt supt insp det gov sen sens rep reps "
    "pres amb atty med phil vs viz cf eds approx ca feat esp incl excl resp e.g i.e".split()
)
# A period after these does not end a sentence where a number follows ("No. 10 Squadron").
NUMBERED = frozenset(
    "no nos nr num op opp vol vols fig figs p pp ch chap chs sec sect art arts pt pts ser ep eps "
    "est fl r c max min jan feb mar apr jun jul aug sept sep oct nov dec".split()
)
# After these, as after initials, a sentence ends only where the next word opens sentences ...
ABBREVIATIONS = frozenset(
    "jr sr inc ltd co corp bros llc plc etc al esq dept univ assn assoc inst intl natl mfg bldg "
    "st ste mt mts ft pt nos vol vols figs pp trans repr ibid suppl ed jan feb mar apr jun jul aug "
    "sept sep oct nov dec".split()
)
# ... and these are abbreviations only when they are capitalised ("Mass.", "Fifth Ave.").
CAPITALISED = frozenset(
    "Ala Ariz Ark Calif Colo Conn Fla Ga Ill Ind Kan Ky Mass Md Mich Minn Mo Mont Neb Nev Okla Pa "
    "Penn Tenn Tex Va Vt Wash Wis Wyo Ont Que Ave Blvd Rd Hwy Rte Sq Fig".split()
)
OPENERS = frozenset(
    "he she it they we i his her its their the this that these those in on at after before during "
    "since while when although however as by from with for throughout despite one some many there "
    "if but and please a an both until under among between then later soon afterwards meanwhile "
    "today eventually subsequently additionally moreover furthermore also upon following".split()
)

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
    """Whether a sentence ends between two words."""
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
    """Whether `word`, without its last period, is an abbreviation that may end a sentence."""
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
