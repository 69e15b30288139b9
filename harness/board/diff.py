"""Compare two boards: common rows, rows of one side only, and numbers that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.board.board import Board
from harness.board.ledger import EvaluationEntry, Reading, Row, in_order
from harness.board.ranking import Name, divide
from harness.core.errors import UserError
from harness.core.schema import Evaluation, MetricResult

Key = tuple[str, str, str, str]  # run, model, task, comparable key


@dataclass(frozen=True)
class Change:
    """A metric of a model, measured in the same way, that differs or counts on one side only."""

    run: str
    name: str
    task: str
    split: str
    metric: str
    before: MetricResult | None  # None: it does not count there
    after: MetricResult | None


@dataclass(frozen=True)
class Difference:
    """What is different on board `b`, compared to `a`."""

    common: int  # rows that begin both
    removed: list[Row]  # only in a
    added: list[Row]  # only in b
    changes: list[Change]

    @property
    def diverged(self) -> bool:
        """Tell whether each board has rows that the other lacks."""
        return bool(self.removed and self.added)


def load(path: Path) -> list[Row]:
    """Read the rows of a board's folder, or of a ledger file alone, as taken from git's history.

    Raises:
        UserError: there is no board or ledger, or it is damaged.
    """
    if path.is_dir():
        if rows := Board(path).rows():
            return rows
        raise UserError(f"There is no board in {path}: it has no ledger.jsonl.")
    if not path.exists():
        raise UserError(f"There is no board or ledger {path}.")
    reading = Reading(path, None)
    lines = list(reading)
    if reading.damage or reading.torn:
        why = reading.damage or "Its last line is unfinished."
        raise UserError(f"{path} is damaged. {why}")
    return in_order([line.row() for line in lines])


def diff(a: Sequence[Row], b: Sequence[Row]) -> Difference:
    """Compare the rows of two boards.

    Rows are equal if their digests are. Numbers are compared between evaluations that count, of
    the same run, model and task, made in the same way.
    """
    common = next(
        (k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x.digest != y.digest),
        min(len(a), len(b)),
    )
    mine, other = ({row.digest for row in rows} for rows in (a, b))
    return Difference(
        common=common,
        removed=[row for row in a if row.digest not in other],
        added=[row for row in b if row.digest not in mine],
        changes=_changes(_standing(a), _standing(b)),
    )


def _standing(rows: Sequence[Row]) -> dict[Key, Evaluation]:
    counting, _ = divide(rows)
    found: dict[Key, Evaluation] = {}
    for row in counting:
        if isinstance(row.entry, EvaluationEntry):
            evaluation = row.entry.evaluation
            name: Name = (row.run, row.entry.name)
            found[*name, evaluation.task, evaluation.comparable_key] = evaluation
    return found


def _changes(a: Mapping[Key, Evaluation], b: Mapping[Key, Evaluation]) -> list[Change]:
    changes = []
    for key in dict.fromkeys([*a, *b]):
        before, after = a.get(key), b.get(key)
        split = next(e.split for e in (before, after) if e)
        old, new = (e.metrics if e else {} for e in (before, after))
        changes += [
            Change(*key[:3], split, metric, old.get(metric), new.get(metric))
            for metric in sorted({*old, *new})
            if old.get(metric) != new.get(metric)
        ]
    return changes
