"""Say what a rule can show with the planned items: power, detectable change, items needed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field

from harness.core.errors import UserError
from harness.core.schema import (
    Estimand,
    Metric,
    Policy,
    Record,
    Rule,
    Score,
    Tier,
    added,
    rule_name,
)
from harness.core.subgroups import PlannedSubgroup
from harness.core.text import plural, quote
from harness.gate.evidence import Evidence
from harness.gate.rule_test import FLOOR_ADVICE, counts_flips, describe_floor, require_range
from harness.gate.sizing import Unchanged, items_at_power, require_icc, require_sd, simulate_bounds
from harness.stats.clusters import Groups, intraclass
from harness.stats.noninferiority import unseen_change
from harness.stats.paired import Numbers
from harness.stats.power import (
    items_needed,
    minimum_detectable,
    paired_sd,
    power_to_detect,
    tango_detectable,
    tango_items_needed,
    tango_power,
)
from harness.stats.sequential import sequential_test

SEQUENTIAL = "sequential test by betting"  # what a planned rule calls its test
POWER = 0.8  # of every rule that can hold a candidate up
SIMULATIONS = 400  # gates: a power of .8 comes with a standard error of .02
AROUND = (0.5, 0.75, 1.0, 1.5, 2.5)  # times the items that the normal approximation asks for
BEYOND = (1.0, 1.5, 2.0, 3.0, 5.0)  # times the planned items, where those are too few
MOST = 20_000  # items in a simulated gate
BISECTIONS = 9  # of the margin that a sequential test detects: to 1/512 of the range
LONGER = 8  # times as many items as a fixed test are tried for a sequential one

Source = Literal["stated", "second run", "repeats", "baseline's own spread"]
PowerFrom = Literal["exact", "simulated gates"]


@dataclass(frozen=True)
class AssumedSpread:
    """What is stated of how much items' differences spread where nothing has changed.

    Of each number, None leaves it to the data.
    """

    discordance: float | None = None  # share of yes/no items that are expected to flip
    sd: float | None = None  # standard deviation of a graded item's gain
    icc: float | None = None  # correlation of the differences of two items of a cluster

    def check(self) -> None:
        """Refuse numbers that no metric can have.

        Raises:
            UserError: a number is out of its range (says which).
        """
        if self.discordance is not None and not 0 < self.discordance <= 1:
            raise UserError(
                f"The discordance is a share above 0 and up to 1, not {self.discordance:g}."
            )
        require_sd(self.sd)
        require_icc(self.icc)


class PlannedRule(Record):
    """What a rule can show with the planned items. Spread, margin and changes in its unit."""

    task: str
    metric: str
    tier: Tier
    margin: float
    test: str
    n: int = Field(description="items with a value of the metric")
    baseline_mean: float
    spread: float = Field(description="standard deviation of one item's difference, no change")
    spread_from: Source
    discordance: float | None = Field(description="yes/no: share of items expected to flip")
    power: float = Field(description="chance that a candidate that has not changed passes")
    minimum_detectable: float = Field(description="change that would be seen with power .8")
    items_needed: int = Field(
        description="items for a power of .8; with `every`, items in each subgroup"
    )
    expected_items: int | None = Field(
        default=None, description="sequential: median of items used if nothing has changed"
    )
    power_from: PowerFrom | None = Field(
        default=None,
        exclude_if=lambda power_from: power_from is None,
        description="None: the normal approximation",
    )
    clusters: int | None = Field(
        default=None,
        exclude_if=lambda clusters: clusters is None,
        description="clusters that the items are in; None: each is on its own",
    )
    icc: float | None = Field(
        default=None,
        exclude_if=lambda icc: icc is None,
        description="correlation of the differences of two items of a cluster",
    )
    icc_from: Source | None = Field(default=None, exclude_if=lambda source: source is None)
    every: str | None = added(None, "the rule is about every subgroup of this tag")
    subgroups: list[PlannedSubgroup] = added([], "of a rule with `every`, the least power first")
    design_effect: float | None = Field(
        default=None,
        exclude_if=lambda effect: effect is None,
        description="by how much clusters raise the variance of the mean difference",
    )
    note: str = Field(
        default="",
        exclude_if=lambda note: not note,
        description="why the gate calls a pass of this rule inconclusive, whatever its power",
    )

    @property
    def name(self) -> str:
        return rule_name(self.task, self.metric, self.every)


def _repeats(scores: Sequence[Score], metric: str) -> tuple[int, float]:
    """Return the responses per item, and the standard deviation of the values of one item."""
    answers: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        if metric in score.values:
            answers[score.item].append(score.values[metric])
    if min(map(len, answers.values()), default=0) < 2:
        return 1, 0.0
    variances = [float(np.var(values, ddof=1)) for values in answers.values()]
    return min(map(len, answers.values())), math.sqrt(math.fsum(variances) / len(variances))


def _unseen_spread(metric: Metric, n: int, alpha: float) -> float:
    if metric.span is None:
        raise UserError(
            f"No difference was seen on {metric.name}, which has no known range that would bound "
            "it. Give a second run of the baseline in which answers differ."
        )
    return metric.span * math.sqrt(unseen_change(n, alpha))


@dataclass(frozen=True)
class _Shown:
    """What planned items can show: see `PlannedRule`."""

    test: str
    power: float
    minimum_detectable: float
    items_needed: int
    power_from: PowerFrom | None = None
    expected_items: int | None = None


def plan_rule(
    evidence: Evidence,
    again: Evidence | None,
    scores: Sequence[Score],
    policy: Policy,
    assumed: AssumedSpread,
    *,
    estimand: Estimand | None,
) -> PlannedRule:
    """Plan one rule on the baseline's `evidence`, and on that of a second run (`again`).

    Without an `estimand` the test is a fixed one. The power of yes/no pairs without clusters is
    exact, that of a rule with the noise of runs the normal approximation's, and any other that of
    simulated gates.

    Raises:
        UserError: the baseline has too few values, or shows no spread and no range bounds it; or
            the stated standard deviation is impossible.
    """
    rule, metric = evidence.rule, evidence.metric
    found = describe_unchanged(evidence, again, scores, policy, assumed)
    unchanged, values, group = found.unchanged, found.values, found.group
    if estimand is not None:
        shown = _show_sequential(unchanged, rule, policy, len(values), estimand)
    elif rule.noise is not None:
        shown = _show_approximately(unchanged, rule, policy, len(values), found.effect)
    else:
        shown = _show_fixed(unchanged, rule, policy, len(values), found.effect)
    return PlannedRule(
        task=rule.task,
        metric=rule.metric,
        tier=rule.tier,
        margin=rule.margin,
        test=shown.test,
        n=len(values),
        baseline_mean=float(values.mean()),
        spread=unchanged.spread,
        spread_from=found.source,
        discordance=unchanged.spread**2 if unchanged.pairs else None,
        power=shown.power,
        minimum_detectable=shown.minimum_detectable,
        items_needed=shown.items_needed,
        expected_items=shown.expected_items,
        power_from=shown.power_from,
        clusters=len(np.unique(group)) if group is not None else None,
        icc=unchanged.icc if group is not None else None,
        icc_from=found.icc_from,
        design_effect=found.effect if group is not None else None,
        note=_note_floor(rule, metric, float(values.mean())),
    )


@dataclass(frozen=True)
class Described:
    """How the gains of an unchanged candidate spread, and where that is from."""

    unchanged: Unchanged
    values: Numbers  # of the baseline, where it has one
    source: Source
    group: Groups | None  # cluster of each value
    effect: float  # of clusters on the variance of the mean gain
    icc_from: Source | None


def describe_unchanged(
    evidence: Evidence,
    again: Evidence | None,
    scores: Sequence[Score],
    policy: Policy,
    assumed: AssumedSpread,
) -> Described:
    """Describe an unchanged candidate; the arguments and errors are those of `plan_rule`."""
    rule, metric, alpha = evidence.rule, evidence.metric, policy.alpha
    known = ~np.isnan(evidence.baseline)
    values = evidence.baseline[known]
    if len(values) < 2:
        raise UserError(f"The baseline has {len(values)} values of {rule.metric}: too few.")
    repeats, answer_sd = _repeats(scores, rule.metric)
    seen = again.candidate - again.baseline if again is not None else None
    source: Source
    if assumed.discordance is not None and metric.kind == "binary":
        spread, source = math.sqrt(assumed.discordance), "stated"
    elif assumed.sd is not None and metric.kind == "continuous":
        require_sd(assumed.sd, metric)
        spread, source = assumed.sd, "stated"
    elif seen is not None:
        spread, source = float(np.nanstd(seen, ddof=1)), "second run"
    elif repeats > 1:
        spread, source = paired_sd(0, answer_sd, answer_sd, repeats, repeats), "repeats"
    else:
        spread, source = float(values.std(ddof=1)), "baseline's own spread"
    # Where no difference was seen, the largest spread that so many items may hide.
    spread = spread or _unseen_spread(metric, len(values), alpha)
    pairs = counts_flips(metric, values)
    group = None
    effect, icc, icc_from = 1.0, 0.0, None
    if evidence.clusters is not None:
        group = np.asarray(evidence.clusters)[known]
        icc, icc_from = _correlation(assumed.icc, values, group, again)
        sizes = np.unique(group, return_counts=True)[1]
        effect = 1 + (float(np.square(sizes).sum()) / len(group) - 1) * icc
    differences = np.zeros(0)
    if source == "second run" and seen is not None:
        differences = seen[~np.isnan(seen)]
    elif source == "baseline's own spread":
        # Half of the items take the value of another: gains of the spread of the values.
        shuffled = np.random.default_rng(policy.seed).permutation(values)
        differences = np.concatenate([shuffled - values, np.zeros(len(values))])
    unchanged = Unchanged(
        metric,
        spread,
        pairs,
        seen=differences if differences.any() else None,
        icc=icc,
        groups=partial(like, np.sort(group)) if group is not None else None,
        level=float(values.mean()),
    )
    return Described(unchanged, values, source, group, effect, icc_from)


def _note_floor(rule: Rule, metric: Metric, baseline_mean: float) -> str:
    """Say of a critical rule that no gate passes it, because no loss of its margin is possible."""
    at_floor = describe_floor(rule, metric, baseline_mean)
    if not at_floor or rule.tier != "critical" or rule.allow_floor:
        return ""
    return (
        "unless the candidate shows a gain, a pass will be inconclusive: "
        f"it {at_floor}{FLOOR_ADVICE}"
    )


def _correlation(
    icc: float | None, values: Numbers, group: Groups, again: Evidence | None
) -> tuple[float, Source]:
    """Return how much the differences of a cluster's items correlate, and where that is from."""
    if icc is not None:
        return icc, "stated"
    if again is not None and again.clusters is not None:
        seen = again.candidate - again.baseline
        known = ~np.isnan(seen)
        if np.ptp(seen[known]) > 0:
            found, _ = intraclass(seen[known], np.asarray(again.clusters)[known])
            return min(max(found, 0.0), 1.0), "second run"
    found, _ = intraclass(values, group)
    return min(max(found, 0.0), 1.0), "baseline's own spread"


