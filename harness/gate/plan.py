"""A gate's plan: all that decides, written down before any score of the candidate exists.

What is chosen after a look at the scores (the margin, the metric, when to stop) can be chosen so
that a candidate passes. A plan fixes it, says what the planned items can show, and is named in the
decision by its digest.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from harness.errors import UserError
from harness.gate.decision import decide, refuse_noise, require_range
from harness.gate.evidence import Scored, gather
from harness.schema import (
    SCHEMA_VERSION,
    Decision,
    Evaluation,
    Metric,
    Policy,
    Record,
    Rule,
    SchemaVersion,
    Score,
    Tier,
    digest,
)
from harness.stats.noninferiority import unseen_change
from harness.stats.paired import FEW_CLUSTERS, Numbers
from harness.stats.power import chance, items_needed, minimum_detectable, paired_sd
from harness.stats.sequential import watch

POWER = 0.8  # of every rule that can hold a candidate up
SIMULATIONS = 200
SEQUENTIAL = "sequential test by betting"  # what a planned rule calls it

Source = Literal["stated", "second run", "repeats", "baseline's own spread"]


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
    items_needed: int = Field(description="items for a power of .8")
    expected_items: int | None = Field(
        default=None, description="sequential: median of items used if nothing has changed"
    )


class Plan(Record):
    """A gate, before the candidate is looked at."""

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

    @model_validator(mode="after")
    def _of_the_same_tasks(self) -> Plan:
        tasks = set(self.policy.tasks)
        if any(found.keys() != tasks for found in (self.baseline, self.items, self.order)):
            raise ValueError("baseline, items and order are of other tasks than the policy")
        return self

    @model_validator(mode="after")
    def _by_its_policy(self) -> Plan:
        """Refuse a plan of which one part was changed and not the others."""
        rules = [(rule.task, rule.metric, rule.tier, rule.margin) for rule in self.policy.rules]
        for rule, planned in itertools.zip_longest(
            rules, [(rule.task, rule.metric, rule.tier, rule.margin) for rule in self.rules]
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


def _said(rule: tuple[str, str, Tier, float] | None) -> str:
    if rule is None:
        return "nothing more"
    task, metric, tier, margin = rule
    return f"{task} {metric}, {tier}, margin {margin:g}"


def make(
    policy: Policy,
    baseline: Mapping[str, Scored],
    *,
    sequential: bool = False,
    second: Mapping[str, Scored] | None = None,
    discordance: float | None = None,
) -> Plan:
    """Plan to gate candidates against `baseline` by `policy`, all at once or `sequential`ly.

    What a rule can show depends on how much the differences of items spread where nothing has
    changed. It is taken from the share of yes/no items that are expected to flip, `discordance`,
    if stated; else from a `second` run of the baseline, or of another version of it; else from the
    baseline's repeats, s sqrt(2 / K). Without any of these it is the spread of the baseline's
    values: of two models that do equally well, and half correlated over the items.

    Raises:
        UserError: a critical rule would pass an unchanged candidate with a chance below `POWER`
            (says how many items it takes); or the baseline lacks what a rule asks for.
    """
    if sequential:
        refuse_noise(policy)
    if discordance is not None and not 0 < discordance <= 1:
        raise UserError(f"The discordance is a share above 0 and up to 1, not {discordance:g}.")
    evidence = gather(policy, baseline, baseline)
    again = gather(policy, baseline, second) if second is not None else [None] * len(evidence)
    rules = []
    for one, other in zip(evidence, again, strict=True):
        if one.gap:
            raise UserError(f"The baseline cannot be gated against: {one.gap}.")
        if sequential:
            require_range(one.metric, one.rule)
        values = one.baseline[~np.isnan(one.baseline)]
        if len(values) < 2:
            raise UserError(f"The baseline has {len(values)} values of {one.rule.metric}: too few.")
        scores = baseline[one.rule.task].scores
        repeats, noise = _repeats(scores, one.rule.metric)
        source: Source
        if discordance is not None and one.metric.kind == "binary":
            spread, source = math.sqrt(discordance), "stated"
        elif other is not None:
            differences = other.candidate - other.baseline
            spread, source = float(np.nanstd(differences, ddof=1)), "second run"
        elif repeats > 1:
            spread, source = paired_sd(0, noise, noise, repeats, repeats), "repeats"
        else:
            spread, source = float(values.std(ddof=1)), "baseline's own spread"
        rules.append(
            _planned(
                one.rule,
                one.metric,
                values,
                policy,
                # Where no difference was seen, the largest spread that so many items may hide.
                spread=spread or _unseen_spread(one.metric, len(values), policy.alpha),
                source=source,
                pairs=one.metric.kind == "binary" and repeats == 1,
                sequential=sequential,
            )
        )
    _require_power(rules)
    orders = {task: order(policy.seed, task, baseline[task].scores) for task in policy.tasks}
    return Plan(
        mode="sequential" if sequential else "fixed",
        policy=policy,
        policy_digest=digest(policy),
        rules=rules,
        baseline={task: baseline[task].evaluation.identity for task in orders},
        items={task: baseline[task].evaluation.items for task in orders},
        order={task: digest(items) for task, items in orders.items()},
    )


def order(seed: int, task: str, scores: Sequence[Score]) -> list[str]:
    """The digests of all items, in an order that is random and can be drawn again by anyone."""
    items = {score.item for score in scores}
    return sorted(items, key=lambda i: hashlib.sha256(f"{seed} {task} {i}".encode()).hexdigest())


def orders(plan: Plan, baseline: Mapping[str, Scored]) -> dict[str, list[str]]:
    """Task -> item digests in the planned order.

    Raises:
        UserError: `baseline` is not the one that the plan was made for.
    """
    found = {}
    for task, identity in plan.baseline.items():
        if task not in baseline:
            raise UserError(f"The plan is about {task}, of which the baseline has no evaluation.")
        scored = baseline[task]
        drawn = order(plan.policy.seed, task, scored.scores)
        if scored.evaluation.identity != identity or digest(drawn) != plan.order[task]:
            raise UserError(
                f"The plan was made for another baseline of {task} than this one. Take the "
                "baseline that it was made for, or plan anew before the candidate is evaluated."
            )
        found[task] = drawn
    return found


def decide_by(
    plan: Plan,
    baseline: Mapping[str, Scored],
    candidate: Mapping[str, Scored],
    *,
    doubts: Mapping[tuple[str, str], str] | None = None,
) -> Decision:
    """Decide by the plan, which the decision names.

    By a sequential plan the candidate may have been asked the first items of the planned order
    alone: the baseline is then read on these.

    Raises:
        UserError: as `decide` and `orders`.
    """
    drawn = orders(plan, baseline)
    if plan.mode == "fixed":
        decision = decide(plan.policy, baseline, candidate, doubts=doubts)
    else:
        first = {
            task: _first(baseline[task], items, candidate[task].evaluation.items)
            if task in candidate
            else baseline[task]
            for task, items in drawn.items()
        }
        decision = decide(plan.policy, first, candidate, order=drawn, doubts=doubts)
    return decision.model_copy(update={"plan": plan.identity, "baseline": plan.baseline})


@dataclass(frozen=True)
class _Part:
    """The first planned items of a side."""

    evaluation: Evaluation
    scores: list[Score]


def _first(side: Scored, items: Sequence[str], count: int) -> Scored:
    """Read the side as if it had been asked the first `count` of the planned `items` alone."""
    if count >= len(items):
        return side
    kept = set(items[:count])
    scores = [score for score in side.scores if score.item in kept]
    asked = sorted({(score.index, score.item) for score in scores})
    changed = {"items": len(asked), "dataset_digest": digest([item for _, item in asked])}
    return _Part(side.evaluation.model_copy(update=changed), scores)


def _repeats(scores: Sequence[Score], metric: str) -> tuple[int, float]:
    """How often an item was answered, and the standard deviation of its answers' values."""
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


