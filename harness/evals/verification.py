"""Verify a board: recompute what can be, and list what does not hold and what cannot be known.

A board keeps no responses: without them anyone can append a row whose scores agree with its means.
If the evaluation folders are at hand, the scores of a row have to follow from its responses.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tasks
from harness.board import Board
from harness.board.audit import underived
from harness.board.ledger import DecisionEntry, EvaluationEntry, Row
from harness.board.standings import Standings
from harness.core.errors import UserError
from harness.core.files import open_plain, parse, read_json, require_plain
from harness.core.schema import TESTS_VERSION, Evaluation
from harness.core.text import listed, plural
from harness.evals import evaluation
from harness.evals.evaluation import EVALUATION
from harness.evals.scoring import Generation, score_samples

RENDERED = {"board.md": "markdown", "board.csv": "csv", "board.tex": "latex", "board.html": "html"}
BOARD_FILES = {"ledger.jsonl", "HEAD", "samples", ".lock"}
MAX_RENDERED_BYTES = 64 * 1024**2
MAX_EARLIER_STATES = 200  # of the ledger, which a rendered file may show
SHOWN_CHARS = 160
MAX_FOLDERS = 20_000  # searched for evaluations
TOLERANCE = 1e-9  # of a score that is computed again
RUN = "run.json"  # in the folder of a training run, which holds its evaluations


@dataclass
class Verification:
    """The findings on a board; it is sound if there are no problems."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # true, and worth knowing
    recomputed: list[str] = field(default_factory=list)
    not_recomputed: list[str] = field(default_factory=list)


def verify(
    board: Board, *, rescoring: bool = False, evaluations: Sequence[Path] = ()
) -> Verification:
    """Recompute all of `board` that can be: rows, tables in its folder, and scores if asked to.

    With `rescoring`, responses are scored again whose evaluation is in one of the folders
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
    count = f"{len(rows):,} {plural('row', len(rows))}"
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
    found.notes = Standings(rows).notes()
    older = sum(
        isinstance(row.entry, DecisionEntry) and row.entry.decision.tests_version < TESTS_VERSION
        for row in rows
    )
    if older:
        found.notes.append(
            f"{older:,} of the decisions were made by an older version of the gate's tests, which "
            "did not allow for skewed gains; they were recomputed by that version"
        )
    _check_rendered(board.folder, rows, found)
    if rescoring:
        own_run = [board.folder.parent] if (board.folder.parent / RUN).is_file() else []
        _rescore(board, evaluations or own_run, found)
    elif kinds["evaluation"]:
        found.not_recomputed.append(
            "whether the scores follow from responses: a board keeps none (--rescore scores them "
            "again where they are)"
        )
    found.not_recomputed += _unknowable(board, rows)
    return found


def _unknowable(board: Board, rows: Sequence[Row]) -> Iterator[str]:
    """List what no board can show."""
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
    foreign = [
        entry
        for entry in entries
        if tasks.installed(entry.evaluation.task, entry.evaluation.task_version) is None
    ]
    versions = {f"{e.evaluation.task} version {e.evaluation.task_version}" for e in foreign}
    if versions:
        yield f"what the metrics of {', '.join(sorted(versions)[:5])} mean, which is not installed"
    for entry in foreign:
        made = entry.evaluation
        try:
            lacking = underived(made, board.scores(entry))
        except UserError:
            continue  # among the problems already
        if lacking:
            yield (
                f"{', '.join(lacking[:5])} of {entry.name} on {made.task}: there are no "
                f"values per item, and version {made.task_version} is not installed"
            )


# ---- tables in the board's folder -------------------------------------------------------------


def _check_rendered(folder: Path, rows: Sequence[Row], found: Verification) -> None:
    """Compare the tables in a board's folder with those that the rows give."""
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        if name in RENDERED:
            _compare_rendered(folder / name, rows, found)
    if others := [name for name in names if name not in RENDERED and name not in BOARD_FILES]:
        found.not_recomputed.append(f"files that are not part of a board: {listed(others)}")


def _compare_rendered(path: Path, rows: Sequence[Row], found: Verification) -> None:
    try:
        with open_plain(path) as file:
            data = file.read(MAX_RENDERED_BYTES + 1)
        if len(data) > MAX_RENDERED_BYTES:
            raise UserError(f"{path.name} is larger than {MAX_RENDERED_BYTES:,} bytes: not read.")
    except OSError as error:
        found.problems.append(f"{path.name} cannot be read ({error.strerror or error}).")
        return
    except UserError as error:
        found.problems.append(str(error))
        return
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").strip()
    renderer = importlib.import_module(f"harness.render.{RENDERED[path.name]}")
    expected = renderer.board(rows).strip()
    if text == expected:
        found.recomputed.append(path.name)
        return
    for count in range(len(rows) - 1, max(-1, len(rows) - 1 - MAX_EARLIER_STATES), -1):
        if text == renderer.board(rows[:count]).strip():
            later = len(rows) - count
            added = "row was" if later == 1 else f"{later} rows were"
            found.notes.append(
                f"{path.name} was rendered before the last {added} added: render it again."
            )
            return
    number, there, here = _first_difference(text, expected)
    found.problems.append(
        f"{path.name} is not what the rows give: line {number} is {there!r}, and {here!r} is "
        "computed. Render it again with this version; if it then differs, someone changed it."
    )


