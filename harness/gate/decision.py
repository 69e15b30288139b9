"""The regression gate: from two sets of scores to a verdict, with nothing in between.

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
    Alarm,
    Check,
    Decision,
    Estimand,
    Metric,
    Policy,
    Rule,
    Verdict,
    digest,
)
from harness.core.scored import ScoredEvaluation
from harness.gate.clusters import Assigned, assign, stored
from harness.gate.evidence import Evidence, difference_notes, gather
from harness.gate.notes import notes
from harness.gate.rule_test import RuleTest, counts_flips, read
from harness.stats import Estimate
from harness.stats.anytime import bounds, p_of_no_change
from harness.stats.holm import holm
from harness.stats.noninferiority import mcnemar
from harness.stats.paired import Numbers
from harness.stats.sequential import watch

Label = Literal["improved", "tolerated-regression", "unchanged", "regressed", "unclear"]


def decide(
    policy: Policy,
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
    *,
    order: Mapping[str, Sequence[str]] | None = None,
    estimand: Estimand = "items",
    doubts: Mapping[tuple[str, str], str] | None = None,
    clusters: Assigned | None = None,
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

    With an `order` (task -> digests of all planned items, drawn at random before any was
    answered) the test is the sequential one instead, which may be asked again after each further
    item (see `harness.stats.sequential`): the two sides need only hold the first of these items,
    and each check stops where it knows. The verdict is about the `estimand`: the planned items
    alone, or the population of questions that they are a sample of.

    Items that go together (one passage, one entity) are tested as clusters where a rule or the
    policy names what they share. Unless `clusters` are given (of a plan, of a recorded decision,
    from a file) they are read from the items that the sides keep.

    `doubts` say of a (task, metric) why its values cannot be trusted, such as a judge that no
    longer grades as it did: its check is then inconclusive. `tests_version` decides as a recorded
    decision of that version did.

    Raises:
        UserError: the evidence does not match (names what differs), or lacks what a rule asks for.
    """
    if order is not None:
        refuse_what_cannot_be_watched(policy)
    if clusters is None:
        clusters = assign(policy, baseline, candidate)
    gathered = [
        _doubted(evidence, doubts or {})
        for evidence in gather(policy, baseline, candidate, clusters, examined=examined)
    ]
    findings = [
        _watch(evidence, policy.alpha, order[evidence.rule.task], estimand)
        if order is not None
        else _examine(evidence, policy.alpha, allow_skew=tests_version > 1)
        for evidence in gathered
    ]
    if tests_version > 1:
        findings = [_with_floor(finding) for finding in findings]
    labels = _labels(findings, policy.alpha)
    checks = [_check(*found) for found in zip(findings, labels, strict=True)]
    verdict, reasons = _overall(findings)
    return Decision(
        verdict=verdict,
        checks=checks,
        reasons=reasons,
        policy=policy,
        policy_digest=digest(policy),
        baseline={task: baseline[task].evaluation.identity for task in policy.tasks},
        candidate={task: candidate[task].evaluation.identity for task in policy.tasks},
        clusters=stored(clusters, baseline, candidate),
        estimand=estimand if order is not None else None,
        notes=[
            *difference_notes(policy, baseline, candidate),
            *notes(policy, gathered, baseline, candidate),
        ],
        tests_version=tests_version,
    )


def refuse_what_cannot_be_watched(policy: Policy) -> None:
    """Refuse a policy that sequential tests cannot follow.

    Raises:
        UserError: a rule allows for the noise of runs or for clusters.
    """
    for rule in policy.rules:
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


def raise_alarms(decision: Decision, alarms: Sequence[Alarm]) -> Decision:
    """The decision with `alarms`; where its policy says that they block, a pass is none.

    An alarm is no evidence of a loss, so that it cannot fail a candidate: a person has to look.
    """
    verdict, reasons = decision.verdict, decision.reasons
    if alarms and decision.policy.alarms == "block":
        said = [f"alarm on {alarm.task}, {alarm.kind}: {alarm.message}" for alarm in alarms]
        reasons = said if verdict == "pass" else [*reasons, *said]
        verdict = "inconclusive" if verdict == "pass" else verdict
    return decision.model_copy(
        update={"verdict": verdict, "reasons": reasons, "alarms": [*decision.alarms, *alarms]}
    )


@dataclass(frozen=True)
class _Finding:
    """What the test on one rule found, before the labels, which look at all of them."""

    evidence: Evidence
    estimate: Estimate
    n: int
    flips: tuple[int, int] | None
    verdict: Verdict
    reason: str
    planned: int | None = None


def estimate_on(evidence: Evidence, alpha: float) -> Estimate:
    """Estimate the gain as `decide` does, without reading a verdict from it."""
    sign = 1 if evidence.metric.higher_is_better else -1
    old, new = sign * evidence.baseline, sign * evidence.candidate
    test = RuleTest(evidence.metric, evidence.rule, alpha, allow_skew=True)
    return test(old, new, evidence.clusters)[0]


