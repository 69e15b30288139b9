"""Markdown: what is in the tables, what is kept apart, and that nothing escapes from a cell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.quiz import make
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.board import Board
from harness.core.schema import JudgeRef, Policy, Rule
from harness.core.text import visible
from harness.gate import decide, promote
from harness.render import markdown

Table = list[list[str]]

POLICY = Policy(rules=[Rule(task="quiz", metric="accuracy", margin=0.1)])


def tables(text: str) -> list[Table]:
    """Every table of a Markdown text, as the cells' text, the heads first."""
    found: list[Table] = []
    inside = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        inside = token.type == "table_open" or (inside and token.type != "table_close")
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and inside:
            assert all(child.type == "text" for child in token.children or [])
            found[-1][-1].append("".join(child.content for child in token.children or []))
    return found


def answers(right: int, n: int = 60) -> list[dict[str, float]]:
    return [{"accuracy": float(i < right)} for i in range(n)]


@pytest.fixture
def played(tmp_path: Path) -> Board:
    """M1 is promoted over M0 on two tasks, M2 is not promoted over M1 on one."""
    board = Board(tmp_path)
    m0 = {task: make(answers(20), task=task, model="M0") for task in ("quiz", "poll")}
    m1 = {task: make(answers(35), task=task, model="M1") for task in ("quiz", "poll")}
    m2 = {"quiz": make(answers(15), model="M2")}
    for name, side in (("M0", m0), ("M1", m1), ("M2", m2)):
        for scored in side.values():
            board.add_evaluation(scored, name, "r")
    for name, before, after in (("M1", m0, m1), ("M2", m1, m2)):
        found = decide(POLICY, before, after)
        board.add_decision(found, "r", "incumbent")
        incumbent = {"M1": "M0", "M2": "M1"}[name]
        board.add_promotion(promote(found, found), name, incumbent, "r")
    return board


def test_a_board_says_who_stands_where(played: Board) -> None:
    (table,) = tables(markdown.board(played.rows()))
    assert table == [
        ["model", "quiz accuracy", "poll accuracy", "gate", "promoted"],
        [
            "M0",
            "0.3333 [0.2273, 0.4594] n=60, rank 1",
            "0.3333 [0.2273, 0.4594] n=60, rank 1",
            "-",
            "-",
        ],
        [
            "M1",
            "0.5833 [0.4573, 0.6994] n=60, rank 1",
            "0.5833 [0.4573, 0.6994] n=60, rank 1",
            "pass (incumbent)",
            "yes",
        ],
        ["M2", "0.25 [0.1578, 0.3723] n=60, rank 2", "-", "fail (incumbent)", "no"],
    ]


def test_what_it_was_made_with_stands_below(played: Board) -> None:
    text = markdown.board(played.rows())
    evaluation = next(iter(played.rows())).entry.evaluation  # type: ignore[union-attr]
    assert f"- quiz: version 1, 60 items {evaluation.dataset_digest[:12]}" in text


