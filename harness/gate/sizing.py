"""Answer "how many items do I need?" with the gate's own tests.

Where the power of a test has an exact formula it is computed (`harness.stats.power`). Else
gates of an unchanged candidate are simulated: its gains are drawn, clusters and all, and given to
the test that the gate would use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Literal

import numpy as np
from pydantic import Field

from harness.core.errors import UserError
from harness.core.schema import Metric, Policy, Record, Rule
from harness.core.text import plural
from harness.gate.evidence import Evidence
from harness.gate.rule_test import estimate_gain
from harness.stats.paired import Numbers
from harness.stats.power import (
    minimum_detectable,
    tango_failing_loss,
    tango_items_needed,
    tango_power,
)

POWERS = (0.5, 0.8, 0.9, 0.95)
GATES = 400  # simulated per number of items: a power of .8 comes with a standard error of .02
CLUSTERED_GATES = 200  # the same in clusters, whose tests take longer
SIZES = tuple(20 * 2**k for k in range(11))  # items: 20 to 20,480
NEARLY_ALL = 0.02  # of the variance that items add to that of their clusters: more are not tried
MARGINS = (0.5, 1.0, 2.0)  # of the policy's own


@dataclass(frozen=True)
class Unchanged:
    """How the gains of a candidate that has not changed scatter.

    `spread` is the standard deviation of one item's gain; `seen` are gains between two runs, from
    which gains are drawn with either sign. Items are in clusters of correlation `icc`:
    `groups(n)` numbers the cluster of each of n items. `level` is the baseline's mean, which says
    how far an item can fall; None: the best end of the metric's range, where it can fall furthest.
    """

    metric: Metric
    spread: float
    pairs: bool  # yes/no, one answer per item
    seen: Numbers | None = None
    icc: float = 0.0
    groups: Callable[[int], Sequence[int]] | None = None
    level: float | None = None

    def gains(self, n: int, rng: np.random.Generator) -> Numbers:
        """Draw the gains of `n` items; two items of a cluster correlate by `icc`.

        Each item takes its own draw or, with probability sqrt(icc), that of its cluster, so that
        what a single item gains is distributed alike whatever the clusters.
        """
        own = self._draw(n, rng)
        if self.groups is None:
            return own
        group = np.asarray(self.groups(n))
        shared = self._draw(int(group.max()) + 1, rng)[group]
        return np.where(rng.random(n) < math.sqrt(self.icc), shared, own)

    def _draw(self, n: int, rng: np.random.Generator) -> Numbers:
        if self.seen is not None:
            drawn = rng.choice(self.seen, n) * rng.choice([-1.0, 1.0], n)
            return np.asarray(drawn, dtype=np.float64)
        if self.pairs:
            flips = min(self.spread**2, 1.0) / 2
            return rng.choice([-1.0, 0.0, 1.0], n, p=[flips, 1 - 2 * flips, flips])
        drawn = rng.normal(0.0, self.spread, n)
        span = self.metric.span
        return drawn if span is None else np.clip(drawn, -span, span)


def simulate_bounds(
    unchanged: Unchanged, rule: Rule, alpha: float, n: int, *, gates: int = GATES, seed: int = 0
) -> tuple[Numbers, str]:
    """Return the lower bound of the gain in each of `gates` simulated gates, and the test's name.

    A gate passes where its lower bound lies above minus the margin.
    """
    rng = np.random.default_rng([seed, n])
    group = unchanged.groups(n) if unchanged.groups else None
    clusters = list(group) if group is not None and len(set(group)) < n else None
    bounds, test = np.empty(gates), ""
    for gate in range(gates):
        gains = unchanged.gains(n, rng)
        evidence = Evidence(
            rule,
            unchanged.metric,
            items=[],
            baseline=_level(unchanged, gains),
            candidate=_level(unchanged, gains) + gains,
            asked=n,
            lost=0,
            inapplicable=0,
            insufficient_because="",
            clusters=clusters,
        )
        estimate = estimate_gain(evidence, alpha)
        bounds[gate], test = estimate.low, estimate.test
    return bounds, test


def _level(unchanged: Unchanged, gains: Numbers) -> Numbers:
    """Place the baseline's values: of yes/no pairs so that gains lead to possible values."""
    if unchanged.pairs:
        return np.where(gains < 0, 1.0, 0.0)
    metric, level = unchanged.metric, unchanged.level
    if level is None:
        level = (metric.high if metric.higher_is_better else metric.low) or 0.0
    return np.full(len(gains), level)


def failing_loss(rule: Rule, metric: Metric, n: int, alpha: float, changed: float) -> float | None:
    """Return the least loss with which `n` items fail a rule with a chance of .8.

    `changed` is the share of items whose answer changes by chance; of a graded metric, so large a
    share changes from one end of its range to the other. None: no loss is large enough.

    Raises:
        UserError: the range of a graded metric is not known.
    """
    if metric.kind == "binary" and rule.noise is None:
        return tango_failing_loss(n, changed, rule.margin, alpha)
    if metric.span is None:
        raise UserError(
            f"What {n:,} items see of {rule.task} {rule.metric} depends on how much it spreads, "
            "and its range is not known."
        )
    spread = math.sqrt(changed) * metric.span
    loss = rule.margin + minimum_detectable(n, spread, alpha, noise=rule.noise)
    return loss if loss <= metric.span else None


