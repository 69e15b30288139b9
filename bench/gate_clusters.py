"""Measure the gate's tests on items in clusters; parts of `bench/gate_error.py`."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import panel
from error_rows import ALPHA, Row, Setting
from resampling import sign_flip_p
from scipy.special import stdtr

from harness.gate.clusters import SHARED_LEVEL
from harness.stats import clusters as product
from harness.stats.clusters import intraclass
from harness.stats.mean_bound import TAIL
from harness.stats.noninferiority import tango_statistic
from harness.stats.paired import LONG_TAIL, compare

Numbers = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]
Rng = np.random.Generator

COUNTS = (12, 20, 40, 100)
PROMISED_FROM = 20  # clusters
ICCS = (0.0, 0.2, 0.5, 1.0)
BATCH = 500  # gates in memory at once
SPAN = 4.0


@dataclass(frozen=True)
class Change:
    """What happens to an item of a candidate that is exactly the margin worse."""

    name: str
    margin: float
    values: tuple[float, ...]
    chances: tuple[float, ...]

    @property
    def pairs(self) -> bool:
        """Whether items are answered with yes or no."""
        return self.name.startswith("yes/no")

    def draw(
        self, rng: Rng, group: Groups, icc: float, gates: int, *, signed: bool = False
    ) -> Numbers:
        """Draw differences of items in clusters, shape (gates, items).

        With a chance of sqrt(ICC) an item takes its cluster's change instead of one of its own.
        `signed`: changes go up as often as down.
        """
        shapes = (gates, len(group)), (gates, int(group.max()) + 1)
        own, shared = (rng.choice(self.values, p=self.chances, size=shape) for shape in shapes)
        if signed:
            own, shared = (x * rng.choice([-1.0, 1.0], size=x.shape) for x in (own, shared))
        follows = rng.random(shapes[0]) < math.sqrt(icc)
        return np.where(follows, shared[:, group], own)


CHANGES = (
    *(
        Change(
            f"yes/no, discordance {share:g}, margin .05",
            0.05,
            (1.0, -1.0, 0.0),
            ((share - 0.05) / 2, (share + 0.05) / 2, 1 - share),
        )
        for share in (0.05, 0.1, 0.3)
    ),
    Change("grades, rare collapse, margin .1", 0.1, *panel.COLLAPSE),
    Change("grades, up or down, margin .1", 0.1, (0.0, -1.0, 1.0), (0.6, 0.25, 0.15)),
)


def cells() -> Iterator[tuple[str, partial[Iterator[Row]]]]:
    """Clusters of ten items on average, of equal and of unequal sizes."""
    for count, kind, change in itertools.product(COUNTS, ("equal", "unequal"), CHANGES):
        yield (
            f"{change.name}, {count} {kind} clusters",
            partial(_clustered, count=count, kind=kind, change=change),
        )


def _clustered(rng: Rng, gates: int, *, count: int, kind: str, change: Change) -> Iterator[Row]:
    uneven = np.random.default_rng(1).geometric(0.1, max(COUNTS))[:count]
    group = np.repeat(np.arange(count), 10 if kind == "equal" else uneven)
    for icc in ICCS:
        hits: dict[tuple[str, str], list[npt.NDArray[np.bool_]]] = defaultdict(list)
        for start in range(0, gates, BATCH):
            number = min(BATCH, gates - start)
            at_margin = change.draw(rng, group, icc, number)
            if start == 0:
                require_the_products(at_margin[:10], group, change)
            unchanged = change.draw(rng, group, icc, number, signed=True)
            for d, passes, fails in (
                (at_margin, "pass", "fail"),
                (unchanged, "unchanged passes", "unchanged fails"),
            ):
                for test, passed, failed in verdicts(d, group, change):
                    if passes == "pass" or "ignored" not in test:
                        hits[test, passes].append(passed)
                    if test == panel.OWN:
                        hits[test, fails].append(failed)
        case = f"{change.name}, {kind} clusters, ICC {icc:g}"
        for (test, event), happened in hits.items():
            own = test == panel.OWN and event != "unchanged passes"
            promised = "<= .06" if own and count >= PROMISED_FROM else ""
            yield Setting("clusters", test, case, count).rate(
                event, np.concatenate(happened), promised
            )


def verdicts(
    d: Numbers, group: Groups, change: Change
) -> Iterator[tuple[str, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """Return each test's name, the gates that it passes, and those that it fails."""
    sides = tuple(Side.of(sign * d, group) for sign in (1.0, -1.0))
    points = -change.margin, change.margin
    test = _tango if change.pairs else _graded
    passed, failed = (test(side, point) < ALPHA for side, point in zip(sides, points, strict=True))
    yield panel.OWN, passed, failed
    passed, failed = (
        side.student(point) < ALPHA for side, point in zip(sides, points, strict=True)
    )
    yield "clustered t (not used)", passed, failed
    n = d.shape[1]
    if change.pairs:
        z = tango_statistic((d > 0).sum(axis=1), (d < 0).sum(axis=1), n, -change.margin)
        limit = panel.NORMAL_LIMIT
        yield "clusters ignored (not used)", z > limit, z < -limit
    else:
        passed, failed = (
            panel.student(sign * d, point) < ALPHA
            for sign, point in zip((1.0, -1.0), points, strict=True)
        )
        yield "clusters ignored (not used)", passed, failed


