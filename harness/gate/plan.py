"""Plan a gate before any score of the candidate exists, and decide by the plan.

If you choose the margin, the metric or when to stop after seeing the scores, you can choose so that
a candidate passes. A plan fixes them, says what the planned items can show, and is named in the
decision by its digest.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from harness.core.errors import UserError
from harness.core.schema import (
    SCHEMA_VERSION,
    Decision,
    Estimand,
    Name,
    Policy,
    Record,
    SchemaVersion,
    Score,
    Tier,
    added,
    digest,
)
from harness.core.scored import ScoredEvaluation
from harness.core.subgroups import Subgrouping
from harness.gate.clusters import INDEPENDENT
from harness.gate.decision import SequentialOrder, decide, require_sequential_policy
from harness.gate.evidence import gather
from harness.gate.planned_rule import (
    SEQUENTIAL,
    AssumedSpread,
    PlannedRule,
    plan_rule,
    require_power,
)
from harness.gate.planned_subgroups import plan_every
from harness.gate.rule_test import require_range
from harness.gate.subgroups import Groups, restore_groups


class Plan(Record):
    """Everything that decides a gate, fixed before the candidate is evaluated."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    mode: Literal["fixed", "sequential"]
    policy: Policy
    policy_digest: str
    rules: list[PlannedRule]
    baseline: dict[str, str] = Field(description="task -> identity of the evaluation")
    items: dict[str, int] = Field(description="task -> items to be asked")
    order: dict[str, str] = Field(
        description="task -> digest of the item digests, in the order drawn by the policy's seed"
    )
    estimand: Estimand | None = Field(
        default=None,
        exclude_if=lambda estimand: estimand is None,
        description="of a sequential plan: what its verdict is about; None: the planned items",
    )
    clusters: dict[Name, dict[Name, list[int]]] = Field(
        default={},
        exclude_if=lambda clusters: not clusters,
        description="task -> cluster key -> number of each item's cluster, in order of item digest",
    )
    subgroups: dict[Name, dict[Name, Subgrouping]] = added(
        {}, "task -> tag of a rule with `every` -> subgroups of the items"
    )

    @model_validator(mode="after")
    def _of_the_same_tasks(self) -> Plan:
        tasks = set(self.policy.tasks)
        if any(found.keys() != tasks for found in (self.baseline, self.items, self.order)):
            raise ValueError("baseline, items and order are of other tasks than the policy")
        return self

    @model_validator(mode="after")
    def _by_its_policy(self) -> Plan:
        """Refuse a plan of which one part was changed and not the others."""
        rules = [(rule.name, rule.tier, rule.margin) for rule in self.policy.rules]
        for rule, planned in itertools.zip_longest(
            rules, [(rule.name, rule.tier, rule.margin) for rule in self.rules]
        ):
            if rule != planned:
                raise ValueError(
                    f"the policy says {_said(rule)}, and the planned rules say {_said(planned)}; "
                    "a plan cannot be edited: plan anew"
                )
        if self.policy_digest != digest(self.policy):
            raise ValueError("its policy was changed after it was planned; plan anew")
        if any((rule.test == SEQUENTIAL) != (self.mode == "sequential") for rule in self.rules):
            raise ValueError(f"its mode is {self.mode}, and its rules were planned otherwise")
        return self

    @property
    def identity(self) -> str:
        return digest(self)

    @property
    def about(self) -> Estimand:
        """Return what the verdict of a sequential plan is about."""
        return self.estimand or "items"


def _said(rule: tuple[str, Tier, float] | None) -> str:
    if rule is None:
        return "nothing more"
    name, tier, margin = rule
    return f"{name}, {tier}, margin {margin:g}"


