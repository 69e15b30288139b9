"""The gate against one model: counted, bounded, and refused where nothing can be seen."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.quiz import make
from scipy.stats import binomtest

from harness.core.errors import UserError
from harness.core.schema import Policy, Rule
from harness.core.scored import ScoredEvaluation
from harness.gate.lab.certify import certify, upper_bound


def policy(margin: float = 0.05, metric: str = "accuracy") -> Policy:
    return Policy(rules=[Rule(task="quiz", metric=metric, margin=margin)])


def run(seed: int, n: int = 200, repeats: int = 1, shift: float = 0.0) -> dict[str]:
    """One model's answers: items of their own difficulty, right by chance."""
    chance = np.clip(np.random.default_rng(99).uniform(size=n) + shift, 0, 1)
    right = np.random.default_rng(seed).uniform(size=(n, repeats)) < chance[:, None]
    rows = [{"accuracy": float(r)} for r in right.ravel()]
    return {"quiz": make(rows, repeats=repeats)}


@pytest.mark.parametrize(("k", "n"), [(0, 30), (3, 400), (29, 30), (30, 30)])
def test_the_bound_is_clopper_and_pearsons(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(0.90, method="exact").high
    assert upper_bound(k / n, n, 0.95) == pytest.approx(expected)


@pytest.mark.slow
def test_a_quiet_gate_is_certified() -> None:
    for runs in ([run(0), run(1)], [run(0, repeats=4)]):
        found = certify(policy(), runs, gates=100)
        assert found.certified, found.reason
        assert (found.gates, found.independent, found.by) == (100, 100, "answers")
        assert found.failed == 0
        assert found.bound == pytest.approx(1 - 0.05 ** (1 / 100))
        assert f"{found.bound:.1%}" in found.reason
        assert found == certify(policy(), runs, gates=100)


@pytest.mark.slow
def test_at_a_margin_of_nothing_false_alarms_come_at_the_gates_level() -> None:
    """Then equality is the boundary, where the level is what it is called."""
    found = certify(policy(1e-9), [run(0), run(1)], gates=600, seed=3)
    assert found.failed / found.gates == pytest.approx(0.05, abs=0.03)
    assert found.inconclusive > 500
    assert found.inconclusive_bound > 0.85


@pytest.mark.slow
def test_whole_runs_show_what_shuffled_answers_hide() -> None:
    """Half of the runs were judged on a bad day: item by item that looks like noise."""
    runs = [run(seed, shift=0.3 * (seed % 2)) for seed in range(6)]
    by_runs = certify(policy(), runs, by="runs")
    assert (by_runs.gates, by_runs.runs, by_runs.independent) == (30, 6, 3)
    assert by_runs.failed == 9
    assert not by_runs.certified
    assert certify(policy(), runs, by="answers", gates=100).certified


@pytest.mark.slow
def test_a_few_runs_cannot_certify_and_the_reason_says_so() -> None:
    found = certify(policy(), [run(seed) for seed in range(4)], by="runs")
    assert found.failed == 0
    assert not found.certified
    assert "2 independent gates are too few" in found.reason
    assert certify(policy(), [run(s, n=60) for s in range(58)], by="runs", gates=50).certified


def test_pairs_are_chosen_at_random_when_there_are_more_than_gates() -> None:
    runs = [run(seed, n=60) for seed in range(6)]
    assert certify(policy(), runs, by="runs", gates=10).gates == 10


def test_what_shows_no_noise_is_refused() -> None:
    with pytest.raises(UserError, match="one answer per item"):
        certify(policy(), [run(0)])
    with pytest.raises(UserError, match="all worth the same"):
        certify(policy(), [run(0), run(0)])
    with pytest.raises(UserError, match="another"):
        certify(policy(), [run(0, repeats=2)], by="runs")
    with pytest.raises(UserError, match="at least one"):
        certify(policy(), [])


def test_only_one_model_can_be_certified_against_itself() -> None:
    other = {"quiz": make([{"accuracy": 1.0}] * 200, model="other")}
    with pytest.raises(UserError, match="m and other"):
        certify(policy(), [run(0), other])


def test_missing_answers_do_not_crash_it() -> None:
    whole = run(0, repeats=3)["quiz"]
    rng = np.random.default_rng(0)
    lost = {score.item for score in whole.scores if rng.uniform() < 0.03}
    kept = [score for score in whole.scores if score.item not in lost]
    partial = {"quiz": ScoredEvaluation(whole.evaluation, kept)}
    found = certify(policy(), [partial, run(1, repeats=3)], gates=20)
    assert found.failed == 0