@dataclass(frozen=True)
class Side:
    """What `harness.stats.clusters` computes from a gate, for many gates at once: (gates,)."""

    d: Numbers  # (gates, items)
    mean: Numbers
    alone: Numbers  # standard error of independent items
    effect: Numbers  # design effect as seen
    cautious: Numbers  # as the gate takes it
    skewness: Numbers  # of cluster sums
    count: int

    @classmethod
    def of(cls, d: Numbers, group: Groups) -> Side:
        n, count = d.shape[1], int(group.max()) + 1
        moves = d - d.mean(axis=1, keepdims=True)
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        sums = np.add.reduceat(moves, starts, axis=1)
        squares = np.square(moves)
        alone = n / (n - 1) * squares.sum(axis=1)
        some = alone > 1e-18
        together = count / (count - 1) * np.square(sums).sum(axis=1)
        largest = product.largest_effect(group)
        effect = np.where(some, np.maximum(1.0, together / np.where(some, alone, 1)), largest)
        fourth = np.square(squares).sum(axis=1)
        changes = np.where(some, squares.sum(axis=1) ** 2 / np.where(some, fourth, 1), 0) / effect
        drawn = (changes * effect + product.PRIOR * largest) / (changes + product.PRIOR)
        return cls(
            d=d,
            mean=d.mean(axis=1),
            alone=np.sqrt(alone) / n,
            effect=effect,
            cautious=np.where(effect >= largest, effect, drawn),
            skewness=panel.skewness(sums),
            count=count,
        )

    def _t(self, point: float, effect: Numbers) -> Numbers:
        stderr, above = self.alone * np.sqrt(effect), self.mean - point
        some = stderr > 1e-12
        return np.where(some, above / np.where(some, stderr, 1), np.sign(above) * 1e6)

    def student(self, point: float) -> Numbers:
        """P-values of the clustered t test, without the further changes that the gate assumes."""
        return np.asarray(stdtr(self.count - 1, -self._t(point, self.effect)))

    def hall(self, point: float, factor: Numbers | float = 1.0) -> Numbers:
        """P-values of Hall's bound on cluster sums, with the cautious design effect."""
        t, k = self._t(point, self.cautious), factor * self.skewness / math.sqrt(self.count)
        return np.asarray(stdtr(self.count - 1, -(t + k * t**2 / 3 + k**2 * t**3 / 27 + k / 6)))


def _tango(side: Side, point: float) -> Numbers:
    """P-values of `clustered_tango`."""
    n = side.d.shape[1]
    gained, lost = (side.d > 0).sum(axis=1), (side.d < 0).sum(axis=1)
    counts = (x / side.cautious for x in (gained, lost, n))
    z = tango_statistic(*counts, point)
    return np.maximum(stdtr(side.count - 1, -z), side.hall(point))


