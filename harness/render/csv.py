"""Write a board as CSV: a line for each model and metric that counts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.board.ledger import EvaluationEntry, Row
from harness.board.standings import Standings
from harness.core.schema import Evaluation, Metric, MetricResult, digest
from harness.core.text import csv_cell


@dataclass(frozen=True)
class _Line:
    run: str
    model: str
    evaluation: Evaluation
    metric: str
    result: MetricResult
    definition: Metric | None  # None: the metric is derived from all items at once
    rank: int | None
    entry_digest: str
    row_digest: str


COLUMNS: dict[str, Callable[[_Line], object]] = {
    "run": lambda line: line.run,
    "model": lambda line: line.model,
    "task": lambda line: line.evaluation.task,
    "split": lambda line: line.evaluation.split,
    "metric": lambda line: line.metric,
    "primary": lambda line: int(line.definition.primary) if line.definition else "",
    "higher_is_better": lambda line: (
        int(line.definition.higher_is_better) if line.definition else ""
    ),
    "mean": lambda line: line.result.mean,
    "stderr": lambda line: line.result.stderr,
    "low": lambda line: line.result.low,
    "high": lambda line: line.result.high,
    "n": lambda line: line.result.n,
    "unscored": lambda line: line.result.unscored,
    "rank": lambda line: line.rank,
    "judge": lambda line: line.evaluation.judge.id if line.evaluation.judge else "",
    "estimator": lambda line: line.evaluation.estimator or "",
    "task_version": lambda line: line.evaluation.task_version,
    "comparable_key": lambda line: line.evaluation.comparable_key,
    "dataset_digest": lambda line: line.evaluation.dataset_digest,
    "prompt_digest": lambda line: line.evaluation.prompt_digest,
    "model_digest": lambda line: line.evaluation.model.digest,
    "samples_digest": lambda line: line.evaluation.samples_digest,
    "scores_digest": lambda line: line.evaluation.scores_digest,
    "entry_digest": lambda line: line.entry_digest,
    "row_digest": lambda line: line.row_digest,
}


def board(rows: Sequence[Row]) -> str:
    """Write every metric of the evaluations that count: mean, standard error, 95 % interval, n.

    Cells that cannot be known are empty. Lines compare only where `comparable_key` is the same;
    `rank` is among those. Text that a spreadsheet would take for a formula is quoted by an
    apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in _lines(Standings(rows)):
        cells = [cell(line) for cell in COLUMNS.values()]
        writer.writerow(csv_cell(cell) if isinstance(cell, str) else cell for cell in cells)
    return text.getvalue()


def _lines(standings: Standings) -> list[_Line]:
    digests = {
        (row.run, row.entry.name, row.entry.evaluation.identity): (digest(row.entry), row.digest)
        for row in standings.counting
        if isinstance(row.entry, EvaluationEntry)
    }
    lines = []
    for column in standings.columns:
        metrics = sorted({m for e in column.evaluations.values() for m in e.metrics})
        # There is no rank by a metric whose direction is not known.
        known = column.example.definitions
        cells = {name: column.cells(known[name]) if name in known else {} for name in metrics}
        for (run, model), evaluation in column.evaluations.items():
            for metric in (name for name in metrics if name in evaluation.metrics):
                cell = cells[metric].get((run, model))
                lines.append(
                    _Line(
                        run,
                        model,
                        evaluation,
                        metric,
                        evaluation.metrics[metric],
                        evaluation.definitions.get(metric),
                        cell.rank if cell else None,
                        *digests[run, model, evaluation.identity],
                    )
                )
    return lines
