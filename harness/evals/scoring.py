"""Score the samples of a generation, and sum the scores up as an evaluation."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from harness.core.files import records_digest
from harness.core.schema import (
    Call,
    Evaluation,
    Item,
    JudgeRef,
    ModelRef,
    Record,
    Reply,
    Sample,
    Score,
    digest,
)
from harness.core.scored import ScoredEvaluation
from harness.engines import cut_at_stop
from harness.stats.intervals import with_repeats
from tasks.task import Judge, Task


class Generation(Record):
    """Everything that determines a model's responses to a task.

    The responses of equal generations are equal, and need not be generated twice.
    """

    task: str
    split: str
    model: ModelRef
    engine: str
    decoding: dict[str, Any]
    prompt_digest: str
    seed: int = 0
    dataset_digest: str
    code_version: str

    @classmethod
    def of(cls, evaluation: Evaluation) -> Generation:
        """Return the generation that an evaluation was made from."""
        return cls(**{name: getattr(evaluation, name) for name in cls.model_fields})


class _RecordingJudge:
    """Wrap a judge and record whether a task asked it: not every task that is given one does."""

    def __init__(self, judge: Judge) -> None:
        self.id, self.digest = judge.id, judge.digest
        self.was_asked = False
        self._judge = judge

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        self.was_asked = True
        return self._judge.ask(calls)


def score_samples(
    task: Task,
    items: Sequence[Item],
    samples: Sequence[Sample],
    generation: Generation,
    judge: Judge | None = None,
) -> ScoredEvaluation:
    """Score the samples of `items` in one batch, and compute the metrics.

    A response is scored up to the first stop string of its decoding (of the task, if the decoding
    is not known), as if the engine had stopped there. The sample itself is kept unchanged.

    Raises:
        ValueError: a sample belongs to none of `items`.
    """
    item_of = {item.digest: item for item in items}
    if unknown := {sample.item for sample in samples} - set(item_of):
        raise ValueError(f"a sample answers item {min(unknown)}, which was not asked")
    samples = sorted(samples, key=lambda sample: (sample.index, sample.repeat))
    asked = _RecordingJudge(judge) if judge is not None else None
    stop = generation.decoding.get("stop", task.generation.get("stop", ()))
    scores = task.score([(item_of[s.item], _up_to_stop(s, stop)) for s in samples], asked)
    used = None
    if asked and asked.was_asked:
        used = JudgeRef(id=asked.id, digest=asked.digest, prompt_digest=task.judge_prompt)
    return assemble(task, items, samples, scores, generation, judge=used, estimator=task.estimator)


def _up_to_stop(sample: Sample, stop: Sequence[str]) -> Sample:
    """Cut a response at the first stop string, as an engine that knows the strings would have."""
    response, reason = cut_at_stop(sample.response, "length", stop)
    if response == sample.response:
        return sample
    changes = {} if sample.finish_reason is None else {"finish_reason": reason}
    return sample.model_copy(update={"response": response, **changes})


def assemble(
    task: Task,
    items: Sequence[Item],
    samples: Sequence[Sample],
    scores: Sequence[Score],
    generation: Generation,
    *,
    judge: JudgeRef | None = None,
    estimator: str | None = None,
) -> ScoredEvaluation:
    """Sum up scores as an evaluation of `items`; samples and scores are sorted.

    Of `generation`, the items and the version of this program are replaced by those of now.
    """
    items = _by_index(items)
    made = {name: getattr(generation, name) for name in Generation.model_fields}
    evaluation = Evaluation(
        **made
        | {
            "task": task.name,
            "task_version": task.version,
            "judge": judge,
            "estimator": estimator,
            "dataset_digest": dataset_digest(items),
            "code_version": code_version(),
            "items": len(items),
            "definitions": {metric.name: metric for metric in task.metrics},
            "metrics": task.aggregate(scores),
            "samples_digest": records_digest(samples),
            "scores_digest": records_digest(scores),
        }
    )
    return with_repeats(ScoredEvaluation(evaluation, list(scores), list(samples), items))


def code_version() -> str:
    """Return the version of this program, which is part of the identity of what it makes."""
    return importlib.metadata.version("rlrf-harness")


def dataset_digest(items: Sequence[Item]) -> str:
    """Return the identity of a set of items: the digest of their digests in order of index."""
    return digest([item.digest for item in _by_index(items)])


def _by_index(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda item: item.index)
