"""Boards made by hand: two models on the quiz, one promoted over the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.board import Board
from harness.core.schema import Decision, Policy, Promotion, Rule
from harness.gate import decide, promote
from helpers.quiz import make

POLICY = Policy(rules=[Rule(task="quiz", metric="accuracy", margin=0.1)])


@dataclass(frozen=True)
class Loop:
    """Two models on a board, one promoted over the other."""

    board: Board
    models: list[Any]
    decision: Decision
    promotion: Promotion


def answers(right: int, n: int = 60) -> list[dict[str, float]]:
    return [{"accuracy": float(i < right)} for i in range(n)]


def run_once(folder: Path, run: str = "r") -> Loop:
    board = Board(folder)
    models = [make(answers(20 + 15 * k), model=f"M{k}") for k in range(2)]
    for k, scored in enumerate(models):
        board.add_evaluation(scored, name=f"M{k}", run=run)
    decision = decide(POLICY, {"quiz": models[0]}, {"quiz": models[1]})
    promotion = promote(decision, decision)
    board.add_decision(decision, run, "incumbent")
    board.add_decision(decision, run, "anchor")
    board.add_promotion(promotion, candidate="M1", incumbent="M0", run=run)
    return Loop(board, models, decision, promotion)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
