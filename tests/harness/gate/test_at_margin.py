"""Candidates exactly at the margin, made of a model's own answers."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.quiz import METRICS, make

from harness.core.schema import Item, Metric, Policy, Rule
from harness.core.scored import ScoredEvaluation
from harness.gate.lab.at_margin import KINDS, Candidates, Kind, candidates, divide, verdicts
from harness.gate.lab.certify import certify

GRADE = next(metric for metric in METRICS if metric.name == "grade")
ACCURACY = next(metric for metric in METRICS if metric.name == "accuracy")


def rule(metric: Metric, margin: float) -> Rule:
    return Rule(task="quiz", metric=metric.name, margin=margin)


def grades(n: int = 300, answers: int = 4, seed: int = 0) -> np.ndarray:
    """Mostly a 5, now and then much less."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random((n, answers)) < 0.15, rng.integers(1, 5, (n, answers)), 5.0)


def made(values: np.ndarray, kind: Kind, metric: Metric, margin: float,
         units: np.ndarray | None = None) -> Candidates:  # fmt: skip
    which = np.arange(len(values)) if units is None else units
    divided = divide(values, which, values.shape[1] // 2, np.random.default_rng(1))
    found = candidates(divided, kind, rule(metric, margin), metric, clustered=units is not None)
    assert isinstance(found, Candidates), found
    return found


@pytest.mark.slow
@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("higher", [True, False])
def test_the_mean_gain_of_candidates_is_minus_the_margin(
    kind: Kind, higher: bool, clustered: bool
) -> None:
    metric = GRADE.model_copy(update={"higher_is_better": higher})
    sign = 1 if higher else -1
    units = np.sort(np.random.default_rng(2).integers(0, 40, 300)) if clustered else None
    drawn = made(grades(), kind, metric, 0.2, units)
    rng = np.random.default_rng(3)
    total, count = 0.0, 0
    for _ in range(1500):
        evidence = drawn.draw(rule(metric, 0.2), metric, rng)
        total += sign * float((evidence.candidate - evidence.baseline).sum())
        count += len(evidence.baseline)
        assert (evidence.clusters is not None) is clustered
        assert evidence.candidate.min() >= 1 and evidence.candidate.max() <= 5
    assert total / count == pytest.approx(-0.2, abs=0.016)


def test_losses_as_seen_are_made_of_gains_that_were_seen() -> None:
    values = grades(answers=2)
    drawn = made(values, "losses as seen", GRADE, 0.2)
    seen = {round(x, 9) for a, b in values for x in (a - b, b - a)}
    evidence = drawn.draw(rule(GRADE, 0.2), GRADE, np.random.default_rng(0))
    assert {round(x, 9) for x in evidence.candidate - evidence.baseline} <= seen


def test_a_collapse_is_rare_and_complete() -> None:
    values = np.full((400, 2), 5.0)
    drawn = made(values, "rare collapse", GRADE, 0.1)
    evidence = drawn.draw(rule(GRADE, 0.1), GRADE, np.random.default_rng(0))
    gains = evidence.candidate - evidence.baseline
    assert set(gains) == {0.0, -4.0}
    assert float((gains < 0).mean()) == pytest.approx(0.025, abs=0.02)


def test_a_collapse_takes_whole_clusters() -> None:
    units = np.repeat(np.arange(40), 10)
    drawn = made(np.full((400, 2), 5.0), "rare collapse", GRADE, 0.4, units)
    evidence = drawn.draw(rule(GRADE, 0.4), GRADE, np.random.default_rng(0))
    gains = (evidence.candidate - evidence.baseline).reshape(40, 10)
    assert (gains == gains[:, :1]).all() and (gains < 0).any()


def test_what_runs_did_to_a_cluster_stays_together() -> None:
    """Run 1 answers half of the passages wrong, all their items: so do candidates."""
    units = np.repeat(np.arange(40), 10)
    rng = np.random.default_rng(0)
    values = (rng.random((40, 2)) < 0.7).astype(float)[units]
    drawn = made(values, "losses as seen", ACCURACY, 0.05, units)
    evidence = drawn.draw(rule(ACCURACY, 0.05), ACCURACY, np.random.default_rng(1))
    gains = (evidence.candidate - evidence.baseline).reshape(40, 10)
    assert (gains == gains[:, :1]).all() and {-1.0, 1.0} <= set(gains[:, 0])


def test_answers_that_cannot_show_a_loss_are_said() -> None:
    same = np.full((100, 2), 5.0)
    divided = divide(same, np.arange(100), 1, np.random.default_rng(0))
    found = candidates(divided, "losses as seen", rule(GRADE, 0.2), GRADE, clustered=False)
    assert isinstance(found, str) and "cannot show such a loss" in found
    one = same.copy()
    one[0, 0] = 1.0
    divided = divide(one, np.arange(100), 1, np.random.default_rng(0))
    found = candidates(divided, "losses as seen", rule(GRADE, 0.2), GRADE, clustered=False)
    assert isinstance(found, str) and "too few items" in found
    floor = np.full((100, 2), 1.0)
    divided = divide(floor, np.arange(100), 1, np.random.default_rng(0))
    found = candidates(divided, "rare collapse", rule(GRADE, 0.2), GRADE, clustered=False)
    assert isinstance(found, str) and "nothing can fail" in found


@pytest.mark.slow
def test_yes_no_candidates_at_the_margin_pass_about_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((400, 2)) < rng.random((400, 1))).astype(float)
    for kind in KINDS:
        drawn = made(values, kind, ACCURACY, 0.05)
        found = verdicts(
            drawn, rule(ACCURACY, 0.05), ACCURACY, alpha=0.05, gates=300, seed=[0]
        ).count("pass")
        assert 3 <= found <= 27  # 15, within three standard errors


def runs(clustered: bool) -> list[dict[str, ScoredEvaluation]]:
    """Two runs of a model whose passages rise and fall together from run to run."""
    found = []
    passage = [f"p{i // 10}" for i in range(300)]
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        right = (rng.random(30) < 0.7)[np.arange(300) // 10] if clustered else rng.random(300) < 0.7
        scored = make([{"accuracy": float(x)} for x in right])
        items = [
            Item(task="quiz", split="gate", index=i, prompt=f"{i}", tags={"passage": [name]})
            for i, name in enumerate(passage)
        ]
        found.append({"quiz": ScoredEvaluation(scored.evaluation, scored.scores, [], items)})
    return found


@pytest.mark.slow
def test_a_certificate_tells_each_rule_at_its_margin() -> None:
    policy = Policy(rules=[rule(ACCURACY, 0.1)])
    (told,) = certify(policy, runs(clustered=False), gates=200).rules
    assert (told.task, told.metric, told.margin, told.gates) == ("quiz", "accuracy", 0.1, 200)
    assert [one.kind for one in told.at_margin] == list(KINDS)
    for one in told.at_margin:
        assert one.gates == 200 and one.low is not None and one.high is not None
        assert one.low <= one.passed / one.gates <= one.high
        assert one.low < 0.06
    again = certify(policy, runs(clustered=False), gates=200)
    assert again.rules == [told]


@pytest.mark.slow
def test_a_certificate_shows_what_clusters_do_and_that_naming_them_helps() -> None:
    alone = Policy(rules=[rule(ACCURACY, 0.1)])
    named = alone.model_copy(update={"cluster": "passage"})
    sides = runs(clustered=True)
    by_passage = certify(named, sides, gates=100).rules[0]
    assert by_passage.failed <= 8
    for one in by_passage.at_margin:
        assert one.passed <= 14  # 5 of 100, within four standard errors
