"""The gate as an assertion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.build import build_evaluation, sample_of

import tasks
from harness.core.errors import UserError
from harness.core.schema import ModelRef, Policy, Rule, Sample
from harness.core.scored import ScoredEvaluation
from harness.evals import evaluation
from rlrf.testing import assert_no_regression

TASK = tasks.load("mini_gsm8k")
ITEMS = TASK.items("gate", None)[:300]


def answered(wrong: int) -> dict[str, ScoredEvaluation]:
    """The gate split of the embedded world, with `wrong` wrong answers."""
    samples = [
        sample_of(item, "#### 1000" if i < wrong else item.reference["answer"])
        for i, item in enumerate(ITEMS)
    ]
    return {TASK.name: built(samples)}


def built(samples: Sequence[Sample]) -> ScoredEvaluation:
    return build_evaluation(
        TASK,
        ITEMS,
        samples,
        model=ModelRef(id="recorded"),
        engine="recorded",
        decoding={},
        split="gate",
        prompt_digest="p",
    )


def saved(folder: Path, wrong: int) -> Path:
    evaluation.save(answered(wrong)[TASK.name], folder / str(wrong))
    return folder / str(wrong)


def test_no_regression_returns_the_decision(tmp_path: Path) -> None:
    decision = assert_no_regression(saved(tmp_path, 20), str(saved(tmp_path, 10)))
    assert decision.verdict == "pass"
    assert assert_no_regression(answered(20), answered(10)) == decision
    assert assert_no_regression(saved(tmp_path, 20), answered(10)) == decision


def test_a_regression_is_told_as_the_gate_tells_it() -> None:
    with pytest.raises(AssertionError, match=r"## Gate: fail(.|\n)*accuracy \(critical\): fail"):
        assert_no_regression(answered(10), answered(90))


def test_too_little_evidence_fails_unless_it_is_let_pass() -> None:
    with pytest.raises(AssertionError, match="## Gate: inconclusive"):
        assert_no_regression(answered(10), answered(25))
    let = assert_no_regression(answered(10), answered(25), inconclusive="pass")
    assert let.verdict == "inconclusive"
    with pytest.raises(AssertionError, match="Gate: fail"):
        assert_no_regression(answered(10), answered(90), inconclusive="pass")


def test_a_policy_is_a_value_a_file_or_a_name(tmp_path: Path) -> None:
    wide = Policy(rules=[Rule(task=TASK.name, metric="accuracy", margin=0.15)])
    file = tmp_path / "policy.yaml"
    file.write_text("rules: [{task: mini_gsm8k, metric: accuracy, margin: 0.15}]")
    for policy in (wide, file, str(file)):
        assert assert_no_regression(answered(10), answered(25), policy).policy == wide
    with pytest.raises(UserError, match="no evaluation of gsm8k"):
        assert_no_regression(answered(10), answered(10), "gsm8k")
