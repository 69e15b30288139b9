"""The evaluation folder: what was asked and answered, what that is worth, and the sums."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.schema import Call, Evaluation, Item, JudgeRef, ModelRef, Reply, Sample, Score, digest
from harness.store import (
    file_digest,
    jsonl_bytes,
    new_folder,
    parse,
    read_json,
    read_records,
    write_json,
    write_jsonl,
)
from tasks.plugin import Judge, Task

EVALUATION, SAMPLES, SCORES = "evaluation.json", "samples.jsonl", "scores.jsonl"
PREFERRED_SPLITS = ("test", "gate")


@dataclass(frozen=True)
class Scored:
    """An evaluation with the samples and scores it was made from, by index, then repeat."""

    evaluation: Evaluation
    samples: list[Sample]
    scores: list[Score]


class _Watched:
    """A judge, and whether it was asked: a task that scores without it is not judged by it."""

    def __init__(self, judge: Judge) -> None:
        self.id, self.digest = judge.id, judge.digest
        self.asked = False
        self._judge = judge

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        self.asked = True
        return self._judge.ask(calls)


def build(
    task: Task,
    items: Sequence[Item],
    samples: Sequence[Sample],
    *,
    model: ModelRef,
    engine: str,
    decoding: Mapping[str, Any],
    split: str,
    prompt_digest: str,
    judge: Judge | None = None,
    seed: int = 0,
) -> Scored:
    """Score the samples of `items` in one batch, and sum up.

    Raises:
        ValueError: a sample answers none of `items`.
    """
    answered = _answered(items, samples)
    watched = _Watched(judge) if judge is not None else None
    scores = task.score(answered, watched)
    return assemble(
        task,
        items,
        [sample for _, sample in answered],
        scores,
        model=model,
        engine=engine,
        decoding=decoding,
        split=split,
        prompt_digest=prompt_digest,
        judge=JudgeRef(id=watched.id, digest=watched.digest, prompt_digest=task.judge_prompt)
        if watched and watched.asked
        else None,
        estimator=task.estimator,
        seed=seed,
    )


def assemble(
    task: Task,
    items: Sequence[Item],
    samples: Sequence[Sample],
    scores: Sequence[Score],
    *,
    model: ModelRef,
    engine: str,
    decoding: Mapping[str, Any],
    split: str,
    prompt_digest: str,
    judge: JudgeRef | None = None,
    estimator: str | None = None,
    seed: int = 0,
) -> Scored:
    """Sum up samples that are scored already, given by index, then repeat."""
    evaluation = Evaluation(
        task=task.name,
        task_version=task.version,
        split=split,
        model=model,
        engine=engine,
        decoding=dict(decoding),
        judge=judge,
        estimator=estimator,
        dataset_digest=digest([i.digest for i in sorted(items, key=lambda i: i.index)]),
        prompt_digest=prompt_digest,
        code_version=importlib.metadata.version("rlrf-harness"),
        seed=seed,
        items=len(items),
        definitions={metric.name: metric for metric in task.metrics},
        metrics=task.aggregate(scores),
        samples_digest=hashlib.sha256(jsonl_bytes(samples)).hexdigest(),
        scores_digest=hashlib.sha256(jsonl_bytes(scores)).hexdigest(),
    )
    return Scored(evaluation, list(samples), list(scores))


def _answered(items: Sequence[Item], samples: Sequence[Sample]) -> list[tuple[Item, Sample]]:
    known = {item.digest: item for item in items}
    if strangers := {sample.item for sample in samples} - set(known):
        raise ValueError(f"a sample answers item {min(strangers)}, which was not asked")
    ordered = sorted(samples, key=lambda sample: (sample.index, sample.repeat))
    return [(known[sample.item], sample) for sample in ordered]


def choose(
    task: Task,
    split: str | None,
    data: Path | None,
    indices: Sequence[int] | None = None,
    limit: int | None = None,
) -> tuple[str, list[Item], list[int]]:
    """The split to evaluate on, the items to ask, and their positions in the split.

    Without a `split` it is the test split, else the gate split. `indices` name items by
    their `Item.index`; `limit` keeps the first so many.

    Raises:
        UserError: there is no such split or item, or nothing is left to ask.
    """
    if split is None:
        split = next((s for s in PREFERRED_SPLITS if s in task.splits), task.splits[0])
    if split not in task.splits:
        raise UserError(
            f"{task.name} has no split '{split}'; it has {', '.join(task.splits)}. Choose one."
        )
    if limit is not None and limit < 1:
        raise UserError(f"The limit is {limit}; at least one item has to be asked.")
    items = task.items(split, data)
    positions = list(range(len(items)))
    if indices is not None:
        wanted = set(indices)
        if strangers := sorted(wanted - {item.index for item in items}):
            raise UserError(
                f"The {split} split of {task.name} has {len(items)} items and none with index "
                f"{few(strangers)}."
            )
        positions = [i for i in positions if items[i].index in wanted]
    positions = positions[:limit]
    if not positions:
        raise UserError(f"No items of {task.name} ({split}) were chosen; name at least one.")
    return split, [items[i] for i in positions], positions


def few(values: Sequence[object], most: int = 5) -> str:
    """The first of `values`, for a sentence."""
    shown = ", ".join(str(value) for value in values[:most])
    return f"{shown}, ..." if len(values) > most else shown


def save(scored: Scored, folder: Path) -> None:
    """Write an evaluation folder, whole or not at all; one that is there is replaced."""
    with new_folder(folder) as new:
        write_jsonl(new / SAMPLES, scored.samples)
        write_jsonl(new / SCORES, scored.scores)
        write_json(new / EVALUATION, scored.evaluation)


def load(folder: Path) -> dict[str, Scored]:
    """Task -> evaluation, from one evaluation folder or a folder that holds one a task.

    Raises:
        UserError: there is none, a file is malformed, or one is not what was written.
    """
    folders = (
        [folder]
        if (folder / EVALUATION).exists()
        else sorted(path.parent for path in folder.glob(f"*/{EVALUATION}"))
    )
    if not folders:
        raise UserError(
            f"There is no evaluation in {folder}: a folder with {EVALUATION} is expected, or one "
            "that holds such folders. `rlrf eval` and `rlrf score` write them with --out."
        )
    found: dict[str, Scored] = {}
    for one in folders:
        scored = _load_one(one)
        if scored.evaluation.task in found:
            raise UserError(
                f"{folder} holds two evaluations of {scored.evaluation.task}; name one of them."
            )
        found[scored.evaluation.task] = scored
    return found


def _load_one(folder: Path) -> Scored:
    path = folder / EVALUATION
    evaluation = parse(Evaluation, read_json(path), str(path))
    samples = read_records(folder / SAMPLES, Sample)
    scores = read_records(folder / SCORES, Score)
    for name, written in ((SAMPLES, evaluation.samples_digest), (SCORES, evaluation.scores_digest)):
        if file_digest(folder / name) != written:
            raise UserError(
                f"{folder / name} is not what {EVALUATION} was made from: one of them was changed. "
                "Restore it, or evaluate again."
            )
    return Scored(evaluation, samples, scores)