def _graded(side: Side, point: float) -> Numbers:
    """P-values of `compare` on clusters, where the width of the range is `SPAN`."""
    n, t = side.d.shape[1], side._t(point, side.cautious)
    above = side.mean - point
    # From the baseline's mean, an item can fall by the whole range.
    room = np.maximum(above, side.mean + SPAN)
    share = np.where(above > 0, above / np.where(above > 0, room, 1), 0.0)
    unseen = np.where(above > 0, (1 - share) ** (n / side.cautious), 1.0)
    wide = LONG_TAIL * math.sqrt(n) * side.alone < 2 * SPAN
    p = np.maximum(stdtr(side.count - 1, -t), unseen)
    flat = side.alone <= 1e-12
    return np.where(flat, p, np.maximum(p, side.hall(point, np.where(wide, TAIL, 1.0))))


def require_the_products(d: Numbers, group: Groups, change: Change) -> None:
    """See that the vectorised test agrees with the gate's own on the gates of `d`."""
    test, passed, failed = next(verdicts(d, group, change))
    for i, gains in enumerate(d):
        if change.pairs:
            estimate = product.clustered_tango(gains, group, margin=change.margin, alpha=ALPHA)
        else:
            estimate = compare(
                np.zeros_like(gains), gains, margin=change.margin, alpha=ALPHA, span=SPAN,
                clusters=group.tolist(),
            )  # fmt: skip
        if (estimate.low > -change.margin, estimate.high < -change.margin) != (
            passed[i],
            failed[i],
        ):
            raise SystemExit(f"The simulated test is not {test}: {change.name}, gate {i}.")


def shared_cells() -> Iterator[tuple[str, partial[Iterator[Row]]]]:
    """The note that items share a tag: without clusters that go together, and with them."""
    for change, icc in itertools.product(CHANGES, (0.0, 0.2, 0.5)):
        yield f"{change.name}, ICC {icc:g}", partial(_shared, change=change, icc=icc)


def _shared(rng: Rng, gates: int, *, change: Change, icc: float) -> Iterator[Row]:
    """Count notes of a decision with one rule and one tag: gains and baseline are tested."""
    group, level = np.repeat(np.arange(20), 10), SHARED_LEVEL / 2
    gates, noted = min(gates, 4000), []
    gains = change.draw(rng, group, icc, gates)
    for d in gains:
        baseline = rng.normal(0, 1, len(group))
        noted.append(any(intraclass(x, group)[1] <= level for x in (d, baseline)))
    promised = "" if icc else "<= .02"
    case = f"{change.name}, ICC {icc:g}, 20 clusters of ten items"
    yield Setting("shared", "analysis of variance", case, len(group)).rate("note", noted, promised)


def few_cells() -> Iterator[tuple[str, partial[Iterator[Row]]]]:
    """Fewer than ten clusters of five items, and the random sign flips for more clusters."""
    for count in (6, 8):
        yield f"{count} clusters", partial(_few, count=count)
    yield "random sign flips", _random_flips


def _few(rng: Rng, gates: int, *, count: int) -> Iterator[Row]:
    gates = min(gates, 5000)
    names = np.repeat(np.arange(count), 5).tolist()
    hits: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    for _ in range(gates):
        shared = rng.choice([0.0, -2.0], p=[0.85, 0.15], size=count)
        for case, d, margin in (
            ("normal", rng.normal(0, 1, count)[names] + rng.normal(0, 0.7, 5 * count) - 2, 2.0),
            ("whole clusters fall", shared[names] + rng.normal(0, 0.05, 5 * count), 0.3),
        ):
            for test, allow_skew in ((panel.OWN, True), ("sign flips (not used)", False)):
                estimate = compare(
                    np.zeros_like(d), d, margin=margin, alpha=ALPHA, span=SPAN, clusters=names,
                    allow_skew=allow_skew,
                )  # fmt: skip
                hits[test, case, "pass"].append(estimate.low > -margin)
                hits[test, case, "fail"].append(estimate.high < -margin)
    for (test, case, event), happened in hits.items():
        promised = "" if "not used" in test else "<= .06"
        yield Setting("few", test, f"{case}, clusters of 5", count).rate(event, happened, promised)


def _random_flips(rng: Rng, gates: int) -> Iterator[Row]:
    flipped = [
        sign_flip_p(
            rng.standard_t(3, 30) - 0.1, margin=0.1, draws=199, seed=int(rng.integers(1 << 31))
        )
        <= ALPHA
        for _ in range(gates)
    ]
    case = "long tails (t with 3), 199 draws"
    yield Setting("few", "random sign flips", case, 30).rate("pass", flipped, "<= .06")
