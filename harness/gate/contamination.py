"""Find training texts that repeat items of a benchmark, by n-grams of words."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WORD = re.compile(r"\w+")
Hashes = npt.NDArray[np.uint64]
STRANGER: Hashes = np.zeros(1, dtype=np.uint64)
SHORT = 8  # words; fewer are repeated by chance
CHUNK = 1000  # training texts at a time


@dataclass(frozen=True)
class Overlap:
    """An item that a training text repeats: `share` of its words stand in common n-grams."""

    item: int
    share: float


def overlap(
    training: Sequence[str], items: Sequence[str], *, n: int = 13, least: float = 0.5
) -> list[Overlap]:
    """List the `items` of which a share of words, `least` or more, is repeated in `training`.

    A word is repeated where it is part of `n` words in a row that a training text has too, letter
    case and punctuation aside (n = 13: T. Brown et al., arXiv 2005.14165, appendix C; n = 8 finds
    more and is wrong more often). Items of one template share its words, so that a single n-gram
    in common proves nothing; for those take an `n` of 50, which asks for whole items. Of an item
    of fewer words than `n`, all have to stand in a row; one of fewer than `SHORT` has to be a
    training text of its own.

    Texts are compared by hash (64 bits: of 10^8 n-grams against 10^6, one is wrong with a chance
    of about 10^-5).
    """
    vocabulary: dict[str, int] = {}
    asked = [_numbers(text, vocabulary, grow=True) for text in items]
    sizes = [len(words) if len(words) < SHORT else min(n, len(words)) for words in asked]
    own = {
        i: _grams(words, size)
        for i, (words, size) in enumerate(zip(asked, sizes, strict=True))
        if size
    }
    by_size = defaultdict(list)
    for index, grams in own.items():
        by_size[sizes[index]].append(grams)
    wanted = {size: np.unique(np.concatenate(by_size[size])) for size in sorted(by_size)}
    seen = {size: np.zeros(len(grams), dtype=bool) for size, grams in wanted.items()}
    for start in range(0, len(training), CHUNK):
        texts = [_numbers(t, vocabulary, grow=False) for t in training[start : start + CHUNK]]
        # Laid end to end, with a stranger between them that is a word of no item.
        words = np.concatenate([part for text in texts for part in (text, STRANGER)])
        for size, grams in wanted.items():
            if size < SHORT:
                fits = [text for text in texts if len(text) == size]
                found = np.concatenate([_grams(text, size) for text in [*fits, STRANGER]])
            else:
                found = _grams(words, size)
            place = np.searchsorted(grams, found).clip(max=len(grams) - 1)
            seen[size][place[grams[place] == found]] = True
    touched = []
    for index, grams in own.items():
        size = sizes[index]
        repeated = seen[size][np.searchsorted(wanted[size], grams)]
        covered = np.convolve(repeated, np.ones(size, dtype=int))[: len(asked[index])] > 0
        if covered.mean() >= least:
            touched.append(Overlap(index, float(covered.mean())))
    return touched


def _numbers(text: str, vocabulary: dict[str, int], *, grow: bool) -> Hashes:
    """Return the words of `text` as numbers from 1 on; 0 is a word that no item has."""
    words = WORD.findall(text.casefold())
    if grow:
        numbers = [vocabulary.setdefault(word, len(vocabulary) + 1) for word in words]
    else:
        numbers = [vocabulary.get(word, 0) for word in words]
    return np.array(numbers, dtype=np.uint64)


def _grams(words: Hashes, size: int) -> Hashes:
    """Hash every `size` words in a row, none of which is unknown to the items.

    Polynomial in an odd constant, modulo 2^64, over numbers that are mixed first (the finaliser
    of SplitMix64), since a polynomial of small numbers in a row collides.
    """
    count = len(words) - size + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    mixed = words * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(size):
        total = total * np.uint64(0xD1342543DE82EF95) + mixed[offset : offset + count]
    strangers = np.cumsum(np.concatenate([[0], words == 0]))
    kept: Hashes = total[strangers[size:] == strangers[:-size]]
    return kept
