"""Find training texts that repeat items of a benchmark, by n-grams of words."""

from __future__ import annotations

import itertools
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

# Chinese and Japanese do without spaces: each of their characters counts as a word.
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(f"[{_IDEOGRAPHS}]|[^\\W{_IDEOGRAPHS}]+")
Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]
STRANGER: Hashes = np.zeros(1, dtype=np.uint64)
SHORT = 8  # words; fewer are repeated by chance
CHUNK = 1000  # training texts at a time
CHUNK_CHARS = 8_000_000
COMMON, COMMON_SHARE = 10, 100  # items, and one in so many


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
    index = _Index([[item] for item in items], n)
    index.search((number, [text]) for number, text in enumerate(training))
    covered = ((number, index.covered(number)) for number in range(len(items)))
    shares = ((number, float(words.mean())) for number, words in covered if len(words))
    return [Overlap(number, share) for number, share in shares if share >= least]


@dataclass(frozen=True)
class Place:
    """Words in a row of one text: `words` of them, from the word number `start` on."""

    row: int
    text: int
    start: int
    words: int


@dataclass(frozen=True)
class SharedWords:
    """An item that shares n-grams with a training row, and the longest run of shared words.

    `share` is the share of the item's words that stand in n-grams of any training row.
    """

    share: float
    item: Place
    training: Place


@dataclass(frozen=True)
class Comparison:
    """Items that share n-grams with training rows.

    Attributes:
        shared: the items, by number.
        common: number of n-grams left out because more than `limit` items have them.
        example: one of these n-grams.
    """

    shared: list[SharedWords]
    limit: int
    common: int = 0
    example: Place | None = None


