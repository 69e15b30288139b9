"""Groups of lm-eval's tasks (mmlu, hendrycks_math): their score, from the documents of all tasks.

lm-eval averages the scores of a group's tasks, either by their number of documents or each task
alike (`weight_by_size`). Both are a mean over all documents in which each document has a weight,
so that a group is gated as a task that holds the documents of all its tasks. Where tasks count
alike, the interval treats the documents as drawn from all tasks together, which is wider than it
would be task by task.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import UserError
from harness.lm_eval_runs import Logged, Run, listed, mapping, printable
from harness.schema import Item, Metric, Sample, Score, digest
from harness.store import jsonl_bytes
from tasks.plugin import aggregate

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


def combine(group: Group, parts: Mapping[str, Logged]) -> Logged:
    """Return the group as an evaluation of the documents of all its tasks.

    Raises:
        UserError: lm-eval gives no score of the group, or one that is not the mean of its tasks by
            size or of its tasks alike.
    """
    first = next(iter(parts.values())).evaluation
    weights = _weights(group, parts)
    items: list[Item] = []
    scores: list[Score] = []
    samples: list[Sample] = []
    for task, logged in parts.items():
        renamed: dict[str, tuple[str, int]] = {}
        for item in logged.items:
            # Two tasks may ask the same: a document is told by its task, too.
            reference = item.reference | {"task": task}
            changes = {"task": group.name, "index": len(items), "reference": reference}
            items.append(item.model_copy(update=changes | {"tags": {"task": [task]}}))
            renamed[item.digest] = items[-1].digest, items[-1].index
        for score in logged.scores:
            item_digest, index = renamed[score.item]
            values = {n: v * weights[n][task] for n, v in score.values.items() if n in weights}
            unscored = {n: why for n, why in score.unscored.items() if n in weights}
            changes = {"task": group.name, "item": item_digest, "index": index}
            scores.append(
                score.model_copy(update=changes | {"values": values, "unscored": unscored})
            )
        for sample in logged.samples:
            item_digest, index = renamed[sample.item]
            changes = {"task": group.name, "item": item_digest, "index": index}
            samples.append(sample.model_copy(update=changes))
    evaluations = {task: logged.evaluation for task, logged in parts.items()}
    splits = {one.split for one in evaluations.values()}
    return Logged(
        evaluation=first.model_copy(
            update={
                "task": group.name,
                "task_version": digest({t: e.task_version for t, e in evaluations.items()})[:12],
                "split": splits.pop() if len(splits) == 1 else "test",
                "decoding": {t: e.decoding for t, e in evaluations.items() if e.decoding},
                "dataset_digest": digest([item.digest for item in items]),
                "prompt_digest": digest({t: e.prompt_digest for t, e in evaluations.items()}),
                "items": len(items),
                "definitions": _definitions(group, parts, weights),
                "metrics": aggregate(scores),
                "samples_digest": digest({t: e.samples_digest for t, e in evaluations.items()}),
                "scores_digest": hashlib.sha256(jsonl_bytes(scores)).hexdigest(),
            }
        ),
        samples=samples,
        scores=scores,
        items=items,
    )


def _weights(group: Group, parts: Mapping[str, Logged]) -> dict[str, dict[str, float]]:
    """Metric -> task -> what each of its documents counts; 1 where all documents count alike."""
    table = mapping(mapping(group.run.results.get("results")).get(group.key))
    names = {
        key.removesuffix(",none"): key
        for key, value in table.items()
        if "," in key and "_stderr," not in key and isinstance(value, float | int)
    }
    gate_instead = f"Gate its tasks instead: {listed(group.tasks)}."
    if not names:
        raise UserError(
            f"lm-eval gives no score of the group {printable(group.name)}. {gate_instead}"
        )
    documents = {task: len(logged.items) for task, logged in parts.items()}
    weights = {}
    for name, key in names.items():
        having = [task for task, part in parts.items() if name in part.evaluation.definitions]
        shares = _shares(group.run, key, float(table[key]), having)
        if shares is not None:
            count = sum(documents[task] for task in having)
            each = {task: share * count / documents[task] for task, share in shares.items()}
            even = all(math.isclose(weight, 1) for weight in each.values())
            weights[name] = dict.fromkeys(each, 1.0) if even else each
    if not weights:
        raise UserError(
            f"lm-eval's score of the group {printable(group.name)} is not the mean of its tasks, "
            f"by size or alike, so that it does not follow from the documents. {gate_instead}"
        )
    return weights


def _shares(run: Run, key: str, score: float, tasks: Sequence[str]) -> dict[str, float] | None:
    """What each task counts in the group's `score`, which says how; None if it does not follow."""
    tables = mapping(run.results.get("results"))
    means = [mapping(tables.get(task)).get(key) for task in tasks]
    numbers = [mean for mean in means if isinstance(mean, float | int)]
    if len(numbers) < len(tasks):
        return None
    sizes = [float(run.documents(task)) for task in tasks]
    for sized in (sizes, [1.0] * len(tasks)):
        shares = [size / sum(sized) for size in sized]
        again = math.fsum(share * mean for share, mean in zip(shares, numbers, strict=True))
        if math.isclose(again, score, rel_tol=CLOSE, abs_tol=CLOSE):
            return dict(zip(tasks, shares, strict=True))
    return None


def _definitions(
    group: Group, parts: Mapping[str, Logged], weights: Mapping[str, Mapping[str, float]]
) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    for name, of_task in weights.items():
        known = {task: parts[task].evaluation.definitions[name] for task in of_task}
        if len({one.higher_is_better for one in known.values()}) > 1:
            continue
        lows = [of_task[t] * one.low for t, one in known.items() if one.low is not None]
        highs = [of_task[t] * one.high for t, one in known.items() if one.high is not None]
        is_known = len(lows) == len(highs) == len(known)
        even = all(weight == 1 for weight in of_task.values())
        is_yes_no = even and all(one.kind == "binary" for one in known.values())
        found[name] = Metric(
            name=name,
            kind="binary" if is_yes_no else "continuous",
            low=min(lows) if is_known else None,
            high=max(highs) if is_known else None,
            higher_is_better=next(iter(known.values())).higher_is_better,
            primary=not found,
            description=f"over the documents of {len(known)} tasks, each with its weight",
        )
    return found