class Size(Record):
    """How many items a margin takes, and the power along the way."""

    margin: float
    rules: list[str] = Field(description="of the policy that have this margin")
    items: dict[str, int | None] = Field(
        description="power -> items; None: not reached with the largest number that was tried"
    )
    power: list[float] = Field(description="at each number of items of the table's `sizes`")


class SizeTable(Record):
    """Items against margin and power, for rules whose items scatter alike."""

    kind: Literal["yes/no", "graded"]
    spread: float = Field(description="standard deviation of one item's gain")
    alpha: float
    test: str
    method: str
    clusters: int | None = Field(default=None, description="into which the items are divided")
    icc: float | None = None
    reach: float | None = Field(
        default=None,
        description="least margin that so many clusters show with power .8, whatever the items",
    )
    sizes: list[int] = Field(description="numbers of items that were tried")
    margins: list[Size]


def size_tables(
    policy: Policy,
    definitions: Mapping[tuple[str, str], Metric],
    *,
    discordance: float | None = None,
    sd: float | None = None,
    clusters: int | None = None,
    icc: float | None = None,
) -> tuple[list[SizeTable], list[str]]:
    """Tabulate items against margin and power for the rules of `policy`, without an evaluation.

    `definitions` are the metrics that are known, by task and name. Of the rules, yes/no ones are
    answered from the `discordance`, the share of items that flip in an unchanged candidate; others
    from `sd`, the standard deviation of one item's gain. `clusters` and their `icc` divide the
    items. Returns the tables, and the rules that what was given does not answer, with the reason.

    Raises:
        UserError: nothing can be answered from what was given, or it is out of range.
    """
    _require(discordance, sd, clusters, icc)
    asked: dict[tuple[bool, float | None, float | None], list[Rule]] = {}
    open_: list[str] = []
    for rule in policy.rules:
        metric = definitions.get((rule.task, rule.metric))
        pairs, why = _kind(metric, discordance, sd)
        if why:
            open_.append(f"{rule.task} {rule.metric}: {why}")
        else:
            low, high = (0.0, 1.0) if pairs else (None, None)
            # With one end alone nothing says where the baseline lies, nor how far it can fall.
            if metric is not None and metric.span is not None:
                low, high = metric.low, metric.high
                require_sd(None if pairs else sd, metric)
            asked.setdefault((pairs, low, high), []).append(rule)
    if not asked:
        raise UserError("There is nothing to count items for. " + "; ".join(open_) + ".")
    tables = []
    for (pairs, low, high), rules in asked.items():
        kind: Literal["binary", "continuous"] = "binary" if pairs else "continuous"
        spread = math.sqrt(discordance or 0.0) if pairs else (sd or 0.0)
        groups = partial(_deal, clusters) if clusters is not None else None
        unchanged = Unchanged(
            Metric(name="", kind=kind, low=low, high=high),
            spread,
            pairs,
            icc=icc or 0.0,
            groups=groups,
        )
        tables.append(_tabulate(unchanged, rules, policy, clusters, icc))
    return tables, open_


def _deal(clusters: int, n: int) -> list[int]:
    return [item % clusters for item in range(n)]


def _require(
    discordance: float | None, sd: float | None, clusters: int | None, icc: float | None
) -> None:
    if discordance is None and sd is None:
        raise UserError(
            "How many items are needed depends on how much item differences spread when nothing "
            "has changed. Give --discordance for yes/no metrics (the share of items that flip, "
            "often .05 to .2), --sd for graded ones, or a --baseline to measure it on."
        )
    if discordance is not None and not 0 < discordance <= 1:
        raise UserError(f"The discordance is a share above 0 and up to 1, not {discordance:g}.")
    require_sd(sd)
    if (clusters is None) != (icc is None):
        raise UserError(
            "Clusters and their correlation go together: give both --clusters and --icc (0 is "
            "none, .05 weak, .5 strong), or a --baseline to measure it on."
        )
    if clusters is not None and clusters < 2:
        raise UserError(
            f"{clusters} {plural('cluster', clusters)} cannot show a spread: give 2 or more."
        )
    require_icc(icc)


def require_sd(sd: float | None, metric: Metric | None = None) -> None:
    """Refuse an impossible standard deviation of an item's gain, on `metric` if given.

    Raises:
        UserError: it is not above 0, not finite, or larger than the metric's range.
    """
    if sd is None:
        return
    if not 0 < sd < math.inf:
        raise UserError(f"The standard deviation of an item's gain is above 0, not {sd:g}.")
    if metric is not None and metric.span is not None and sd > metric.span:
        raise UserError(
            f"The standard deviation of an item's gain is {sd:g}, but the metric runs from "
            f"{metric.low:g} to {metric.high:g}: it is at most {metric.span:g}. Give --sd in the "
            "metric's unit."
        )


