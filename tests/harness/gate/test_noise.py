"""Noise of whole runs: measured on evaluations, given to rules, reckoned with by gate and plan."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.quiz import make

from harness.core.errors import UserError
from harness.core.schema import Decision, Noise, Policy, Rule, digest
from harness.gate import decide, plan
from harness.gate.decision import SequentialOrder
from harness.gate.lab.noise import measure_noise, with_noise
from harness.gate.plan import draw_order
from harness.gate.planned_rule import AssumedSpread
from harness.stats.repeatability import measure

POLICY = Policy(rules=[Rule(task="quiz", metric="accuracy", margin=0.05)])


def run(seed: int, shift: float = 0.0, n: int = 400) -> dict[str]:
    """One model's answers: items of their own difficulty, and a day that moves them all."""
    chance = np.clip(np.random.default_rng(99).uniform(size=n) + shift, 0, 1)
    right = np.random.default_rng(seed).uniform(size=n) < chance
    return {"quiz": make([{"accuracy": float(r)} for r in right], seed=seed)}


def noisy(sd: float, runs: int = 9, margin: float = 0.05) -> Policy:
    rule = Rule(task="quiz", metric="accuracy", margin=margin, noise=Noise(sd=sd, runs=runs))
    return Policy(rules=[rule])


def test_runs_are_measured_by_rule_and_the_policy_takes_what_was_found() -> None:
    days = [0.0, 0.2, -0.2, 0.1, -0.1, 0.15]
    runs = [run(seed, shift) for seed, shift in enumerate(days)]
    (found,) = measure_noise(POLICY, runs)
    values = [[score.values["accuracy"] for score in one["quiz"].scores] for one in runs]
    expected = measure(np.array(values))
    assert (found.runs, found.items) == (6, 400)
    assert found.shared_sd == pytest.approx(expected.shared_sd)
    assert found.shared_sd > 0.1 and found.p_value < 1e-6
    assert found.reach > found.margin
    (rule,) = with_noise(POLICY, [found]).rules
    assert rule.noise == Noise(sd=found.shared_sd, runs=6)


def test_runs_whose_items_explain_all_leave_the_policy_as_it_was() -> None:
    same = run(0)
    (found,) = measure_noise(POLICY, [same] * 5)
    assert (found.differing, found.total_sd, found.p_value) == (0, 0, 1)
    taken = with_noise(noisy(0.3), [found])
    assert taken == POLICY
    assert digest(taken) == digest(POLICY)
    assert "noise" not in POLICY.model_dump()["rules"][0]  # old ledgers keep their bytes


def test_items_without_a_value_in_some_run_are_left_out() -> None:
    rows = [{"facts": 0.1 * (i % 7)} for i in range(50)]
    runs = [{"quiz": make([*rows[:k], {"facts": None}, *rows[k + 1 :]])} for k in range(5)]
    policy = Policy(rules=[Rule(task="quiz", metric="facts", margin=0.05)], min_completeness=0.9)
    (found,) = measure_noise(policy, runs)
    assert found.items == 45
    assert found.total_sd == 0


def test_too_few_runs_or_of_two_models_are_refused() -> None:
    with pytest.raises(UserError, match="give 5 or more"):
        measure_noise(POLICY, [run(seed) for seed in range(4)])
    other = {"quiz": make([{"accuracy": 1.0}] * 400, model="other")}
    with pytest.raises(UserError, match="of m and other"):
        measure_noise(POLICY, [*(run(seed) for seed in range(4)), other])


def gained_and_lost(gained: int, lost: int, n: int = 400) -> tuple[dict, dict]:
    before = [{"accuracy": 0.0}] * gained + [{"accuracy": 1.0}] * (n - gained)
    after = [{"accuracy": 1.0}] * (n - lost) + [{"accuracy": 0.0}] * lost
    return {"quiz": make(before)}, {"quiz": make(after)}


def judged(policy: Policy, gained: int, lost: int) -> Decision:
    return decide(policy, *gained_and_lost(gained, lost))


@pytest.mark.parametrize("metric", ["accuracy", "refused"])
def test_a_gate_reckons_with_the_noise_on_both_sides(metric: str) -> None:
    sides = gained_and_lost(20, 22)
    if metric == "refused":
        sides = tuple(
            {"quiz": make([{"refused": 1 - s.values["accuracy"]} for s in one["quiz"].scores])}
            for one in sides
        )
    rule = {"task": "quiz", "metric": metric, "margin": 0.05}
    plain = decide(Policy(rules=[Rule(**rule)]), *sides).checks[0]
    quiet = decide(Policy(rules=[Rule(**rule, noise=Noise(sd=0.003, runs=9))]), *sides).checks[0]
    loud = decide(Policy(rules=[Rule(**rule, noise=Noise(sd=0.1, runs=9))]), *sides).checks[0]
    assert [one.verdict for one in (plain, quiet, loud)] == ["pass", "pass", "inconclusive"]
    assert loud.low < quiet.low < plain.low < plain.high < quiet.high < loud.high
    assert loud.p_value > quiet.p_value > plain.p_value
    assert loud.stderr > quiet.stderr > plain.stderr
    assert "noise of runs" in quiet.test and "noise" not in plain.test
    assert "of one model alone differ by up to" in loud.reason
    assert {one.reason.partition("exact McNemar p ")[2] for one in (plain, quiet, loud)} == {"0.88"}


def test_a_loss_that_runs_explain_is_no_failure_and_no_news() -> None:
    plain, loud = (judged(policy, 5, 60) for policy in (POLICY, noisy(0.08)))
    assert (plain.verdict, plain.checks[0].label) == ("fail", "regressed")
    assert (loud.verdict, loud.checks[0].label) == ("inconclusive", "unclear")


def test_a_plan_counts_the_noise_and_refuses_a_margin_within_it() -> None:
    before = run(0, n=4000)
    plain = plan.make_plan(POLICY, before, assumed=AssumedSpread(discordance=0.1)).rules[0]
    planned = plan.make_plan(noisy(0.004), before, assumed=AssumedSpread(discordance=0.1)).rules[0]
    assert planned.power < plain.power
    assert planned.minimum_detectable > plain.minimum_detectable
    assert planned.items_needed > plain.items_needed
    with pytest.raises(UserError, match="runs of one model alone differ by up to"):
        plan.make_plan(noisy(0.05), before, assumed=AssumedSpread(discordance=0.1))


def test_a_sequential_test_cannot_take_it() -> None:
    before, after = run(0), run(1)
    drawn = {"quiz": draw_order(0, "quiz", before["quiz"].scores)}
    with pytest.raises(UserError, match=r"Plan a fixed gate \(without --sequential\)"):
        decide(noisy(0.01), before, after, sequential=SequentialOrder(drawn))
    with pytest.raises(UserError, match=r"Plan a fixed gate \(without --sequential\)"):
        plan.make_plan(
            noisy(0.004), run(0, n=4000), assumed=AssumedSpread(discordance=0.1), sequential=True
        )


def test_a_rule_with_noise_of_few_runs_is_none() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 5"):
        Noise(sd=0.1, runs=4)
