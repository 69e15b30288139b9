"""Functions that the task YAML files call, through which stock lm-eval uses a `Task`.

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
    """Split -> `datasets.Dataset` of docs, made at first access."""

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
    """Return the splits of a task, for lm-eval's `custom_dataset`; each is made at first access.

    Raises:
        UserError: there is no such task; at access: no such split or data.
    """
    return _Splits(tasks.load(task), Path(data) if data else None)


def require_yaml(name: str) -> None:
    """Check that lm-eval finds the YAML of a task.

    Raises:
        UserError: it does not, because the file is missing or broken.
    """
    from lm_eval.tasks import TaskManager

    folder = tasks.folder_of(name)
    if name not in TaskManager(include_path=str(folder), include_defaults=False).all_subtasks:
        raise no_yaml(name, folder)


def no_yaml(name: str, folder: Path) -> UserError:
    """Say that lm-eval does not find the YAML of a task."""
    return UserError(
        f"lm-eval finds no task '{name}' in {folder}: its YAML is missing or broken. "
        f"`lm_eval validate --include_path {folder} --tasks {name}` says more."
    )


def to_doc(item: Item) -> dict[str, Any]:
    """Return an item as a flat row for `datasets`: nested values are JSON text."""
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
    """Return the item from which `to_doc` made `doc`."""
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
    """One answer to an item, and its score, which all its metrics share."""

    item: Item
    sample: Sample
    score: Score | None = None


class Pending(dict[str, float | None]):
    """A metric that waits for a judge; lm-eval logs it as {"value": ...}, filled in later."""

    def __init__(self, metric: str, answer: Answer) -> None:
        super().__init__(value=None)
        self.metric, self.answer = metric, answer


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float | Pending]:
    """Return the metrics of one response; metrics without a value are left out.

    lm-eval calls this once per document, and one exception would lose the run, so no judge is asked
    here. If the environment names a judging file (`RLRF_JUDGE`, as for `rlrf eval --judge`),
    metrics that need a judge are `Pending`, and `harness.judges.stock` asks it about all answers
    together.
    """
    asked_item = item(doc)
    sample = Sample(
        task=asked_item.task,
        item=asked_item.digest,
        index=asked_item.index,
        prompt=asked_item.prompt,
        response=results[0],
    )
    (score,) = tasks.load(asked_item.task).score([(asked_item, sample)])
    if not os.environ.get(JUDGE):
        return dict(score.values)
    answer = Answer(asked_item, sample)
    return score.values | {metric: Pending(metric, answer) for metric in score.unscored}
