"""Policies of promotion in closed loop: exact where one iteration has a closed form."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from helpers.quiz import make
from scipy.stats import binom

from harness.core.errors import UserError
from harness.core.schema import Policy, Rule
from harness.evals.score import score
from harness.gate import decide, promote
from harness.gate.lab.simulate import (
    CONTENDERS,
    PolicyOutcome,
    Seen,
    Settings,
    compare_thresholds,
    like,
    simulate,
)
from harness.render.simulation import picture, thresholds
from harness.stats.sequential import sequential_test


def by_name(found: list[PolicyOutcome]) -> dict[str, PolicyOutcome]:
    return {outcome.policy: outcome for outcome in found}


@pytest.mark.slow
def test_one_candidate_is_promoted_as_often_as_the_binomial_says() -> None:
    n, rho, effect = 200, 0.2, -0.01
    settings = Settings(
        items=n, iterations=1, effect_mean=effect, effect_sd=0, discordance=rho, loops=40_000
    )
    differ = binom.pmf(np.arange(n + 1), n, rho)
    gained = (rho + effect) / 2 / rho
    more = [binom.sf(k // 2, k, gained) for k in range(n + 1)]
    equal = [binom.pmf(k // 2, k, gained) if k % 2 == 0 else 0 for k in range(n + 1)]
    for name, expected in (
        ("greedy: any gain", differ @ more),
        ("no drop", differ @ np.add(more, equal)),
    ):
        found = by_name(simulate(settings))[name]
        assert found.promotions.mean == pytest.approx(expected, abs=4 * found.promotions.stderr)
        assert found.harmful == found.promotions
        assert found.true_gain.mean == pytest.approx(effect * found.promotions.mean)


@pytest.mark.slow
def test_the_gate_of_the_simulation_is_the_gate() -> None:
    """Counts that the simulation promotes on are those that `decide` and `promote` promote on."""
    gate = next(one for one in CONTENDERS if one.name == "gate, same items")
    policy = Policy(rules=[Rule(task="quiz", metric="accuracy", margin=0.05)])
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(40):
        n = int(rng.integers(60, 400))
        anchor = rng.integers(0, 2, n)
        incumbent = np.where(rng.uniform(size=n) < 0.15, 1 - anchor, anchor)
        candidate = np.where(rng.uniform(size=n) < 0.1, rng.uniform(size=n) < 0.7, incumbent)
        sides = [{"quiz": make([{"accuracy": float(a)} for a in one])} for one in
                 (anchor, incumbent, candidate.astype(int))]  # fmt: skip
        real = promote(decide(policy, sides[1], sides[2]), decide(policy, sides[0], sides[2]))
        seen = Seen(
            gained=np.array([(candidate > incumbent).sum()]),
            lost=np.array([(candidate < incumbent).sum()]),
            anchor_gained=np.array([(candidate > anchor).sum()]),
            anchor_lost=np.array([(candidate < anchor).sum()]),
            n=n,
        )
        verdicts.append(real.promoted)
        assert gate.promotes(seen, Settings(margin=0.05))[0] == real.promoted
    assert 5 < sum(verdicts) < 35


def test_two_runs_of_one_model_are_blocked_almost_half_of_the_time_if_no_drop_is_allowed() -> None:
    for n in (200, 1319):
        same = Settings(items=n, iterations=1, effect_mean=0, effect_sd=0, loops=20_000)
        found = by_name(simulate(same))
        assert 0.40 < 1 - (found["no drop"].promotions.mean or 0) < 0.5


def test_what_each_policy_comes_to() -> None:
    found = by_name(simulate(Settings(loops=1500)))
    mean = {name: one.promotions.mean or 0 for name, one in found.items()}
    harmful = {name: one.harmful.mean or 0 for name, one in found.items()}
    true = {name: one.true_gain.mean or 0 for name, one in found.items()}
    seen = {name: one.seen_gain.mean or 0 for name, one in found.items()}
    assert true["at most 2 points lower"] < -0.015  # it ratchets down
    assert 6 < mean["greedy: any gain"] < 7
    assert 1.2 < harmful["greedy: any gain"] < 1.9
    assert harmful["gate, same items"] < harmful["greedy: any gain"] / 3
    assert mean["McNemar, Bonferroni"] < 0.6
    assert true["gate, fresh items"] > true["McNemar"]
    promoting = [name for name in mean if true[name] > 0]
    assert all(seen[name] > true[name] for name in promoting)  # never the headline
    assert all(one.promotions.n == 1500 and one.promotions.stderr for one in found.values())


def test_without_chance_there_is_no_optimism() -> None:
    """With very many items what is seen is what is true."""
    settings = Settings(items=4_000_000, loops=50, iterations=5)
    for one in simulate(settings):
        assert one.seen_gain.mean == pytest.approx(one.true_gain.mean, abs=2e-3)


def test_the_seed_decides() -> None:
    settings = Settings(loops=50)
    assert simulate(settings) == simulate(settings)
    assert simulate(settings) != simulate(settings.model_copy(update={"seed": 1}))


def test_extreme_settings_stay_within_what_can_be() -> None:
    high = Settings(accuracy=0.99, discordance=0.5, effect_mean=0.2, effect_sd=0.3, loops=50)
    for one in simulate(high):
        assert one.true_gain.mean is not None
        assert -0.99 <= one.true_gain.mean <= 0.0101


def test_settings_can_be_those_of_two_evaluations() -> None:
    before = make([{"accuracy": float(i % 2)} for i in range(100)])
    after = make([{"accuracy": float(i % 2 or i < 20)} for i in range(100)])
    found = like(before, after, Settings(margin=0.03))
    assert (found.items, found.discordance, found.accuracy, found.margin) == (100, 0.1, 0.5, 0.03)
    with pytest.raises(UserError, match="nothing to simulate"):
        like(before, before, Settings())
    grades = make([{"grade": 2.5}, {"grade": 3.0}])
    with pytest.raises(UserError, match="not a yes/no answer"):
        like(grades, grades, Settings(), metric="grade")


@pytest.mark.slow
def test_published_answers_set_it_too(shared_data: Path, tmp_path: Path) -> None:
    """Two models' published answers to GSM8K's test set, their gap seen early by the gate."""
    published = shared_data / "gsm8k" / "example_model_solutions.jsonl"
    rows = [json.loads(line) for line in published.open()]
    scored = []
    for model in ("6b_finetuning", "6b_verification"):
        answers = tmp_path / f"{model}.jsonl"
        told = ({"id": i, "response": row[model]["solution"]} for i, row in enumerate(rows))
        answers.write_text("".join(json.dumps(one) + "\n" for one in told))
        scored.append(score("gsm8k", answers, data=shared_data))
    found = like(*scored, Settings())
    assert found.items == 1319
    assert found.accuracy == pytest.approx(286 / 1319)
    assert found.discordance == pytest.approx(357 / 1319)

    right = [np.array([one.values["accuracy"] for one in side.scores]) for side in scored]
    gains = np.random.default_rng(0).permutation(right[1] - right[0])
    watched = sequential_test(gains, margin=0.02, alpha=0.05, population=1319)
    assert watched.verdict == "pass"
    assert (watched.stopped_at or 1319) < 200
    assert sequential_test(-gains, margin=0.02, alpha=0.05, population=1319).verdict == "fail"


def test_the_picture_names_every_policy() -> None:
    outcomes = simulate(Settings(loops=20))
    drawn = picture(outcomes)
    words = "".join(ET.fromstring(drawn).itertext())
    assert all(one.policy in words for one in outcomes)
    assert picture(outcomes) == drawn


def test_noise_on_fresh_items_is_promoted_as_often_as_the_normal_tail_says() -> None:
    """With a wide margin only the threshold decides: one candidate in six at 1, in twenty at 1.645.

    Flips are few and whole, so that the tail of the normal distribution is met within a point.
    """
    settings = Settings(items=4000, margin=0.2, discordance=0.2, iterations=10, loops=4000)
    tails = {0.0: 0.5, 1.0: 0.1587, 1.645: 0.05, 2.0: 0.0228}
    for found in compare_thresholds(settings, tuple(tails)):
        if found.items == "fresh":
            assert found.noise.mean == pytest.approx(tails[found.threshold], abs=0.012)


@pytest.mark.slow
def test_a_higher_threshold_promotes_less_noise_and_less_gain() -> None:
    for items in ("same", "fresh"):
        found = [
            one
            for one in compare_thresholds(Settings(loops=2000), (1.0, 2.0, 3.0))
            if one.items == items
        ]
        for lower, higher in itertools.pairwise(found):
            assert (lower.noise.mean or 0) > (higher.noise.mean or 0)
            assert (lower.outcome.harmful.mean or 0) > (higher.outcome.harmful.mean or 0)
            assert (lower.outcome.true_gain.mean or 0) > (higher.outcome.true_gain.mean or 0)


@pytest.mark.slow
def test_the_threshold_of_one_is_the_gate_of_the_first_table() -> None:
    settings = Settings(loops=3000)
    (found,) = [one for one in compare_thresholds(settings, (1.0,)) if one.items == "same"]
    table = by_name(simulate(settings))["gate, same items"]
    assert found.outcome.true_gain.mean == pytest.approx(table.true_gain.mean, abs=0.002)
    assert "| 1 | same |" in thresholds(settings, [found])


@pytest.mark.parametrize("bad", [-0.5, 11.0, float("nan")])
def test_a_threshold_that_no_policy_may_have_is_an_error(bad: float) -> None:
    with pytest.raises(UserError, match="between 0 and 10"):
        compare_thresholds(Settings(loops=10), (bad,))
