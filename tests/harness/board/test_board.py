"""The ledger: what is put on it stays, what is changed is found, a killed append is mended."""

from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.boards import POLICY, Loop, answers, contents, run_once
from helpers.quiz import METRICS, make

import tasks
from harness.board import Board
from harness.board.ledger import DecisionEntry, EvaluationEntry, PromotionEntry, Row
from harness.core.errors import UserError
from harness.core.files import jsonl_bytes, records_digest
from harness.core.schema import Alarm, MetricResult, Score, digest
from harness.gate import decide, with_alarms
from harness.gate.decision import SequentialOrder
from harness.stats.intervals import aggregate, summarize
from tasks.task import Task


@pytest.fixture(autouse=True)
def _no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "names", list)


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return run_once(tmp_path / "board")


def test_what_is_put_on_the_board_is_there(loop: Loop) -> None:
    rows = loop.board.rows()
    kinds = [row.entry.kind for row in rows]
    assert kinds == ["evaluation", "evaluation", "decision", "decision", "promotion"]
    assert loop.board.verify() == []
    first, *_, last = (row.entry for row in rows)
    assert isinstance(first, EvaluationEntry)
    assert first.evaluation == loop.models[0].evaluation
    assert isinstance(last, PromotionEntry)
    assert last.promotion == loop.promotion
    assert last.promotion.promoted


def test_the_chain_is_the_documented_one(loop: Loop) -> None:
    previous = "0" * 64
    for row in loop.board.rows():
        assert row.previous == previous
        previous = digest(row.model_dump(mode="json", exclude={"digest"}))
        assert row.digest == previous
    assert (loop.board.folder / "HEAD").read_text() == previous + "\n"


def test_the_answers_are_not_on_the_board(loop: Loop) -> None:
    entry = loop.board.rows()[0].entry
    assert isinstance(entry, EvaluationEntry)
    kept = loop.board.scores(entry)
    assert [s.values for s in kept] == [s.values for s in loop.models[0].scores]
    assert not any(s.details for s in kept)


def test_the_same_run_again_adds_nothing(loop: Loop) -> None:
    before = contents(loop.board.folder)
    run_once(loop.board.folder)
    assert contents(loop.board.folder) == before
    again = loop.board.add_decision(loop.decision, "r", "anchor")
    assert again == loop.board.rows()[3].digest


def test_another_run_may_find_the_same(loop: Loop) -> None:
    run_once(loop.board.folder, run="s")
    assert len(loop.board.rows()) == 10
    assert loop.board.verify() == []


def test_two_boards_of_one_run_are_equal(loop: Loop, tmp_path: Path) -> None:
    run_once(tmp_path / "other")
    assert contents(tmp_path / "other") == contents(loop.board.folder)


def test_a_board_that_is_not_there(tmp_path: Path) -> None:
    board = Board(tmp_path / "none")
    assert board.rows() == []
    with pytest.raises(UserError, match="There is no board"):
        board.verify()
    assert not board.folder.exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="Cannot read"):
        Board(tmp_path / "file").rows()


# What does not follow is not let in


def test_scores_that_are_not_the_evaluations_are_refused(tmp_path: Path) -> None:
    one, other = make(answers(10)), make(answers(20))
    mixed = type(one)(one.evaluation, other.scores)
    with pytest.raises(UserError, match="scores_digest differs"):
        Board(tmp_path).add_evaluation(mixed, "M0", "r")
    assert Board(tmp_path).rows() == []


def test_metrics_that_the_scores_do_not_give_are_refused(tmp_path: Path) -> None:
    better = {"accuracy": MetricResult(mean=0.9, n=60)}
    with pytest.raises(UserError, match=r"accuracy is recorded as mean=0\.9"):
        Board(tmp_path).add_evaluation(make(answers(10), metrics=better), "M0", "r")


