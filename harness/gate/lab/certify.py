"""Certify that the gate is quiet where nothing changed, by gating a model against itself.

A false alarm is a gate that fails although both sides are the same model. A gate is certified
where their rate is, with confidence, at most twice its level alpha.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Literal

import numpy as np
from pydantic import Field

from harness.core.errors import UserError
from harness.core.schema import (
    Decision,
    Policy,
    Record,
    Rule,
    Score,
    Tier,
    Verdict,
    added,
    digest,
)
from harness.core.scored import ScoredEvaluation
from harness.gate.decision import decide
from harness.gate.evidence import Assigned
from harness.gate.lab.at_margin import KINDS, AtMargin, Candidates, candidates, divide, verdicts
from harness.gate.subgroups import Groups
from harness.stats.distributions import beta_quantile
from harness.stats.paired import Numbers
from harness.stats.repeats import counted_by, parse

Run = Mapping[str, ScoredEvaluation]
"""Task -> an evaluation of the model."""

By = Literal["answers", "runs"]


class RuleRates(Record):
    """Error rates of one rule: on the model itself, and on candidates exactly at the margin."""

    task: str
    metric: str
    every: str | None = added(None, "the rule is about every subgroup of this tag")
    tier: Tier
    margin: float
    gates: int
    failed: int = Field(description="false alarms of this rule")
    inconclusive: int
    at_margin: list[AtMargin] = Field(description="alpha of these may pass")


class Certificate(Record):
    """False alarms of a gate between two sides that are the same model, with bounds."""

    certified: bool
    reason: str
    by: By
    runs: int
    gates: int
    independent: int = Field(description="gates that the bounds count: those that share no answers")
    failed: int = Field(description="false alarms")
    inconclusive: int
    bound: float = Field(description="upper bound of the rate of false alarms")
    inconclusive_bound: float
    confidence: float = Field(description="of each bound, one-sided")
    alpha: float
    seed: int
    policy_digest: str
    evaluations: list[str] = Field(description="identities, in the order given")
    rules: list[RuleRates] = Field(default=[], description="the same gates, rule by rule")


def certify(
    policy: Policy,
    runs: Sequence[Run],
    *,
    by: By = "answers",
    gates: int = 400,
    seed: int = 0,
    confidence: float = 0.95,
    on_done: Callable[[int], None] | None = None,
) -> Certificate:
    """Gate a model against itself: `runs` are its evaluations, each task -> evaluation.

    `on_done(k)` is called after k more of the `gates`.

    `by="answers"`: each gate draws, item by item, different answers for its two sides out of all
    that the runs hold: as many as a run has, or half of them where there is one run. Given the
    answers such gates are independent. It shows the noise of answers, not that of whole runs (a
    judge that drifts, another machine).

    `by="runs"`: each gate takes two whole runs, in either order, at most `gates` pairs at random.
    Only pairs that share no run are independent, so that the bounds count runs / 2 gates with the
    rate found over all: 58 runs, all quiet, are needed at alpha = .05.

    The bounds are Clopper and Pearson's (Biometrika 26, 1934).

    Where the policy names clusters, answers are dealt cluster by cluster, so that what a run did
    to all items of a cluster stays together. Each rule is also tried on as many candidates that
    are exactly its margin worse, resampled from the same answers (`harness.gate.lab.at_margin`);
    not so a rule about every subgroup, of which each could be worse by its margin alone.

    Raises:
        UserError: the runs are of several models or do not match, hold one answer per item, or
            never differ; or what `decide` raises.
    """
    if not runs or gates < 1:
        raise UserError("Give at least one evaluation of the model, and ask for at least one gate.")
    tasks = policy.tasks
    for run in runs:
        decide(policy, runs[0], run)  # says what is missing, and what does not match
    require_one_model(runs, tasks)
    rng = np.random.default_rng(seed)
    groups = Groups.find(policy, runs[0], runs[-1])
    pools = {
        task: _Pool(policy, task, [run[task] for run in runs], groups.clusters.get(task, {}))
        for task in tasks
    }
    if by == "runs":
        if len(runs) < 2:
            raise UserError(
                "One run cannot be gated against another. Give two or more, sampled with "
                "different seeds, or certify by answers."
            )
        pairs = list(permutations(range(len(runs)), 2))
        if len(pairs) > gates:
            pairs = [pairs[i] for i in sorted(rng.choice(len(pairs), gates, replace=False))]
        gate = (
            decide(policy, *(runs[i] for i in pair), groups=groups, examined=True) for pair in pairs
        )
        independent = len(runs) // 2
    else:
        for pool in pools.values():
            pool.require_noise()
        gate = (_shuffled(policy, pools, groups, rng) for _ in range(gates))
        independent = gates
    decisions = []
    for decision in gate:
        decisions.append(decision)
        if on_done:
            on_done(1)
    rules = []
    for number, rule in enumerate(policy.rules):
        checks = [decision.checks[number].verdict for decision in decisions]
        at_margin = (
            _at_margin(
                policy, rule, pools[rule.task], groups.clusters, gates=gates, seed=(seed, number)
            )
            if rule.every is None
            else []
        )
        rules.append(
            RuleRates(
                task=rule.task,
                metric=rule.metric,
                every=rule.every,
                tier=rule.tier,
                margin=rule.margin,
                gates=len(checks),
                failed=checks.count("fail"),
                inconclusive=checks.count("inconclusive"),
                at_margin=at_margin,
            )
        )
        if on_done:
            on_done(gates)
    return _certificate(
        policy,
        runs,
        [decision.verdict for decision in decisions],
        rules,
        by=by,
        independent=independent,
        seed=seed,
        confidence=confidence,
    )


def _at_margin(
    policy: Policy,
    rule: Rule,
    pool: _Pool,
    clusters: Assigned,
    *,
    gates: int,
    seed: tuple[int, int],
) -> list[AtMargin]:
    metric = pool.evaluation.definitions.get(rule.metric)
    if metric is None:
        why = "a metric of several responses per item has no answers of its own to resample"
        return [AtMargin(kind=kind, gates=0, passed=0, failed=0, unmeasured=why) for kind in KINDS]
    values = pool.values(rule.metric)
    known = (~np.isnan(values)).sum(axis=1) >= 2 * pool.per_side
    units, clustered = np.arange(len(values)), False
    if key := policy.cluster_of(rule):
        numbers = clusters[rule.task][key]
        units = np.array([numbers[item] for item in pool.items], dtype=np.int64)
        clustered = len(np.unique(units)) < len(units)
    rates = []
    for place, kind in enumerate(KINDS):
        drawn: Candidates | str = "no item was answered often enough"
        if known.any():
            rng = np.random.default_rng([*seed, place])
            divided = divide(values[known], units[known], pool.per_side, rng)
            drawn = candidates(divided, kind, rule, metric, clustered=clustered)
        if isinstance(drawn, str):
            rates.append(AtMargin(kind=kind, gates=0, passed=0, failed=0, unmeasured=drawn))
            continue
        found = verdicts(
            drawn, rule, metric, alpha=policy.alpha, gates=gates, seed=[*seed, place, 1]
        )
        passed = found.count("pass")
        rates.append(
            AtMargin(
                kind=kind,
                gates=gates,
                passed=passed,
                failed=found.count("fail"),
                low=1 - upper_bound(1 - passed / gates, gates, 0.975),
                high=upper_bound(passed / gates, gates, 0.975),
            )
        )
    return rates


def require_one_model(runs: Sequence[Run], tasks: Sequence[str]) -> None:
    """Refuse runs of several models, or with several decoding settings.

    Raises:
        UserError: the runs differ in the model or in its decoding.
    """
    for task in tasks:
        first = runs[0][task].evaluation
        for run in runs[1:]:
            one = run[task].evaluation
            if (one.model, one.decoding) != (first.model, first.decoding):
                raise UserError(
                    f"The evaluations of {task} are of {first.model.id} and {one.model.id}, or "
                    "were decoded in two ways. A model is compared with itself here: evaluate one "
                    "model with one decoding."
                )


class _Pool:
    """All answers to each item of a task, over all runs; items of a cluster are dealt alike."""

    def __init__(
        self,
        policy: Policy,
        task: str,
        runs: Sequence[ScoredEvaluation],
        clusters: Mapping[str, Mapping[str, int]],
    ) -> None:
        self.evaluation = runs[0].evaluation
        self.metrics = [rule.metric for rule in policy.rules if rule.task == task]
        answers: dict[tuple[str, int], list[Score]] = defaultdict(list)
        for number, run in enumerate(runs):
            for score in run.scores:
                # Numbered anew: the first answers of two runs are two answers.
                repeat = score.repeat * len(runs) + number
                answers[score.item, score.index].append(score.model_copy(update={"repeat": repeat}))
        self.answers = [answers[key] for key in sorted(answers)]
        self.items = [item for item, _ in sorted(answers)]
        # Of several kinds of clusters in a task, the largest.
        numbers = min(clusters.values(), key=lambda of: len(set(of.values())), default=None)
        units = [numbers[item] for item in self.items] if numbers else range(len(self.items))
        self.units = np.array(units, dtype=np.int64)
        self.most = max((len(given) for given in self.answers), default=0)
        self.per_side = self.most // max(len(runs), 2)

    def require_noise(self) -> None:
        """Refuse answers that cannot show how much answers vary.

        Raises:
            UserError: there is one answer per item, or all are worth the same.
        """
        task = self.evaluation.task
        if self.most < 2:
            raise UserError(
                f"The evaluation of {task} holds one answer per item, which cannot show how much "
                "answers vary. Give several runs of the model, sampled with different seeds, or "
                "one with two or more answers per item."
            )
        known = self.evaluation.definitions
        for metric in filter(None, (parse(name) for name in self.metrics if name not in known)):
            if metric.k > self.per_side:
                raise UserError(
                    f"{metric.name} of {task} takes {metric.k} responses per item on each side of "
                    f"a gate, and {self.most} are divided between two sides. Give evaluations with "
                    f"{2 * metric.k} responses per item in all, or choose a k of at most "
                    f"{self.per_side}."
                )
        counted = [counted_by(name, known) for name in self.metrics]
        if not any(_differ(given, counted) for given in self.answers):
            raise UserError(
                f"The answers to each item of {task} are all worth the same: they show no noise "
                "that the gate could mistake. Give runs that sample their answers, at a "
                "temperature above 0 and with different seeds."
            )

    def values(self, metric: str) -> Numbers:
        """Return the values of a metric, shape (items, answers), NaN where there is none."""
        found = np.full((len(self.answers), self.most), np.nan)
        for row, given in zip(found, self.answers, strict=True):
            row[: len(given)] = [score.values.get(metric, np.nan) for score in given]
        return found

    def draw(self, rng: np.random.Generator) -> tuple[ScoredEvaluation, ScoredEvaluation]:
        sides: tuple[list[Score], list[Score]] = ([], [])
        most = self.most
        keys = rng.random((int(self.units.max()) + 1, most))[self.units]
        keys[np.arange(most) >= np.array([[len(given)] for given in self.answers])] = 2  # the gaps
        for given, order in zip(self.answers, np.argsort(keys, axis=1).tolist(), strict=True):
            take = min(self.per_side, len(given) // 2)
            sides[0].extend([given[i] for i in order[:take]])
            sides[1].extend([given[i] for i in order[take : 2 * take]])
        return ScoredEvaluation(self.evaluation, sides[0]), ScoredEvaluation(
            self.evaluation, sides[1]
        )


def _differ(given: Sequence[Score], metrics: Sequence[str]) -> bool:
    return any(len({score.values.get(metric) for score in given}) > 1 for metric in metrics)


def _shuffled(
    policy: Policy, pools: Mapping[str, _Pool], groups: Groups, rng: np.random.Generator
) -> Decision:
    drawn = {task: pool.draw(rng) for task, pool in pools.items()}
    before, after = ({task: sides[k] for task, sides in drawn.items()} for k in (0, 1))
    return decide(policy, before, after, groups=groups, examined=True)


def _certificate(
    policy: Policy,
    runs: Sequence[Run],
    found: Sequence[Verdict],
    rules: list[RuleRates],
    *,
    by: By,
    independent: int,
    seed: int,
    confidence: float,
) -> Certificate:
    gates, limit = len(found), 2 * policy.alpha
    failed, inconclusive = found.count("fail"), found.count("inconclusive")
    bound = upper_bound(failed / gates, independent, confidence)
    certified = bound <= limit
    reason = (
        f"{failed} false alarms in {gates} gates, so at most {bound:.1%} with {confidence:.0%} "
        f"confidence; {limit:.1%} are allowed"
    )
    if not certified and upper_bound(0, independent, confidence) > limit:
        reason += f". {independent} independent gates are too few to show that: "
        reason += "give more runs" if by == "runs" else "ask for more gates"
    return Certificate(
        certified=certified,
        reason=reason,
        by=by,
        runs=len(runs),
        gates=gates,
        independent=independent,
        failed=failed,
        inconclusive=inconclusive,
        bound=bound,
        inconclusive_bound=upper_bound(inconclusive / gates, independent, confidence),
        confidence=confidence,
        alpha=policy.alpha,
        seed=seed,
        policy_digest=digest(policy),
        evaluations=[run[task].evaluation.identity for run in runs for task in sorted(run)],
        rules=rules,
    )


def upper_bound(rate: float, n: int, confidence: float) -> float:
    """Clopper and Pearson's one-sided upper bound of a share seen as `rate` in `n` trials.

    The quantile of Beta(rate n + 1, n - rate n), which also serves where rate n is no whole
    number.
    """
    return 1.0 if rate >= 1 else beta_quantile(rate * n + 1, n - rate * n, confidence)
