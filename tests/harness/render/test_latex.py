"""LaTeX: it compiles, nothing escapes from a cell, and the best is bold."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.boards import answers, run_once
from helpers.quiz import make
from hypothesis import given
from hypothesis import strategies as st

import tasks
from harness.board import Board
from harness.render import latex

NASTY = r'\input{/etc/passwd} 50% & $x^2$ #1 {a}_b ~ "q" `l` <i> | \\ end' + "\n%"


@pytest.fixture(autouse=True)
def _no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "names", list)


def lines(text: str) -> list[list[str]]:
    """The cells of each line of the only table."""
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    inside = (
        text.split(r"\toprule")[1].split(r"\bottomrule", maxsplit=1)[0].replace(r"\midrule", "")
    )
    return [re.split(r"(?<!\\)&", line) for line in inside.split(r" \\") if line.strip()]


def test_the_best_and_what_is_not_told_from_it_are_bold(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for name, right in {"far": 5, "close": 50, "best": 55}.items():
        board.add_evaluation(make(answers(right), model=name), name, "r")
    heads, *body = lines(latex.board(board.rows()))
    assert [cell.strip() for cell in heads] == ["model", "quiz accuracy"]
    assert [r"\textbf" in cell for _, cell in body] == [False, True, True]
    assert body[0][1].strip() == "0.083 [0.036, 0.181]"


def test_runs_are_told_apart(tmp_path: Path) -> None:
    run_once(tmp_path, "r")
    board = run_once(tmp_path, "s").board
    heads, *body = lines(latex.board(board.rows()))
    assert heads[1].strip() == "run"
    assert {len(line) for line in body} == {3}


def test_names_cannot_break_out(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.add_evaluation(make(answers(20)), " ".join(NASTY.split()), "r")
    board.add_evaluation(make(answers(20), model="o"), "[t] bracket", "r")
    text = latex.board(board.rows())
    assert r"\input" not in text
    heads, first, second = lines(text)
    assert {len(heads), len(first), len(second)} == {2}
    assert second[0].strip() == "{[t] bracket}"


@given(st.text(max_size=40))
def test_any_text_is_escaped(text: str) -> None:
    shown = latex.escape(text)
    bare = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]", "", shown)
    assert not set(bare) & set('\\&%$#_{}~^<>|"`\n')


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_it_compiles(tmp_path: Path) -> None:
    board = run_once(tmp_path / "b").board
    board.add_evaluation(make(answers(20)), NASTY, "r")
    preamble = r"\documentclass{article}\usepackage{booktabs}\usepackage[T1]{fontenc}"
    body = latex.board(board.rows())
    page = preamble + "\n\\begin{document}\n" + body + "\n\\end{document}\n"
    (tmp_path / "board.tex").write_text(page)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "board.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