def _first_difference(text: str, expected: str) -> tuple[int, str, str]:
    pairs = itertools.zip_longest(text.split("\n"), expected.split("\n"), fillvalue="")
    for number, (there, here) in enumerate(pairs, 1):
        if there != here:
            at = next((i for i, (x, y) in enumerate(zip(there, here, strict=False)) if x != y), 0)
            start = max(0, at - SHOWN_CHARS // 2)
            return number, there[start:][:SHOWN_CHARS], here[start:][:SHOWN_CHARS]
    return 0, "", ""


# ---- responses scored again -------------------------------------------------------------------


class _SkippedError(Exception):
    """Why responses cannot be scored again."""


def _rescore(board: Board, folders: Sequence[Path], found: Verification) -> None:
    """Score the responses in `folders` again, for every evaluation on the board that has some.

    The responses of a row are those whose digest it names. Responses that a judge graded are
    skipped: its replies are not kept with an evaluation.
    """
    folder_of = dict(_find_evaluations(folders))
    entries: dict[tuple[str, str], tuple[EvaluationEntry, Row]] = {}
    for row in board.rows():
        if isinstance(entry := row.entry, EvaluationEntry):
            entries.setdefault((entry.evaluation.samples_digest, entry.samples), (entry, row))
    agreeing = 0
    for entry, row in entries.values():
        what = f"{entry.name} on {entry.evaluation.task}, {entry.evaluation.split}"
        what += f" (row {row.digest[:12]})"
        try:
            problem = _compare_scores(board, entry, folder_of)
        except _SkippedError as why:
            found.not_recomputed.append(f"the scores of {what}: {why}")
        except UserError as error:
            found.problems.append(f"{what}: {error}")
        else:
            found.problems += [f"{what}: {problem}"] if problem else []
            agreeing += not problem
    found.recomputed.append(
        f"the scores of {agreeing} evaluations from their responses, which agree"
    )


def _compare_scores(board: Board, entry: EvaluationEntry, folder_of: Mapping[str, Path]) -> str:
    """Return how the recorded scores differ from those of the responses; "" for not at all."""
    recorded = entry.evaluation
    task = tasks.installed(recorded.task, recorded.task_version)
    if task is None:
        raise _SkippedError(f"version {recorded.task_version} of the task is not installed")
    if recorded.judge is not None:
        raise _SkippedError(f"the judge {recorded.judge.id} graded it, and no replies were kept")
    if recorded.estimator != task.estimator:
        raise _SkippedError(f"it was scored by the estimator '{recorded.estimator}'")
    folder = folder_of.get(recorded.samples_digest)
    if folder is None:
        raise _SkippedError("its responses are not at hand; name their folder by --evaluations")
    saved = evaluation.load(folder).get(recorded.task)
    if saved is None:
        raise _SkippedError(f"{folder} holds responses to another task")
    if saved.evaluation.dataset_digest != recorded.dataset_digest:
        return f"{folder} has its responses, to other items than the row names"
    made = Generation.of(saved.evaluation)
    again = score_samples(task, saved.items, saved.samples, made).scores
    old, new = (
        {(s.index, s.item, s.repeat): s.values for s in scores}
        for scores in (board.scores(entry), again)
    )
    if old.keys() != new.keys():
        return f"it has {len(old)} scores, and there are {len(new)} responses, of other items"
    differing = [
        (key, name)
        for key in sorted(old)
        for name in sorted({*old[key], *new[key]})
        if not _close(old[key].get(name), new[key].get(name))
    ]
    if not differing:
        return ""
    (key, name), count = differing[0], len({key for key, _ in differing})
    return (
        f"scored again, {count} of {len(old)} responses have other values: {name} of item "
        f"{key[0]}, repeat {key[2]}, is recorded as {_shown(old[key].get(name))}, and its "
        f"response gives {_shown(new[key].get(name))}"
    )


def _close(recorded: float | None, again: float | None) -> bool:
    if recorded is None or again is None:
        return recorded is again
    return abs(recorded - again) <= TOLERANCE * max(1.0, abs(recorded))


def _shown(value: float | None) -> str:
    return "nothing" if value is None else f"{value:g}"


def _find_evaluations(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Find every evaluation in and below `folders`, as the digest of its responses and its folder.

    Raises:
        UserError: a folder does not exist, or holds too many folders.
    """
    searched = 0
    for top in folders:
        if not top.is_dir():
            raise UserError(f"There is no folder {top}.")
        for place, inner, files in os.walk(top):
            inner.sort()
            searched += 1
            if searched > MAX_FOLDERS:
                raise UserError(
                    f"{top} holds more than {MAX_FOLDERS:,} folders: name the folders of the "
                    "evaluations themselves."
                )
            if EVALUATION in files:
                path = Path(place) / EVALUATION
                require_plain(path, evaluation.MAX_BYTES)
                made = parse(Evaluation, read_json(path), str(path))
                yield made.samples_digest, path.parent
