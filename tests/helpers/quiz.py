"""Evaluations made by hand: a small benchmark called `quiz`, answered as a test wants it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.files import records_digest
from harness.core.schema import Evaluation, Metric, ModelRef, Score, digest
from harness.core.scored import ScoredEvaluation
from harness.stats.intervals import aggregate

METRICS = (
    Metric(name="accuracy", kind="binary", primary=True),
    Metric(name="grade", kind="continuous", low=1, high=5),
    Metric(name="facts", kind="continuous"),
    Metric(name="responded", kind="binary"),
    Metric(name="refused", kind="binary", higher_is_better=False),
)

Values = Mapping[str, float | str | None]
"""Metric -> value; a string is the reason why it has none, None says that it does not apply."""


def make(
    rows: Sequence[Values],
    *,
    task: str = "quiz",
    model: str = "m",
    keep: Sequence[int] | None = None,
    repeats: int = 1,
    edition: str = "",
    **fields: Any,
) -> ScoredEvaluation:
    """An evaluation of `task` with its scores, right in every digest.

    Item i is answered as rows[i * repeats : (i + 1) * repeats] say; `keep` drops the others.
    Another `edition` asks other items.
    """
    count = len(rows) // repeats
    items = [hashlib.sha256(f"{task}{edition} {i}".encode()).hexdigest() for i in range(count)]
    scores = [
        Score(
            task=task,
            item=items[i // repeats],
            index=i // repeats,
            repeat=i % repeats,
            values={k: float(v) for k, v in row.items() if not isinstance(v, str | None)},
            unscored={k: v for k, v in row.items() if isinstance(v, str)},
            details={"answer": f"answer {i} of {model}"},
        )
        for i, row in enumerate(rows)
        if keep is None or i // repeats in keep
    ]
    used = {name for row in rows for name in row}
    known = {
        "task": task,
        "task_version": "1",
        "split": "gate",
        "model": ModelRef(id=model, digest=digest(model)),
        "engine": "hf",
        "decoding": {"temperature": 0},
        "dataset_digest": digest(items),
        "prompt_digest": digest("prompt"),
        "code_version": "0",
        "items": count,
        "definitions": {metric.name: metric for metric in METRICS if metric.name in used},
        "metrics": aggregate(scores),
        "samples_digest": digest([model, task]),
        "scores_digest": records_digest(scores),
    }
    return ScoredEvaluation(Evaluation(**(known | fields)), scores)
