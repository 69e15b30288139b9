"""Render a model's results as a section of a model card, for the hub and for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from harness.board.ledger import EvaluationEntry, Row
from harness.board.ranking import divide
from harness.core.errors import UserError
from harness.core.schema import Evaluation
from harness.core.text import markdown as escape
from harness.core.text import one_line


def section(rows: Sequence[Row], name: str) -> str:
    """Render the results of `name` that count: front matter with a `model-index`, and a table.

    The value of a metric is its mean; its `args` have the interval, n and the number of unscored
    responses. The dataset's revision is the digest of its items.

    Raises:
        UserError: the board has no result of `name` that counts.
    """
    standing, _ = divide(rows)
    found: dict[tuple[str, str], Evaluation] = {}
    for row in standing:
        if isinstance(row.entry, EvaluationEntry) and row.entry.name == name:
            evaluation = row.entry.evaluation
            found[evaluation.task, evaluation.comparable_key] = evaluation
    results = [_result(evaluation) for evaluation in found.values()]
    results = [result for result in results if result["metrics"]]
    lines = ["| task | split | metric | mean | 95 % interval | n |", "|" + " --- |" * 6]
    for evaluation in found.values():
        for metric, result in evaluation.metrics.items():
            if result.mean is None:
                continue
            ends = (result.low, result.high)
            interval = "-" if None in ends else f"{result.low:.4g} to {result.high:.4g}"
            words = [escape(word) for word in (evaluation.task, evaluation.split, metric)]
            lines.append(f"| {' | '.join(words)} | {result.mean:.4g} | {interval} | {result.n} |")
    if not results:
        known = {r.entry.name for r in standing if isinstance(r.entry, EvaluationEntry)}
        raise UserError(
            f"The board has no number of '{name}'; it has {', '.join(sorted(known)) or 'none'}."
        )
    index = {"model-index": [{"name": one_line(name), "results": results}]}
    front = yaml.safe_dump(index, sort_keys=False, allow_unicode=True).strip()
    return "\n".join(["---", front, "---", "", "## Evaluation", "", *lines]) + "\n"


def _result(evaluation: Evaluation) -> dict[str, Any]:
    """Write an evaluation as a result of the hub's `model-index`."""
    return {
        "task": {"type": "text-generation", "name": evaluation.task},
        "dataset": {
            "name": evaluation.task,
            "type": evaluation.task,
            "split": evaluation.split,
            "revision": evaluation.dataset_digest,
        },
        "metrics": [
            {
                "type": metric,
                "value": result.mean,
                "args": result.model_dump(mode="json", exclude={"mean"}, exclude_none=True),
            }
            for metric, result in evaluation.metrics.items()
            if result.mean is not None
        ],
    }
