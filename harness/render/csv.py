"""A board as CSV: a line for each model and metric that counts."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from harness.board.ranking import Column, Name, divide, tables
from harness.board.rows import EvaluationEntry, Row
from harness.core.schema import Evaluation, digest
from harness.core.text import csv_cell

HEADS = (
    "run",
    "model",
    "task",
    "split",
    "metric",
    "primary",
    "higher_is_better",
    "mean",
    "stderr",
    "low",
    "high",
    "n",
    "unscored",
    "rank",
    "judge",
    "estimator",
    "task_version",
    "comparable_key",
    "dataset_digest",
    "prompt_digest",
    "model_digest",
    "samples_digest",
    "scores_digest",
    "entry_digest",
    "row_digest",
)


def board(rows: Sequence[Row]) -> str:
    """Every metric of the evaluations that count: mean, standard error, 95 % interval, n.

    What cannot be known is empty. Lines compare only where `comparable_key` is the same; `rank`
    is among those. Text that a spreadsheet would take for a formula is quoted by an apostrophe.
    """
    standing, _ = divide(rows)
    entries = {
        (row.run, row.entry.name, row.entry.evaluation.identity): (digest(row.entry), row.digest)
        for row in standing
        if isinstance(row.entry, EvaluationEntry)
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADS, lineterminator="\n")
    writer.writeheader()
    for table in tables(standing):
        for column in table.columns.values():
            names = sorted({m for e in column.evaluations.values() for m in e.metrics})
            ranked = {metric: _ranks(column, metric) for metric in names}
            for (run, model), evaluation in column.evaluations.items():
                digests = entries[run, model, evaluation.identity]
                for metric in names:
                    if metric in evaluation.metrics:
                        rank = ranked[metric].get((run, model))
                        words = {"run": run, "model": model, "metric": metric}
                        writer.writerow(_line(words, evaluation, rank, digests))
    return text.getvalue()


def _ranks(column: Column, metric: str) -> dict[Name, int]:
    """Rank by `metric`; nothing where its direction is not known."""
    definition = next(iter(column.evaluations.values())).definitions.get(metric)
    return column.ranks(definition) if definition else {}


def _line(
    words: dict[str, str], evaluation: Evaluation, rank: int | None, digests: tuple[str, str]
) -> dict[str, Any]:
    result = evaluation.metrics[words["metric"]]
    definition = evaluation.definitions.get(words["metric"])
    words |= {
        "task": evaluation.task,
        "split": evaluation.split,
        "judge": evaluation.judge.id if evaluation.judge else "",
        "estimator": evaluation.estimator or "",
        "task_version": evaluation.task_version,
    }
    cells = words | {
        "primary": int(definition.primary) if definition else "",
        "higher_is_better": int(definition.higher_is_better) if definition else "",
        "mean": result.mean,
        "stderr": result.stderr,
        "low": result.low,
        "high": result.high,
        "n": result.n,
        "unscored": result.unscored,
        "rank": rank,
        "comparable_key": evaluation.comparable_key,
        "dataset_digest": evaluation.dataset_digest,
        "prompt_digest": evaluation.prompt_digest,
        "model_digest": evaluation.model.digest,
        "samples_digest": evaluation.samples_digest,
        "scores_digest": evaluation.scores_digest,
        "entry_digest": digests[0],
        "row_digest": digests[1],
    }
    return {key: csv_cell(cell) if isinstance(cell, str) else cell for key, cell in cells.items()}