def test_a_decision_needs_its_evaluations(tmp_path: Path) -> None:
    one, other = make(answers(10)), make(answers(20))
    decision = decide(POLICY, {"quiz": one}, {"quiz": other})
    board = Board(tmp_path)
    board.add_evaluation(one, "M0", "r")
    with pytest.raises(UserError, match="not on the board; add it first"):
        board.add_decision(decision, "r", "incumbent")
    assert len(board.rows()) == 1


def test_a_decision_that_the_gate_would_not_make_is_refused(loop: Loop) -> None:
    kinder = loop.decision.model_copy(update={"verdict": "fail"})
    with pytest.raises(UserError, match="the gate decides otherwise on these scores: pass"):
        loop.board.add_decision(kinder, "r", "incumbent")


def test_a_promotion_needs_its_decisions_and_names(loop: Loop) -> None:
    board, promotion = loop.board, loop.promotion
    with pytest.raises(UserError, match="under no name 'M7'"):
        board.add_promotion(promotion, candidate="M7", incumbent="M0", run="r")
    other = promotion.model_copy(update={"vs_anchor": "0" * 64})
    with pytest.raises(UserError, match="a decision that it was made from is not on the board"):
        board.add_promotion(other, candidate="M1", incumbent="M0", run="r")
    forged = promotion.model_copy(update={"promoted": False})
    with pytest.raises(UserError, match="its decisions give otherwise: promoted is True"):
        board.add_promotion(forged, candidate="M1", incumbent="M0", run="r")


def test_a_decision_with_alarms_is_recomputed_with_what_they_do(loop: Loop) -> None:
    alarm = Alarm(kind="length", task="quiz", message="answers doubled", candidate=2.0)
    strict = POLICY.model_copy(update={"alarms": "block"})
    sides = ({"quiz": loop.models[0]}, {"quiz": loop.models[1]})
    held = with_alarms(decide(strict, *sides), [alarm])
    assert held.verdict == "inconclusive"
    loop.board.add_decision(held, "r", "incumbent")
    assert loop.board.verify() == []
    forged = held.model_copy(update={"verdict": "pass"})
    with pytest.raises(UserError, match="the gate decides otherwise"):
        loop.board.add_decision(forged, "r", "anchor")


def test_a_gate_that_may_stop_early_is_refused_with_the_reason(loop: Loop) -> None:
    order = sorted({score.item for score in loop.models[0].scores})
    sides = ({"quiz": loop.models[0]}, {"quiz": loop.models[1]})
    early = decide(POLICY, *sides, sequential=SequentialOrder({"quiz": order}))
    with pytest.raises(UserError, match="cannot be recomputed without its plan's order"):
        loop.board.add_decision(early, "r", "incumbent")


# What is changed is found


def test_any_changed_byte_is_found(loop: Loop) -> None:
    folder = loop.board.folder
    rng = random.Random(0)
    good = contents(folder)
    assert len(good) == 4
    for name, data in good.items():
        with open(folder / name, "r+b", buffering=0) as file:
            for _ in range(80):
                at = rng.randrange(len(data))
                os.pwrite(file.fileno(), bytes([data[at] ^ rng.randrange(1, 256)]), at)
                assert loop.board.verify(), (name, at)
                os.pwrite(file.fileno(), data[at : at + 1], at)
    assert loop.board.verify() == []


def test_any_lost_or_doubled_byte_is_found(loop: Loop) -> None:
    folder = loop.board.folder
    rng = random.Random(1)
    for name, data in contents(folder).items():
        for _ in range(20):
            at = rng.randrange(len(data))
            for changed in (data[:at] + data[at + 1 :], data[:at] + data[at : at + 1] + data[at:]):
                (folder / name).unlink()
                (folder / name).write_bytes(changed)
                assert loop.board.verify(), (name, at)
        (folder / name).write_bytes(data)


