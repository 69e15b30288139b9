"""What earlier versions wrote is read, or refused with the way out; what later ones will, refused.

`tests/old/0.1.0` was written by that version: an evaluation, and parts of a run with its board.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

import tasks
from harness.board import Board
from harness.board.ledger import Row
from harness.core.errors import UserError
from harness.core.files import parse
from harness.core.schema import Decision, Evaluation, Policy, Rule
from harness.evals import evaluation
from harness.evals.evaluate import EvalOptions, evaluate
from harness.evals.scoring import dataset_digest
from harness.gate import plan
from harness.gate.plan import Plan
from harness.gate.planned_rule import AssumedSpread
from harness.judges.cache import Cache
from rlrf.cli import run
from rlrf.models.feedback.model import FeedbackManifest
from rlrf.models.reward.model import RewardManifest
from rlrf.pairs import Pair
from rlrf.run import open_run
from rlrf.status import status

OLD = Path(__file__).parents[1] / "old" / "0.1.0"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return shutil.copytree(OLD, tmp_path / "old")


# ---- 0.1.0


def test_an_old_board_is_sound_and_can_be_added_to(old: Path, tmp_path: Path) -> None:
    before = (old / "run" / "board" / "ledger.jsonl").read_bytes()
    assert run(["board", "verify", str(old / "run" / "board")]) == 0
    assert run(["board", "render", str(old / "run" / "board")]) == 0
    added = ["board", "add", str(old / "run" / "board"), str(old / "evaluation"), "--name", "again"]
    assert run(added) == 0
    assert run(["board", "verify", str(old / "run" / "board")]) == 0
    assert (old / "run" / "board" / "ledger.jsonl").read_bytes().startswith(before)


def test_an_old_evaluation_gets_its_items_back(old: Path, tmp_path: Path) -> None:
    found = evaluation.load(old / "evaluation")["mini_gsm8k"]
    assert found.evaluation.code_version == "0.1.0"
    assert dataset_digest(found.items) == found.evaluation.dataset_digest
    assert {item.digest for item in found.items} == {sample.item for sample in found.samples}
    assert run(["gate", str(old / "evaluation"), str(old / "evaluation")]) == 2
    out = tmp_path / "scored"
    scored = ["score", "mini_gsm8k", str(old / "evaluation" / "mini_gsm8k"), "--out", str(out)]
    assert run(scored) == 0
    again = evaluation.load(out)["mini_gsm8k"]
    assert again.evaluation.metrics["accuracy"] == found.evaluation.metrics["accuracy"]
    assert (out / "mini_gsm8k" / evaluation.ITEMS).is_file()


def test_an_old_evaluation_whose_items_are_gone_is_refused_with_the_way_out(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_all", dict)
    with pytest.raises(UserError, match=r"kept no items.*Evaluate the model again.*==0\.1\.0"):
        evaluation.load(old / "evaluation")


def test_a_recent_evaluation_without_items_is_not_taken_for_an_old_one(old: Path) -> None:
    path = old / "evaluation" / "mini_gsm8k" / evaluation.EVALUATION
    path.write_text(path.read_text().replace('"code_version": "0.1.0"', '"code_version": "0.2.0"'))
    with pytest.raises(UserError, match="no file"):
        evaluation.load(old / "evaluation")


def test_a_new_evaluation_takes_the_place_of_an_old_one(old: Path, tiny_model: Path) -> None:
    from harness.engines.hf import HFEngine

    waiting = old / "evaluation" / ".mini_gsm8k.generated"
    waiting.mkdir()
    (waiting / evaluation.GENERATION).write_text('{"generation": {"code_version": "0.1.0"}}')
    engine = HFEngine(tiny_model)
    found = evaluate(
        engine, ["mini_gsm8k"], EvalOptions(limit=2, max_tokens=2), out=old / "evaluation"
    )
    assert evaluation.load(old / "evaluation") == found


def test_an_old_run_says_which_version_reads_it(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(old / "run").state == "finished"
    assert run(["report", str(old / "run")]) == 3
    said = capsys.readouterr().err
    assert "is a run of version 0.1.0 of this program" in said
    assert "rlrf-harness==0.1.0" in said and "--fresh" in said
    common = {"config": "c", "code": "0.2.0"}
    refused = pytest.raises(UserError, match=r"version of this program \(0.1.0, .*--fresh")
    with refused, open_run(old / "run", common):
        pass
    manifest = old / "run" / "iter_1" / "pairs" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"place": "here"}))
    with pytest.raises(UserError, match=r"of version 0\.1\.0 .*manifest\.json: place"):
        status(old / "run")


def test_old_pairs_are_still_pairs(old: Path) -> None:
    lines = (old / "run" / "iter_1" / "pairs" / "pairs.jsonl").read_text().splitlines()
    assert [parse(Pair, json.loads(line), "a line") for line in lines]


# ---- versions to come


def test_what_a_later_version_wrote_is_refused_with_the_way_out(
    old: Path, tiny_model: Path
) -> None:
    path = old / "evaluation" / "mini_gsm8k" / evaluation.EVALUATION
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"schema_version": 2, "aura": 3}))
    said = r"evaluation\.json: schema_version: schema version 2, and this program reads 1; install"
    with pytest.raises(UserError, match=said):
        evaluation.load(old / "evaluation")
    from harness.engines.hf import HFEngine

    with pytest.raises(UserError, match="schema version 2"):
        evaluate(HFEngine(tiny_model), ["mini_gsm8k"], EvalOptions(limit=2), out=old / "evaluation")
    assert "aura" in path.read_text()

    ledger = old / "run" / "board" / "ledger.jsonl"
    ledger.write_bytes(
        ledger.read_bytes().replace(b'"schema_version":1}\n', b'"schema_version":2}\n')
    )
    with pytest.raises(UserError, match="install the version that wrote the board"):
        Board(old / "run" / "board").rows()


@pytest.mark.parametrize(
    "kind", [Evaluation, Decision, Row, Plan, RewardManifest, FeedbackManifest]
)
def test_every_record_that_is_stored_alone_knows_its_version(kind: type) -> None:
    for version in (0, 2):
        with pytest.raises(UserError, match=f"schema version {version}, .* install the version"):
            parse(kind, {"schema_version": version}, "it")


def test_a_plan_of_a_later_version_is_refused_by_the_gate(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = Policy(rules=[Rule(task="mini_gsm8k", metric="accuracy", margin=0.9)])
    made = plan.make_plan(
        policy, evaluation.load(old / "evaluation"), assumed=AssumedSpread(discordance=0.1)
    )
    later = made.model_dump(mode="json") | {"schema_version": 2}
    (tmp_path / "plan.json").write_text(json.dumps(later))
    folder = str(old / "evaluation")
    assert run(["gate", "--plan", str(tmp_path / "plan.json"), folder, folder]) == 3
    assert "schema version 2, and this program reads 1" in capsys.readouterr().err


def test_a_cache_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "judge.sqlite"
    Cache(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 2")
    with pytest.raises(UserError, match="Name another file"):
        Cache(path)
