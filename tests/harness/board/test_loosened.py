"""Policies that become looser on a board are seen, and stricter or equal ones are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.boards import POLICY, Loop, answers, run_once
from helpers.quiz import make

import tasks
from harness.board import Board
from harness.board.loosened import loosened, not_enforced
from harness.core.schema import Noise, Policy, Rule
from harness.gate import decide, promote
from harness.render import markdown


@pytest.fixture(autouse=True)
def _no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "names", list)


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return run_once(tmp_path / "board")


def policy(*rules: dict[str, Any], **fields: Any) -> Policy:
    return Policy(rules=[Rule(**({"task": "quiz"} | rule)) for rule in rules], **fields)


ACCURACY: dict[str, Any] = {"metric": "accuracy", "margin": 0.1}
LOOSER = {
    "a wider margin": (policy(ACCURACY | {"margin": 0.2}), "margin 0.1 before, 0.2 now"),
    "a lower tier": (policy(ACCURACY | {"tier": "guardrail"}), "critical before, guardrail now"),
    "a higher alpha": (policy(ACCURACY, alpha=0.2), "alpha 0.05 before, 0.2 now"),
    "more unscored": (policy(ACCURACY, max_unscored=0.3), "max_unscored 0.01 before, 0.3 now"),
    "less complete": (policy(ACCURACY, min_completeness=0.5), "min_completeness 0.995 before"),
    "other decoding": (
        policy(ACCURACY, allow_different=["decoding.max_tokens"]),
        "decoding.max_tokens may differ now",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("looser", "said"), LOOSER.values(), ids=LOOSER)
def test_a_looser_policy_is_marked_next_to_its_decision(
    loop: Loop, looser: Policy, said: str
) -> None:
    assert loosened(loop.board.rows()) == {}
    before = markdown.board(loop.board.rows())
    assert "looser" not in before.lower()
    third = make(answers(40), model="M2")
    loop.board.add_evaluation(third, "M2", "r")
    decision = decide(looser, {"quiz": loop.models[1]}, {"quiz": third})
    loop.board.add_decision(decision, "r", "incumbent")
    text = markdown.board(loop.board.rows())
    assert f"{decision.verdict} (incumbent, looser policy)" in text
    assert "Looser policy: M2 against the incumbent, run r: " in text
    assert said in text


def test_a_dropped_rule_is_looser_and_a_dropped_advisory_is_not(loop: Loop) -> None:
    rows = [{"accuracy": 1.0, "grade": 3.0, "refused": 0.0}] * 60
    models = [make(rows, model=f"N{k}") for k in range(2)]
    for k, made in enumerate(models):
        loop.board.add_evaluation(made, f"N{k}", "s")
    grade = {"metric": "grade", "margin": 0.5, "tier": "guardrail"}
    refused = {"metric": "refused", "margin": 0.1, "tier": "advisory"}
    sides = {"quiz": models[0]}, {"quiz": models[1]}
    loop.board.add_decision(decide(policy(ACCURACY, grade, refused), *sides), "s", "incumbent")
    assert loosened(loop.board.rows()) == {}
    loop.board.add_decision(decide(policy(ACCURACY, refused), *sides), "s", "anchor")
    loop.board.add_decision(decide(policy(ACCURACY, grade), *sides), "s", "sealed")
    (found,) = loosened(loop.board.rows()).values()
    assert found.differences == ["quiz grade: guardrail before, without a rule now"]


def test_a_stricter_policy_is_not_marked_and_noise_counts_by_tier(loop: Loop) -> None:
    sides = {"quiz": loop.models[0]}, {"quiz": loop.models[1]}
    noisy = Noise(sd=0.01, runs=9)
    for rule in (ACCURACY | {"margin": 0.05}, ACCURACY | {"margin": 0.05, "noise": noisy}):
        loop.board.add_decision(decide(policy(rule), *sides), "r", "sealed")
    assert loosened(loop.board.rows()) == {}
    quiet = decide(policy(ACCURACY | {"margin": 0.05}, alpha=0.01), *sides)
    loop.board.add_decision(quiet, "r", "sealed")
    (found,) = loosened(loop.board.rows()).values()
    assert found.differences == ["quiz accuracy: noise of runs 0.01 before, 0 now"]


def test_withdrawing_the_strict_decision_does_not_hide_the_change(loop: Loop) -> None:
    wide = decide(
        policy(ACCURACY | {"margin": 0.3}), {"quiz": loop.models[0]}, {"quiz": loop.models[1]}
    )
    loop.board.add_decision(wide, "r", "sealed")
    for row in loop.board.rows()[2:4]:
        loop.board.invalidate(row.digest, "a slip")
    assert "(sealed, looser policy)" in markdown.board(loop.board.rows())


def test_policies_for_other_tasks_do_not_compare(loop: Loop) -> None:
    poll = [make(answers(30), task="poll", model=f"P{k}") for k in range(2)]
    for k, made in enumerate(poll):
        loop.board.add_evaluation(made, f"P{k}", "s")
    wide = Policy(rules=[Rule(task="poll", metric="accuracy", margin=0.5)])
    loop.board.add_decision(decide(wide, {"poll": poll[0]}, {"poll": poll[1]}), "s", "incumbent")
    assert loosened(loop.board.rows()) == {}


def test_a_candidate_that_takes_over_without_promotion_is_told(tmp_path: Path) -> None:
    board = Board(tmp_path)
    models = [make(answers(right), model=f"M{right}") for right in (40, 20, 45)]
    for made, name in zip(models, ("M0", "M1", "M2"), strict=True):
        board.add_evaluation(made, name, "r")
    for before, after in ((0, 1), (1, 2)):
        decision = decide(POLICY, {"quiz": models[before]}, {"quiz": models[after]})
        board.add_decision(decision, "r", "incumbent")
        promotion = promote(decision, decision)
        board.add_promotion(promotion, f"M{after}", f"M{before}", "r")
    assert not_enforced(board.rows()) == {("r", "M1")}
    text = markdown.board(board.rows())
    assert "no, gate not enforced" in text
    assert "The gate was not enforced: M1 (run r) was not promoted" in text