def like(group: Groups, n: int) -> list[int]:
    """Number the clusters of `n` items that are divided as those in `group`, which is sorted."""
    rounds = -(-n // len(group))
    step = int(group.max()) + 1
    numbers = np.concatenate([group + step * k for k in range(rounds)])[:n]
    return [int(number) for number in numbers]


def _show_fixed(
    unchanged: Unchanged, rule: Rule, policy: Policy, n: int, effect: float = 1.0
) -> _Shown:
    """Show what a fixed test can tell: by an exact formula, or else by simulated gates."""
    if not unchanged.pairs or unchanged.groups is not None:
        return _show_simulated(unchanged, rule, policy, n, effect)
    discordance = min(unchanged.spread**2, 1.0)
    power = tango_power(n, discordance, rule.margin, policy.alpha)
    needed = tango_items_needed(discordance, rule.margin, policy.alpha, POWER)
    if power < POWER:  # it falls a little now and then as items are added: name no fewer items
        needed = max(needed, n + 1)
        while tango_power(needed, discordance, rule.margin, policy.alpha) < POWER:
            needed += 1
    return _Shown(
        test=_name_test(unchanged, rule, policy, n),
        power=power,
        minimum_detectable=tango_detectable(n, discordance, policy.alpha, POWER),
        items_needed=needed,
        power_from="exact",
    )


def _name_test(unchanged: Unchanged, rule: Rule, policy: Policy, n: int) -> str:
    """Name the test that the gate uses on such gains, as the gate itself names it."""
    return simulate_bounds(unchanged, rule, policy.alpha, n, gates=1, seed=policy.seed)[1]


def _show_approximately(
    unchanged: Unchanged, rule: Rule, policy: Policy, n: int, effect: float
) -> _Shown:
    """Show what the normal approximation says: of rules with the noise of runs."""
    spread, alpha = unchanged.spread * math.sqrt(effect), policy.alpha
    return _Shown(
        test=_name_test(unchanged, rule, policy, n),
        power=power_to_detect(rule.margin, n, spread, alpha, rule.noise),
        minimum_detectable=minimum_detectable(n, spread, alpha, POWER, rule.noise),
        items_needed=items_needed(rule.margin, spread, alpha, POWER, rule.noise),
    )


def _show_simulated(
    unchanged: Unchanged, rule: Rule, policy: Policy, n: int, effect: float
) -> _Shown:
    """Give gates of an unchanged candidate to the gate's own test."""
    bounds, test = simulate_bounds(
        unchanged, rule, policy.alpha, n, gates=SIMULATIONS, seed=policy.seed
    )
    about = items_needed(rule.margin, unchanged.spread * math.sqrt(effect), policy.alpha, POWER)
    reached = float((bounds > -rule.margin).mean())
    if reached < POWER:  # more than the planned items, divided into clusters alike
        tried = {round(n * times) for times in BEYOND}
    else:
        tried = {min(n, max(2, round(about * times))) for times in AROUND}
    sizes = sorted(size for size in tried if size <= MOST)
    power = [
        float(
            (
                simulate_bounds(unchanged, rule, policy.alpha, m, seed=policy.seed)[0]
                > -rule.margin
            ).mean()
        )
        for m in sizes
    ]
    return _Shown(
        test=test,
        power=reached,
        minimum_detectable=max(0.0, -float(np.quantile(bounds, 1 - POWER))),
        items_needed=(items_at_power(sizes, power, POWER) if sizes else None)
        or max([about, *sizes]),
        power_from="simulated gates",
    )


def _show_sequential(
    unchanged: Unchanged, rule: Rule, policy: Policy, n: int, estimand: Estimand
) -> _Shown:
    """Run sequential gates of an unchanged candidate.

    About the items alone a verdict is always reached, so that power is that of a fixed test: how
    well the planned items stand for others. About the population it is the share that passes.
    """
    fixed = _show_fixed(unchanged, rule, policy, n)
    span = require_range(unchanged.metric, rule)
    rng = np.random.default_rng(policy.seed)
    most = n if estimand == "items" else min(MOST, max(n, LONGER * fixed.items_needed))
    gains = [np.clip(unchanged.gains(most, rng), -span, span) for _ in range(SIMULATIONS)]

    def passes_at(margin: float, items: int) -> Numbers:
        """Return the items used in each gate that passes, and infinity for any other."""
        population = n if estimand == "items" else None
        seen = [
            sequential_test(
                drawn[:items], margin=margin, alpha=policy.alpha, span=span, population=population
            )
            for drawn in gains
        ]
        used.append(float(np.median([one.stopped_at or items for one in seen])))
        return np.array([one.stopped_at if one.verdict == "pass" else np.inf for one in seen])

    used: list[float] = []
    at = passes_at(rule.margin, n)
    shown = replace(fixed, test=SEQUENTIAL, expected_items=int(used[0]))
    if estimand == "items":
        return shown
    too_low, enough = 0.0, span
    for _ in range(BISECTIONS):
        middle = (too_low + enough) / 2
        clear = float(np.isfinite(passes_at(middle, n)).mean()) >= POWER
        too_low, enough = (too_low, middle) if clear else (middle, enough)
    power = float(np.isfinite(at).mean())
    needed = float(np.quantile(passes_at(rule.margin, most), POWER, method="higher"))
    return replace(
        shown,
        power=power,
        minimum_detectable=enough,
        items_needed=int(min(needed, most)),
        power_from="simulated gates",
    )


def require_power(rules: Sequence[PlannedRule]) -> None:
    """Refuse a plan in which a critical rule would often hold up an unchanged candidate.

    Raises:
        UserError: such a rule passes with a chance below `POWER` (names the items it takes).
    """
    for rule in rules:
        if rule.tier != "critical" or rule.power >= POWER:
            continue
        if rule.subgroups:
            raise UserError(_too_small(rule))
        advice = (
            " The spread was taken from the baseline's own values. Measure it with a second run "
            "of the baseline, or state the discordance."
            if rule.spread_from == "baseline's own spread"
            else ""
        )
        raise UserError(
            f"The plan is refused: with {rule.n:,} items and a spread of {rule.spread:.3g}, the "
            f"rule on {rule.task} {rule.metric} would pass an unchanged candidate with a chance "
            f"of {_below(rule.power, POWER)}. A critical rule needs at least {POWER}. It takes "
            f"{rule.items_needed:,} items, or a margin of "
            f"{_above(rule.minimum_detectable, rule.margin)} in place of {rule.margin:g}.{advice}"
        )


def _too_small(rule: PlannedRule) -> str:
    """Say that an unchanged candidate would often not pass in every subgroup."""
    least, count = rule.subgroups[0], len(rule.subgroups)
    return (
        f"The plan is refused: the critical rule on {rule.name} would pass an unchanged candidate "
        f"in all {count} subgroups with a chance of {_below(rule.power, POWER)}, and needs at "
        f"least {POWER}. {quote(least.name)}, with {least.n:,} {plural('item', least.n)}, passes "
        f"with a chance of {least.power:.2f}. It takes about {rule.items_needed:,} items in each "
        f"subgroup or a larger margin than {rule.margin:g}. Or make the rule a guardrail, which "
        "stops a candidate where a subgroup is seen to lose more than the margin."
    )


def _below(value: float, limit: float) -> str:
    """Print a value with as many digits as show that it lies below `limit`, two at least."""
    digits = next((k for k in range(2, 9) if round(value, k) < limit), 9)
    return f"{value:.{digits}f}"


def _above(value: float, limit: float) -> str:
    """Print a value with as many digits as show that it lies above `limit`, three at least."""
    digits = next((k for k in range(3, 9) if float(f"{value:.{k}g}") > limit), 9)
    return f"{value:.{digits}g}"
