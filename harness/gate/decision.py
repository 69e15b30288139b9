"""Decide by a gate policy: compare two sets of scores, and return a verdict with reasons.

A pure function: no files, no clock, no randomness. For each rule of the policy the gain of the
candidate over the baseline is estimated on the items both answered, with an interval at one-sided
level alpha, and read against the margin, the largest loss that the policy tolerates:

    pass            the whole interval lies above -margin
    fail            the whole interval lies below -margin
    inconclusive    it does not say, or the evidence is incomplete

Tiers say what a verdict on a rule does to the verdict of the gate:

    critical    must pass: a failure fails the gate, anything else but a pass is inconclusive
    guardrail   must not fail: a failure fails the gate; too few items to tell do not hold it up,
                missing evidence does
    advisory    is reported, and decides nothing

A rule with `every` is tested on each subgroup of a tag, see `harness.gate.subgroup_test`.

Every critical rule has to pass on its own, so no correction for their number is needed (an
intersection-union test: R. Berger, Technometrics 24, 1982). Labels, which people scan for news,
are corrected over all rules (Holm).

Gains are signed so that above 0 is better, also where a lower value of the metric is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from harness.core.errors import UserError
from harness.core.schema import (
    TESTS_VERSION,
    Check,
    Decision,
    Estimand,
    Policy,
    Verdict,
    digest,
)
from harness.core.scored import ScoredEvaluation
from harness.gate.clusters import notes
from harness.gate.evidence import Evidence, difference_notes, gather
from harness.gate.rule_test import (
    RuleResult,
    hold_up_at_floor,
    run_fixed_test,
    run_sequential_test,
)
from harness.gate.subgroup_test import run_every
from harness.gate.subgroups import Groups
from harness.stats.holm import holm

Label = Literal["improved", "tolerated-regression", "unchanged", "regressed", "unclear"]


@dataclass(frozen=True)
class SequentialOrder:
    """The order in which a sequential test takes items, and what its verdict is about.

    `items` maps each task to the digests of all planned items, drawn at random before any was
    answered. The verdict is about the `estimand`: the planned items alone, or the population of
    questions of which they are a sample.
    """

    items: Mapping[str, Sequence[str]]
    estimand: Estimand = "items"


def decide(
    policy: Policy,
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
    *,
    sequential: SequentialOrder | None = None,
    doubts: Mapping[tuple[str, str], str] | None = None,
    groups: Groups | None = None,
    examined: bool = False,
    tests_version: int = TESTS_VERSION,
) -> Decision:
    """Judge `candidate` against `baseline` (task -> evaluation with scores) by `policy`.

    A yes/no metric is tested by Tango's score test on the pairs; any other, or a yes/no metric
    averaged over repeats, by Student's t on item means, wider where rare large losses may hide
    (see `harness.stats.paired.compare`). Both allow for clusters of items.
    A rule may say what runs of one model differ by as wholes, which pairs of items do not show:
    its interval is then wider by that (`harness.stats.repeatability`).

    A check is inconclusive, whatever its numbers, where
    - a side has answered less than `min_completeness` of its items, or more than `max_unscored`
      of its answers have no value of the metric, or
    - the metric applies to different items on the two sides (a model abstained, a judge said
      N/A), for more than 1 - `min_completeness` of them, and nothing else of the policy sees it.

    A critical check whose baseline is so low that no loss of the margin is possible cannot fail;
    unless it shows a gain, or its rule has `allow_floor`, it is inconclusive.

    A metric that applies to different items needs care. Where it is a mean over the items a model
    answers, such as FActScore, the two means are over different items, and answering only what is
    easy raises one. So the difference has to be seen by another critical or guardrail rule: one
    whose metric moves on each such item, towards the side where this one applies (FActScore's
    `responded`). Then the means are compared as they are published, each over its own items, with
    the standard error that belongs to that. A yes/no metric has no such comparison; score an
    abstention as 0.

    With `sequential` the test is the sequential one instead, which may be asked again after each
    further item (see `harness.stats.sequential`): the two sides need only hold the first items of
    the order, and each check stops where it knows.

    Items that go together (one passage, one entity) are tested as clusters where a rule or the
    policy names what they share, and a rule with `every` is tested on each subgroup. Unless
    `groups` are given (of a plan, of a recorded decision, from a file) both are read from the items
    that the sides keep.

    `doubts` say of a (task, metric) why its values cannot be trusted, such as a judge that no
    longer grades as it did: its check is then inconclusive. `tests_version` decides as a recorded
    decision of that version did.

    Raises:
        UserError: the evidence does not match (names what differs), or lacks what a rule asks for.
    """
    if sequential is not None:
        require_sequential_policy(policy)
    groups = groups or Groups.find(policy, baseline, candidate)
    gathered = [
        _add_doubt(evidence, doubts or {})
        for evidence in gather(policy, baseline, candidate, groups.clusters, examined=examined)
    ]

    def run(evidence: Evidence) -> RuleResult:
        if sequential is not None:
            order = sequential.items[evidence.rule.task]
            return run_sequential_test(evidence, policy.alpha, order, sequential.estimand)
        if evidence.rule.every:
            return run_every(evidence, policy.alpha, groups.members(evidence.rule))
        return run_fixed_test(evidence, policy.alpha, allow_skew=tests_version > 1)

    results = [run(evidence) for evidence in gathered]
    if tests_version > 1:
        results = [hold_up_at_floor(result) for result in results]
    labels = _labels(results, policy.alpha)
    checks = [_check(result, label) for result, label in zip(results, labels, strict=True)]
    verdict, reasons = _overall(results)
    return Decision(
        verdict=verdict,
        checks=checks,
        reasons=reasons,
        policy=policy,
        policy_digest=digest(policy),
        baseline={task: baseline[task].evaluation.identity for task in policy.tasks},
        candidate={task: candidate[task].evaluation.identity for task in policy.tasks},
        **groups.store(baseline, candidate),
        estimand=sequential.estimand if sequential is not None else None,
        notes=[
            *difference_notes(policy, baseline, candidate),
            *notes(policy, gathered, baseline, candidate),
        ],
        tests_version=tests_version,
    )


def require_sequential_policy(policy: Policy) -> None:
    """Refuse a policy that sequential tests cannot follow.

    Raises:
        UserError: a rule allows for the noise of runs or for clusters, or is about subgroups.
    """
    for rule in policy.rules:
        if rule.every:
            raise UserError(
                f"The rule on {rule.name} is about subgroups, which a sequential test does not "
                "compare. Plan a fixed gate (without --sequential), or take the rule out."
            )
        if key := policy.cluster_of(rule):
            raise UserError(
                f"The rule on {rule.task} {rule.metric} clusters items by '{key}', but a "
                "sequential test takes items as independent and would pass too much. Plan a fixed "
                "gate (without --sequential), or take the cluster out of the policy if the items "
                "are independent."
            )
        if rule.noise is not None:
            raise UserError(
                f"The rule on {rule.task} {rule.metric} allows for the noise of runs, which a "
                "sequential test cannot do. Plan a fixed gate (without --sequential), or take the "
                "noise out of the policy."
            )


def _add_doubt(evidence: Evidence, doubts: Mapping[tuple[str, str], str]) -> Evidence:
    doubt = doubts.get((evidence.rule.task, evidence.rule.metric))
    reasons = filter(None, [evidence.insufficient_because, doubt])
    return replace(evidence, insufficient_because="; ".join(reasons))


def _labels(results: Sequence[RuleResult], alpha: float) -> list[Label]:
    """News, two-sided: the chance that any of it is false is at most alpha (Holm).

    The worst subgroup of a rule with `every` is chosen for its loss, so that it is no news.
    """
    tested = [r for r in results if not (r.evidence.insufficient_because or r.subgroups)]
    adjusted = holm([result.estimate.p_zero for result in tested])
    moved = {id(result): p <= alpha for result, p in zip(tested, adjusted, strict=True)}
    return [_label(result, moved.get(id(result), False)) for result in results]


def _label(result: RuleResult, moved: bool) -> Label:
    if result.verdict == "fail":
        return "regressed"
    if moved and result.estimate.delta > 0:
        return "improved"
    if moved:
        return "tolerated-regression" if result.verdict == "pass" else "regressed"
    return "unchanged" if result.verdict == "pass" else "unclear"


def _check(result: RuleResult, label: Label) -> Check:
    evidence, estimate = result.evidence, result.estimate
    clusters = len(set(evidence.clusters)) if evidence.clusters is not None else None
    if result.subgroups:
        worst = result.subgroups.results[0]
        means, clusters = [worst.baseline_mean, worst.candidate_mean], worst.clusters
    else:
        means = [
            float(np.nanmean(values)) if result.n else 0.0
            for values in (evidence.baseline, evidence.candidate)
        ]
    return Check(
        task=evidence.rule.task,
        metric=evidence.rule.metric,
        tier=evidence.rule.tier,
        verdict=result.verdict,
        label=label,
        test=estimate.test,
        n=result.n,
        baseline_mean=means[0],
        candidate_mean=means[1],
        delta=estimate.delta,
        stderr=estimate.stderr,
        low=None if math.isinf(estimate.low) else estimate.low,
        high=None if math.isinf(estimate.high) else estimate.high,
        margin=evidence.rule.margin,
        p_value=estimate.p_value,
        improved_only=result.flips[0] if result.flips else None,
        regressed_only=result.flips[1] if result.flips else None,
        planned=result.planned,
        clusters=clusters,
        subgroups=result.subgroups,
        reason=result.reason,
    )


def _overall(results: Sequence[RuleResult]) -> tuple[Verdict, list[str]]:
    failed, open_, passed = [], [], []
    for result in results:
        rule = result.evidence.rule
        reason = f"{rule.name} ({rule.tier}): {result.verdict}, {result.reason}"
        if rule.tier == "advisory":
            continue
        if result.verdict == "fail":
            failed.append(reason)
        elif result.verdict == "inconclusive" and (
            rule.tier == "critical" or result.evidence.insufficient_because
        ):
            open_.append(reason)
        else:
            passed.append(reason)
    if failed:
        return "fail", failed + open_
    if open_:
        return "inconclusive", open_
    return "pass", passed or ["the policy has advisory rules only: nothing can fail"]
