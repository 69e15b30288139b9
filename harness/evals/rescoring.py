"""Score the responses behind a leaderboard again, and compare with the scores it keeps.

A board keeps no responses: without them anyone can append a row whose scores agree with its means.
Where the evaluation folders are at hand, a row's scores have to follow from its responses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tasks
from harness.board import Board
from harness.board.rows import EvaluationEntry
from harness.core.errors import UserError
from harness.core.files import parse, read_json, require_plain
from harness.core.schema import Evaluation, Score
from harness.core.scored import ScoredEvaluation
from harness.evals import evaluation
from harness.evals.evaluation import EVALUATION
from tasks.task import Task

MAX_FOLDERS = 20_000  # that are searched
TOLERANCE = 1e-9


@dataclass
class Rescored:
    """What came of scoring again: rows that agree, rows that do not, and rows that were skipped."""

    agreeing: int = 0
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # each with the reason


def rescore(board: Board, folders: Sequence[Path]) -> Rescored:
    """Score the responses in `folders` again, for every evaluation on the board that has some.

    The responses of a row are those whose digest it names. What a judge graded is skipped: its
    replies are not kept with an evaluation.

    Raises:
        UserError: the board is damaged, or a folder does not exist.
    """
    known = dict(_evaluations(folders))
    found = Rescored()
    seen: set[tuple[str, str]] = set()
    for row in board.rows():
        entry = row.entry
        if not isinstance(entry, EvaluationEntry):
            continue
        key = (entry.evaluation.samples_digest, entry.samples)
        if key in seen:
            continue
        seen.add(key)
        what = f"{entry.name} on {entry.evaluation.task}, {entry.evaluation.split}"
        what += f" (row {row.digest[:12]})"
        try:
            differences = _compare(board, entry, known)
        except _SkippedError as why:
            found.skipped.append(f"{what}: {why}")
        except UserError as error:
            found.problems.append(f"{what}: {error}")
        else:
            found.problems += [f"{what}: {difference}" for difference in differences]
            found.agreeing += not differences
    return found


class _SkippedError(Exception):
    """Why responses cannot be scored again."""


def _compare(board: Board, entry: EvaluationEntry, known: dict[str, Path]) -> list[str]:
    recorded = entry.evaluation
    task = _task_of(recorded)
    folder = known.get(recorded.samples_digest)
    if folder is None:
        raise _SkippedError("its responses are not at hand; name their folder by --evaluations")
    scored = evaluation.load(folder).get(recorded.task)
    if scored is None:
        raise _SkippedError(f"{folder} holds responses to another task")
    if scored.evaluation.dataset_digest != recorded.dataset_digest:
        return [f"{folder} has its responses, to other items than the row names"]
    return _differences(board.scores(entry), _score_again(task, scored))


def _task_of(recorded: Evaluation) -> Task:
    task = tasks.installed(recorded.task, recorded.task_version)
    if task is None:
        raise _SkippedError(f"version {recorded.task_version} of the task is not installed")
    if recorded.judge is not None:
        raise _SkippedError(f"the judge {recorded.judge.id} graded it, and no replies were kept")
    if recorded.estimator != task.estimator:
        raise _SkippedError(f"it was scored by the estimator '{recorded.estimator}'")
    return task


def _score_again(task: Task, scored: ScoredEvaluation) -> list[Score]:
    items = {item.digest: item for item in scored.items}
    return task.score([(items[sample.item], sample) for sample in scored.samples])


def _differences(recorded: Sequence[Score], again: Sequence[Score]) -> list[str]:
    old = {(score.index, score.item, score.repeat): score for score in recorded}
    new = {(score.index, score.item, score.repeat): score for score in again}
    if old.keys() != new.keys():
        return [f"it has {len(old)} scores, and there are {len(new)} responses, of other items"]
    differing = [
        (key, name)
        for key in sorted(old)
        for name in sorted({*old[key].values, *new[key].values})
        if not _close(old[key].values.get(name), new[key].values.get(name))
    ]
    if not differing:
        return []
    (key, name), count = differing[0], len({key for key, _ in differing})
    return [
        f"scored again, {count} of {len(old)} responses have other values: {name} of item "
        f"{key[0]}, repeat {key[2]}, is recorded as {_shown(old[key].values.get(name))}, and its "
        f"response gives {_shown(new[key].values.get(name))}"
    ]


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= TOLERANCE * max(1.0, abs(one))


def _shown(value: float | None) -> str:
    return "nothing" if value is None else f"{value:g}"


def _evaluations(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Digest of the responses -> folder, of every evaluation in `folders` and what they hold."""
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
                found = parse(Evaluation, read_json(path), str(path))
                yield found.samples_digest, path.parent