def test_a_file_cut_short_is_found(loop: Loop) -> None:
    folder = loop.board.folder
    for name, data in contents(folder).items():
        for at in {0, 1, len(data) // 2, len(data) - 2, len(data) - 1}:
            (folder / name).write_bytes(data[:at])
            assert loop.board.verify(), (name, at)
        (folder / name).unlink()
        assert loop.board.verify(), name
        (folder / name).write_bytes(data)


def test_rows_taken_away_moved_or_repeated_are_found(loop: Loop) -> None:
    path = loop.board.folder / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    orders: list[Sequence[int]] = [
        (1, 2, 3, 4),
        (0, 2, 3, 4),
        (0, 1, 2),
        (),
        (1, 0, 2, 3, 4),
        (0, 1, 2, 4, 3),
        (0, 1, 2, 3, 4, 4),
        (0, 0, 1, 2, 3, 4),
    ]
    for order in orders:
        path.write_bytes(b"".join(lines[i] for i in order))
        assert loop.board.verify(), order
    for cut in (3, 2, 1):
        path.write_bytes(b"".join(lines[:cut]))
        assert "rows were taken away" in loop.board.verify()[0]


def test_files_swapped_are_found(loop: Loop) -> None:
    one, other = sorted((loop.board.folder / "samples").iterdir())
    shutil.move(one, one.with_suffix(".kept"))
    shutil.move(other, one)
    shutil.move(one.with_suffix(".kept"), other)
    assert len(loop.board.verify()) >= 2
    assert "was changed. Restore it from a copy" in loop.board.verify()[0]


def forge(board: Board, change: Callable[[dict[str, Any]], None]) -> None:
    """Change rows and make chain and HEAD right again: only recomputing can tell."""
    previous, lines = "0" * 64, []
    for row in board.rows():
        value = row.model_dump(mode="json", exclude={"digest"}) | {"previous": previous}
        change(value["entry"])
        previous = digest(value)
        lines.append(value | {"digest": previous})
    (board.folder / "ledger.jsonl").write_bytes(jsonl_bytes(lines))
    (board.folder / "HEAD").write_text(previous + "\n")


def test_a_row_with_a_key_twice_is_found_though_the_chain_is_right(loop: Loop) -> None:
    """A program that keeps the first of two keys would read another name than this one."""
    ledger = loop.board.folder / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines()
    rest = lines[-1].split(b",", 1)[1].replace(b'"candidate":', b'"candidate":"M9","candidate":')
    last = hashlib.sha256(b"{" + rest).hexdigest()
    lines[-1] = b'{"digest":"' + last.encode() + b'",' + rest
    ledger.write_bytes(b"".join(line + b"\n" for line in lines))
    (loop.board.folder / "HEAD").write_text(last + "\n")
    (problem,) = loop.board.verify()
    assert "'candidate' is there twice" in problem


def test_a_forged_metric_is_found_though_the_chain_is_right(loop: Loop) -> None:
    def better(entry: dict[str, Any]) -> None:
        if entry["kind"] == "evaluation":
            entry["evaluation"]["metrics"]["accuracy"]["mean"] += 1e-6

    forge(loop.board, better)
    problems = loop.board.verify()
    assert "line 1: accuracy is recorded as" in problems[0]
    assert "line 3: an evaluation of quiz that it was made from is not on the board" in problems[2]


@pytest.mark.parametrize(
    "field", ["verdict", "delta", "low", "p_value", "label", "margin", "candidate_mean"]
)
def test_a_forged_check_is_found_though_the_chain_is_right(loop: Loop, field: str) -> None:
    def change(entry: dict[str, Any]) -> None:
        if entry["kind"] == "decision":
            check = entry["decision"]["checks"][0]
            known = {"verdict": "fail", "label": "regressed"}
            check[field] = known[field] if field in known else check[field] + 1e-6

    forge(loop.board, change)
    assert any("line 3: the gate decides otherwise" in p for p in loop.board.verify())


def test_a_forged_policy_is_found(loop: Loop) -> None:
    def change(entry: dict[str, Any]) -> None:
        if entry["kind"] == "decision":
            entry["decision"]["policy"]["rules"][0]["margin"] = 0.3

    forge(loop.board, change)
    assert loop.board.verify()


def test_a_forged_promotion_is_found(loop: Loop) -> None:
    def change(entry: dict[str, Any]) -> None:
        if entry["kind"] == "promotion":
            entry["promotion"]["ladder_z"] += 0.5

    forge(loop.board, change)
    assert "line 5: its decisions give otherwise" in loop.board.verify()[0]


def test_a_row_of_a_newer_program_says_so(loop: Loop) -> None:
    path = loop.board.folder / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"schema_version":1}\n', b'"schema_version":2}\n'))
    with pytest.raises(UserError, match=r"damaged.*schema version 2, this program reads 1"):
        loop.board.rows()