def common_limit(items: int) -> int:
    """Return the number of items that may share a text before it counts as boilerplate.

    What more than 10 items have in common (1 % where that is more, half where that is fewer) is an
    instruction or a template, and tells none of them apart.
    """
    return min(max(COMMON, items // COMMON_SHARE), max(1, items // 2))


def shared_words(
    training: Iterable[Sequence[str]],
    items: Sequence[Sequence[str]],
    *,
    n: int = 13,
    limit: int | None = None,
) -> Comparison:
    """List the items that share `n` words in a row with a training row.

    Both are rows of texts, such as question and answer. Texts of fewer words than `n` are treated
    as by `overlap`; one of fewer than `SHORT` counts only if it is the longest of its row. N-grams
    of more than `limit` different items are left out (default: `common_limit`).
    """
    index = _Index(items, n)
    limit = common_limit(index.different) if limit is None else limit
    common = index.leave_out(limit)
    index.search(enumerate(training))
    shared = [run for row in range(len(items)) if (run := index.longest_run(row))]
    return Comparison(shared, limit, len(common), common[0] if common else None)


@dataclass
class _Text:
    """Words of an item in a row: of the text `number` from the word `start` on.

    `size` is the length of the n-grams that are looked for, 0 for none.
    """

    number: int
    start: int
    words: Hashes
    size: int
    grams: Hashes = field(init=False)

    def __post_init__(self) -> None:
        self.grams = _grams(self.words, self.size)[0] if self.size else STRANGER[:0]


class _Index:
    """The n-grams of items, and which of them training texts have."""

    def __init__(self, items: Sequence[Sequence[str]], n: int) -> None:
        self._n = n
        self._vocabulary: dict[str, int] = {}
        self._common: list[tuple[int, Hashes]] = []
        numbers = [[_numbers(t, self._vocabulary, grow=True) for t in texts] for texts in items]
        self._rows = [self._row([(i, 0, w) for i, w in enumerate(words)]) for words in numbers]
        keys = {tuple(words.tobytes() for words in row): at for at, row in enumerate(numbers)}
        self._different = set(keys.values())  # rows, equal ones once
        self._prepare()

    @property
    def different(self) -> int:
        return len(self._different)

    def _row(self, texts: list[tuple[int, int, Hashes]]) -> list[_Text]:
        longest = max((len(words) for *_, words in texts), default=0)
        return [
            _Text(number, start, words, min(self._n, len(words)))
            if len(words) >= SHORT
            else _Text(number, start, words, len(words) if len(words) == longest else 0)
            for number, start, words in texts
        ]

    def _prepare(self) -> None:
        by_size = defaultdict(list)
        for text in itertools.chain(*self._rows):
            if text.size:
                by_size[text.size].append(text.grams)
        self._wanted = {size: np.unique(np.concatenate(by_size[size])) for size in sorted(by_size)}
        # The training text that has an n-gram, and the place in it; -1 for none.
        self._first = {size: np.full((2, len(g)), -1) for size, g in self._wanted.items()}
        # Training text -> its row, and its number in that.
        self._training_rows, self._training_numbers = array("q"), array("q")

    def leave_out(self, limit: int) -> list[Place]:
        """Cut n-grams that more than `limit` different rows have out of all texts.

        Return a place of each. What remains of a text between them counts as a text.
        """
        left_out: list[Place] = []
        # What remains is shorter than before, and may be common as a whole.
        while common := self._find_common(limit):
            left_out += common
            for number, row in enumerate(self._rows):
                parts = [part for text in row for part in self._remainder(text)]
                self._rows[number] = self._row(parts)
            self._prepare()
        return left_out

    def _find_common(self, limit: int) -> list[Place]:
        counts = {size: np.zeros(len(grams), dtype=int) for size, grams in self._wanted.items()}
        places = {
            size: np.zeros((3, len(grams)), dtype=int) for size, grams in self._wanted.items()
        }
        for row in self._different:
            for size in {text.size for text in self._rows[row] if text.size >= SHORT}:
                texts = [text for text in self._rows[row] if text.size == size]
                at = np.searchsorted(self._wanted[size], np.concatenate([t.grams for t in texts]))
                counts[size][np.unique(at)] += 1
                origin = [(row, t.number, t.start + i) for t in texts for i in range(len(t.grams))]
                places[size][:, at] = np.array(origin).T
        common_places = []
        for size, grams in self._wanted.items():
            common = counts[size] > limit
            if common.any():
                self._common.append((size, grams[common]))
                origins = places[size][:, common].T.tolist()
                common_places += [Place(row, text, start, size) for row, text, start in origins]
        return common_places

    def _boilerplate(self, words: Hashes) -> Marks:
        """Tell which of `words` stand in n-grams that were left out."""
        marks = np.zeros(len(words), dtype=bool)
        for size, grams in self._common:
            hashes, at = _grams(np.where(marks, STRANGER, words), size)
            for start in at[np.isin(hashes, grams)]:
                marks[start : start + size] = True
        return marks

    def _remainder(self, text: _Text) -> Iterator[tuple[int, int, Hashes]]:
        for start, end in _runs(~self._boilerplate(text.words)):
            yield text.number, text.start + start, text.words[start:end]

    def search(self, training: Iterable[tuple[int, Sequence[str]]]) -> None:
        """Mark the n-grams that training texts have."""
        for chunk in _chunks(training):
            offset = len(self._training_rows)
            self._training_rows.extend(row for row, _, _ in chunk)
            self._training_numbers.extend(number for _, number, _ in chunk)
            texts = [_numbers(text, self._vocabulary, grow=False) for *_, text in chunk]
            # Laid end to end, with a stranger between them that is a word of no item.
            words = np.concatenate([part for text in texts for part in (text, STRANGER)])
            starts = np.cumsum([0] + [len(text) + 1 for text in texts])
            inside = np.ones(len(words), dtype=bool)
            inside[starts[1:] - 1] = False
            inside &= ~self._boilerplate(words)
            words = np.where(inside, words, STRANGER)
            lengths = np.zeros(len(words), dtype=np.int64)  # of the run that begins at a word
            for start, end in _runs(inside) if min(self._wanted, default=SHORT) < SHORT else ():
                lengths[start] = end - start
            for size, grams in self._wanted.items():
                hashes, at = _grams(words, size)
                place = np.searchsorted(grams, hashes).clip(max=len(grams) - 1)
                hit = grams[place] == hashes
                if size < SHORT:
                    hit &= lengths[at] == size
                place, at = place[hit], at[hit]
                new = self._first[size][0, place] < 0
                place, at = place[new][::-1], at[new][::-1]  # the first of equal ones stays
                text_of = np.searchsorted(starts, at, side="right") - 1
                self._first[size][0, place] = text_of + offset
                self._first[size][1, place] = at - starts[text_of]

    def _hits(self, text: _Text) -> tuple[Marks, npt.NDArray[np.int64]]:
        """Tell which n-grams of a text were met, and where: columns of `_first`."""
        if not text.size:
            return np.zeros(0, dtype=bool), np.zeros((2, 0), dtype=np.int64)
        first = self._first[text.size][:, np.searchsorted(self._wanted[text.size], text.grams)]
        return first[0] >= 0, first

    def covered(self, row: int) -> Marks:
        """Tell for each word of an item whether it stands in an n-gram that was met."""
        parts = [self._covered(text, self._hits(text)[0]) for text in self._rows[row] if text.size]
        return np.concatenate([np.zeros(0, dtype=bool), *parts])

    @staticmethod
    def _covered(text: _Text, met: Marks) -> Marks:
        if not met.any():
            return np.zeros(len(text.words), dtype=bool)
        marks: Marks = np.convolve(met, np.ones(text.size, dtype=int))[: len(text.words)] > 0
        return marks

    def longest_run(self, row: int) -> SharedWords | None:
        """Return the longest run of words that an item shares with one training text."""
        best: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
        for text in self._rows[row]:
            met, first = self._hits(text)
            if not met.any():
                continue
            # A run goes on while the next n-gram is next in the same training text, too.
            goes_on = met[1:] & met[:-1] & (np.diff(first[0]) == 0) & (np.diff(first[1]) == 1)
            begins = np.flatnonzero(met & ~np.concatenate([[False], goes_on]))
            ends = np.flatnonzero(met & ~np.concatenate([goes_on, [False]]))
            longest = int(np.argmax(ends - begins))
            begin, words = int(begins[longest]), int(ends[longest] - begins[longest]) + text.size
            if words > best[0]:
                training, place = first[:, begin].tolist()
                best = (words, text.number, text.start + begin, training, place)
        words, number, begin, training, place = best
        if not words:
            return None
        share = float(self.covered(row).mean())
        training_row, training_text = (
            self._training_rows[training],
            self._training_numbers[training],
        )
        return SharedWords(
            share,
            Place(row, number, begin, words),
            Place(training_row, training_text, place, words),
        )


def excerpt(text: str, place: Place, around: int = 40) -> str:
    """Return the words of `place` in `text`, with `around` characters on each side."""
    matches = list(itertools.islice(WORD.finditer(text), place.start, place.start + place.words))
    if not matches:
        return text[: 2 * around]
    start, end = max(0, matches[0].start() - around), matches[-1].end() + around
    return ("... " if start else "") + text[start:end] + (" ..." if end < len(text) else "")


def _chunks(
    training: Iterable[tuple[int, Sequence[str]]],
) -> Iterator[list[tuple[int, int, str]]]:
    """Gather (row, number, text) of training rows, so many that memory stays bounded."""
    chunk: list[tuple[int, int, str]] = []
    chars = 0
    for row, texts in training:
        for number, text in enumerate(texts):
            chunk.append((row, number, text))
            chars += len(text)
        if len(chunk) >= CHUNK or chars >= CHUNK_CHARS:
            yield chunk
            chunk, chars = [], 0
    if chunk:
        yield chunk


def _runs(marks: Marks) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each run of marked places."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marks, [False]])))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _numbers(text: str, vocabulary: dict[str, int], *, grow: bool) -> Hashes:
    """Return the words of `text` as numbers from 1 on; 0 is a word that no item has."""
    words = WORD.findall(text.casefold())
    if grow:
        numbers = [vocabulary.setdefault(word, len(vocabulary) + 1) for word in words]
    else:
        numbers = [vocabulary.get(word, 0) for word in words]
    return np.array(numbers, dtype=np.uint64)


def _grams(words: Hashes, size: int) -> tuple[Hashes, Places]:
    """Hash every `size` words in a row, none of which is unknown to the items, with its place.

    Polynomial in an odd constant, modulo 2^64, over numbers that are mixed first (the finaliser
    of SplitMix64), since a polynomial of small numbers in a row collides.
    """
    count = len(words) - size + 1
    if count < 1:
        return STRANGER[:0], np.empty(0, dtype=np.int64)
    mixed = words * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(size):
        total = total * np.uint64(0xD1342543DE82EF95) + mixed[offset : offset + count]
    strangers = np.cumsum(np.concatenate([[0], words == 0]))
    places = np.flatnonzero(strangers[size:] == strangers[:-size])
    return total[places], places
