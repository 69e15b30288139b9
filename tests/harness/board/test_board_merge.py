"""Two people's boards become one through git, and no row is lost."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.boards import answers, contents, run_once
from helpers.quiz import make

import tasks
from harness.board import Board
from harness.board.ledger import EvaluationEntry, MergeEntry, Row, merge
from harness.core.errors import UserError

ROOT = Path(__file__).parents[3]
DRIVER = f"'{Path(sys.executable).parent / 'rlrf'}' board merge-driver %O %A %B %P"


@pytest.fixture(autouse=True)
def _no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "names", list)


class Repository:
    """A git repository with a board, whose merges are made by the driver where it is installed."""

    def __init__(self, folder: Path, *, driver: bool) -> None:
        self.folder = folder
        self.board = Board(folder / "leaderboards" / "b")
        folder.mkdir()
        self.git("init", "-q", "-b", "main")
        for key, value in {"user.name": "t", "user.email": "t@example.org"}.items():
            self.git("config", key, value)
        if driver:
            self.git("config", "merge.rlrf-board.driver", DRIVER)
        shutil.copy(ROOT / ".gitattributes", folder)
        shutil.copy(ROOT / ".gitignore", folder)
        run_once(self.board.folder)
        self.commit()

    def git(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.folder, capture_output=True, text=True, check=False
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x")

    def add(self, name: str) -> None:
        self.board.add_evaluation(make(answers(len(name)), model=name), name, "r")
        self.commit()

    def names(self) -> list[str]:
        rows = self.board.rows()
        return [row.entry.name for row in rows if isinstance(row.entry, EvaluationEntry)]


def diverge(repository: Repository) -> None:
    """Two rows on `theirs`, then two on `main`."""
    repository.git("checkout", "-q", "-b", "theirs")
    repository.add("B1")
    repository.add("B2")
    repository.git("checkout", "-q", "main")
    repository.add("A1")
    repository.add("A2")


@pytest.mark.slow
def test_two_branches_that_added_rows_become_one_board(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", driver=True)
    diverge(repository)
    repository.git("merge", "-q", "theirs", "-m", "m")
    board = repository.board
    assert board.verify() == []
    assert set(repository.names()) == {"M0", "M1", "A1", "A2", "B1", "B2"}
    assert len((board.folder / "HEAD").read_text().split()) == 2
    repository.add("C")
    rows = board.rows()
    assert [row.entry.kind for row in rows[-2:]] == ["merge", "evaluation"]
    assert (board.folder / "HEAD").read_text() == rows[-1].digest + "\n"
    assert board.verify() == []


@pytest.mark.slow
def test_the_order_of_the_rows_does_not_depend_on_who_merged_whom(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", driver=True)
    diverge(repository)
    repository.git("branch", "ours")
    repository.git("merge", "-q", "theirs", "-m", "m")
    one = repository.board.rows()
    repository.git("checkout", "-q", "theirs")
    repository.git("merge", "-q", "ours", "-m", "m")
    assert repository.board.rows() == one
    assert repository.board.verify() == []


def test_without_the_driver_git_reports_a_conflict(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", driver=False)
    diverge(repository)
    before = contents(repository.board.folder)
    assert "CONFLICT" in repository.git("merge", "theirs", "-m", "m", check=False)
    conflicts = repository.git("diff", "--name-only", "--diff-filter=U").split()
    assert conflicts == ["leaderboards/b/HEAD", "leaderboards/b/ledger.jsonl"]
    assert repository.board.verify()
    with pytest.raises(UserError, match="damaged"):
        repository.board.add_evaluation(make(answers(3)), "x", "r")
    repository.git("merge", "--abort")
    assert contents(repository.board.folder) == before


@pytest.mark.slow
def test_a_row_that_one_side_took_away_is_a_conflict(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", driver=True)
    repository.git("checkout", "-q", "-b", "theirs")
    ledger = repository.board.folder / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:-1]))
    (repository.board.folder / "HEAD").write_text(lines[-2][11:75].decode() + "\n")
    assert repository.board.verify() == []  # one copy alone cannot tell; git can
    repository.commit()
    repository.git("checkout", "-q", "main")
    repository.add("A1")
    assert "CONFLICT" in repository.git("merge", "theirs", "-m", "m", check=False)


@pytest.mark.slow
def test_a_branch_may_be_rebased_but_no_commit_with_rows_reverted(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", driver=True)
    diverge(repository)
    repository.git("checkout", "-q", "theirs")
    repository.git("rebase", "-q", "main")
    assert repository.board.verify() == []
    assert set(repository.names()) == {"M0", "M1", "A1", "A2", "B1", "B2"}
    repository.add("C")
    repository.git("revert", "--no-edit", "HEAD~1", check=False)
    assert "UU leaderboards/b/ledger.jsonl" in repository.git("status", "--short")


@pytest.mark.slow
def test_what_is_cut_off_a_merged_board_is_found(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", driver=True)
    diverge(repository)
    repository.git("merge", "-q", "theirs", "-m", "m")
    board = repository.board
    path, head = board.folder / "ledger.jsonl", board.folder / "HEAD"
    lines, named = path.read_bytes().splitlines(keepends=True), head.read_text()
    assert len(lines) == 9
    for kept in range(9):
        path.write_bytes(b"".join(lines[:kept]))
        assert board.verify(), kept
    for gone in range(9):
        path.write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
        assert board.verify(), gone
    path.write_bytes(b"".join(lines))
    for changed in (
        named[:65],
        named[65:],
        named + named[:65],
        named[:-1],
        named.replace("\n", ""),
    ):
        head.write_text(changed)
        assert board.verify(), changed
    head.write_text(named)
    assert board.verify() == []


@pytest.mark.slow
def test_lines_of_branches_may_change_places_where_that_says_nothing(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", driver=True)
    diverge(repository)
    repository.git("merge", "-q", "theirs", "-m", "m")
    path = repository.board.folder / "ledger.jsonl"
    lines, rows = path.read_bytes().splitlines(keepends=True), repository.board.rows()
    rng = random.Random(0)
    found = 0
    for _ in range(40):
        order = rng.sample(lines, len(lines))
        path.write_bytes(b"".join(order))
        if repository.board.verify():
            found += 1
        else:
            assert repository.board.rows() == rows
    assert found > 30


@pytest.mark.slow
def test_an_append_killed_while_it_joins_branches_is_mended(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", driver=True)
    diverge(repository)
    repository.git("merge", "-q", "theirs", "-m", "m")
    board, scored = repository.board, make(answers(9), model="C")
    path, head = board.folder / "ledger.jsonl", board.folder / "HEAD"
    named = head.read_text()
    board.add_evaluation(scored, "C", "r")
    whole = contents(board.folder)
    *before, joined, last = path.read_bytes().splitlines(keepends=True)
    for text, heads, said in (
        ([*before, joined[:50]], named, "unfinished"),
        ([*before, joined], named, "one row behind"),
        ([*before, joined, last[:9]], joined[11:75].decode() + "\n", "unfinished"),
        ([*before, joined, last], joined[11:75].decode() + "\n", "one row behind"),
    ):
        path.write_bytes(b"".join(text))
        head.write_text(heads)
        (problem,) = board.verify()
        assert said in problem
        board.add_evaluation(scored, "C", "r")
        assert contents(board.folder) == whole


@pytest.mark.slow
def test_long_lived_branches_merge_again_and_again_in_both_directions(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", driver=True)
    rng = random.Random(4)
    branches = ["main", "b", "c"]
    holds = {branch: {"M0", "M1"} for branch in branches}
    for branch in branches[1:]:
        repository.git("branch", branch)
    for step in range(14):
        here, other = rng.sample(branches, 2)
        repository.git("checkout", "-q", here)
        if rng.random() < 0.5:
            repository.add(f"{here}{step}")
            holds[here].add(f"{here}{step}")
        else:
            repository.git("merge", "-q", other, "-m", "m")
            holds[here] |= holds[other]
            assert repository.board.verify() == []
        assert set(repository.names()) == holds[here]
        assert len(repository.names()) == len(holds[here])
    joins = [row for row in repository.board.rows() if isinstance(row.entry, MergeEntry)]
    assert joins


@pytest.mark.slow
def test_what_was_withdrawn_on_one_side_is_withdrawn_in_both(tmp_path: Path) -> None:
    from harness.board.ranking import divide

    repository = Repository(tmp_path / "r", driver=True)
    repository.git("checkout", "-q", "-b", "theirs")
    repository.board.invalidate(repository.board.rows()[0].digest, "x")
    repository.commit()
    repository.git("checkout", "-q", "main")
    repository.add("A")
    repository.git("merge", "-q", "theirs", "-m", "m")
    _, withdrawn = divide(repository.board.rows())
    assert [w.row.entry.kind for w in withdrawn].count("evaluation") == 1
    assert repository.board.verify() == []


def _files(folder: Path, rows: list[Row]) -> Path:
    from harness.core.files import jsonl_bytes

    path = folder / f"{len(list(folder.iterdir()))}"
    path.write_bytes(jsonl_bytes(rows))
    return path


def test_a_damaged_side_is_not_merged(tmp_path: Path) -> None:
    rows = run_once(tmp_path / "board").board.rows()
    files = tmp_path / "files"
    files.mkdir()
    base, ours, theirs = (_files(files, rows[:n]) for n in (2, 3, 4))
    kept = ours.read_bytes()
    theirs.write_bytes(theirs.read_bytes().replace(b"M0", b"MO", 1))
    with pytest.raises(UserError, match=r"one of them is damaged\. ledger\.jsonl, line 1"):
        merge(base, ours, theirs, "x/ledger.jsonl")
    theirs.write_bytes(b"<<<<<<< ours\n")
    with pytest.raises(UserError, match="not a list of digests"):
        merge(theirs, theirs, theirs, "x/HEAD")
    with pytest.raises(UserError, match="not a file of a board that needs merging"):
        merge(base, ours, theirs, "x/board.md")
    assert ours.read_bytes() == kept


def test_a_ledger_from_two_beginnings_has_both(tmp_path: Path) -> None:
    one, other = run_once(tmp_path / "a", "r").board, run_once(tmp_path / "b", "s").board
    nothing = tmp_path / "nothing"
    nothing.write_bytes(b"")
    for name in ("ledger.jsonl", "HEAD"):
        merge(nothing, one.folder / name, other.folder / name, name)
    for file in (other.folder / "samples").iterdir():
        shutil.copy(file, one.folder / "samples")
    assert one.verify() == []
    assert len(one.rows()) == 10
