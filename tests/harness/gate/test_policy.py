"""Policies of a gate: those that come along, and the one where none is written."""

from __future__ import annotations

from pathlib import Path

import pytest

import tasks
from harness.core.errors import UserError
from harness.core.schema import Metric
from harness.gate.policy import default_policy, load_policy

OVERALL = Metric(name="overall", kind="continuous", low=1, high=5, primary=True)
RESPONDED = Metric(name="responded", kind="binary")


def test_the_default_policy_guards_each_primary_metric_and_who_answers() -> None:
    words = Metric(name="words", kind="continuous", high=1000)
    policy = default_policy({"write": [OVERALL, words, RESPONDED], "talk": [words, OVERALL]})
    assert [(r.task, r.metric, r.tier, round(r.margin, 9)) for r in policy.rules] == [
        ("talk", "overall", "critical", 0.2),
        ("write", "overall", "critical", 0.2),
        ("write", "responded", "guardrail", 0.05),
    ]
    assert policy.alpha == 0.05


def test_a_default_policy_needs_a_primary_metric() -> None:
    with pytest.raises(UserError, match="write a policy that names one"):
        default_policy({"talk": [RESPONDED]})


@pytest.mark.parametrize("name", ["gsm8k", "just_eval", "factscore"])
def test_the_policies_that_come_along_name_metrics_of_their_task(name: str) -> None:
    policy = load_policy(Path(name))
    known = {metric.name: metric for metric in tasks.load(name).metrics}
    assert {rule.task for rule in policy.rules} == {name}
    for rule in policy.rules:
        assert rule.margin < known[rule.metric].high - known[rule.metric].low
    critical = [rule.metric for rule in policy.rules if rule.tier == "critical"]
    assert critical == [tasks.load(name).primary.name]


def test_an_unknown_policy_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'gsm8k'"):
        load_policy(Path("gsmk8"))
    with pytest.raises(UserError, match="There is no file"):
        load_policy(tmp_path / "gsm8k")
