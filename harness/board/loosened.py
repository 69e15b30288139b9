"""Find decisions by a looser gate policy than an earlier one, and gates without effect.

Pure functions of a board's rows, for whatever renders or verifies them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.board.ledger import DecisionEntry, PromotionEntry, Row
from harness.board.ranking import Name
from harness.core.schema import Policy, Rule

STRICTNESS = {"advisory": 0, "guardrail": 1, "critical": 2}


@dataclass(frozen=True)
class Loosened:
    """A decision by a gate policy that lets more pass than an earlier policy on the board."""

    row: Row
    differences: list[str]

    @property
    def candidate(self) -> str:
        """Identity of an evaluation of the candidate."""
        entry = self.row.entry
        candidates = entry.decision.candidate if isinstance(entry, DecisionEntry) else {}
        return next(iter(candidates.values()), "")


def loosened(rows: Sequence[Row]) -> dict[str, Loosened]:
    """Compare each decision's policy with the strictest one before: row digest -> what is looser.

    Only policies that share a task with the decision are compared. Withdrawn decisions are
    included: otherwise withdrawing the strict one would hide the change.
    """
    before: dict[str, Policy] = {}
    decisions: dict[str, Loosened] = {}
    for row in rows:
        if not isinstance(row.entry, DecisionEntry):
            continue
        policy = row.entry.decision.policy
        tasks = {rule.task for rule in policy.rules}
        earlier = [p for p in before.values() if tasks & {rule.task for rule in p.rules}]
        if differences := [*_differences(earlier, policy)]:
            decisions[row.digest] = Loosened(row, differences)
        before.setdefault(row.entry.decision.policy_digest, policy)
    return decisions


def not_enforced(rows: Sequence[Row]) -> set[Name]:
    """Find candidates that were not promoted and are the incumbent of a later promotion."""
    refused: set[Name] = set()
    ignored: set[Name] = set()
    for row in rows:
        if isinstance(row.entry, PromotionEntry):
            ignored |= {(row.run, row.entry.incumbent)} & refused
            candidate = (row.run, row.entry.candidate)
            if row.entry.promotion.promoted:
                refused.discard(candidate)
            else:
                refused.add(candidate)
    return ignored


def _differences(earlier: Sequence[Policy], policy: Policy) -> Iterator[str]:
    if not earlier:
        return
    rules = {rule.name: rule for rule in policy.rules}
    known: dict[str, list[Rule]] = {}
    for rule in (rule for p in earlier for rule in p.rules):
        known.setdefault(rule.name, []).append(rule)
    for name, old in known.items():
        yield from _of_rule(name, old, rules)
    for name, strictest, now in (
        ("alpha", min(p.alpha for p in earlier), policy.alpha),
        ("max_unscored", min(p.max_unscored for p in earlier), policy.max_unscored),
    ):
        if now > strictest:
            yield f"{name} {strictest:g} before, {now:g} now"
    completeness = max(p.min_completeness for p in earlier)
    if policy.min_completeness < completeness:
        yield f"min_completeness {completeness:g} before, {policy.min_completeness:g} now"
    if policy.alarms == "report" and any(p.alarms == "block" for p in earlier):
        yield "alarms blocked before and are reported now"
    shared = set.intersection(*({*p.allow_different} for p in earlier))
    if more := sorted({*policy.allow_different} - shared):
        yield f"{', '.join(more)} may differ now"


def _of_rule(rule_name: str, old: Sequence[Rule], rules: Mapping[str, Rule]) -> Iterator[str]:
    tier = max((rule.tier for rule in old), key=lambda tier: STRICTNESS[tier])
    if rule_name not in rules:
        if STRICTNESS[tier]:
            yield f"{rule_name}: {tier} before, without a rule now"
        return
    now = rules[rule_name]
    if STRICTNESS[now.tier] < STRICTNESS[tier]:
        yield f"{rule_name}: {tier} before, {now.tier} now"
    margin = min(rule.margin for rule in old)
    if now.margin > margin:
        yield f"{rule_name}: margin {margin:g} before, {now.margin:g} now"
    # Noise widens the interval: a critical rule is then harder to pass, a guardrail to fail.
    spreads = [rule.noise.sd if rule.noise else 0.0 for rule in old]
    spread = now.noise.sd if now.noise else 0.0
    if now.tier == "critical" and spread < max(spreads):
        yield f"{rule_name}: noise of runs {max(spreads):g} before, {spread:g} now"
    elif now.tier == "guardrail" and spread > min(spreads):
        yield f"{rule_name}: noise of runs {min(spreads):g} before, {spread:g} now"
