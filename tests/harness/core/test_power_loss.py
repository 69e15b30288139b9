"""After a power loss at any moment, what was acknowledged is there; the rest can be repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import unsynced
from helpers.boards import run_once

import tasks
from harness.board import Board
from harness.core.files import TEMPORARY, write_bytes, write_jsonl
from harness.core.folders import LOCK, new_folder
from harness.core.schema import Message
from harness.evals.evaluate import EvalOptions, evaluate
from rlrf import cli
from rlrf.run import PROGRESS, open_run

GREETINGS = [Message(role="user", content="hello"), Message(role="user", content="again")]


def files(root: Path) -> dict[str, bytes]:
    """Every file but locks, and what a killed process left that nobody wrote again since."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and path.name not in (LOCK, PROGRESS, "manifest.json")
        and TEMPORARY not in str(path)
    }


def replace_a_file(root: Path) -> None:
    write_bytes(root / "deep" / "down" / "file", b"old")
    write_bytes(root / "deep" / "down" / "file", b"new")


def replace_a_folder(root: Path) -> None:
    for text in (b"old", b"new"):
        with new_folder(root / "made" / "folder", lambda *_: None) as new:
            (new / "inner").mkdir()
            (new / "inner" / "file").write_bytes(text)
            (new / "file").write_bytes(text)


def run_stages(root: Path) -> None:
    def train(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(b"w" * 100)

    with open_run(root / "run", {"config": "abc"}) as run:
        first = run.records("iter_1/explore", Message, [], lambda: GREETINGS)
        run.stage("iter_1/train", [first], train)
        write_jsonl(run.folder / "metrics.jsonl", first.records)


@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True], ids=["least", "eager"])
@pytest.mark.parametrize("act", [replace_a_file, replace_a_folder, run_stages])
def test_repeated_after_a_power_loss_it_ends_the_same(
    tmp_path: Path, act: Callable[[Path], None], eager: bool
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    act(whole)
    last = 1
    while unsynced.survive(tmp_path / str(last), act, eager=eager, last=last):
        act(tmp_path / str(last))
        assert files(tmp_path / str(last)) == files(whole), f"power went at fsync {last}"
        last += 1
    assert last > 5
    # The power goes after the end: nothing was acknowledged that is lost.
    assert files(tmp_path / str(last)) == files(whole)


@pytest.mark.parametrize("eager", [False, True], ids=["least", "eager"])
def test_a_replaced_file_is_the_old_one_or_the_new_one(tmp_path: Path, eager: bool) -> None:
    last = 1
    while unsynced.survive(tmp_path / str(last), replace_a_file, eager=eager, last=last):
        path = tmp_path / str(last) / "deep" / "down" / "file"
        assert not path.exists() or path.read_bytes() in (b"old", b"new")
        last += 1


@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True], ids=["least", "eager"])
def test_a_ledger_goes_on_after_a_power_loss(
    tmp_path: Path, eager: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "names", list)

    def append(root: Path) -> None:
        run_once(root / "boards" / "mine")

    append(tmp_path / "whole")
    last = 1
    while unsynced.survive(tmp_path / str(last), append, eager=eager, last=last):
        append(tmp_path / str(last))
        assert files(tmp_path / str(last)) == files(tmp_path / "whole"), f"at fsync {last}"
        assert Board(tmp_path / str(last) / "boards" / "mine").verify() == []
        last += 1
    # The power goes after the end: no row that was acknowledged is lost.
    assert files(tmp_path / str(last)) == files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("eager", [False, True], ids=["least", "eager"])
def test_evaluations_scored_and_added_to_a_board_are_the_same_after_a_power_loss(
    tmp_path: Path, model_folder: Path, engine: Any, eager: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "harness.engines.resume.RESPONSES_PER_PART", 2
    )  # an answer is kept after every second one

    def act(root: Path) -> None:
        evaluate(engine, ["mini_gsm8k"], EvalOptions(limit=4, max_tokens=4), out=root / "made")
        made, scored, board = (str(root / name) for name in ("made/mini_gsm8k", "scored", "board"))
        for words in (
            ["score", "mini_gsm8k", made, "--out", scored],
            ["board", "add", board, scored, "--name", "scored"],
        ):
            assert cli.run(words) == 0

    whole = tmp_path / "whole"
    whole.mkdir()
    act(whole)
    last = 1
    while unsynced.survive(tmp_path / str(last), act, eager=eager, last=last):
        act(tmp_path / str(last))
        assert files(tmp_path / str(last)) == files(whole), f"power went at fsync {last}"
        last += 1
    assert last > 40
    # After the end nothing is lost; what was deleted last may be there again.
    assert files(whole).items() <= files(tmp_path / str(last)).items()
