"""Rules on pass@k, pass^k and maj@k: through the gate, plans, certificates, noise and boards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.quiz import make

from harness.board import Board
from harness.core.errors import UserError
from harness.core.files import records_digest
from harness.core.schema import Metric, Policy, Rule
from harness.core.scored import ScoredEvaluation
from harness.gate import decide_again, gate
from harness.gate.lab.certify import certify
from harness.gate.lab.noise import measure_noise
from harness.gate.plan import make_plan
from harness.gate.policy import default_policy
from harness.stats.intervals import aggregate_repeats

N = 8


def answers(
    seed: int, *, items: int = 300, repeats: int = N, shift: float = 0.0, unscored: int = 0
) -> dict[str, ScoredEvaluation]:
    """A model that is right by chance on items of their own difficulty, and else says 0 to 2."""
    chance = np.clip(np.random.default_rng(99).uniform(size=items) + shift, 0, 1)
    rng = np.random.default_rng(seed)
    right = rng.uniform(size=(items, repeats)) < chance[:, None]
    rows = [{"accuracy": float(r)} for r in right.ravel()]
    for i in range(unscored):
        rows[i * repeats] = {"accuracy": "the judge was busy"}
    made = make(rows, repeats=repeats)
    said = np.where(right, "18", rng.integers(0, 3, right.shape).astype(str)).ravel()
    scores = [
        score.model_copy(update={"details": {"answer": str(answer)}})
        for score, answer in zip(made.scores, said, strict=True)
    ]
    made = replace(made, scores=scores)
    results = made.evaluation.metrics | aggregate_repeats(made)
    changes = {"metrics": results, "scores_digest": records_digest(scores)}
    return {"quiz": replace(made, evaluation=made.evaluation.model_copy(update=changes))}


def policy(*metrics: str, margin: float = 0.08) -> Policy:
    return Policy(rules=[Rule(task="quiz", metric=metric, margin=margin) for metric in metrics])


def test_rules_compare_the_values_of_items() -> None:
    before, after = answers(0), answers(1)
    decision = gate(before, after, policy("accuracy", "pass@4", "pass^2", "maj@8"))
    assert decision.verdict == "pass"
    for check in decision.checks[1:]:
        sides = [aggregate_repeats(side["quiz"], [check.metric]) for side in (before, after)]
        assert check.n == 300
        assert check.baseline_mean == pytest.approx(sides[0][check.metric].mean)
        assert check.candidate_mean == pytest.approx(sides[1][check.metric].mean)


def test_all_of_the_responses_are_yes_or_no_and_a_part_of_them_is_graded() -> None:
    checks = gate(answers(0), answers(1), policy("pass@8", "pass@4")).checks
    assert [check.test.split(",")[0] for check in checks] == ["Tango score test", "t"]
    assert checks[0].improved_only is not None and checks[1].improved_only is None


def test_a_loss_that_only_repeats_show_fails() -> None:
    """The candidate is right as often, but no longer finds the hard answers in eight tries."""
    before = answers(0)["quiz"]
    scores, kept = [], {"accuracy": 0.0}
    for score in before.scores:
        kept = score.values if score.repeat == 0 else kept
        scores.append(score.model_copy(update={"values": kept}))
    after = answers(0)["quiz"]
    after = replace(after, scores=scores)
    decision = gate({"quiz": before}, {"quiz": after}, policy("accuracy", "pass@8"))
    assert [check.verdict for check in decision.checks] == ["pass", "fail"]


def test_more_than_there_are_responses_is_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"pass@16 of quiz takes 16 responses .* has 8\."):
        gate(answers(0), answers(1), policy("pass@16"))
    with pytest.raises(UserError, match=r"maj@2 of quiz takes 2 responses .* has 1\."):
        gate(answers(0, repeats=1), answers(1, repeats=1), policy("maj@2"))


def test_items_with_unscored_responses_hold_up_the_gate_beyond_the_share_allowed() -> None:
    few = gate(answers(0), answers(1, unscored=3), policy("pass@4"))
    assert few.verdict == "pass"
    assert "3 items have no value" in few.checks[0].reason
    many = gate(answers(0), answers(1, unscored=30), policy("pass@4"))
    assert many.verdict == "inconclusive"
    assert "10.0% of the candidate's answers are unscored (1 of 8" in many.checks[0].reason


def test_a_metric_of_the_task_with_such_a_name_is_its_own() -> None:
    own = make([{"accuracy": 1.0, "pass@2": 0.25}] * 200, repeats=2)
    metric = Metric(name="pass@2", kind="continuous")
    known = own.evaluation.definitions | {"pass@2": metric}
    own = replace(own, evaluation=own.evaluation.model_copy(update={"definitions": known}))
    decision = gate({"quiz": own}, {"quiz": own}, policy("pass@2"))
    assert decision.checks[0].baseline_mean == 0.25


def test_margins_name_them_too() -> None:
    metrics = {"quiz": answers(0)["quiz"].evaluation.definitions.values()}
    made = default_policy(metrics, {"pass@4": 0.02, "quiz.maj@8(accuracy)": 0.03})
    assert [(rule.metric, rule.margin) for rule in made.rules[1:]] == [
        ("pass@4", 0.02),
        ("maj@8(accuracy)", 0.03),
    ]
    assert default_policy(metrics, {"pass@4": 0.02, "quiz.pass@4": 0.01}).rules[1].margin == 0.01
    with pytest.raises(UserError, match="A margin is named for 'pass@4', which no task has"):
        default_policy(
            {"graded": [Metric(name="g", kind="continuous", primary=True)]}, {"pass@4": 1}
        )


def test_a_plan_and_a_certificate_are_made_for_them() -> None:
    before = answers(0)
    plan = make_plan(policy("pass@4"), before, second=answers(2))
    assert (plan.rules[0].metric, plan.rules[0].n) == ("pass@4", 300)
    assert gate(before, answers(1), plan.policy, plan=plan).verdict == "pass"
    found = certify(policy("accuracy", "pass@4"), [before], gates=40)
    assert found.failed == 0
    assert found.rules[1].at_margin[0].unmeasured
    with pytest.raises(UserError, match=r"pass@8 of quiz takes 8 .* 8 are divided between two"):
        certify(policy("pass@8"), [before], gates=40)


def test_noise_between_runs_is_measured_on_them() -> None:
    runs = [answers(seed) for seed in range(5)]
    (found,) = measure_noise(policy("pass@4"), runs)
    assert found.items == 300
    assert found.mean == pytest.approx(
        np.mean([aggregate_repeats(run["quiz"], ["pass@4"])["pass@4"].mean for run in runs])
    )


def test_a_board_keeps_what_a_decision_on_them_needs(tmp_path: Path) -> None:
    board, before, after = Board(tmp_path / "board"), answers(0), answers(1)
    decision = gate(before, after, policy("maj@8", "pass^3"))
    for name, side in (("before", before), ("after", after)):
        board.add_evaluation(side["quiz"], name, "run")
    board.add_decision(decision, "run", "incumbent")
    assert board.verify() == []
    entries = [row.entry for row in board.rows()][:2]
    kept = [{"quiz": ScoredEvaluation(e.evaluation, board.scores(e))} for e in entries]
    assert decide_again(decision, *kept).checks == decision.checks


def test_a_recorded_value_that_the_scores_do_not_give_is_refused(tmp_path: Path) -> None:
    made = answers(0)["quiz"]
    better = made.evaluation.metrics["pass@8"].model_copy(update={"mean": 0.999})
    forged = made.evaluation.model_copy(
        update={"metrics": made.evaluation.metrics | {"pass@8": better}}
    )
    with pytest.raises(UserError, match="pass@8 is recorded as"):
        Board(tmp_path / "board").add_evaluation(replace(made, evaluation=forged), "m", "run")


def test_an_evaluation_of_before_these_metrics_is_added_and_gated(tmp_path: Path) -> None:
    made = answers(0)["quiz"]
    own = {"accuracy": made.evaluation.metrics["accuracy"]}
    older = replace(made, evaluation=made.evaluation.model_copy(update={"metrics": own}))
    board = Board(tmp_path / "board")
    board.add_evaluation(older, "older", "run")
    assert board.verify() == []
    assert gate({"quiz": older}, answers(1), policy("pass@4")).verdict == "pass"
