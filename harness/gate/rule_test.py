"""Test one rule: choose the procedure that fits the values, and read its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.errors import UserError
from harness.core.schema import FEWEST_RUNS, Estimand, Metric, Noise, Rule, Verdict
from harness.core.subgroups import Subgroups
from harness.core.text import plural
from harness.gate.evidence import Evidence
from harness.stats import Estimate
from harness.stats.clusters import clustered_tango, groups
from harness.stats.mean_bound import Limits, items_to_exclude
from harness.stats.noninferiority import mcnemar, pairs_needed, tango
from harness.stats.paired import FEW_CLUSTERS, Numbers, compare
from harness.stats.power import items_needed, threshold
from harness.stats.repeatability import widen
from harness.stats.sequential import p_of_no_change, sequential_bounds, sequential_test

FLOOR_ADVICE = "; give a smaller margin or harder evidence, or set allow_floor on the rule"


@dataclass(frozen=True)
class RuleResult:
    """What the test on one rule found, before labels, which depend on the results of all rules."""

    evidence: Evidence
    estimate: Estimate
    n: int
    flips: tuple[int, int] | None  # yes/no items gained and lost
    verdict: Verdict
    reason: str
    planned: int | None = None  # items of a sequential plan
    subgroups: Subgroups | None = None  # of a rule with `every`; the figures are of the worst


def run_fixed_test(evidence: Evidence, alpha: float, *, allow_skew: bool = True) -> RuleResult:
    """Test a rule on all of its items at once; `allow_skew` as in `harness.stats.paired`."""
    old, new = evidence.signed
    n = int((~np.isnan(old) & ~np.isnan(new)).sum())
    if n == 0:
        return _nothing_to_compare(evidence)
    span = evidence.metric.span
    test = RuleTest(evidence.metric, evidence.rule, alpha, allow_skew)
    estimate, flips = test(old, new, evidence.clusters)
    verdict, reason = _read(estimate, n, evidence.rule, span, alpha)
    if flips:
        reason += f"; {flips[0]} {plural('item', flips[0])} gained and {flips[1]} lost"
        if evidence.clusters is None:  # McNemar takes items for independent
            reason += f", exact McNemar p {float(mcnemar(*flips)):.2g}"
    if estimate.wider:
        reason += f"; {estimate.wider}"
    if verdict == "pass" and evidence.lost and span is None:
        verdict = "inconclusive"
        reason = (
            f"{_without_value(evidence.lost)}, and the metric has no known range that would bound "
            "the loss on what is missing"
        )
    elif verdict == "pass" and evidence.lost:
        reason += _worst_case(old, new, evidence, test)
    reason += _share_that_applies(evidence)
    if evidence.insufficient_because:
        verdict, reason = "inconclusive", evidence.insufficient_because
    return RuleResult(evidence, estimate, n, flips, verdict, reason)


def run_sequential_test(
    evidence: Evidence, alpha: float, order: Sequence[str], estimand: Estimand
) -> RuleResult:
    """Test a rule item by item in `order`, and stop as soon as the verdict is known.

    Raises:
        UserError: the range of the metric is not known, or an item is not in `order`.
    """
    metric, margin = evidence.metric, evidence.rule.margin
    span = require_range(metric, evidence.rule)
    place = {item: i for i, item in enumerate(order)}
    if strangers := [item for item in evidence.items if item not in place]:
        raise UserError(
            f"The plan has no item {strangers[0][:12]} of {evidence.rule.task}: the evaluations "
            "are of other items than the plan. Evaluate what was planned, or plan anew."
        )
    both = ~np.isnan(evidence.baseline) & ~np.isnan(evidence.candidate)
    if not both.any():
        return _nothing_to_compare(evidence)
    rows = np.flatnonzero(both)
    rows = rows[np.argsort([place[evidence.items[i]] for i in rows])]
    old, new = evidence.signed
    gains = (new - old)[rows]
    # Where an item has no value, it is not known how many of those to come have one.
    whole = evidence.lost == 0 and len(rows) == len(evidence.items)
    population = len(order) if whole and estimand == "items" else None
    decided = sequential_test(gains, margin=margin, alpha=alpha, span=span, population=population)
    used = decided.stopped_at or len(rows)
    gains, rows = gains[:used], rows[:used]
    seen = replace(evidence, baseline=evidence.baseline[rows], candidate=evidence.candidate[rows])
    low, high = sequential_bounds(gains, alpha=alpha, span=span, population=population)
    if decided.verdict == "pass":  # the bounds are rounded outwards, the verdict is not
        low = max(low, -margin)
    elif decided.verdict == "fail":
        high = min(high, -margin)
    estimate = Estimate(
        test="sequential test by betting",
        delta=float(gains.mean()),
        stderr=float(gains.std(ddof=1)) / math.sqrt(used) if used > 1 else 0.0,
        low=low,
        high=high,
        p_value=min(1.0, math.exp(-decided.log_e_pass)),
        p_zero=p_of_no_change(gains, span=span, population=population),
    )
    flips = None
    if counts_flips(metric, gains):
        flips = int((gains > 0).sum()), int((gains < 0).sum())
    verdict: Verdict = decided.verdict or "inconclusive"
    reason = {
        "pass": f"a loss of {margin:g} is excluded",
        "fail": f"a loss of less than {margin:g} is excluded",
        "inconclusive": f"between {low:+.4g} and {high:+.4g}, which {-margin:+.4g} divides,",
    }[verdict] + f" after {used:,} of {len(order):,} items{_share_that_applies(evidence)}"
    reason += (
        "; this is about the planned items alone, not about other questions of the kind"
        if estimand == "items"
        else "; this is about all questions of the kind, of which the planned items are a sample"
    )
    insufficient = evidence.insufficient_because
    if one_sided := len(evidence.items) - int(both.sum()):
        insufficient = (
            insufficient
            or f"it applies to {one_sided} items on one side only: plan a fixed test for it"
        )
    if insufficient:
        verdict, reason = "inconclusive", insufficient
    return RuleResult(seen, estimate, used, flips, verdict, reason, planned=len(order))


def estimate_gain(evidence: Evidence, alpha: float) -> Estimate:
    """Estimate the gain as the fixed test does, without reading a verdict from it."""
    test = RuleTest(evidence.metric, evidence.rule, alpha, allow_skew=True)
    return test(*evidence.signed, evidence.clusters)[0]


def hold_up_at_floor(result: RuleResult) -> RuleResult:
    """Make a critical pass inconclusive where the baseline is so low that nothing could fail.

    A check that shows a gain says more than that nothing could be lost, and stays as it is.
    """
    evidence, rule = result.evidence, result.evidence.rule
    if not result.n or result.estimate.low > 0:
        return result
    at_floor = describe_floor(rule, evidence.metric, float(np.nanmean(evidence.baseline)))
    if not at_floor:
        return result
    if rule.tier != "critical" or rule.allow_floor or result.verdict != "pass":
        return replace(result, reason=f"{result.reason}; {at_floor}")
    return replace(result, verdict="inconclusive", reason=at_floor + FLOOR_ADVICE)


def describe_floor(rule: Rule, metric: Metric, baseline_mean: float) -> str:
    """Say that no loss of the margin is possible from `baseline_mean`; empty where one is.

    None is possible where even the metric's worst value lies within the margin.
    """
    worst = metric.low if metric.higher_is_better else metric.high
    if worst is None or abs(baseline_mean - worst) > rule.margin:
        return ""
    return (
        f"cannot fail: the baseline's mean is {baseline_mean:.4g} and the worst possible is "
        f"{worst:g}, so that a loss of {rule.margin:g} is impossible"
    )


def counts_flips(metric: Metric, *sides: Numbers) -> bool:
    """Say whether yes/no answers of the `sides` are counted as pairs that flip, not averaged."""
    return metric.kind == "binary" and all(bool(np.isin(side, [-1, 0, 1]).all()) for side in sides)


@dataclass(frozen=True)
class RuleTest:
    """The test on one rule."""

    metric: Metric
    rule: Rule
    alpha: float
    allow_skew: bool

    @property
    def limits(self) -> Limits:
        """Return the worst and the best value, signed so that higher is better."""
        low, high = self.metric.low, self.metric.high
        if self.metric.higher_is_better:
            return low, high
        return None if high is None else -high, None if low is None else -low

    def __call__(
        self, old: Numbers, new: Numbers, clusters: Sequence[object] | None = None
    ) -> tuple[Estimate, tuple[int, int] | None]:
        """Run the test that fits the values; for yes/no pairs also count items gained and lost.

        `clusters` names the cluster of each item; without it every item is independent.
        """
        margin = self.rule.margin
        group = groups(clusters, len(old))
        count = int(group.max(initial=-1)) + 1
        flips = None
        if counts_flips(self.metric, old, new):
            flips = int((new > old).sum()), int((new < old).sum())

        def at(level: float) -> Estimate:
            if flips is not None and count == len(old):
                return tango(*flips, len(old), margin=margin, alpha=level)
            if flips is not None and count >= FEW_CLUSTERS:
                return clustered_tango(new - old, group, margin=margin, alpha=level)
            return compare(
                old,
                new,
                margin=margin,
                alpha=level,
                span=self.metric.span,
                limits=self.limits,
                clusters=clusters if count < len(old) else None,
                allow_skew=self.allow_skew,
            )

        if self.rule.noise is None:
            return at(self.alpha), flips
        return widen(at, self.rule.noise, margin=margin, alpha=self.alpha), flips


def require_range(metric: Metric, rule: Rule) -> float:
    """Return the width of the metric's range, which a sequential test needs.

    Raises:
        UserError: the range is not known.
    """
    if metric.span is None:
        raise UserError(
            f"{rule.task} {rule.metric} has no known range, which a sequential test needs: plan a "
            "fixed test for it."
        )
    return metric.span


def read_interval(estimate: Estimate, rule: Rule, span: float | None) -> Verdict:
    """Read an interval against the margin of `rule`."""
    if math.isinf(estimate.low):
        return "inconclusive"
    # A bound that touches the margin but for rounding does not clear it.
    slack = 1e-9 * (span or rule.margin)
    if estimate.low > slack - rule.margin:
        return "pass"
    return "fail" if estimate.high < -rule.margin - slack else "inconclusive"


def _read(
    estimate: Estimate, n: int, rule: Rule, span: float | None, alpha: float
) -> tuple[Verdict, str]:
    """Read an interval against the margin: the verdict, and the reason for it."""
    margin, verdict = rule.margin, read_interval(estimate, rule, span)
    if math.isinf(estimate.low):
        return verdict, (
            "the gain has no bound: the range of the metric is not known, and the spread of "
            f"{n:,} items shows too little"
        )
    if verdict == "pass":
        return verdict, f"at worst {estimate.low:+.4g}, above {-margin:+.4g}"
    if verdict == "fail":
        return verdict, f"at best {estimate.high:+.4g}, below {-margin:+.4g}"
    reason = f"between {estimate.low:+.4g} and {estimate.high:+.4g}, which {-margin:+.4g} divides"
    return "inconclusive", reason + _advise_items(estimate, n, rule, span, alpha)


def _advise_items(estimate: Estimate, n: int, rule: Rule, span: float | None, alpha: float) -> str:
    noise = rule.noise or Noise(sd=0, runs=FEWEST_RUNS)
    of_items = math.sqrt(max(0.0, estimate.stderr**2 - 2 * noise.sd**2))
    try:
        needed = (
            items_needed(rule.margin, of_items * math.sqrt(n), alpha, noise=noise)
            if of_items > 1e-9 * (span or 0.0)
            else 1
        )
    except UserError:
        lone = threshold(n, 0.0, alpha, noise)
        return f"; runs of one model alone differ by up to {lone:.3g}: more items would not tell"
    if estimate.worst < 0:
        needed = max(needed, items_to_exclude(rule.margin, -estimate.worst, alpha))
    elif of_items <= 1e-9 * (span or 0.0) and span is not None:
        needed = pairs_needed(rule.margin / span, alpha)
    if needed <= n:
        return ""
    return f"; if nothing has changed, about {needed:,} items would tell (power .8)"


def _nothing_to_compare(evidence: Evidence) -> RuleResult:
    span = math.inf if evidence.metric.span is None else evidence.metric.span
    nothing = Estimate("none: nothing to compare", 0.0, 0.0, -span, span, 1.0, 1.0)
    insufficient = evidence.insufficient_because or "no item has a value on both sides"
    return RuleResult(evidence, nothing, 0, None, "inconclusive", insufficient)


def _share_that_applies(evidence: Evidence) -> str:
    """Say to how many items the metric applies, where it does not apply to all."""
    if not evidence.inapplicable:
        return ""
    applies = evidence.asked - evidence.inapplicable
    return f"; it applies to {applies:,} of {evidence.asked:,} items"


def _worst_case(old: Numbers, new: Numbers, evidence: Evidence, test: RuleTest) -> str:
    """Say whether a pass would stand if every lost item had gone from the best to the worst."""
    lost = evidence.lost
    ends = [end for end in test.limits if end is not None]
    old = np.append(old, np.full(lost, ends[-1]))
    new = np.append(new, np.full(lost, ends[0]))
    clusters = evidence.clusters
    if clusters is not None:  # nobody knows whose they are: each has a cluster of its own
        own = max(clusters) + 1
        clusters = [*clusters, *range(own, own + lost)]
    estimate, _ = test(old, new, clusters)
    stands = _read(estimate, len(old), test.rule, test.metric.span, test.alpha)[0] == "pass"
    return (
        f"; {_without_value(lost)}: at worst {estimate.low:+.4g}, "
        f"with which it would {'still' if stands else 'not'} pass"
    )


def _without_value(items: int) -> str:
    return "1 item has no value" if items == 1 else f"{items} items have no value"
