"""The test on one rule: which procedure fits the values, and what its interval says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.errors import UserError
from harness.core.schema import FEWEST_RUNS, Metric, Noise, Rule, Verdict
from harness.stats import Estimate
from harness.stats.clusters import clustered_tango, groups
from harness.stats.mean_bound import Limits, items_to_exclude
from harness.stats.noninferiority import pairs_needed, tango
from harness.stats.paired import FEW_CLUSTERS, Numbers, compare
from harness.stats.power import items_needed, threshold
from harness.stats.repeatability import widen


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
        """The worst and the best value, signed so that higher is better."""
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


def read(
    estimate: Estimate, n: int, rule: Rule, span: float | None, alpha: float
) -> tuple[Verdict, str]:
    """Read an interval against the margin: the verdict, and the reason for it."""
    margin = rule.margin
    if math.isinf(estimate.low):
        return "inconclusive", (
            "the gain has no bound: the range of the metric is not known, and the spread of "
            f"{n:,} items shows too little"
        )
    # A bound that touches the margin but for rounding does not clear it.
    slack = 1e-9 * (span or margin)
    if estimate.low > slack - margin:
        return "pass", f"at worst {estimate.low:+.4g}, above {-margin:+.4g}"
    if estimate.high < -margin - slack:
        return "fail", f"at best {estimate.high:+.4g}, below {-margin:+.4g}"
    reason = f"between {estimate.low:+.4g} and {estimate.high:+.4g}, which {-margin:+.4g} divides"
    return "inconclusive", reason + _what_would_tell(estimate, n, rule, span, alpha)


def _what_would_tell(
    estimate: Estimate, n: int, rule: Rule, span: float | None, alpha: float
) -> str:
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
