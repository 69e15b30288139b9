"""Verify a leaderboard: what was computed again, what does not hold, and what cannot be known."""

from __future__ import annotations

import importlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tasks
from harness.board import Board
from harness.board.audit import underived
from harness.board.rows import DecisionEntry, EvaluationEntry, Row
from harness.board.standings import notes
from harness.core.errors import UserError
from harness.core.files import open_plain
from harness.core.schema import TESTS_VERSION
from harness.evals.evaluation import few
from harness.evals.rescoring import rescore

RENDERED = {"board.md": "markdown", "board.csv": "csv", "board.tex": "latex", "board.html": "html"}
PARTS = {"ledger.jsonl", "HEAD", "samples", ".lock"}
MAX_RENDERED_BYTES = 64 * 1024**2
EARLIER_STATES = 200  # of the ledger, of which a rendered file may be a picture
SHOWN_CHARS = 160
RUN = "run.json"  # in the folder of a training run, which holds its evaluations


@dataclass
class Verification:
    """What verifying a board came to; it is sound where there are no problems."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # true, and worth knowing
    recomputed: list[str] = field(default_factory=list)
    not_recomputed: list[str] = field(default_factory=list)


def verify(
    board: Board, *, rescoring: bool = False, evaluations: Sequence[Path] = ()
) -> Verification:
    """Recompute all of `board` that can be: rows, tables in its folder, and scores if asked to.

    With `rescoring`, responses are scored again where their evaluation is in one of the folders
    `evaluations`; by default in the folder of the run that the board belongs to.

    Raises:
        UserError: there is no board, or a folder does not exist.
    """
    found = Verification(problems=board.verify())
    try:
        rows = board.rows()
    except UserError as error:
        found.problems = found.problems or [str(error)]
        return found
    kinds: Counter[str] = Counter(row.entry.kind for row in rows)
    count = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
    found.recomputed.append(f"the chain of {count}, HEAD and every file's digest")
    found.recomputed += [
        f"{what} ({kinds[kind]:,})"
        for kind, what in (
            ("evaluation", "every mean and interval of the evaluations from per-item scores"),
            ("decision", "every verdict of the gate's decisions"),
            ("promotion", "every promotion"),
        )
        if kinds[kind]
    ]
    found.notes = [*notes(rows), *_by_older_tests(rows)]
    _check_rendered(board.folder, rows, found)
    if rescoring:
        _rescore(board, evaluations, found)
    elif kinds["evaluation"]:
        found.not_recomputed.append(
            "whether the scores follow from responses: a board keeps none (--rescore scores them "
            "again where they are)"
        )
    found.not_recomputed += _beyond(board, rows)
    return found


def _by_older_tests(rows: Sequence[Row]) -> Iterator[str]:
    """Say how many decisions were made, and recomputed, by tests that knew less."""
    older = sum(
        isinstance(row.entry, DecisionEntry) and row.entry.decision.tests_version < TESTS_VERSION
        for row in rows
    )
    if older:
        yield (
            f"{older:,} of the decisions were made by an older version of the gate's tests, which "
            "did not allow for skewed gains; they were recomputed by that version"
        )


def _beyond(board: Board, rows: Sequence[Row]) -> Iterator[str]:
    """What no board can show."""
    entries = {
        row.entry.samples: row.entry for row in rows if isinstance(row.entry, EvaluationEntry)
    }.values()
    if entries:
        yield "whether the named models gave the responses"
    judges = sorted({entry.evaluation.judge.id for entry in entries if entry.evaluation.judge})
    if judges:
        yield f"what the judges said ({', '.join(judges[:5])})"
    if any(row.entry.kind == "decision" for row in rows):
        yield "the alarms of decisions, which are about responses"
    foreign = {
        f"{entry.evaluation.task} version {entry.evaluation.task_version}"
        for entry in entries
        if tasks.installed(entry.evaluation.task, entry.evaluation.task_version) is None
    }
    if foreign:
        yield f"what the metrics of {', '.join(sorted(foreign)[:5])} mean, which is not installed"
    for entry in entries:
        evaluation = entry.evaluation
        if tasks.installed(evaluation.task, evaluation.task_version) is not None:
            continue
        try:
            lacking = underived(evaluation, board.scores(entry))
        except UserError:
            continue  # among the problems already
        if lacking:
            yield (
                f"{', '.join(lacking[:5])} of {entry.name} on {evaluation.task}: there are no "
                f"values per item, and version {evaluation.task_version} is not installed"
            )


def _rescore(board: Board, folders: Sequence[Path], found: Verification) -> None:
    own_run = [board.folder.parent] if (board.folder.parent / RUN).is_file() else []
    again = rescore(board, folders or own_run)
    found.problems += again.problems
    found.not_recomputed += [f"the scores of {what}" for what in again.skipped]
    found.recomputed.append(
        f"the scores of {again.agreeing} evaluations from their responses, which agree"
    )


def _check_rendered(folder: Path, rows: Sequence[Row], found: Verification) -> None:
    """Compare the tables in a board's folder with what the rows give."""
    names = sorted(path.name for path in folder.iterdir())
    for name in (name for name in names if name in RENDERED):
        problem, note = _compare(folder / name, rows)
        found.problems += [problem] if problem else []
        found.notes += [note] if note else []
        found.recomputed += [] if problem or note else [name]
    if others := [name for name in names if name not in RENDERED and name not in PARTS]:
        found.not_recomputed.append(f"files that are not part of a board: {few(others)}")


def _compare(path: Path, rows: Sequence[Row]) -> tuple[str, str]:
    """What is wrong with a rendered file, and what is merely old about it; "" for nothing."""
    try:
        with open_plain(path) as file:
            data = file.read(MAX_RENDERED_BYTES + 1)
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror or error}).", ""
    except UserError as error:
        return str(error), ""
    if len(data) > MAX_RENDERED_BYTES:
        return f"{path.name} is larger than {MAX_RENDERED_BYTES:,} bytes: not read.", ""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").strip()
    renderer = importlib.import_module(f"harness.render.{RENDERED[path.name]}")
    expected = renderer.board(rows).strip()
    if text == expected:
        return "", ""
    for count in range(len(rows) - 1, max(-1, len(rows) - 1 - EARLIER_STATES), -1):
        if text == renderer.board(rows[:count]).strip():
            return "", (
                f"{path.name} was rendered before the last {len(rows) - count} rows were added: "
                "render it again."
            )
    number, there, here = _first_difference(text, expected)
    return (
        f"{path.name} is not what the rows give: line {number} is {there!r}, and {here!r} is "
        "computed. Render it again with this version; if it then differs, someone changed it."
    ), ""


def _first_difference(text: str, expected: str) -> tuple[int, str, str]:
    pairs = itertools.zip_longest(text.split("\n"), expected.split("\n"), fillvalue="")
    for number, (there, here) in enumerate(pairs, 1):
        if there != here:
            at = next((i for i, (x, y) in enumerate(zip(there, here, strict=False)) if x != y), 0)
            start = max(0, at - SHOWN_CHARS // 2)
            return number, there[start:][:SHOWN_CHARS], here[start:][:SHOWN_CHARS]
    return 0, "", ""
