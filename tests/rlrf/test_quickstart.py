"""The shipped seed policy and the main job, as a stranger runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rlrf.quickstart as package
from harness.board import Board
from harness.board.ledger import DecisionEntry, EvaluationEntry, PromotionEntry
from harness.core.errors import UserError

MIB = 2**20


def test_the_seed_policy_is_small_and_plain_transformers() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = package.seed_policy()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8 * MIB
    assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "llama"
    question = [{"role": "user", "content": "Name two birds for a child and a rainy day."}]
    asked = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    asked.pop("token_type_ids", None)
    said = model.generate(**asked, max_new_tokens=60)
    answer = tokenizer.decode(said[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "because" in answer or "is" in answer


def test_a_changed_seed_policy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tmp_path / "m0"
    shutil.copytree(package.M0, changed)
    weights = changed / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    monkeypatch.setattr(package, "M0", changed)
    with pytest.raises(UserError, match="make m0"):
        package.quickstart(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_main_job_improves_on_items_that_training_never_saw(tmp_path: Path) -> None:
    rlrf = Path(sys.executable).parent / "rlrf"
    command = [rlrf, "quickstart", "--out", "run", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    models = {model["name"]: model["metrics"] for model in result["sealed"]}
    assert list(models) == ["M0", "M1", "M2"]
    assert result["incumbent"] == "M2"

    def gain(task: str, metric: str) -> float:
        before, after = (models[name][f"{task} {metric}"] for name in ("M0", "M2"))
        assert before["n"] == after["n"] == 1000
        return float(after["mean"] - before["mean"])

    assert gain("mini_gsm8k", "accuracy") >= 0.09
    assert gain("mini_factscore", "precision") >= 0.08
    assert gain("mini_just_eval", "overall") >= 0

    board = Board(tmp_path / "leaderboards" / "quickstart")
    assert board.verify() == []
    entries = [row.entry for row in board.rows()]
    assert sum(isinstance(entry, PromotionEntry) for entry in entries) == 2
    assert sum(isinstance(entry, DecisionEntry) for entry in entries) == 6
    # Two slices of the gate (M0 and M1; M0, M1 and M2) and the sealed split, three tasks each.
    assert sum(isinstance(entry, EvaluationEntry) for entry in entries) == (2 + 3 + 3) * 3

    # Started again, it repeats nothing and says the same.
    ledger = (tmp_path / "leaderboards" / "quickstart" / "ledger.jsonl").read_bytes()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) == result
    assert (tmp_path / "leaderboards" / "quickstart" / "ledger.jsonl").read_bytes() == ledger