def _planned(
    rule: Rule,
    metric: Metric,
    values: Numbers,
    policy: Policy,
    *,
    spread: float,
    source: Source,
    pairs: bool,
    sequential: bool,
) -> PlannedRule:
    n, alpha = len(values), policy.alpha
    if sequential:
        test = SEQUENTIAL
    elif pairs:
        test = "Tango score test"
    else:
        test = "sign-flip permutation" if n < FEW_CLUSTERS else "clustered t"
    return PlannedRule(
        task=rule.task,
        metric=rule.metric,
        tier=rule.tier,
        margin=rule.margin,
        test=test,
        n=n,
        baseline_mean=float(values.mean()),
        spread=spread,
        spread_from=source,
        discordance=spread**2 if pairs else None,
        power=chance(rule.margin, n, spread, alpha, rule.noise),
        minimum_detectable=minimum_detectable(n, spread, alpha, POWER, rule.noise),
        items_needed=items_needed(rule.margin, spread, alpha, POWER, rule.noise),
        expected_items=_expected_items(rule, metric, n, spread, policy) if sequential else None,
    )


def _expected_items(rule: Rule, metric: Metric, n: int, spread: float, policy: Policy) -> int:
    """Median of the items that simulated candidates without a change take."""
    rng = np.random.default_rng(policy.seed)
    span = require_range(metric, rule)
    flips = min((spread / span) ** 2, 1.0) / 2
    stops = []
    for _ in range(SIMULATIONS):
        if metric.kind == "binary":
            gains = span * rng.choice([-1.0, 0.0, 1.0], n, p=[flips, 1 - 2 * flips, flips])
        else:
            gains = np.clip(rng.normal(0, spread, n), -span, span)
        found = watch(gains, margin=rule.margin, alpha=policy.alpha, span=span, population=n)
        stops.append(found.stopped_at or n)
    return int(np.median(stops))


def _require_power(rules: Sequence[PlannedRule]) -> None:
    for rule in rules:
        if rule.tier != "critical" or rule.power >= POWER:
            continue
        advice = (
            " Measure the spread with a second run of the baseline, or state the discordance: "
            "what was assumed is the spread of the baseline's own values."
            if rule.spread_from == "baseline's own spread"
            else ""
        )
        raise UserError(
            f"The plan is refused: with {rule.n:,} items and a spread of {rule.spread:.3g}, "
            f"{rule.task} {rule.metric} would pass a candidate that has not changed with a "
            f"chance of {rule.power:.2f}, and {POWER} is asked of a critical rule. It takes "
            f"{rule.items_needed:,} items, or a margin of {rule.minimum_detectable:.3g} in "
            f"place of {rule.margin:g}.{advice}"
        )
