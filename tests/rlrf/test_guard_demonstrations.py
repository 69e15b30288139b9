"""The two runs of docs/guards.md: a guard that rolls a winner back, and one that lets one pass."""

from __future__ import annotations

from pathlib import Path

import pytest

import rlrf
from rlrf.result import GateVerdict, RunResult

CONFIGS = Path(__file__).parents[2] / "configs" / "guards"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def verdict_of(result: RunResult) -> GateVerdict:
    (iteration,) = result.iterations
    assert iteration.gate is not None
    won = iteration.gate.vs_incumbent.checks[0]
    assert (won.task, won.verdict, won.label) == ("mini_gsm8k", "pass", "improved")
    assert iteration.gate.promotion.ladder_z > 1
    return iteration.gate


def test_a_candidate_that_wins_its_benchmark_is_rolled_back_because_of_a_guard(
    tmp_path: Path,
) -> None:
    result = rlrf.train(CONFIGS / "forgets.yaml", tmp_path / "run")
    gate = verdict_of(result)
    assert gate.guards()["mini_just_eval overall"] == "fail"
    assert gate.vs_incumbent.verdict == "fail"
    assert gate.vs_incumbent.reasons[0].startswith("mini_just_eval overall (guardrail): fail")
    assert result.outcomes == {"M1": "rolled back"} and result.incumbent == "M0"


def test_a_guard_that_is_inconclusive_does_not_hold_a_candidate_up(tmp_path: Path) -> None:
    result = rlrf.train(CONFIGS / "keeps.yaml", tmp_path / "run")
    gate = verdict_of(result)
    assert gate.guards() == {"mini_just_eval overall": "inconclusive", "mini_trades acc": "pass"}
    assert result.outcomes == {"M1": "promoted"} and result.incumbent == "M1"
