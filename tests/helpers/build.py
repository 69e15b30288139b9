"""Evaluations of samples that a test wrote, scored for real."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.core.schema import Item, Sample
from harness.core.scored import ScoredEvaluation
from harness.evals.scoring import Generation, code_version, dataset_digest, score_samples
from tasks.task import Judge, Task


def generation_of(task: Task, items: Sequence[Item], **fields: Any) -> Generation:
    """Describe a generation by `fields`; the rest is that of `items` and this version."""
    known = {
        "task": task.name,
        "dataset_digest": dataset_digest(items),
        "code_version": code_version(),
    }
    return Generation(**known | fields)


def sample_of(item: Item, response: str, **fields: Any) -> Sample:
    """A response to an item, as a model that was asked the item's prompt gives it."""
    known = {"task": item.task, "item": item.digest, "index": item.index, "prompt": item.prompt}
    return Sample(response=response, **known | fields)


def build_evaluation(
    task: Task,
    items: Sequence[Item],
    samples: Sequence[Sample],
    judge: Judge | None = None,
    **fields: Any,
) -> ScoredEvaluation:
    """Score `samples` as the evaluation of the generation that `fields` describe."""
    return score_samples(task, items, samples, generation_of(task, items, **fields), judge)
