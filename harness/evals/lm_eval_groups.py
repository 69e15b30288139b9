"""Groups of lm-eval's tasks (mmlu, hendrycks_math): their score, from the documents of all tasks.

lm-eval averages the scores of a group's tasks, most often by their number of documents
(`weight_by_size`). That is the mean over all documents, so that such a group is gated as one task
that holds the documents of all its tasks. A group whose tasks count alike, whatever their size, is
refused: the gate's tests count documents alike, and would pass too often if a few documents of a
small task weighed as much as the many of a large one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.core.errors import UserError
from harness.core.files import jsonl_bytes
from harness.core.schema import Item, Metric, Sample, Score, digest
from harness.core.scored import ScoredEvaluation
from harness.evals.lm_eval_runs import Run, listed, mapping, printable
from tasks.task import aggregate

MAX_DEPTH = 20  # of groups within groups
CLOSE = 1e-9  # relative; lm-eval's own number, computed again


@dataclass(frozen=True)
class Group:
    """A group as one run of lm-eval reported it."""

    name: str
    key: str  # its name in the table of results
    tasks: list[str]
    run: Run


def find_groups(runs: Mapping[str, Run]) -> dict[str, Group]:
    """The groups in the newest run of each task, by name, with all the tasks below them."""
    found: dict[str, Group] = {}
    newest = {run.path: run for run in runs.values()}
    for run in sorted(newest.values(), key=lambda run: run.time):
        members = mapping(run.results.get("group_subtasks"))
        for name in members:
            tasks = _below(name, members)
            if tasks and tasks != [name] and all(task in runs for task in tasks):
                found[name] = Group(name, name, tasks, run)
    # A group in a group is called OUTER::INNER since 0.4.12, and INNER before.
    inner = {name.rpartition("::")[2]: group for name, group in found.items()}
    return {name: replace(group, name=name) for name, group in inner.items()} | found


def _below(name: str, members: Mapping[str, Any]) -> list[str]:
    """The tasks of a group and of the groups in it, in order, each once."""
    tasks: dict[str, None] = {}
    level = [name]
    for _ in range(MAX_DEPTH):
        below: list[str] = []
        for entry in dict.fromkeys(level):
            inner = members.get(entry)
            if isinstance(inner, list) and inner:
                below += [child for child in inner if isinstance(child, str)]
            else:
                tasks[entry] = None
        level = below
    return sorted(tasks)


def combine(group: Group, parts: Mapping[str, ScoredEvaluation]) -> ScoredEvaluation:
    """Return the group as an evaluation of the documents of all its tasks.

    Raises:
        UserError: lm-eval gives no score of the group, or none that is the mean over all documents.
    """
    first = next(iter(parts.values())).evaluation
    definitions = _definitions(group, parts)
    items: list[Item] = []
    scores: list[Score] = []
    samples: list[Sample] = []
    for task, logged in parts.items():
        renamed: dict[str, dict[str, Any]] = {}
        for item in logged.items:
            # Two tasks may ask the same: a document is told by its task, too.
            reference = item.reference | {"task": task}
            changes = {"task": group.name, "index": len(items), "reference": reference}
            items.append(item.model_copy(update=changes | {"tags": {"task": [task]}}))
            new = items[-1]
            renamed[item.digest] = {"task": group.name, "item": new.digest, "index": new.index}
        for score in logged.scores:
            values = {n: v for n, v in score.values.items() if n in definitions}
            unscored = {n: why for n, why in score.unscored.items() if n in definitions}
            kept = {"values": values, "unscored": unscored}
            scores.append(score.model_copy(update=renamed[score.item] | kept))
        samples += [one.model_copy(update=renamed[one.item]) for one in logged.samples]
    evaluations = {task: logged.evaluation for task, logged in parts.items()}
    splits = {one.split for one in evaluations.values()}
    return ScoredEvaluation(
        evaluation=first.model_copy(
            update={
                "task": group.name,
                "task_version": digest({t: e.task_version for t, e in evaluations.items()})[:12],
                "split": splits.pop() if len(splits) == 1 else "test",
                "decoding": {t: e.decoding for t, e in evaluations.items() if e.decoding},
                "dataset_digest": digest([item.digest for item in items]),
                "prompt_digest": digest({t: e.prompt_digest for t, e in evaluations.items()}),
                "items": len(items),
                "definitions": definitions,
                "metrics": aggregate(scores),
                "samples_digest": digest({t: e.samples_digest for t, e in evaluations.items()}),
                "scores_digest": hashlib.sha256(jsonl_bytes(scores)).hexdigest(),
            }
        ),
        samples=samples,
        scores=scores,
        items=items,
    )


def _definitions(group: Group, parts: Mapping[str, ScoredEvaluation]) -> dict[str, Metric]:
    """The metrics of which the group's score is the mean over the documents of its tasks."""
    table = mapping(mapping(group.run.results.get("results")).get(group.key))
    known = {name: one.evaluation.definitions for name, one in parts.items()}
    shown = printable(group.name)
    gate_instead = f"Gate its tasks instead: {listed(group.tasks)}."
    found: dict[str, Metric] = {}
    has_score = False
    for key, score in table.items():
        if "," not in key or "_stderr," in key or not isinstance(score, float | int):
            continue
        has_score = True
        name = key.removesuffix(",none")
        metrics = [metrics[name] for metrics in known.values() if name in metrics]
        agreed = len({(m.higher_is_better, m.low, m.high) for m in metrics}) == 1
        if agreed and _is_mean_over_documents(group, key, score, parts):
            kinds = {metric.kind for metric in metrics}
            changes = {
                "kind": kinds.pop() if len(kinds) == 1 else "continuous",
                "primary": not found,
                "description": f"over the documents of {len(metrics)} tasks of lm-eval",
            }
            found[name] = metrics[0].model_copy(update=changes)
    if not has_score:
        raise UserError(f"lm-eval gives no score of the group {shown}. {gate_instead}")
    if not found:
        raise UserError(
            f"lm-eval's score of the group {shown} is not the mean over all documents: its tasks "
            "count alike although they differ in size (weight_by_size: false), or it is made in "
            f"another way. {gate_instead}"
        )
    return found


def _is_mean_over_documents(
    group: Group, key: str, score: float, parts: Mapping[str, ScoredEvaluation]
) -> bool:
    """Whether lm-eval's number for the group is that of its tasks, weighted by their documents."""
    tables = mapping(group.run.results.get("results"))
    name = key.removesuffix(",none")
    having = [task for task, one in parts.items() if name in one.evaluation.definitions]
    means = [mapping(tables.get(task)).get(key) for task in having]
    numbers = [mean for mean in means if isinstance(mean, float | int)]
    if len(numbers) < len(having):
        return False
    sizes = [len(parts[task].items) for task in having]
    again = math.fsum(n * mean for n, mean in zip(sizes, numbers, strict=True)) / sum(sizes)
    return math.isclose(again, score, rel_tol=CLOSE, abs_tol=CLOSE)
