"""Promote a candidate: what it has to show beyond a pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.core.schema import Check, Decision, Promotion, PromotionRule, digest


def promote(vs_incumbent: Decision, vs_anchor: Decision) -> Promotion:
    """Decide whether a candidate takes the incumbent's place.

    Three things must hold: it passes against the incumbent, it passes against the anchor (a frozen
    model, so that tolerated losses cannot add up), and it climbs the Ladder. The Ladder (A. Blum,
    M. Hardt, ICML 2015, arXiv 1502.04585, section 3) asks that a gain exceed s / sqrt(n), its own
    standard error, so that reuse of the gate's items does not promote noise. Over K critical
    metrics the standardised gains are combined as S. Stouffer's: z = sum_k z_k / sqrt(K) > 1, with
    z_k = gain / standard error; metrics of the same answers go together, so for them this asks
    somewhat less. Where every item gained the same, z_k is the sign test's sqrt(n).
    """
    ladder_z = _ladder([check for check in vs_incumbent.checks if check.tier == "critical"])
    rule = vs_incumbent.policy.promotion or PromotionRule()
    errors = "standard error" if rule.threshold == 1 else "standard errors"
    conditions = {
        f"against the incumbent: {vs_incumbent.verdict}": vs_incumbent.verdict == "pass",
        f"against the anchor: {vs_anchor.verdict}": vs_anchor.verdict == "pass",
        f"the Ladder asks for a gain of more than {rule.threshold:g} {errors}; it is "
        f"{ladder_z:.2f}": (
            ladder_z > rule.threshold + 1e-9  # one flipped answer is 1 standard error, rounded
        ),
    }
    promoted = all(conditions.values())
    return Promotion(
        promoted=promoted,
        reasons=[reason for reason, holds in conditions.items() if promoted or not holds],
        ladder_z=ladder_z,
        vs_incumbent=digest(vs_incumbent),
        vs_anchor=digest(vs_anchor),
    )


def _ladder(checks: Sequence[Check]) -> float:
    standardised = [
        check.delta / check.stderr
        if check.stderr > 0
        else math.copysign(math.sqrt(check.n), check.delta) * (check.delta != 0)
        for check in checks
    ]
    return math.fsum(standardised) / math.sqrt(len(checks)) if checks else 0.0
