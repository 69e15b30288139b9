"""What no longer counts: named by its content, listed with its reason, never taken away."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from helpers.boards import POLICY, answers, contents, run_once
from helpers.quiz import make
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks
from harness.board import Board
from harness.board.ledger import EvaluationEntry, InvalidateEntry, Row, SupersedeEntry
from harness.board.ranking import RESTS, divide
from harness.core.errors import UserError
from harness.core.schema import digest
from harness.gate import decide
from harness.render import markdown


@pytest.fixture(autouse=True)
def _no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "names", list)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return run_once(tmp_path / "board").board


def kinds(rows: list[Row]) -> list[str]:
    return [row.entry.kind for row in rows]


def test_a_superseded_evaluation_no_longer_counts_nor_what_rests_on_it(board: Board) -> None:
    old = board.rows()[1]
    new = board.add_evaluation(make(answers(30), model="M1", seed=1), "M1", "r")
    board.supersede(old.digest[:8], new[:8], "the judge's prompt was cut short")
    assert board.verify() == []
    entry = board.rows()[-1].entry
    assert isinstance(entry, SupersedeEntry)
    assert entry.old == digest(old.entry)
    standing, withdrawn = divide(board.rows())
    assert kinds(standing) == ["evaluation", "evaluation"]
    assert [(w.row.entry.kind, w.reason) for w in withdrawn] == [
        ("evaluation", "the judge's prompt was cut short"),
        ("decision", RESTS),
        ("decision", RESTS),
        ("promotion", RESTS),
    ]
    assert withdrawn[0].replaced_by == entry.new


def test_withdrawn_rows_stand_below_the_table_with_the_reason(board: Board) -> None:
    board.invalidate(board.rows()[1].digest, "trained on <test> items")
    ranking, below = markdown.board(board.rows()).split("## Withdrawn")
    assert "| M0 |" in ranking
    assert "M1" not in ranking
    assert "- M1 on quiz (" in below
    assert "trained on &lt;test&gt; items" in below
    assert "promotion of M1" in below


def test_the_same_evaluation_under_another_name_keeps_a_decision_standing(board: Board) -> None:
    scored = make(answers(35), model="M1")
    board.add_evaluation(scored, "M1 again", "r")
    board.invalidate(board.rows()[1].digest, "a wrong name")
    standing, withdrawn = divide(board.rows())
    assert [w.row.entry.kind for w in withdrawn] == ["evaluation"]
    assert kinds(standing).count("decision") == 2


def test_a_withdrawal_can_be_taken_back(board: Board) -> None:
    before = divide(board.rows())
    row = board.invalidate(board.rows()[1].digest, "by mistake")
    assert divide(board.rows()) != before
    board.invalidate(row, "it was right")
    assert divide(board.rows()) == before
    assert board.verify() == []


@pytest.mark.slow
def test_a_row_is_named_by_its_beginning_and_by_nothing_that_names_several(board: Board) -> None:
    rows = board.rows()
    with pytest.raises(UserError, match="names no row"):
        board.invalidate("f" * 64, "x")
    with pytest.raises(UserError, match="names no row: give 4 characters"):
        board.invalidate(rows[0].digest[:3], "x")
    first = rows[0].entry
    assert isinstance(first, EvaluationEntry)
    seen: dict[str, int] = {}
    for seed in range(5000):  # two that begin alike: among 302 of them on average
        evaluation = make(answers(20), model="M0", seed=seed).evaluation
        entry = first.model_copy(update={"evaluation": evaluation})
        if (begin := digest(entry)[:4]) in seen:
            break
        seen[begin] = seed
    for k in (seen[begin], seed):
        board.add_evaluation(make(answers(20), model="M0", seed=k), "M0", "r")
    with pytest.raises(UserError, match="names several rows: give more of it"):
        board.invalidate(begin, "x")


@pytest.mark.slow
def test_what_cannot_be_withdrawn_is_refused_and_nothing_is_written(board: Board) -> None:
    rows = board.rows()
    other = board.add_evaluation(make(answers(20), task="poll"), "M0", "r")
    before = contents(board.folder)
    with pytest.raises(UserError, match="no evaluation on the board before it has the digest"):
        board.supersede(rows[0].digest, rows[2].digest, "a decision is no evaluation")
    with pytest.raises(UserError, match="evaluation of quiz cannot be replaced by an evaluation"):
        board.supersede(rows[0].digest, other, "another task")
    with pytest.raises(UserError, match="cannot be replaced by itself"):
        board.supersede(rows[0].digest, rows[0].digest, "itself")
    with pytest.raises(UserError, match="reason"):
        board.invalidate(rows[0].digest, "")
    assert contents(board.folder) == before


def test_verify_finds_a_withdrawal_of_what_is_not_there(board: Board) -> None:
    from harness.board import ledger
    from harness.board.board import _row

    for entry in (
        InvalidateEntry(entry="0" * 64, reason="x"),
        SupersedeEntry(old="0" * 64, new="1" * 64, reason="x"),
    ):
        ledger.write_row(board.folder, _row("r", entry, board.rows()[-1].digest))
    problems = board.verify()
    assert len(problems) == 2
    assert "line 6: nothing on the board before it has the digest 000000000000" in problems[0]
    assert "line 7: no evaluation on the board" in problems[1]
    with pytest.raises(UserError, match="withdraws 000000000000, which is not on it"):
        divide(board.rows())


def test_withdrawing_twice_adds_one_row(board: Board) -> None:
    name = board.rows()[0].digest
    assert board.invalidate(name, "x") == board.invalidate(name, "x")
    assert len(board.rows()) == 6


def test_items_count_as_seen_also_by_a_decision_that_was_withdrawn(board: Board) -> None:
    once = board.exposure()
    assert once.keys() == {"quiz"}
    assert set(once["quiz"].values()) == {1}
    assert len(once["quiz"]) == 60
    board.invalidate(board.rows()[2].digest, "x")
    assert board.exposure() == once


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    used=st.lists(st.tuples(st.sets(st.integers(0, 4), min_size=1), st.integers(1, 3)), max_size=4)
)
def test_exposure_counts_decisions_not_answers(used: list[tuple[set[int], int]]) -> None:
    """Each decision is about some of five items, with one or more answers to each."""
    whole = make(answers(3, n=5))
    digests = {score.index: score.item for score in whole.scores}
    with tempfile.TemporaryDirectory() as folder:
        board = Board(Path(folder))
        for k, (items, repeats) in enumerate(used):
            side = make(
                answers(3, n=5 * repeats),
                model=f"M{k}",
                keep=sorted(items),
                repeats=repeats,
                items=len(items),
                dataset_digest=digest([digests[i] for i in sorted(items)]),
            )
            board.add_evaluation(side, f"M{k}", "r")
            decision = decide(POLICY, {"quiz": side}, {"quiz": side})
            board.add_decision(decision, "r", "incumbent")
            board.add_decision(decision, "r", "anchor")  # the same decision: it counts once
        counts = board.exposure().get("quiz", {})
    expected = {digests[i]: sum(i in items for items, _ in used) for i in range(5)}
    assert counts == {item: count for item, count in expected.items() if count}
