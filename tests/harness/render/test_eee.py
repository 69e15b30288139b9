"""Every Eval Ever: what is exported passes the store's own validator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.boards import run_once
from helpers.quiz import make

import tasks
from harness.board import Board
from harness.core.errors import UserError
from harness.core.files import write_json
from harness.core.schema import JudgeRef, Metric, ModelRef
from harness.render import eee

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / ".venv-eee"
REFERENCE = ROOT / "leaderboards" / "reference"


def validate(folder: Path) -> list[dict[str, Any]]:
    """What the package `every-eval-ever` says of the files under `folder`."""
    if not (PACKAGE / "every_eval_ever").is_dir():
        pytest.skip(
            "every-eval-ever is not in .venv-eee: pip install --no-deps --ignore-requires-python "
            "--target .venv-eee every-eval-ever==0.3.0"
        )
    done = subprocess.run(
        [sys.executable, "-m", "every_eval_ever.validate", "--format", "json", "data/*/*/*/*.json"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=False,
    )
    reports: list[dict[str, Any]] = json.loads(done.stdout)
    return reports


def written(logs: dict[str, dict[str, Any]], folder: Path) -> Path:
    for path, log in logs.items():
        write_json(folder / path, log)
    return folder


def test_the_reference_board_passes_the_stores_own_validator(tmp_path: Path) -> None:
    shutil.copytree(REFERENCE, tmp_path / "board")
    rows = Board(tmp_path / "board").rows()
    logs = eee.board(rows, "A Lab & Co.", 1_760_000_000)
    reports = validate(written(logs, tmp_path / "out"))
    assert len(reports) == len(logs) == sum(row.entry.kind == "evaluation" for row in rows)
    for report in reports:
        assert report["valid"]
        assert report["errors"] == report["warnings"] == []


def test_judges_missing_numbers_and_odd_names_pass_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "names", list)
    board = Board(tmp_path / "board")
    rows: list[dict[str, Any]] = [{"accuracy": 1.0, "grade": "no judge", "refused": 0.0}]
    board.add_evaluation(make(rows, judge=JudgeRef(id="j"), estimator="k=5"), "../../etc", "r")
    hub = ModelRef(id="Qwen/Qwen3-0.6B", digest=None)
    wide = {"facts": Metric(name="facts", kind="continuous", low=None, high=None, primary=True)}
    facts = make([{"facts": 7.5}, {"facts": 3.0}], definitions=wide).evaluation
    scored = make([{"facts": 7.5}, {"facts": 3.0}], definitions=wide)
    changed = facts.model_copy(update={"model": hub})
    board.add_evaluation(type(scored)(changed, scored.scores), "Q", "r")
    logs = eee.board(board.rows(), "Lab", 1)
    odd, known = logs.items()
    assert odd[0].startswith("data/quiz/Lab/etc/")
    assert known[0].startswith("data/quiz/Qwen/Qwen3-0.6B/")
    metrics = {r["metric_config"]["metric_name"]: r for r in odd[1]["evaluation_results"]}
    assert metrics.keys() == {"accuracy", "refused"}
    assert metrics["refused"]["metric_config"]["lower_is_better"]
    assert "confidence_interval" not in metrics["accuracy"]["score_details"]["uncertainty"]
    (seven,) = known[1]["evaluation_results"]
    assert seven["metric_config"]["max_score"] == "Infinity"
    for report in validate(written(logs, tmp_path / "out")):
        assert report["valid"], report
        assert report["warnings"] == []


def test_numbers_are_those_of_the_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "names", list)
    loop = run_once(tmp_path)
    logs = list(eee.board(loop.board.rows(), "Lab", 1).values())
    (result,) = logs[1]["evaluation_results"]
    recorded = loop.models[1].evaluation.metrics["accuracy"]
    assert result["score_details"]["score"] == recorded.mean
    interval = result["score_details"]["uncertainty"]["confidence_interval"]
    assert (interval["lower"], interval["upper"]) == (recorded.low, recorded.high)
    assert logs[0]["evaluation_id"] != logs[1]["evaluation_id"]
    assert eee.board(loop.board.rows(), "Lab", 1) == dict(
        zip(eee.board(loop.board.rows(), "Lab", 1), logs, strict=True)
    )


def test_nothing_to_export_is_a_sentence() -> None:
    with pytest.raises(UserError, match="no evaluation that could be exported"):
        eee.board([], "Lab", 1)