@pytest.mark.parametrize(
    "fields",
    [
        {"split": "sealed"},
        {"edition": "another"},
        {"decoding": {"temperature": 0.7}},
        {"prompt_digest": "another"},
        {"judge": JudgeRef(id="gpt-4", prompt_digest="p")},
        {"estimator": "k=5"},
        {"task_version": "2"},
    ],
)
def test_what_cannot_be_compared_is_never_in_one_ranking(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    board = Board(tmp_path)
    board.add_evaluation(make(answers(20)), "M0", "r")
    board.add_evaluation(make(answers(30), **fields), "M1", "r")
    board.add_evaluation(make(answers(30), task="poll"), "M0", "r")
    first, second = tables(markdown.board(board.rows()))
    assert [row[0] for row in first] == ["model", "M0"]
    assert first[0][1:3] == ["quiz accuracy", "poll accuracy"]
    assert [row[0] for row in second] == ["model", "M1"]


def test_runs_are_told_apart(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for run, right in (("a", 20), ("b", 30)):
        board.add_evaluation(make(answers(right)), "M0", run)
    (table,) = tables(markdown.board(board.rows()))
    assert [row[:2] for row in table] == [["model", "run"], ["M0", "a"], ["M0", "b"]]


def test_a_later_evaluation_is_shown_instead(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for right in (20, 30):
        board.add_evaluation(make(answers(right), seed=right), "M0", "r")
    (table,) = tables(markdown.board(board.rows()))
    assert [row[1] for row in table[1:]] == ["0.5 [0.3774, 0.6226] n=60"]


def test_unscored_answers_are_said(tmp_path: Path) -> None:
    board = Board(tmp_path)
    rows: list[dict[str, Any]] = [*answers(20, 58), {"accuracy": "no number"}, {"accuracy": "?"}]
    board.add_evaluation(make(rows), "M0", "r")
    board.add_evaluation(make([{"accuracy": "no judge"}] * 5, task="poll"), "M0", "r")
    (table,) = tables(markdown.board(board.rows()))
    assert table[1][1].endswith("n=58, 2 unscored")
    assert table[1][2] == "- (5 unscored)"


def test_an_empty_board(tmp_path: Path) -> None:
    assert markdown.board(Board(tmp_path / "none").rows()) == "Nothing has been evaluated yet.\n"


def test_a_decision_says_why() -> None:
    rules = Policy(
        alpha=0.025,
        rules=[
            Rule(task="quiz", metric="accuracy", margin=0.1),
            Rule(task="quiz", metric="grade", tier="advisory", margin=0.2),
        ],
    )
    before = make([{"accuracy": 1.0, "grade": 3.0}] * 80)
    after = make([{"accuracy": float(i > 40), "grade": "timed out"} for i in range(80)])
    text = markdown.decision(decide(rules, {"quiz": before}, {"quiz": after}))
    assert text.startswith("## Gate: fail\n\n- quiz accuracy (critical): fail, at best ")
    ((heads, accuracy, grade),) = tables(text)
    assert heads[6] == "gain [95% interval]"
    assert accuracy[:6] == ["quiz accuracy", "critical", "fail", "regressed", "1", "0.4875"]
    assert accuracy[6].startswith("-0.5125 [-0.")
    assert grade[2:7] == ["inconclusive", "unclear", "-", "-", "-"]
    assert "timed out" in grade[-1]


NASTY = (
    "a|b\n\n| c | <script>alert(1)</script> `x` *y* [z](http://e) ![i](j) \\| _u_ ~~s~~ $m$ &lt; "
    "\x00\u2028"
)


def test_names_cannot_break_out(tmp_path: Path) -> None:
    board = Board(tmp_path)
    name = " ".join(visible(NASTY).split())
    board.add_evaluation(make(answers(20), estimator=name), name, name)
    board.add_evaluation(make(answers(20), estimator=name), "M1", "r")
    text = markdown.board(board.rows())
    assert "<" not in text
    (table,) = tables(text)
    assert {len(row) for row in table} == {5}
    shown = MarkdownIt("commonmark").render(markdown.escape(NASTY))
    assert re.sub(r"<[^>]*>|\n", "", shown) == (
        "a|b | c | &lt;script&gt;alert(1)&lt;/script&gt; `x` *y* [z](http[:]//e) ![i](j) \\| _u_ "
        "~~s~~ $m$ &amp;lt;"
    )


@given(st.text(max_size=60))
def test_any_text_stays_in_its_cell(text: str) -> None:
    cells = tables(f"| a | b |\n| --- | --- |\n| x{markdown.escape(text)} | end |\n")
    assert cells[0][1][1] == "end"
    assert "<" not in markdown.escape(text)


def test_names_with_underscores_stay_readable() -> None:
    assert markdown.escape("mini_gsm8k") == "mini_gsm8k"
