"""Say what a rule on every subgroup can show: power, detectable loss and items per subgroup."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from harness.core.schema import Policy, Rule, Score
from harness.core.subgroups import PlannedSubgroup
from harness.gate.evidence import Evidence
from harness.gate.planned_rule import (
    POWER,
    AssumedSpread,
    PlannedRule,
    describe_unchanged,
    like,
    plan_rule,
)
from harness.gate.sizing import Unchanged, simulate_bounds
from harness.gate.subgroup_test import able_to_fail, split
from harness.stats.clusters import Groups
from harness.stats.distributions import student_quantile
from harness.stats.power import (
    items_needed,
    tango_detectable,
    tango_items_needed,
    tango_power,
)

SIMULATIONS = 200  # gates per size of a subgroup: a power of .8 comes with a standard error of .03
BISECTIONS = 30


def plan_every(
    evidence: Evidence,
    again: Evidence | None,
    scores: Sequence[Score],
    policy: Policy,
    assumed: AssumedSpread,
    members: Mapping[str, Sequence[str]],
) -> PlannedRule:
    """Plan a rule on every subgroup of the baseline's items.

    Small subgroups do not show how much their gains spread, so the spread and the correlation
    within clusters are those of all items. The rule passes if all subgroups pass. They are taken as
    independent, so its power is the product of theirs.

    Raises:
        UserError: as `plan_rule`.
    """
    whole = plan_rule(evidence, again, scores, policy, assumed, estimand=None)
    unchanged = describe_unchanged(evidence, again, scores, policy, assumed).unchanged
    parts, _ = split(evidence, members)
    able = able_to_fail(parts, policy.alpha)
    planned_on = _Planned(
        evidence.rule, policy, unchanged, policy.alpha / max(1, sum(able.values()))
    )
    known: dict[tuple[int, ...], PlannedSubgroup] = {}
    subgroups = []
    for name, part in parts.items():
        group = _clusters(part)
        alike = (len(group), *sorted(np.bincount(group).tolist()))
        if alike not in known:
            known[alike] = planned_on.show(group, able=able[name])
        subgroups.append(known[alike].model_copy(update={"name": name}))
    subgroups.sort(key=lambda one: (one.power, one.n, one.name))
    each = POWER ** (1 / max(1, len(subgroups)))
    margins = [one.minimum_detectable for one in subgroups]
    known_margins = [margin for margin in margins if margin is not None]
    return whole.model_copy(
        update={
            "every": evidence.rule.every,
            "power": math.prod(one.power for one in subgroups),
            "minimum_detectable": max(known_margins, default=whole.minimum_detectable),
            "items_needed": planned_on.items_needed(whole, each),
            "subgroups": subgroups,
            "note": "",
        }
    )


def _clusters(part: Evidence) -> Groups:
    """Return the cluster of each item that has a value, numbered from 0."""
    known = ~np.isnan(part.baseline)
    if part.clusters is None:
        return np.arange(int(known.sum()))
    _, group = np.unique(np.asarray(part.clusters)[known], return_inverse=True)
    return np.asarray(group, dtype=np.int64)


@dataclass(frozen=True)
class _Planned:
    """A rule, the candidate it is planned on, and the level at which a subgroup fails."""

    rule: Rule
    policy: Policy
    unchanged: Unchanged
    level: float

    def show(self, group: Groups, *, able: bool) -> PlannedSubgroup:
        """Show what a subgroup can tell whose items are in the clusters `group`."""
        n, alpha, margin = len(group), self.policy.alpha, self.rule.margin
        count = int(group.max(initial=-1)) + 1
        power, least = 0.0, None
        if n > 1 and self.unchanged.pairs and count == n:
            discordance = min(self.unchanged.spread**2, 1.0)
            power = tango_power(n, discordance, margin, alpha)
            least = tango_detectable(n, discordance, alpha, POWER)
        elif n > 1:
            groups = partial(like, np.sort(group)) if count < n else None
            candidate = replace(self.unchanged, groups=groups)
            bounds, _ = simulate_bounds(
                candidate, self.rule, alpha, n, gates=SIMULATIONS, seed=self.policy.seed
            )
            power = float((bounds > -margin).mean())
            least = max(0.0, -float(np.quantile(bounds, 1 - POWER)))
        return PlannedSubgroup(
            name="",
            n=n,
            power=power,
            minimum_detectable=least if least is None or math.isfinite(least) else None,
            detectable_loss=self._detectable_loss(group) if able and n > 1 else None,
            clusters=count if count < n else None,
        )

    def items_needed(self, whole: PlannedRule, power: float) -> int:
        """Return how many items without clusters' help pass with `power` in one subgroup."""
        alpha, margin, spread = self.policy.alpha, self.rule.margin, self.unchanged.spread
        if self.unchanged.pairs and self.unchanged.groups is None:
            return tango_items_needed(min(spread**2, 1.0), margin, alpha, power)
        more = items_needed(margin, spread, alpha, power) / items_needed(margin, spread, alpha)
        return math.ceil(whole.items_needed * more)

    def _detectable_loss(self, group: Groups) -> float | None:
        """Return the loss with which a subgroup fails with power .8, by Student's t.

        Of yes/no items that flip with probability p by chance, a loss of x flips x more: the
        variance of a gain is p (1 - x) + x - x^2.
        """
        n, spread = len(group), self.unchanged.spread
        count = int(group.max()) + 1
        effect = 1 + (float(np.square(np.bincount(group)).sum()) / n - 1) * self.unchanged.icc
        quantile = student_quantile(count - 1, 1 - self.level) if count > 1 else math.inf
        quantile += student_quantile(count - 1, POWER) if count > 1 else 0.0
        span = 1.0 if self.unchanged.pairs else self.unchanged.metric.span

        def clear(loss: float) -> bool:
            variance = spread**2
            if self.unchanged.pairs:
                variance = min(variance, 1.0) * (1 - loss) + loss - loss * loss
            return loss - self.rule.margin > quantile * math.sqrt(variance * effect / n)

        if span is None:
            loss = self.rule.margin + quantile * spread * math.sqrt(effect / n)
            return loss if math.isfinite(loss) else None
        if not clear(span):
            return None
        low, high = self.rule.margin, span
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if clear(middle) else (middle, high)
        return high
