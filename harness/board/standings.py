"""Build the results of a board once, for every renderer: tables, verdicts, outcomes and notes.

Pure functions of a board's rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.board.ledger import DecisionEntry, EvaluationEntry, PromotionEntry, Row
from harness.board.loosened import loosened, not_enforced
from harness.board.ranking import Cell, Column, Name, Table, divide, tables
from harness.core.schema import Evaluation, Metric
from harness.core.text import short_number

Outcome = Literal["", "promoted", "rolled back", "not enforced"]


@dataclass(frozen=True)
class GateVerdict:
    """What the gate decided about an evaluation, and against which baseline."""

    verdict: str
    against: str
    by_looser_policy: bool


@dataclass(frozen=True)
class Line:
    """A model in a table: a cell per column, the gate's verdicts, and what followed from them."""

    run: str
    name: str
    cells: list[Cell | None]
    verdicts: list[GateVerdict]
    outcome: Outcome


class Standings:
    """What counts on a board: its tables, what was withdrawn, and what the gate decided.

    Evaluations in one column of a table compare. Evaluations that do not (another split, dataset,
    prompt, judge or estimator) are in other columns or tables.

    Raises:
        UserError: an entry that is withdrawn is not among the rows.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.counting, self.withdrawn = divide(rows)
        self.tables = tables(self.counting)
        self.has_several_runs = len({row.run for row in self.counting}) > 1
        self._names = _names(rows)
        self._looser, self._ignored = loosened(rows), not_enforced(self.counting)
        self._verdicts: dict[Name, list[tuple[int, GateVerdict]]] = {}  # run, identity -> place, ..
        self._outcomes: dict[Name, Outcome] = {}
        for place, row in enumerate(self.counting):
            if isinstance(row.entry, DecisionEntry):
                decision = row.entry.decision
                by_looser = row.digest in self._looser
                verdict = GateVerdict(decision.verdict, row.entry.against, by_looser)
                for identity in decision.candidate.values():
                    self._verdicts.setdefault((row.run, identity), []).append((place, verdict))
            elif isinstance(row.entry, PromotionEntry):
                name = row.run, row.entry.candidate
                refused: Outcome = "not enforced" if name in self._ignored else "rolled back"
                self._outcomes[name] = "promoted" if row.entry.promotion.promoted else refused

    @property
    def columns(self) -> list[Column]:
        return [column for table in self.tables for column in table.columns.values()]

    def lines(self, table: Table) -> list[Line]:
        """List the models of a table, in the order of the ledger."""
        columns = table.columns.values()
        cells = [column.cells() for column in columns]
        return [
            Line(
                *name,
                [column.get(name) for column in cells],
                self.verdicts(
                    name[0], [c.evaluations[name] for c in columns if name in c.evaluations]
                ),
                self.outcome(name),
            )
            for name in table.names
        ]

    def verdicts(self, run: str, evaluations: Iterable[Evaluation]) -> list[GateVerdict]:
        """List the verdicts on a model's evaluations, each once, in the order of the ledger."""
        found = [v for e in evaluations for v in self._verdicts.get((run, e.identity), [])]
        return list(dict.fromkeys(v for _, v in sorted(found, key=lambda placed: placed[0])))

    def outcome(self, name: Name) -> Outcome:
        return self._outcomes.get(name, "")

    def notes(self) -> list[str]:
        """List what a reader of the tables would not see in the numbers, a sentence each."""
        sentences = []
        for row in self.counting:
            if isinstance(row.entry, DecisionEntry) and row.digest in self._looser:
                looser = self._looser[row.digest]
                sentences.append(
                    f"Looser policy: {self._names.get(looser.candidate, 'a candidate')} against "
                    f"the {row.entry.against}, run {row.run}: {'; '.join(looser.differences)}."
                )
        sentences += [
            f"The gate was not enforced: {name} (run {run}) was not promoted, and is the incumbent "
            "afterwards."
            for run, name in sorted(self._ignored)
        ]
        for column in self.columns:
            sentences += _notes_on(column)
        sentences += [
            f"{name} (run {run}) stands for {count} models with different weights."
            for (run, name), count in _reused_names(self.counting).items()
        ]
        return sentences


def _notes_on(column: Column) -> list[str]:
    sentences = []
    for name, earlier in column.replaced.items():
        shown = column.evaluations[name]
        means = [_mean(evaluation, column.metric) for evaluation in (*earlier, shown)]
        sentences.append(
            f"{name[1]} (run {name[0]}) was evaluated {len(means)} times on {column.task}, "
            f"{shown.split}; the last is shown: {', then '.join(means)}."
        )
    sentences += [
        f"{name[1]} (run {name[0]}) has no rank on {column.task}, "
        f"{column.evaluations[name].split}: {why}."
        for name, why in column.unranked().items()
    ]
    return sentences


def _mean(evaluation: Evaluation, metric: Metric | None) -> str:
    result = evaluation.metrics.get(metric.name) if metric else None
    return "-" if result is None or result.mean is None else short_number(result.mean)


def _names(rows: Sequence[Row]) -> dict[str, str]:
    """Identity of an evaluation -> the first name that it was recorded under."""
    return {
        row.entry.evaluation.identity: row.entry.name
        for row in reversed(rows)
        if isinstance(row.entry, EvaluationEntry)
    }


def _reused_names(rows: Iterable[Row]) -> dict[Name, int]:
    """Count the models, by their weights, under each name that stands for several."""
    weights: dict[Name, set[str]] = {}
    for row in rows:
        if isinstance(row.entry, EvaluationEntry) and row.entry.evaluation.model.digest:
            name = row.run, row.entry.name
            weights.setdefault(name, set()).add(row.entry.evaluation.model.digest)
    return {name: len(digests) for name, digests in weights.items() if len(digests) > 1}
