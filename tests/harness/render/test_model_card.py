"""Model cards: what is written is what the hub's own reader reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.boards import Loop, run_once
from helpers.quiz import make
from huggingface_hub import ModelCard

import tasks
from harness.board.ledger import EvaluationEntry
from harness.core.errors import UserError
from harness.render import model_card


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    monkeypatch.setattr(tasks, "names", list)
    return run_once(tmp_path)


def test_the_hub_reads_the_results(loop: Loop) -> None:
    rows = [{"accuracy": 1.0, "grade": 3.0 + i % 2} for i in range(6)]
    loop.board.add_evaluation(make(rows, task="poll", split="sealed"), "M1", "r")
    text = model_card.section(loop.board.rows(), "M1")
    card = ModelCard(text)
    assert card.data.model_name == "M1"
    found = {(r.dataset_type, r.dataset_split, r.metric_type): r for r in card.data.eval_results}
    assert found.keys() == {
        ("quiz", "gate", "accuracy"),
        ("poll", "sealed", "accuracy"),
        ("poll", "sealed", "grade"),
    }
    entry = loop.board.rows()[1].entry
    assert isinstance(entry, EvaluationEntry)
    one, result = found["quiz", "gate", "accuracy"], entry.evaluation.metrics["accuracy"]
    assert one.metric_value == result.mean
    assert one.metric_args["low"] == result.low
    assert one.metric_args["n"] == 60
    assert one.dataset_revision == entry.evaluation.dataset_digest
    assert "| quiz | gate | accuracy | 0.5833 | 0.4573 to 0.6994 | 60 |" in text


def test_a_name_that_is_markup_stays_text(loop: Loop) -> None:
    name = "M: [1] --- # <x>"
    loop.board.add_evaluation(make([{"accuracy": 1.0}] * 5, model="n"), name, "r")
    card = ModelCard(model_card.section(loop.board.rows(), name))
    assert card.data.model_name == name
    assert len(card.data.eval_results) == 1


def test_what_does_not_count_is_not_published(loop: Loop) -> None:
    loop.board.invalidate(loop.board.rows()[1].digest, "x")
    with pytest.raises(UserError, match="no number of 'M1'; it has M0"):
        model_card.section(loop.board.rows(), "M1")