def verdict_on(evidence: Evidence, alpha: float) -> Verdict:
    """Return the verdict of `decide` on one rule."""
    return _with_floor(_examine(evidence, alpha, allow_skew=True)).verdict


def _examine(evidence: Evidence, alpha: float, *, allow_skew: bool) -> _Finding:
    metric = evidence.metric
    sign = 1 if metric.higher_is_better else -1
    old, new = sign * evidence.baseline, sign * evidence.candidate
    n = int((~np.isnan(old) & ~np.isnan(new)).sum())
    if n == 0:
        return _nothing(evidence)
    test = RuleTest(metric, evidence.rule, alpha, allow_skew)
    estimate, flips = test(old, new, evidence.clusters)
    verdict, reason = read(estimate, n, evidence.rule, metric.span, alpha)
    if flips:
        reason += f"; {flips[0]} items gained and {flips[1]} lost"
        if evidence.clusters is None:  # McNemar takes items for independent
            reason += f", exact McNemar p {float(mcnemar(*flips)):.2g}"
    if estimate.wider:
        reason += f"; {estimate.wider}"
    if verdict == "pass" and evidence.lost and metric.span is None:
        verdict = "inconclusive"
        reason = (
            f"{_without_value(evidence.lost)}, and the metric has no known range that would bound "
            "the loss on what is missing"
        )
    elif verdict == "pass" and evidence.lost:
        reason += _worst_case(old, new, evidence, test)
    reason += _applies(evidence)
    if evidence.gap:
        verdict, reason = "inconclusive", evidence.gap
    return _Finding(evidence, estimate, n, flips, verdict, reason)


def _applies(evidence: Evidence) -> str:
    """To how many of the items the metric applies, where it is not to all."""
    if not evidence.inapplicable:
        return ""
    applies = evidence.asked - evidence.inapplicable
    return f"; it applies to {applies:,} of {evidence.asked:,} items"


def _doubted(evidence: Evidence, doubts: Mapping[tuple[str, str], str]) -> Evidence:
    doubt = doubts.get((evidence.rule.task, evidence.rule.metric))
    said = "; ".join(filter(None, [evidence.gap, doubt]))
    return replace(evidence, gap=said)


def _nothing(evidence: Evidence) -> _Finding:
    span = math.inf if evidence.metric.span is None else evidence.metric.span
    nothing = Estimate("none: nothing to compare", 0.0, 0.0, -span, span, 1.0, 1.0)
    gap = evidence.gap or "no item has a value on both sides"
    return _Finding(evidence, nothing, 0, None, "inconclusive", gap)


def _watch(evidence: Evidence, alpha: float, order: Sequence[str], estimand: Estimand) -> _Finding:
    """As `_examine`, item by item in `order`, up to where the verdict is known."""
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
        return _nothing(evidence)
    rows = np.flatnonzero(both)
    rows = rows[np.argsort([place[evidence.items[i]] for i in rows])]
    sign = 1 if metric.higher_is_better else -1
    gains = sign * (evidence.candidate - evidence.baseline)[rows]
    # Where an item has no value, it is not known how many of those to come have one.
    whole = evidence.lost == 0 and len(rows) == len(evidence.items)
    population = len(order) if whole and estimand == "items" else None
    found = watch(gains, margin=margin, alpha=alpha, span=span, population=population)
    used = found.stopped_at or len(rows)
    gains, rows = gains[:used], rows[:used]
    seen = replace(evidence, baseline=evidence.baseline[rows], candidate=evidence.candidate[rows])
    low, high = bounds(gains, alpha=alpha, span=span, population=population)
    if found.verdict == "pass":  # the bounds are rounded outwards, the verdict is not
        low = max(low, -margin)
    elif found.verdict == "fail":
        high = min(high, -margin)
    estimate = Estimate(
        test="sequential test by betting",
        delta=float(gains.mean()),
        stderr=float(gains.std(ddof=1)) / math.sqrt(used) if used > 1 else 0.0,
        low=low,
        high=high,
        p_value=min(1.0, math.exp(-found.log_e_pass)),
        p_zero=p_of_no_change(gains, span=span, population=population),
    )
    flips = None
    if counts_flips(metric, gains):
        flips = int((gains > 0).sum()), int((gains < 0).sum())
    verdict: Verdict = found.verdict or "inconclusive"
    reason = {
        "pass": f"a loss of {margin:g} is excluded",
        "fail": f"a loss of less than {margin:g} is excluded",
        "inconclusive": f"between {low:+.4g} and {high:+.4g}, which {-margin:+.4g} divides,",
    }[verdict] + f" after {used:,} of {len(order):,} items{_applies(evidence)}"
    reason += (
        "; this is about the planned items alone, not about other questions of the kind"
        if estimand == "items"
        else "; this is about all questions of the kind, of which the planned items are a sample"
    )
    gap = evidence.gap
    if one_sided := len(evidence.items) - int(both.sum()):
        gap = gap or f"it applies to {one_sided} items on one side only: plan a fixed test for it"
    if gap:
        verdict, reason = "inconclusive", gap
    return _Finding(seen, estimate, used, flips, verdict, reason, planned=len(order))