def test_nothing_is_appended_to_a_damaged_board(loop: Loop) -> None:
    path = loop.board.folder / "ledger.jsonl"
    damaged = path.read_bytes().replace(b"M0", b"MO", 1)
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"damaged.*line 1: the row was changed.*from a copy"):
        loop.board.add_evaluation(make(answers(5)), "M2", "r")
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("text", [b"\n", b"[]\n", b"{}\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n"])
def test_a_ledger_that_is_no_ledger(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(text)
    (problem,) = Board(tmp_path).verify()
    assert problem.startswith("ledger.jsonl, line 1")


def test_a_row_of_100_mb_is_refused_without_being_read(loop: Loop) -> None:
    with open(loop.board.folder / "ledger.jsonl", "r+b") as file:
        file.truncate(100 * 1024**2)
    (problem,) = loop.board.verify()
    assert "line 6: longer than 64 MiB" in problem
    with pytest.raises(UserError, match="longer than 64 MiB"):
        loop.board.rows()


def test_a_ledger_of_many_gigabytes_is_refused_without_being_read(loop: Loop) -> None:
    with open(loop.board.folder / "ledger.jsonl", "r+b") as file:
        file.truncate(5 * 1024**3)
    with pytest.raises(UserError, match=r"larger than 4 GiB.*not read. Check what it holds"):
        loop.board.verify()


def test_scores_that_unpack_without_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.board import board as module

    board = Board(tmp_path)
    board.add_evaluation(make(answers(20)), "M0", "r")
    entry = board.rows()[0].entry
    assert isinstance(entry, EvaluationEntry)
    monkeypatch.setattr(module, "MAX_SCORES_BYTES", 1000)
    with pytest.raises(UserError, match=r"unpacks to more than 1,000 bytes .*not read"):
        board.scores(entry)
    assert "unpacks to more than" in board.verify()[0]


NO_SCORES = {
    "not packed": b"no gzip",
    "spoiled": gzip.compress(b"{}\n" * 100)[:12] + b"\xff" * 20,
    "a list": gzip.compress(b"[1]\n"),
    "no JSON": gzip.compress(b"{\n"),
}


@pytest.mark.parametrize("packed", NO_SCORES.values(), ids=NO_SCORES)
def test_scores_that_are_no_scores_are_a_sentence(tmp_path: Path, packed: bytes) -> None:
    board = Board(tmp_path)
    board.add_evaluation(make(answers(20)), "M0", "r")
    name = hashlib.sha256(packed).hexdigest()
    (tmp_path / "samples" / f"{name}.jsonl.gz").write_bytes(packed)
    forge(board, lambda entry: entry.update(samples=name))
    (problem,) = board.verify()
    assert problem.startswith("ledger.jsonl, line 1: ")


@pytest.mark.parametrize("number", [b"NaN", b"1e999"])
def test_a_forged_number_without_end_is_found(tmp_path: Path, number: bytes) -> None:
    board = Board(tmp_path)
    board.add_evaluation(make(answers(20)), "M0", "r")
    text = (
        (tmp_path / "ledger.jsonl")
        .read_bytes()
        .replace(b'"temperature":0', number.join([b'"temperature":', b""]))
    )
    sealed = hashlib.sha256(b"{" + text[77:-1]).hexdigest()
    (tmp_path / "ledger.jsonl").write_bytes(text[:11] + sealed.encode() + text[75:])
    (tmp_path / "HEAD").write_text(sealed + "\n")
    (problem,) = board.verify()
    assert problem.startswith("ledger.jsonl, line 1: ")


def test_a_ledger_of_an_older_program_is_read_though_records_have_gained_fields(
    loop: Loop,
) -> None:
    # Written anew as by a program whose evaluations had no `judge`: nothing else is different.
    identities: dict[str, str] = {}
    previous, lines = "0" * 64, []
    for row in loop.board.rows():
        value = row.model_dump(mode="json", exclude={"digest"}) | {"previous": previous}
        text = json.dumps(value["entry"])
        for new, old in identities.items():
            text = text.replace(new, old)
        value["entry"] = json.loads(text)
        if value["entry"]["kind"] == "evaluation":
            now = digest(value["entry"]["evaluation"])
            del value["entry"]["evaluation"]["judge"]
            identities[now] = digest(value["entry"]["evaluation"])
        if isinstance(row.entry, DecisionEntry):
            identities[digest(row.entry.decision)] = digest(value["entry"]["decision"])
        previous = digest(value)
        lines.append(value | {"digest": previous})
    (loop.board.folder / "ledger.jsonl").write_bytes(jsonl_bytes(lines))
    (loop.board.folder / "HEAD").write_text(previous + "\n")
    assert loop.board.verify() == []


# A killed append


def test_an_append_killed_at_any_byte_is_mended_by_the_next(tmp_path: Path) -> None:
    whole = run_once(tmp_path / "whole")
    good = contents(whole.board.folder)
    lines = good["ledger.jsonl"].splitlines(keepends=True)
    written = b"".join(lines[:-1])
    head = (json.loads(lines[-2])["digest"] + "\n").encode()
    board = Board(tmp_path / "killed")
    shutil.copytree(whole.board.folder, board.folder)
    rng = random.Random(0)
    for cut in [1, len(lines[-1]) - 1, len(lines[-1]), *rng.sample(range(len(lines[-1])), 4)]:
        (board.folder / "ledger.jsonl").write_bytes(written + lines[-1][:cut])
        (board.folder / "HEAD").write_bytes(head)
        if cut:
            (problem,) = board.verify()
            assert "an append was interrupted" in problem
        assert len(board.rows()) == (5 if cut == len(lines[-1]) else 4)
        board.add_promotion(whole.promotion, candidate="M1", incumbent="M0", run="r")
        assert contents(board.folder) == good
        assert board.verify() == []


def test_the_first_append_killed(tmp_path: Path) -> None:
    scored = make(answers(10))
    whole = Board(tmp_path / "whole")
    whole.add_evaluation(scored, "M0", "r")
    good = contents(whole.folder)
    for cut in (0, 10, len(good["ledger.jsonl"])):
        board = Board(tmp_path / str(cut))
        shutil.copytree(whole.folder / "samples", board.folder / "samples")
        (board.folder / "ledger.jsonl").write_bytes(good["ledger.jsonl"][:cut])
        board.add_evaluation(scored, "M0", "r")
        assert contents(board.folder) == good


def _append_many(folder: str, worker: int, evaluations: list[Any]) -> None:
    board = Board(Path(folder))
    for k, scored in enumerate(evaluations):
        board.add_evaluation(scored, f"M{worker}.{k}", "r")


def test_processes_may_append_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    made = [make(answers(k), model=f"m{k}") for k in range(8)]
    workers = [
        context.Process(target=_append_many, args=(str(tmp_path), worker, made))
        for worker in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    board = Board(tmp_path)
    names = {row.entry.name for row in board.rows() if isinstance(row.entry, EvaluationEntry)}
    assert names == {f"M{worker}.{k}" for worker in range(4) for k in range(8)}
    assert len(board.rows()) == 32
    assert board.verify() == []


def test_a_killed_process_leaves_a_board_that_goes_on(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    made = [make(answers(k % 60), model=f"m{k}") for k in range(60)]
    board = Board(tmp_path)
    for _ in range(3):
        before = len(board.rows())
        worker = context.Process(target=_append_many, args=(str(tmp_path), 0, made))
        worker.start()
        while worker.is_alive() and len(board.rows()) < before + 5:
            pass
        worker.kill()
        worker.join(60)
        assert all("an append was interrupted" in problem for problem in board.verify())
    _append_many(str(tmp_path), 0, made[:20])
    assert [p for p in board.verify() if "interrupted" not in p] == []
    board.add_evaluation(make(answers(1), model="last"), "last", "r")
    assert board.verify() == []


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="Cannot write to the board"):
        Board(tmp_path / "file" / "board").add_evaluation(make(answers(1)), "M0", "r")


def test_a_full_disk_is_a_sentence_and_loses_nothing(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(loop.board.folder)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left in"):
        loop.board.add_evaluation(make(answers(33), model="M2"), "M2", "r")
    monkeypatch.undo()
    monkeypatch.setattr(tasks, "names", list)
    assert {k: v for k, v in contents(loop.board.folder).items() if k in before} == before
    loop.board.add_evaluation(make(answers(33), model="M2"), "M2", "r")
    assert loop.board.verify() == []


# The task's own aggregate


def _quiz(version: str = "1") -> Task:
    def derive(scores: Sequence[Score]) -> dict[str, MetricResult]:
        return {"words": summarize([s.details["words"] for s in scores])}

    def nothing(*_: Any, **__: Any) -> Any:
        raise NotImplementedError

    return Task(
        name="quiz",
        version=version,
        metrics=METRICS[:1],
        splits=(),
        items=nothing,
        score=nothing,
        feedback=nothing,
        derive=derive,
    )


def test_a_known_task_recomputes_all_and_keeps_only_the_details_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "names", lambda: ["quiz"])
    monkeypatch.setattr(tasks, "load", lambda name: _quiz())
    plain = make(answers(20))
    scores = [
        s.model_copy(update={"details": {"answer": "a long answer", "words": 10 + s.index}})
        for s in plain.scores
    ]
    evaluation = plain.evaluation.model_copy(
        update={
            "metrics": _quiz().aggregate(scores),
            "scores_digest": records_digest(scores),
        }
    )
    board = Board(tmp_path)
    board.add_evaluation(type(plain)(evaluation, scores), "M0", "r")
    entry = board.rows()[0].entry
    assert isinstance(entry, EvaluationEntry)
    assert [s.details for s in board.scores(entry)] == [{"words": 10 + i} for i in range(60)]
    assert board.verify() == []

    def change(value: dict[str, Any]) -> None:
        value["evaluation"]["metrics"]["words"]["mean"] += 1

    forge(board, change)
    assert "words is recorded as" in board.verify()[0]
    # Another version of the task may count words differently: its number cannot be checked.
    monkeypatch.setattr(tasks, "load", lambda name: _quiz("2"))
    assert board.verify() == []


def test_a_metric_that_is_left_out_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="accuracy is recorded as None"):
        Board(tmp_path).add_evaluation(make(answers(20), metrics={}), "M0", "r")


def test_the_scores_are_plain_gzip_of_jsonl(loop: Loop) -> None:
    for row, scored in zip(loop.board.rows(), loop.models, strict=False):
        assert isinstance(row, Row)
        assert isinstance(row.entry, EvaluationEntry)
        path = loop.board.folder / "samples" / f"{row.entry.samples}.jsonl.gz"
        lines = gzip.decompress(path.read_bytes()).splitlines()
        scores = [Score.model_validate_json(line) for line in lines]
        assert aggregate(scores) == scored.evaluation.metrics


def test_a_sealed_decision_is_kept_as_such(loop: Loop) -> None:
    loop.board.add_decision(loop.decision, "r", "sealed")
    entry = loop.board.rows()[-1].entry
    assert isinstance(entry, DecisionEntry)
    assert entry.against == "sealed"