def make_plan(
    policy: Policy,
    baseline: Mapping[str, ScoredEvaluation],
    *,
    sequential: bool = False,
    estimand: Estimand = "population",
    second: Mapping[str, ScoredEvaluation] | None = None,
    assumed: AssumedSpread | None = None,
    groups: Groups | None = None,
) -> Plan:
    """Plan to gate candidates against `baseline` by `policy`, all at once or `sequential`ly.

    What a rule can show depends on how much the differences of items spread where nothing has
    changed. It is taken from what is `assumed`, if that says it; else from a `second` run of the
    baseline, or of another version of it; else from the baseline's repeats, s sqrt(2 / K).
    Without any of these it is the spread of the baseline's values: of two models that do equally
    well, and half correlated over the items.

    Where the policy names clusters, they are those of the baseline's items unless `groups` are
    given, and how much items of one go together is what is `assumed`, if that says it; else it is
    taken from the second run's differences, else from the baseline's values.

    A sequential plan is about the `estimand`: the "population" of questions of which the planned
    items are a sample, or the planned "items" alone, which takes fewer and claims less.

    Raises:
        UserError: a critical rule would pass an unchanged candidate with a chance below `POWER`
            (says how many items it takes); or the baseline lacks what a rule asks for.
    """
    if sequential:
        require_sequential_policy(policy)
    assumed = assumed or AssumedSpread()
    assumed.check()
    groups = groups or Groups.find(policy, baseline, baseline)
    evidence = gather(policy, baseline, baseline, groups.clusters)
    again = gather(policy, baseline, second, groups.clusters) if second else [None] * len(evidence)
    rules = []
    for one, other in zip(evidence, again, strict=True):
        if one.insufficient_because:
            raise UserError(f"The baseline cannot be gated against: {one.insufficient_because}.")
        if sequential:
            require_range(one.metric, one.rule)
        given = one, other, baseline[one.rule.task].scores, policy, assumed
        if one.rule.every:
            rules.append(plan_every(*given, groups.members(one.rule)))
        else:
            rules.append(plan_rule(*given, estimand=estimand if sequential else None))
    require_power(rules)
    orders = {task: draw_order(policy.seed, task, baseline[task].scores) for task in policy.tasks}
    return Plan(
        mode="sequential" if sequential else "fixed",
        policy=policy,
        policy_digest=digest(policy),
        rules=rules,
        baseline={task: baseline[task].evaluation.identity for task in orders},
        items={task: baseline[task].evaluation.items for task in orders},
        order={task: digest(items) for task, items in orders.items()},
        estimand=estimand if sequential else None,
        **groups.store(baseline),
    )


def draw_order(seed: int, task: str, scores: Sequence[Score]) -> list[str]:
    """Return the digests of all items in a random order that anyone can draw again."""
    items = {score.item for score in scores}
    return sorted(items, key=lambda i: hashlib.sha256(f"{seed} {task} {i}".encode()).hexdigest())


def planned_orders(plan: Plan, baseline: Mapping[str, ScoredEvaluation]) -> dict[str, list[str]]:
    """Return task -> item digests in the planned order.

    Raises:
        UserError: `baseline` is not the one that the plan was made for.
    """
    found = {}
    for task, identity in plan.baseline.items():
        if task not in baseline:
            raise UserError(
                f"The plan is about {task}, and the baseline has no evaluation of it: evaluate it."
            )
        scored = baseline[task]
        drawn = draw_order(plan.policy.seed, task, scored.scores)
        if scored.evaluation.identity != identity or digest(drawn) != plan.order[task]:
            raise UserError(
                f"The plan was made for another baseline of {task} than this one. Take the "
                "baseline that it was made for, or plan anew before the candidate is evaluated."
            )
        found[task] = drawn
    return found


def decide_by_plan(
    plan: Plan,
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
    *,
    doubts: Mapping[tuple[str, str], str] | None = None,
) -> Decision:
    """Decide by the plan, which the decision names.

    By a sequential plan the candidate may have been asked the first items of the planned order
    alone: the baseline is then read on these.

    Raises:
        UserError: as `decide` and `planned_orders`.
    """
    drawn = planned_orders(plan, baseline)
    if plan.mode == "fixed":
        groups = restore_groups(plan, baseline)
        decision = decide(plan.policy, baseline, candidate, doubts=doubts, groups=groups)
    else:
        first = {
            task: _first(baseline[task], items, candidate[task].evaluation.items)
            if task in candidate
            else baseline[task]
            for task, items in drawn.items()
        }
        order = SequentialOrder(drawn, plan.about)
        decision = decide(plan.policy, first, candidate, sequential=order, doubts=doubts)
    notes = [
        f"{note}; the plan is followed as it was made" if INDEPENDENT in note else note
        for note in decision.notes
    ]
    if plan.mode == "sequential" and plan.estimand is None:
        notes.append(
            "the plan does not say what it is about, as those made by older versions: its verdict "
            "is about the planned items alone"
        )
    return decision.model_copy(
        update={"plan": plan.identity, "baseline": plan.baseline, "notes": notes}
    )


def _first(side: ScoredEvaluation, items: Sequence[str], count: int) -> ScoredEvaluation:
    """Read the side as if it had been asked the first `count` of the planned `items` alone."""
    if count >= len(items):
        return side
    kept = set(items[:count])
    scores = [score for score in side.scores if score.item in kept]
    asked = sorted({(score.index, score.item) for score in scores})
    changed = {"items": len(asked), "dataset_digest": digest([item for _, item in asked])}
    return ScoredEvaluation(side.evaluation.model_copy(update=changed), scores)
