"""RLMEC on the embedded world: mathematics and question answering, from the shipped seed policy."""

from __future__ import annotations

import pytest

from harness.core.files import read_json
from rlrf.config import Config
from rlrf.loop import train
from rlrf.quickstart import M0
from rlrf.rlmec.rewriter import Agreement


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_improves_mathematics_and_question_answering(tmp_path):
    config = Config.model_validate(
        {
            "method": "rlmec",
            "model": str(M0),
            "iterations": 1,
            "tasks": [
                {"name": "mini_gsm8k", "prompts": 30},
                {"name": "mini_factscore", "prompts": 20},
            ],
            "explore": {"n": 3, "temperature": 0.7, "top_p": 0.95},
            "rlmec": {
                "held_out": 0.2,
                "train": {"learning_rate": 1e-3, "epochs": 1, "batch_size": 16,
                          "gradient_accumulation": 1, "max_length": 480},
            },
            "train": {"learning_rate": 3e-4, "epochs": 2, "batch_size": 16, "max_length": 400},
            "gate": {"slice": 60, "sealed": 60},
            "engine": {"device": "cpu"},
        }
    )  # fmt: skip
    result = train(config, tmp_path / "run")
    (iteration,) = result.iterations
    assert set(iteration.lessons.by_task) == {"mini_gsm8k", "mini_factscore"}
    agreement = Agreement.model_validate(
        read_json(tmp_path / "run/iter_1/agreement/agreement.json")
    )
    assert agreement.by_task["mini_gsm8k"]["repaired"].n == 6  # a fifth of the items
    assert iteration.lessons.refinements_better > iteration.lessons.refinements_worse
    before, after = (
        {name: found.mean for name, found in model.metrics.items()} for model in result.sealed
    )
    assert after["mini_gsm8k accuracy"] > before["mini_gsm8k accuracy"] + 0.1
    assert after["mini_factscore factscore"] > before["mini_factscore factscore"] - 0.02