def _worst_case(old: Numbers, new: Numbers, evidence: Evidence, test: RuleTest) -> str:
    """Whether a pass would stand if every lost item had gone from the best value to the worst."""
    lost = evidence.lost
    ends = [end for end in test.limits if end is not None]
    old = np.append(old, np.full(lost, ends[-1]))
    new = np.append(new, np.full(lost, ends[0]))
    clusters = evidence.clusters
    if clusters is not None:  # nobody knows whose they are: each has a cluster of its own
        own = max(clusters) + 1
        clusters = [*clusters, *range(own, own + lost)]
    estimate, _ = test(old, new, clusters)
    stands = read(estimate, len(old), test.rule, test.metric.span, test.alpha)[0] == "pass"
    return (
        f"; {_without_value(lost)}: at worst {estimate.low:+.4g}, "
        f"with which it would {'still' if stands else 'not'} pass"
    )


def _without_value(items: int) -> str:
    return "1 item has no value" if items == 1 else f"{items} items have no value"


def _with_floor(finding: _Finding) -> _Finding:
    """Say of a check that it cannot fail, and hold up a critical one that passed for that.

    It cannot fail where the whole way from the baseline's mean to the metric's worst value is
    within the margin. A check that shows a gain says more than that nothing could be lost.
    """
    evidence, rule = finding.evidence, finding.evidence.rule
    worst = evidence.metric.low if evidence.metric.higher_is_better else evidence.metric.high
    if worst is None or not finding.n:
        return finding
    mean = float(np.nanmean(evidence.baseline))
    if abs(mean - worst) > rule.margin or finding.estimate.low > 0:
        return finding
    said = (
        f"cannot fail: the baseline's mean is {mean:.4g} and the worst possible is {worst:g}, so "
        f"that a loss of {rule.margin:g} is impossible"
    )
    if rule.tier != "critical" or rule.allow_floor or finding.verdict != "pass":
        return replace(finding, reason=f"{finding.reason}; {said}")
    advice = "; give a smaller margin or harder evidence, or set allow_floor on the rule"
    return replace(finding, verdict="inconclusive", reason=said + advice)


def _labels(findings: Sequence[_Finding], alpha: float) -> list[Label]:
    """News, two-sided: the chance that any of it is false is at most alpha (Holm)."""
    told = [found for found in findings if not found.evidence.gap]
    adjusted = holm([found.estimate.p_zero for found in told])
    moved = {id(found): p <= alpha for found, p in zip(told, adjusted, strict=True)}
    return [_label(found, moved.get(id(found), False)) for found in findings]


def _label(found: _Finding, moved: bool) -> Label:
    if found.verdict == "fail":
        return "regressed"
    if moved and found.estimate.delta > 0:
        return "improved"
    if moved:
        return "tolerated-regression" if found.verdict == "pass" else "regressed"
    return "unchanged" if found.verdict == "pass" else "unclear"


def _check(found: _Finding, label: Label) -> Check:
    evidence, estimate = found.evidence, found.estimate
    means = [
        float(np.nanmean(values)) if found.n else 0.0
        for values in (evidence.baseline, evidence.candidate)
    ]
    return Check(
        task=evidence.rule.task,
        metric=evidence.rule.metric,
        tier=evidence.rule.tier,
        verdict=found.verdict,
        label=label,
        test=estimate.test,
        n=found.n,
        baseline_mean=means[0],
        candidate_mean=means[1],
        delta=estimate.delta,
        stderr=estimate.stderr,
        low=None if math.isinf(estimate.low) else estimate.low,
        high=None if math.isinf(estimate.high) else estimate.high,
        margin=evidence.rule.margin,
        p_value=estimate.p_value,
        improved_only=found.flips[0] if found.flips else None,
        regressed_only=found.flips[1] if found.flips else None,
        planned=found.planned,
        clusters=len(set(evidence.clusters)) if evidence.clusters is not None else None,
        reason=found.reason,
    )


def _overall(findings: Sequence[_Finding]) -> tuple[Verdict, list[str]]:
    failed, open_, passed = [], [], []
    for found in findings:
        rule = found.evidence.rule
        said = f"{rule.task} {rule.metric} ({rule.tier}): {found.verdict}, {found.reason}"
        if rule.tier == "advisory":
            continue
        if found.verdict == "fail":
            failed.append(said)
        elif found.verdict == "inconclusive" and (rule.tier == "critical" or found.evidence.gap):
            open_.append(said)
        else:
            passed.append(said)
    if failed:
        return "fail", failed + open_
    if open_:
        return "inconclusive", open_
    return "pass", passed or ["the policy has advisory rules only: nothing can fail"]
