"""Test a rule on every subgroup of a tag: by topic, by difficulty, by subtask.

The rule is about the subgroup that lost most, whichever that is in truth:

    pass            every subgroup passes at one-sided level alpha. An intersection-union test,
                    which needs no correction for the number of subgroups: if one of them lost the
                    margin, the rule passes with a chance of at most alpha (R. Berger,
                    Technometrics 24, 1982).
    fail            some subgroup fails at level alpha / K, so that the chance that any fails which
                    lost no more than the margin is at most alpha (Bonferroni; whether any fails is
                    decided alike by Holm's step-down procedure, whose first step this is). K counts
                    the subgroups with items enough to fail at all.
    inconclusive    otherwise

So each subgroup has an interval from the lower bound at alpha to the upper bound at alpha / K, and
its verdict follows from it. The lowest of the lower bounds, and the lowest of the upper bounds,
bound the gain of the subgroup that is truly worst.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.schema import Rule, Verdict
from harness.core.subgroups import SubgroupCheck, Subgroups
from harness.core.text import plural, quote
from harness.gate.evidence import Evidence
from harness.gate.rule_test import (
    RuleResult,
    RuleTest,
    describe_floor,
    read_interval,
    run_fixed_test,
)
from harness.stats import Estimate
from harness.stats.noninferiority import cautious_upper
from harness.stats.paired import Numbers

RANK = {"fail": 0, "inconclusive": 1, "pass": 2}


def split(
    evidence: Evidence, members: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Evidence], int]:
    """Split the evidence on a rule by subgroup; also count the items that are in none."""
    rows: dict[str, list[int]] = defaultdict(list)
    missing: dict[str, list[str]] = defaultdict(list)
    untagged = 0
    for row, item in enumerate(evidence.items):
        names = members.get(item, [])
        untagged += not names
        for name in names:
            rows[name].append(row)
    for item in evidence.without_value:
        for name in members.get(item, []):
            missing[name].append(item)
    parts = {}
    for name in sorted({*rows, *missing}):
        mine = rows[name]
        clusters = [evidence.clusters[row] for row in mine] if evidence.clusters else None
        if clusters is not None and len({*clusters}) == len(clusters):
            clusters = None
        parts[name] = replace(
            evidence,
            items=[evidence.items[row] for row in mine],
            baseline=evidence.baseline[mine],
            candidate=evidence.candidate[mine],
            lost=len(missing[name]),
            asked=len(mine) + len(missing[name]),
            inapplicable=0,
            clusters=clusters,
            without_value=missing[name],
        )
    return parts, untagged


def run_every(evidence: Evidence, alpha: float, members: Mapping[str, Sequence[str]]) -> RuleResult:
    """Test a rule on every subgroup of its items; the figures are those of the worst subgroup.

    The worst is the one with the strongest evidence of a loss beyond the margin: a subgroup that
    fails, else one that does not pass, and among these the one with the largest p-value.
    """
    overall = run_fixed_test(replace(evidence, insufficient_because="", lost=0), alpha)
    parts, untagged = split(evidence, members)
    if not parts:
        reason = evidence.insufficient_because or "no item of a subgroup has a value on both sides"
        return replace(overall, evidence=evidence, verdict="inconclusive", reason=reason)
    able = able_to_fail(parts, alpha)
    level = alpha / max(1, sum(able.values()))
    tested = [_test(name, part, _Levels(alpha, level, able[name])) for name, part in parts.items()]
    if evidence.insufficient_because:
        tested = [replace(one, verdict="inconclusive") for one in tested]
    tested.sort(
        key=lambda one: (
            RANK[one.verdict],
            one.n == 0,
            -one.estimate.p_value,
            one.estimate.low,
            one.name,
        )
    )
    worst = tested[0]
    found = Subgroups(
        by=evidence.rule.every or "",
        level=level,
        overall=_Tested("", evidence, overall.estimate, overall.verdict).check(),
        untagged=untagged,
        results=[one.check() for one in tested],
    )
    hidden = [one for one in tested if one.hides_failure]
    if hidden and worst.verdict != "fail":
        insufficient = (
            f"{hidden[0].evidence.lost} of {hidden[0].evidence.asked} items of "
            f"{found.by} {quote(hidden[0].name)} have no value, and with the worst values it would "
            "fail"
        )
        reasons = filter(None, [evidence.insufficient_because, insufficient])
        evidence = replace(evidence, insufficient_because="; ".join(reasons))
    return RuleResult(
        evidence=evidence,
        estimate=worst.estimate,
        n=worst.n,
        flips=worst.flips,
        verdict="inconclusive" if evidence.insufficient_because else worst.verdict,
        reason=evidence.insufficient_because or _reason(evidence.rule, found, tested, alpha),
        subgroups=found,
    )


@dataclass(frozen=True)
class _Levels:
    """The level of lower bounds, that of upper bounds, and whether a failure is possible."""

    lower: float
    upper: float
    could_fail: bool


@dataclass(frozen=True)
class _Tested:
    """The test of one subgroup."""

    name: str
    evidence: Evidence
    estimate: Estimate
    verdict: Verdict
    flips: tuple[int, int] | None = None
    could_pass: bool = True
    could_fail: bool = True
    hides_failure: bool = False

    @property
    def n(self) -> int:
        return _pairs(self.evidence)

    def check(self) -> SubgroupCheck:
        """Return the record of the test."""
        evidence, estimate = self.evidence, self.estimate
        means = [
            float(np.nanmean(values)) if self.n else 0.0
            for values in (evidence.baseline, evidence.candidate)
        ]
        return SubgroupCheck(
            name=self.name,
            verdict=self.verdict,
            test=estimate.test,
            n=self.n,
            baseline_mean=means[0],
            candidate_mean=means[1],
            delta=estimate.delta,
            stderr=estimate.stderr,
            low=None if math.isinf(estimate.low) else estimate.low,
            high=None if math.isinf(estimate.high) else estimate.high,
            p_value=estimate.p_value,
            clusters=len(set(evidence.clusters)) if evidence.clusters else None,
            missing=evidence.lost,
        )


def _pairs(evidence: Evidence) -> int:
    return int((~np.isnan(evidence.baseline) & ~np.isnan(evidence.candidate)).sum())


def _test(name: str, evidence: Evidence, levels: _Levels) -> _Tested:
    test = RuleTest(evidence.metric, evidence.rule, levels.lower, allow_skew=True)
    if not _pairs(evidence):
        span = math.inf if evidence.metric.span is None else evidence.metric.span
        nothing = Estimate("none: nothing to compare", 0.0, 0.0, -span, span, 1.0, 1.0)
        hides = levels.could_fail and evidence.lost > 0
        return _Tested(name, evidence, nothing, "inconclusive", None, False, False, hides)
    old, new = evidence.signed
    estimate, flips = _estimate(test, old, new, evidence.clusters, levels.upper)
    verdict = read_interval(estimate, evidence.rule, evidence.metric.span)
    could_pass, hides = verdict == "pass", False
    if not could_pass:
        same, _ = test(old, old, evidence.clusters)
        could_pass = read_interval(same, evidence.rule, evidence.metric.span) == "pass"
    if evidence.lost and verdict != "fail":
        feared = _if_lost_were_worst(test, evidence, levels.upper)
        hides = feared == "fail"
        verdict = "pass" if verdict == feared == "pass" else "inconclusive"
    return _Tested(name, evidence, estimate, verdict, flips, could_pass, levels.could_fail, hides)


def _estimate(
    test: RuleTest, old: Numbers, new: Numbers, clusters: Sequence[int] | None, upper: float
) -> tuple[Estimate, tuple[int, int] | None]:
    """Estimate with the lower bound at the level of `test` and the upper bound at `upper`."""
    estimate, flips = test(old, new, clusters)
    if flips is not None and clusters is None:
        high = cautious_upper(*flips, len(old), upper)
    else:
        high = replace(test, alpha=upper)(old, new, clusters)[0].high
    return replace(estimate, high=high), flips


def able_to_fail(parts: Mapping[str, Evidence], alpha: float) -> dict[str, bool]:
    """Say of each subgroup whether its items are enough to fail."""
    of_size: dict[int, bool] = {}  # of independent items, which are alike
    able = {}
    for name, part in parts.items():
        n = len(part.items)
        if part.clusters is not None or n not in of_size:
            able[name] = _could_fail(part, alpha)
            if part.clusters is None:
                of_size[n] = able[name]
        else:
            able[name] = of_size[n]
    return able


def _could_fail(evidence: Evidence, alpha: float) -> bool:
    """Say whether so many items can fail: if all fell from the best value to the worst."""
    test = RuleTest(evidence.metric, evidence.rule, alpha, allow_skew=True)
    worst, best = test.limits
    n = len(evidence.items)
    if worst is None or best is None or not n:
        return n > 0
    estimate, _ = test(np.full(n, best), np.full(n, worst), evidence.clusters)
    return read_interval(estimate, evidence.rule, evidence.metric.span) == "fail"


def _if_lost_were_worst(test: RuleTest, evidence: Evidence, upper: float) -> Verdict:
    """Return the verdict if the items without a value had gone from the best to the worst."""
    worst, best = test.limits
    if worst is None or best is None:
        return "inconclusive"
    old, new = evidence.signed
    old = np.append(old, np.full(evidence.lost, best))
    new = np.append(new, np.full(evidence.lost, worst))
    clusters = evidence.clusters
    if clusters is not None:
        own = max(clusters) + 1
        clusters = [*clusters, *range(own, own + evidence.lost)]
    estimate, _ = _estimate(test, old, new, clusters, upper)
    return read_interval(estimate, evidence.rule, evidence.metric.span)


def _reason(rule: Rule, found: Subgroups, tested: Sequence[_Tested], alpha: float) -> str:
    worst, count = found.results[0], len(tested)
    subgroups = f"{count} {plural('subgroup', count)} by {quote(found.by)}"
    if failed := found.count("fail"):
        said = f"{failed} of {subgroups} lost more than {rule.margin:g}"
    elif worst.verdict == "pass":
        said = f"none of {subgroups} lost {rule.margin:g}"
    else:
        said = f"{found.count('pass')} of {subgroups} pass and none fails"
    low, high = (-math.inf if worst.low is None else worst.low), worst.high
    ends = f"between {low:+.4g} and {math.inf if high is None else high:+.4g}"
    said += f"; the worst is {quote(worst.name)} with a gain of {worst.delta:+.4g}, {ends}"
    corrected = round(alpha / found.level)
    if corrected > 1:
        said += f" (corrected for {corrected} subgroups)"
    said += f", on {worst.n:,} {plural('item', worst.n)}"
    return "; ".join([said, *_limits(rule, found, tested)])


def _limits(rule: Rule, found: Subgroups, tested: Sequence[_Tested]) -> list[str]:
    """Say what the subgroups cannot show, whatever the candidate did."""
    said = []
    if small := [one for one in tested if not one.could_pass]:
        said.append(f"{_named(small)} cannot pass even if nothing changed: too few items")
    if small := [one for one in tested if not one.could_fail]:
        said.append(f"{_named(small)} cannot fail even if all items are lost: too few items")
    floor = [
        one
        for one, result in zip(tested, found.results, strict=True)
        if one.n and describe_floor(rule, one.evidence.metric, result.baseline_mean)
    ]
    if floor:
        said.append(f"{_named(floor)} cannot lose {rule.margin:g}: the baseline is too low there")
    if lost := [one for one in tested if one.evidence.lost]:
        said.append(f"some items of {_named(lost)} have no value")
    if found.untagged:
        said.append(f"{found.untagged:,} items without {quote(found.by)} are in no subgroup")
    return said


def _named(some: Iterable[_Tested]) -> str:
    """Name a few subgroups with their sizes, the largest first, and count the others."""
    by_size = sorted(some, key=lambda one: (-one.n, one.name))
    shown = [f"{quote(one.name)} (n {one.n})" for one in by_size[:3]]
    if len(by_size) > 3:
        shown.append(f"{len(by_size) - 3} more")
    return f"{len(by_size)} {plural('subgroup', len(by_size))} ({', '.join(shown)})"
