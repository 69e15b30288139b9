"""Resample a model's own answers so that a candidate sits exactly at the margin.

A gate may pass a candidate that is worse by exactly the margin in alpha of the cases. Whether it
keeps to that depends on the shape of the gains: how skewed they are, how items go together. So the
candidate is made of the answers that the user has. There are two ways to lose, as a real regression
may be of either kind:

losses as seen   Gains are drawn from differences between two answers of the model, in either
    direction, weighted by exp(t (gain + margin)) with the t at which their mean is -margin
    (exponential tilting: B. Efron, Canadian J. Statistics 9, 1981). Of all distributions on the
    gains that were seen it is the nearest to the observed one (in Kullback and Leibler's sense)
    with that mean.
rare collapse    The candidate is the model itself, but a few items get the metric's worst value,
    in the share at which the mean gain is -margin: the most skewed loss that there is.

Items are drawn as whole clusters where the policy names clusters, with the same answers for all
items of a cluster, so that what is common to them stays, and a collapse takes a whole cluster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.core.schema import Metric, Record, Rule, Verdict
from harness.gate.evidence import Evidence
from harness.gate.rule_test import hold_up_at_floor, run_fixed_test

Numbers = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]
Kind = Literal["losses as seen", "rare collapse"]
KINDS: tuple[Kind, ...] = ("losses as seen", "rare collapse")

SPLITS = 16  # ways in which a unit's answers are divided between the two sides
LEAST_UNITS = 5  # that lose, by weight: fewer show only what happened to these


class AtMargin(Record):
    """How often a rule passed and failed candidates that are worse by exactly its margin."""

    kind: Kind
    gates: int
    passed: int
    failed: int
    low: float | None = None
    high: float | None = None
    unmeasured: str = ""


@dataclass(frozen=True)
class Divided:
    """Answers dealt to two sides. `old` and `new`, shape (items, ways), NaN where none is.

    Rows are sorted by `unit`: a cluster, or an item of its own; `starts` are the first rows.
    """

    old: Numbers
    new: Numbers
    starts: Groups
    sizes: Groups


def divide(values: Numbers, units: Groups, per_side: int, rng: np.random.Generator) -> Divided:
    """Deal the answers in `values`, shape (items, answers), to two sides in many ways.

    All items of a unit are dealt alike, so that what a run did to all of them stays together. Each
    way comes with its mirror.
    """
    order = np.argsort(units, kind="stable")
    values, units = values[order], units[order]
    _, starts, sizes = np.unique(units, return_index=True, return_counts=True)
    answers = values.shape[1]
    number = np.repeat(np.arange(len(starts)), sizes)
    old, new = (np.empty((len(values), SPLITS)) for _ in range(2))
    for way in range(SPLITS):
        # The answers that an item lacks come last, so that they are dealt to nobody.
        keys = rng.random((len(starts), answers))[number] + 2 * np.isnan(values)
        dealt = np.take_along_axis(values, np.argsort(keys, axis=1), axis=1)
        old[:, way] = dealt[:, :per_side].mean(axis=1)
        new[:, way] = dealt[:, per_side : 2 * per_side].mean(axis=1)
    return Divided(np.hstack([old, new]), np.hstack([new, old]), starts, sizes)


@dataclass(frozen=True)
class Candidates:
    """Where candidates at the margin are drawn from."""

    divided: Divided
    chances: Numbers  # (units, ways): of drawing a unit dealt in a way
    collapse: float  # share of units whose new answers become the worst
    worst: float
    clustered: bool

    def draw(self, rule: Rule, metric: Metric, rng: np.random.Generator) -> Evidence:
        """Draw as many units as there are, with replacement, and what they answer."""
        units, ways = self.chances.shape
        picked = rng.choice(units * ways, units, p=self.chances.ravel())
        unit, way = picked // ways, picked % ways
        sizes = self.divided.sizes[unit]
        first = np.cumsum(sizes) - sizes
        number = np.repeat(np.arange(units), sizes)
        row = self.divided.starts[unit][number] + np.arange(len(number)) - first[number]
        column = way[number]
        old, new = self.divided.old[row, column], self.divided.new[row, column]
        if self.collapse:
            collapsed = np.asarray(rng.random(units)) < self.collapse
            new = np.where(collapsed[number], self.worst, new)
        known = ~(np.isnan(old) | np.isnan(new))
        return Evidence(
            rule,
            metric,
            items=[],
            baseline=old[known],
            candidate=new[known],
            asked=len(old),
            lost=0,
            inapplicable=0,
            insufficient_because="",
            clusters=number[known].tolist() if self.clustered else None,
        )


def candidates(
    divided: Divided, kind: Kind, rule: Rule, metric: Metric, *, clustered: bool
) -> Candidates | str:
    """Make candidates whose mean gain is exactly minus the margin; or say why there are none."""
    sign = 1 if metric.higher_is_better else -1
    gains = sign * (divided.new - divided.old)
    known = ~np.isnan(gains)
    lost = np.add.reduceat(np.where(known, gains + rule.margin, 0.0), divided.starts, axis=0)
    even = np.full(lost.shape, 1 / lost.size)
    if kind == "losses as seen":
        chances = _tilt(lost)
        if isinstance(chances, str):
            return chances
        return Candidates(divided, chances, 0.0, 0.0, clustered)
    worst = metric.low if sign > 0 else metric.high
    if worst is None:
        ends = np.nanmin, np.nanmax
        worst = float(ends[sign < 0](divided.new))
    fall = float(np.sum(np.where(known, sign * (divided.new - worst), 0.0)))
    share = rule.margin * float(known.sum()) / fall if fall > 0 else math.inf
    if share > 1:
        return (
            f"even the worst value everywhere, {worst:g}, is less than {rule.margin:g} below what "
            "the model has: nothing can fail"
        )
    return Candidates(divided, even, share, worst, clustered)


def _tilt(lost: Numbers) -> Numbers | str:
    """Weight units and ways by exp(t x) so that the mean of x, gain plus margin, is 0."""
    scale = float(np.abs(lost).max())
    if scale <= 0 or float(lost.min()) >= 0:
        return "no answers to an item differ by the margin, so that they cannot show such a loss"
    x = lost / scale

    def weights(t: float) -> Numbers:
        raised = np.exp(t * x - (t * x).max())
        return np.asarray(raised / raised.sum(), dtype=np.float64)

    low, high = -1.0, 0.0
    while float((weights(low) * x).sum()) > 0 and low > -1e6:
        low *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if float((weights(middle) * x).sum()) > 0 else (middle, high)
    found = weights(low)
    losing = np.where(lost < 0, found, 0.0).sum(axis=1)
    if float(losing.sum()) ** 2 < LEAST_UNITS * float(np.square(losing).sum()):
        return "too few items were answered differently to show such a loss"
    return found


def verdicts(
    drawn: Candidates,
    rule: Rule,
    metric: Metric,
    *,
    alpha: float,
    gates: int,
    seed: Sequence[int],
) -> list[Verdict]:
    """Gate `gates` candidates by the rule alone."""
    rng = np.random.default_rng(list(seed))
    return [
        hold_up_at_floor(run_fixed_test(drawn.draw(rule, metric, rng), alpha)).verdict
        for _ in range(gates)
    ]
