"""Measure run-to-run noise of one model and add it to a gate policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from harness.core.errors import UserError
from harness.core.schema import FEWEST_RUNS, Noise, Policy, Record, Rule
from harness.gate.clusters import assign
from harness.gate.evidence import gather
from harness.gate.lab.certify import Run, require_one_model
from harness.stats.paired import by_item
from harness.stats.repeatability import measure, reach
from harness.stats.repeats import with_repeat_metrics


class RuleNoise(Record):
    """How runs of one model differ on a rule; values are in the metric's unit."""

    task: str
    metric: str
    margin: float
    runs: int
    items: int = Field(description="with a value in every run")
    mean: float
    differing: float = Field(description="share of the items that two runs value differently")
    total_sd: float = Field(description="standard deviation of a run's mean")
    shared_sd: float = Field(description="the part of it that no pair of items shows")
    p_value: float = Field(description="of such differences between runs, if items explain all")
    reach: float = Field(description="what two runs differ by beyond their items, at level alpha")


def measure_noise(policy: Policy, runs: Sequence[Run]) -> list[RuleNoise]:
    """Measure for each rule how `runs` of one model, evaluated in one way, differ.

    A run maps task -> evaluation.

    Raises:
        UserError: fewer than `FEWEST_RUNS` runs, or they are of several models or do not match.
    """
    if len(runs) < FEWEST_RUNS:
        raise UserError(
            f"{len(runs)} runs are too few to tell what runs of one model differ by: give "
            f"{FEWEST_RUNS} or more evaluations of it, made in the same way."
        )
    for run in runs:
        # Refuses runs that lack something or do not match.
        gather(policy, runs[0], run, assign(policy, runs[0], run))
    require_one_model(runs, policy.tasks)
    return [_of_rule(rule, policy.alpha, runs) for rule in policy.rules if rule.every is None]


def with_noise(policy: Policy, found: Sequence[RuleNoise]) -> Policy:
    """Add the noise to the rules of a policy; a rule without noise of its own gets none."""
    noise = {
        (one.task, one.metric): Noise(sd=one.shared_sd, runs=one.runs)
        for one in found
        if one.shared_sd > 0
    }
    rules = [
        rule.model_copy(update={"noise": noise.get((rule.task, rule.metric))})
        if rule.every is None
        else rule
        for rule in policy.rules
    ]
    return policy.model_copy(update={"rules": rules})


def _of_rule(rule: Rule, alpha: float, runs: Sequence[Run]) -> RuleNoise:
    counted = [with_repeat_metrics(run[rule.task], [rule.metric]) for run in runs]
    tables = [by_item(scored.scores, [rule.metric]) for scored in counted]
    values = [dict(zip(table.items, table.values[:, 0], strict=True)) for table in tables]
    shared = sorted(set.intersection(*(set(of) for of in values)))
    matrix = np.array([[of[item] for item in shared] for of in values], dtype=np.float64)
    matrix = matrix.reshape(len(runs), len(shared))
    found = measure(matrix[:, ~np.isnan(matrix).any(axis=0)])
    return RuleNoise(
        task=rule.task,
        metric=rule.metric,
        margin=rule.margin,
        runs=found.runs,
        items=found.items,
        mean=found.mean,
        differing=found.differing,
        total_sd=found.total_sd,
        shared_sd=found.shared_sd,
        p_value=found.p_value,
        reach=reach(Noise(sd=found.shared_sd, runs=found.runs), alpha),
    )