def require_icc(icc: float | None) -> None:
    """Refuse an intra-cluster correlation that is none.

    Raises:
        UserError: it lies outside 0 to 1.
    """
    if icc is not None and not 0 <= icc <= 1:
        raise UserError(f"The intra-cluster correlation lies between 0 and 1; it is {icc:g}.")


def _kind(metric: Metric | None, discordance: float | None, sd: float | None) -> tuple[bool, str]:
    """Say whether a rule is answered as yes/no; or why it is not answered."""
    if metric is None:
        if discordance is not None and sd is not None:
            return False, "it is not known whether it is yes/no: give only one spread for it"
        return discordance is not None, ""
    if metric.kind == "binary" and discordance is not None:
        return True, ""
    if metric.kind == "binary":
        return False, "it is yes/no: give --discordance"
    return False, "" if sd is not None else "it is graded: give --sd"


def _tabulate(
    unchanged: Unchanged,
    rules: Sequence[Rule],
    policy: Policy,
    clusters: int | None,
    icc: float | None,
) -> SizeTable:
    span = unchanged.metric.span
    own = {rule.margin for rule in rules}
    margins = sorted({round(m * times, 12) for m in own for times in MARGINS})
    margins = [m for m in margins if span is None or m < span]
    if not margins:
        raise UserError(f"No margin of the policy is below the metric's range of {span:g}.")
    sizes = _worth_trying(clusters, icc)
    reach = None
    if unchanged.pairs and unchanged.groups is None:
        power = {
            m: [tango_power(n, unchanged.spread**2, m, policy.alpha) for n in sizes]
            for m in margins
        }
        needed: dict[float, list[int | None]] = {
            m: [tango_items_needed(unchanged.spread**2, m, policy.alpha, p) for p in POWERS]
            for m in margins
        }
        test, method = "Tango score test", "exact"
    else:
        rule, bounds, test = rules[0], [], ""
        gates = GATES if clusters is None else CLUSTERED_GATES
        for n in sizes:
            low, test = simulate_bounds(
                unchanged, rule, policy.alpha, n, gates=gates, seed=policy.seed
            )
            bounds.append(low)
        power = {m: [float((low > -m).mean()) for low in bounds] for m in margins}
        needed = {m: [items_at_power(sizes, power[m], p) for p in POWERS] for m in margins}
        if clusters is not None:
            reach = -float(np.quantile(bounds[-1], 1 - POWERS[1]))
        method = f"simulated, {gates} gates per number of items, seed {policy.seed}"
        if not unchanged.pairs:
            method += "; " + _assumed_level(unchanged.metric)
    return SizeTable(
        kind="yes/no" if unchanged.pairs else "graded",
        spread=unchanged.spread,
        alpha=policy.alpha,
        test=test,
        method=method,
        clusters=clusters,
        icc=icc,
        reach=reach,
        sizes=sizes,
        margins=[
            Size(
                margin=m,
                rules=[_named(rule) for rule in rules if rule.margin == m],
                items={f"{p:g}": n for p, n in zip(POWERS, needed[m], strict=True)},
                power=power[m],
            )
            for m in margins
        ],
    )


def _named(rule: Rule) -> str:
    return f"{rule.name} (items in each)" if rule.every else rule.name


def _assumed_level(metric: Metric) -> str:
    if metric.high is None:
        return "the metric's range is not known"
    return f"the baseline at {metric.high:g}, the best value, from where items can fall furthest"


def _worth_trying(clusters: int | None, icc: float | None) -> list[int]:
    """Return the numbers of items to try: no more than tell something that clusters allow."""
    if not clusters or not icc:
        return list(SIZES)
    most = clusters * (1 - icc) / icc / NEARLY_ALL
    least = max(SIZES[2], clusters)
    return [n for n in SIZES if n <= max(most, least)]


def items_at_power(sizes: Sequence[int], power: Sequence[float], wanted: float) -> int | None:
    """Return the number of items at which a simulated power is reached, between those tried.

    The powers are made to rise first, by averaging where chance lets them fall. Between two sizes
    it is interpolated over the normal quantile of the power against the root of the size, which is
    a straight line for a test whose standard error falls with the root. None where the largest
    size does not reach it.
    """
    risen = _made_to_rise(power)
    reached = np.flatnonzero(risen >= wanted)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0:
        return sizes[0]
    score = NormalDist().inv_cdf
    low, high, aim = (score(min(max(p, 1e-3), 1 - 1e-3)) for p in (*risen[at - 1 : at + 1], wanted))
    share = (aim - low) / (high - low) if high > low else 1.0
    roots = [math.sqrt(sizes[at - 1]), math.sqrt(sizes[at])]
    return math.ceil((roots[0] + min(max(share, 0.0), 1.0) * (roots[1] - roots[0])) ** 2)


def _made_to_rise(values: Sequence[float]) -> Numbers:
    """Return the nearest values that never fall: pool adjacent violators (M. Ayer et al., 1955)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        total, count = float(value), 1
        while pools and pools[-1][0] / pools[-1][1] >= total / count:
            before, more = pools.pop()
            total, count = before + total, more + count
        pools.append((total, count))
    return np.repeat([total / count for total, count in pools], [count for _, count in pools])
