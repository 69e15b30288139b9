"""What the task YAML files call: the plugins as stock lm-eval sees them.

    custom_dataset: !function tasks.hooks.dataset
    doc_to_text: "{{prompt}}"
    process_results: !function tasks.hooks.process_results
    metadata: {task: gsm8k, version: 1}

A user's own data folder is passed with `--metadata '{"data": "DIR"}'`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tasks
from harness.core.errors import UserError
from harness.core.schema import Item, Sample, Score
from tasks.task import Task

JUDGE = "RLRF_JUDGE"


class _Splits(dict[str, Any]):
    """Split -> `datasets.Dataset` of docs, made when it is first asked for."""

    def __init__(self, task: Task, data: Path | None) -> None:
        super().__init__()
        self._task, self._data = task, data

    def __missing__(self, split: str) -> Any:
        import datasets

        docs = [to_doc(item) for item in self._task.items(split, self._data)]
        if not docs:
            raise UserError(f"The {split} split of {self._task.name} is empty.")
        self[split] = datasets.Dataset.from_list(docs)
        return self[split]


def dataset(*, task: str, data: str | None = None, **_ignored: Any) -> dict[str, Any]:
    """The splits of a task, as lm-eval's `custom_dataset`; each is made when it is asked for.

    Raises:
        UserError: there is no such task; on access, no such split or data.
    """
    return _Splits(tasks.load(task), Path(data) if data else None)


def to_doc(item: Item) -> dict[str, Any]:
    """An item as a row that every `datasets` version can hold: nested values are JSON text."""
    return {
        "task": item.task,
        "split": item.split,
        "index": item.index,
        "prompt": item.prompt,
        "reference": json.dumps(item.reference),
        "tags": json.dumps(item.tags),
        "digest": item.digest,
    }


def item(doc: dict[str, Any]) -> Item:
    """The item that `to_doc` made `doc` of."""
    return Item(
        task=doc["task"],
        split=doc["split"],
        index=doc["index"],
        prompt=doc["prompt"],
        reference=json.loads(doc["reference"]),
        tags=json.loads(doc["tags"]),
    )


@dataclass
class Answer:
    """What was asked and answered; all the metrics of one answer share its score."""

    item: Item
    sample: Sample
    score: Score | None = None


class Pending(dict[str, float | None]):
    """A metric that waits for a judge; lm-eval logs it as {"value": ...}, which comes later."""

    def __init__(self, metric: str, answer: Answer) -> None:
        super().__init__(value=None)
        self.metric, self.answer = metric, answer


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float | Pending]:
    """The metrics of one response; one without a value is left out.

    lm-eval calls this once a document, and one exception would lose the run, so no judge is asked
    here. Where the environment names a judge (`RLRF_JUDGE`, a file as `rlrf eval --judge` takes),
    the metrics that need one are `Pending`, and `harness.judges.stock` asks it for all at once.
    """
    asked = item(doc)
    sample = Sample(
        task=asked.task,
        item=asked.digest,
        index=asked.index,
        prompt=asked.prompt,
        response=results[0],
    )
    (score,) = tasks.load(asked.task).score([(asked, sample)])
    if not os.environ.get(JUDGE):
        return dict(score.values)
    answer = Answer(asked, sample)
    return score.values | {metric: Pending(metric, answer) for metric in score.unscored}
