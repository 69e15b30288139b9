"""Find training texts that are nearly an item of a benchmark, by MinHash of pairs of words."""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.gate.contamination import SHORT, WORD, common_limit

THRESHOLD = 0.7  # of the Jaccard similarity, from which on two texts are near-duplicates
BANDS, ROWS = 25, 5  # candidates: 99 % of pairs at the threshold, 6 % of pairs at 0.3
MAX_SIBLINGS = 1000  # other items to which an item is compared
MARGIN = 0.1  # items of one template are so much less similar than a copy from the template
MAX_CANDIDATES = 100  # per training text
FEWEST = 10  # shingles that a text needs, after those of most items are left out

Shingles = frozenset[int]


@dataclass(frozen=True)
class NearDuplicate:
    """An item, the nearest training row, and their similarity; with the numbers of the texts."""

    item: int
    text: int
    training_row: int
    training_text: int
    similarity: float


@dataclass(frozen=True)
class NearDuplicates:
    """Items with a near-duplicate, and how many items were of a template and not looked for."""

    pairs: list[NearDuplicate]
    of_a_template: int = 0


def near_duplicates(
    training: Iterable[Sequence[str]],
    items: Sequence[Sequence[str]],
    *,
    threshold: float = THRESHOLD,
    limit: int | None = None,
) -> NearDuplicates:
    """List the items of which a training text is a near-duplicate.

    Two texts are near-duplicates if they share `threshold` of their pairs of neighbouring words
    (Jaccard similarity). Candidates are found by MinHash and locality-sensitive hashing (A. Broder
    1997; K. Lee et al., arXiv 2107.06499), and compared exactly. Pairs of words that more than half
    of the items have are left out, and so are items that more than `limit` other items resemble:
    they are of one template, and a further text from it is not a copy of any of them.
    """
    texts = list(_texts(items))
    shingles = [_shingles(text) for *_, text in texts]
    skeleton = _of_most(shingles, len(items))
    shingles = [own - skeleton for own in shingles]
    long = [i for i, own in enumerate(shingles) if len(own) >= FEWEST]
    index = _Index()
    signatures = index.sign([shingles[i] for i in long])
    limit = common_limit(len(long)) if limit is None else limit
    templates = _of_templates(signatures, threshold - MARGIN, limit)
    for at, i in enumerate(long):
        if at not in templates:
            index.add(i, signatures[at])
    best: dict[int, NearDuplicate] = {}
    for row, number, text in _texts(training):
        of_text = _shingles(text) - skeleton
        if len(of_text) < FEWEST:
            continue
        for i in index.candidates(of_text)[:MAX_CANDIDATES]:
            alike = len(of_text & shingles[i]) / len(of_text | shingles[i])
            item, text_number, _ = texts[i]
            known = best.get(item)
            if alike >= threshold and (known is None or alike > known.similarity):
                best[item] = NearDuplicate(item, text_number, row, number, alike)
    return NearDuplicates([best[item] for item in sorted(best)], len(templates))


def _texts(rows: Iterable[Sequence[str]]) -> Iterator[tuple[int, int, str]]:
    for row, texts in enumerate(rows):
        for number, text in enumerate(texts):
            yield row, number, text


def _shingles(text: str) -> Shingles:
    """Hash the pairs of neighbouring words of a text; too short a text has none."""
    words = [zlib.crc32(word.encode("utf-8", "replace")) for word in WORD.findall(text.casefold())]
    if len(words) < SHORT:
        return frozenset()
    pairs = itertools.pairwise(words)
    return frozenset((first * 0x9E3779B1 ^ second) & 0xFFFFFFFF for first, second in pairs)


def _of_most(shingles: Sequence[Shingles], rows: int) -> Shingles:
    """Return the shingles of more than half of the items."""
    if rows < 2:
        return frozenset()
    counts = Counter(shingle for own in shingles for shingle in own)
    return frozenset(shingle for shingle, count in counts.items() if 2 * count > rows)


class _Index:
    """MinHash signatures of texts, and the texts whose signature shares a band with another."""

    def __init__(self) -> None:
        from datasketch import MinHash, MinHashLSH

        self._minhash = MinHash
        self._lsh = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))

    def sign(self, texts: Sequence[Shingles]) -> list[Any]:
        """Return the signatures of texts."""
        return list(self._minhash.bulk(texts, num_perm=BANDS * ROWS, hashfunc=int))

    def add(self, number: int, signature: Any) -> None:
        """Add a text under its number."""
        self._lsh.insert(number, signature, check_duplication=False)

    def candidates(self, text: Shingles) -> list[int]:
        """Return the numbers of texts that may be near-duplicates of `text`."""
        return sorted(self._lsh.query(self.sign([text])[0]))


def _of_templates(signatures: Sequence[Any], threshold: float, limit: int) -> set[int]:
    """Return the places of texts that more than `limit` others resemble, by their signatures.

    Of many texts, `MAX_SIBLINGS` stand for all.
    """
    if not signatures:
        return set()
    values = np.stack([signature.hashvalues for signature in signatures])
    different = np.unique(values, axis=0)
    sample = np.random.default_rng(0).permutation(different)[:MAX_SIBLINGS]
    scale = len(different) / len(sample)
    alike = [(np.mean(sample == value, axis=1) >= threshold).sum() for value in values]
    return {place for place, count in enumerate(alike) if (count - 1 / scale) * scale > limit}
