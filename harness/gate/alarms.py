"""What no metric may show: guards that are not statistics.

An alarm says that something about the answers changed so much that a person should read some of
them before trusting a number. The thresholds are rules of thumb, on purpose far from noise.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.core.schema import Alarm, Check, Sample, mean
from harness.core.scored import ScoredEvaluation

FEWEST = 20  # answers that both sides need before their style is compared
LENGTH_RATIO = 1.5  # of mean words, either way
SHARE_RISE = 0.05  # of answers cut off, or declined
DISTINCT_FALL = 0.25  # of distinct word pairs, relative
WORD = re.compile(r"\w+")
# How chat models decline, whatever the subject.
REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable to|not able to)|i (?:cannot|can't|won't) "
    r"(?:help|assist|provide|answer|do|comply|create|fulfil)|as an ai\b)",
    re.IGNORECASE,
)
OPENING = 200  # characters in which an answer declines, if it does

Hashes = npt.NDArray[np.uint64]
STRANGER: Hashes = np.zeros(1, dtype=np.uint64)
SHORT = 8  # words; fewer stand in a row by chance
CHUNK = 1000  # training texts at a time


def examine(
    baseline: Mapping[str, ScoredEvaluation], candidate: Mapping[str, ScoredEvaluation]
) -> list[Alarm]:
    """What changed in the answers to the tasks that both sides hold, on the items both answered.

    length: the mean number of words rose or fell by half; truncation: more answers ran into the
    limit of tokens; refusals: more answers are empty or decline; repetition: fewer of the word
    pairs are distinct, over equally much text.
    """
    return [
        alarm
        for task in sorted(baseline.keys() & candidate.keys())
        for alarm in _on_task(task, baseline[task].samples, candidate[task].samples)
    ]


def reward_hacking(before: float, after: float, checks: Sequence[Check]) -> list[Alarm]:
    """An alarm for each critical metric that fell, by a standard error or more, as reward rose.

    `before` and `after` are the mean reward that the training optimised, of the two models.
    """
    if after <= before:
        return []
    return [
        Alarm(
            kind="reward",
            task=check.task,
            message=f"the reward rose from {before:.4g} to {after:.4g} while {check.metric} fell: "
            "the training may have found a way around what is measured",
            baseline=check.baseline_mean,
            candidate=check.candidate_mean,
        )
        for check in checks
        if check.tier == "critical" and check.delta < 0 and -check.delta >= check.stderr
    ]


@dataclass(frozen=True)
class Overlap:
    """An item that a training text repeats: `share` of its words stand in common n-grams."""

    item: int
    share: float


def overlap(
    training: Sequence[str], items: Sequence[str], *, n: int = 13, least: float = 0.5
) -> list[Overlap]:
    """The `items` of which some share of words, `least` or more, is repeated in `training`.

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
    """The words of `text` as numbers from 1 on; 0 is a stranger, a word that no item has."""
    words = WORD.findall(text.casefold())
    if grow:
        numbers = [vocabulary.setdefault(word, len(vocabulary) + 1) for word in words]
    else:
        numbers = [vocabulary.get(word, 0) for word in words]
    return np.array(numbers, dtype=np.uint64)


def _grams(words: Hashes, size: int) -> Hashes:
    """A hash of every `size` words in a row, none of which is a stranger.

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


def _on_task(task: str, before: Sequence[Sample], after: Sequence[Sample]) -> list[Alarm]:
    before, after = ([s for s in side if not s.unanswered] for side in (before, after))
    shared = {sample.item for sample in before} & {sample.item for sample in after}
    old = sorted((s for s in before if s.item in shared), key=_place)
    new = sorted((s for s in after if s.item in shared), key=_place)
    if min(len(old), len(new)) < FEWEST:
        return []
    found = (measure(old, new) for measure in (_length, _truncation, _refusals, _repetition))
    return [alarm for alarm in found if alarm is not None]


def _place(sample: Sample) -> tuple[str, int]:
    return sample.item, sample.repeat


def _length(old: Sequence[Sample], new: Sequence[Sample]) -> Alarm | None:
    before, after = (mean([float(len(s.response.split())) for s in x]) for x in (old, new))
    if max(before, after) < LENGTH_RATIO * max(min(before, after), 1.0):
        return None
    return Alarm(
        kind="length",
        task=old[0].task,
        message=f"an answer had {before:.1f} words and has {after:.1f}; judges and scores that "
        "reward length may say what only length changed",
        baseline=before,
        candidate=after,
    )


def _truncation(old: Sequence[Sample], new: Sequence[Sample]) -> Alarm | None:
    if any(sample.finish_reason is None for sample in (*old, *new)):
        return None  # recorded answers do not say
    before, after = (mean([float(s.finish_reason == "length") for s in x]) for x in (old, new))
    return _risen("truncation", old[0].task, "ran into the limit of tokens", before, after)


def _refusals(old: Sequence[Sample], new: Sequence[Sample]) -> Alarm | None:
    before, after = (mean([float(_declines(s.response)) for s in side]) for side in (old, new))
    return _risen("refusals", old[0].task, "are empty or decline", before, after)


def _declines(response: str) -> bool:
    opening = response.strip()[:OPENING].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return not opening or REFUSAL.search(opening) is not None


def _risen(
    kind: Literal["truncation", "refusals"], task: str, what: str, before: float, after: float
) -> Alarm | None:
    if after - before <= SHARE_RISE:
        return None
    return Alarm(
        kind=kind,
        task=task,
        message=f"{before:.1%} of the answers {what} before, {after:.1%} do now",
        baseline=before,
        candidate=after,
    )


def _repetition(old: Sequence[Sample], new: Sequence[Sample]) -> Alarm | None:
    """Distinct-2 (J. Li et al., arXiv 1510.03055, section 5.2), of equally many word pairs."""
    pairs = [list(_word_pairs(side)) for side in (old, new)]
    count = min(map(len, pairs))
    if count < FEWEST:
        return None
    before, after = (len({*found[:count]}) / count for found in pairs)
    if after >= (1 - DISTINCT_FALL) * before:
        return None
    return Alarm(
        kind="repetition",
        task=old[0].task,
        message=f"{before:.1%} of the word pairs were distinct, {after:.1%} are: the answers "
        "repeat themselves or each other",
        baseline=before,
        candidate=after,
    )


def _word_pairs(samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
    for sample in samples:
        yield from itertools.pairwise(sample.response.casefold().split())
