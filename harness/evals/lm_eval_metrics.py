"""Decide which metrics of stock lm-eval, of tasks and of groups of tasks, the gate can compare.

lm-eval logs a value per document, an aggregation and a direction, but no range. A metric's range
comes from its definition here, or is unknown; it never comes from a candidate's values.

A group (mmlu, hendrycks_math) is gated as one task that holds the documents of all its tasks, if
lm-eval's score of the group is the mean over these documents (`weight_by_size`). A group whose
tasks count alike, whatever their size, is refused: the gate's tests count documents alike, and
would pass too often if a few documents of a small task weighed as much as many of a large one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.core.errors import UserError
from harness.core.files import records_digest
from harness.core.schema import Evaluation, Item, Metric, MetricResult, Sample, Score, digest, mean
from harness.core.scored import ScoredEvaluation
from harness.core.text import listed, shorten
from harness.evals.lm_eval_runs import Run, mapping
from harness.evals.scoring import Generation
from harness.stats.intervals import aggregate, subgroups, with_repeats

UNIT = (0.0, 1.0)
# Metrics that mean the same wherever lm-eval's tasks use their name. One whose scale depends on
# the task (BLEU and ROUGE are from 0 to 1 here and from 0 to 100 there) is not among them.
RANGES: dict[str, tuple[float, float]] = {
    "brier_score": (0.0, 2.0),
    "mcc": (-1.0, 1.0),
    **dict.fromkeys(
        (
            "acc", "acc_norm", "acc_bytes", "acc_mutual_info", "accuracy", "bleu_acc", "em",
            "exact_match", "f1", "math_verify", "pass@1", "pass_at_1", "precision",
            "prompt_level_loose_acc", "prompt_level_strict_acc", "recall", "rouge1_acc",
            "rouge2_acc", "rougeL_acc",
        ),
        UNIT,
    ),
}  # fmt: skip
LOWER_IS_BETTER = {"brier_score"}
MEANS = {"mean", "nanmean"}  # aggregations of lm-eval
CLOSE_TO_TABLE = 1e-6  # relative: a mean in lm-eval's table, and that of the documents
CLOSE_TO_GROUP = 1e-9  # relative: lm-eval's score of a group, and that of its tasks' scores
MAX_NESTING = 20  # groups within groups


def definitions(run: Run, task: str, scores: Sequence[Score], names: set[str]) -> dict[str, Metric]:
    """Define each of the metrics `names` for the gate; the first of lm-eval's table is primary.

    Metrics are left out that lm-eval does not average over the documents, or of which it does not
    say whether a higher value is better.
    """
    higher = mapping(run.entry("higher_is_better", task))
    values = {
        name: [score.values[name] for score in scores if name in score.values] for name in names
    }
    known = {
        name: better
        for name in sorted(names)
        if _is_mean(run, task, name, values[name])
        and (better := _direction(name, higher)) is not None
    }
    in_table = [key.removesuffix(",none") for key in _table(run, task)]
    primary = next((name for name in in_table if name in known), None)
    return {
        name: metric(name, values[name], higher_is_better=better, primary=name == primary)
        for name, better in known.items()
    }


def metric(name: str, values: Sequence[float], *, higher_is_better: bool, primary: bool) -> Metric:
    """Define a metric that has these values per document.

    If a value lies outside the range of the metric's definition, the task means something else by
    the name, and the range is unknown.
    """
    low, high = RANGES.get(base(name), (-math.inf, math.inf))
    is_known = math.isfinite(high) and all(low <= value <= high for value in values)
    is_yes_no = all(value in UNIT for value in values) and (not is_known or (low, high) == UNIT)
    return Metric(
        name=name,
        kind="binary" if is_yes_no else "continuous",
        low=low if is_known else None,
        high=high if is_known else None,
        higher_is_better=higher_is_better,
        primary=primary,
        description="as lm-eval logged it",
    )


def base(name: str) -> str:
    """Return the name of a metric without that of its filter."""
    return name.partition(",")[0]


def with_baseline_definitions(
    before: ScoredEvaluation, after: ScoredEvaluation
) -> tuple[ScoredEvaluation, ScoredEvaluation]:
    """Return both evaluations with the baseline's definition of each metric that both have.

    A metric is yes/no only if it is on both sides.

    Raises:
        UserError: the numbers of documents or the direction of a metric differ, or a value of the
            candidate lies outside the metric's range.
    """
    old, new = before.evaluation, after.evaluation
    if old.items != new.items:
        raise UserError(
            f"The baseline has {old.items:,} documents of {old.task} and the candidate "
            f"{new.items:,}. Evaluate both with the same --limit or --samples of lm-eval."
        )
    shared = {
        name: _agreed(old.definitions[name], new.definitions[name], after.scores)
        for name in old.definitions
        if name in new.definitions
    }
    return (
        before.with_definitions(old.definitions | shared),
        after.with_definitions(new.definitions | shared),
    )


def _agreed(old: Metric, new: Metric, candidate: Sequence[Score]) -> Metric:
    if old.higher_is_better != new.higher_is_better:
        raise UserError(
            f"The two lm-eval runs disagree whether a higher '{old.name}' is better: "
            "evaluate both with the same version of the task."
        )
    if old.low is not None and old.high is not None:
        for score in candidate:
            value = score.values.get(old.name, old.low)
            if not old.low <= value <= old.high:
                raise UserError(
                    f"The candidate's {old.name} of document {score.index} of {score.task} is "
                    f"{value:g}, and the metric runs from {old.low:g} to {old.high:g}. Evaluate "
                    "both with the same version of the task."
                )
    return old.model_copy(update={"kind": old.kind if old.kind == new.kind else "continuous"})


def _direction(name: str, higher: Mapping[str, Any]) -> bool | None:
    stated = higher.get(base(name))
    if isinstance(stated, bool):
        return stated
    return base(name) not in LOWER_IS_BETTER if base(name) in RANGES else None


def _is_mean(run: Run, task: str, name: str, values: Sequence[float]) -> bool:
    """Tell whether lm-eval's number of the metric is the mean of its values per document.

    The task's configuration declares a mean. If it declares nothing, or a function of the task's
    own, the number has to be equal to the mean.
    """
    declared = _aggregations(run, task).get(base(name))
    if isinstance(declared, str) and declared.isidentifier():
        return declared in MEANS
    number = _table(run, task).get(name if "," in name else f"{name},none")
    return (
        isinstance(number, float | int)
        and bool(values)
        and math.isclose(mean(list(values)), number, rel_tol=CLOSE_TO_TABLE, abs_tol=CLOSE_TO_TABLE)
    )


def undefined_for_some(run: Run, task: str) -> set[str]:
    """Return the metrics that may be NaN for a document, which then does not count."""
    return {name for name, how in _aggregations(run, task).items() if how == "nanmean"}


def _aggregations(run: Run, task: str) -> dict[str, Any]:
    configured = run.configuration(task).get("metric_list")
    return {
        entry["metric"]: entry.get("aggregation")
        for entry in (configured if isinstance(configured, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("metric"), str)
    }


def _table(run: Run, name: str) -> dict[str, Any]:
    """Return lm-eval's table of the results of a task or group."""
    return mapping(run.entry("results", name))


@dataclass(frozen=True)
class Group:
    """A group as one run of lm-eval reported it."""

    name: str
    key: str  # its name in the table of results
    tasks: list[str]
    run: Run


def find_groups(runs: Mapping[str, Run]) -> dict[str, Group]:
    """Find the groups in the newest run of each task, by name, with all the tasks below them."""
    groups: dict[str, Group] = {}
    newest = {run.path: run for run in runs.values()}
    for run in sorted(newest.values(), key=lambda run: run.time):
        members = mapping(run.results.get("group_subtasks"))
        for name in members:
            tasks = _tasks_below(name, members)
            if tasks and tasks != [name] and all(task in runs for task in tasks):
                groups[name] = Group(name, name, tasks, run)
    # A group in a group is called OUTER::INNER since 0.4.12, and INNER before.
    inner = {name.rpartition("::")[2]: group for name, group in groups.items()}
    return {name: replace(group, name=name) for name, group in inner.items()} | groups


def _tasks_below(name: str, members: Mapping[str, Any]) -> list[str]:
    """List the tasks of a group and of the groups in it, each once."""
    tasks: set[str] = set()
    level = [name]
    for _ in range(MAX_NESTING):
        below: list[str] = []
        for entry in dict.fromkeys(level):
            inner = members.get(entry)
            if isinstance(inner, list) and inner:
                below += [child for child in inner if isinstance(child, str)]
            else:
                tasks.add(entry)
        level = below
    return sorted(tasks)


def member_item(item: Item, group: str, offset: int) -> Item:
    """Make a document of a task an item of the task's group, whose documents before it count.

    Two tasks may ask the same question: the task is part of a document's identity.
    """
    return item.model_copy(
        update={
            "task": group,
            "index": offset + item.index,
            "reference": item.reference | {"task": item.task},
            "tags": {"task": [item.task]},
        }
    )


def combine(group: Group, parts: Mapping[str, ScoredEvaluation]) -> ScoredEvaluation:
    """Combine the evaluations of a group's tasks into one, of the documents of all.

    The gate can compare the metrics whose group score is the mean over all documents. Others have
    no definition: lm-eval's number is in the metrics, values of documents in details of scores.
    """
    definitions = _group_definitions(group, parts)
    items: list[Item] = []
    scores: list[Score] = []
    samples: list[Sample] = []
    offset = 0
    for task, logged in parts.items():
        renamed: dict[tuple[str, int], dict[str, Any]] = {}
        for item in logged.items:
            new = member_item(item, group.name, offset)
            items.append(new)
            renamed[item.digest, item.index] = {
                "task": group.name,
                "item": new.digest,
                "index": new.index,
            }
        scores += [
            with_defined(s.model_copy(update=renamed[s.item, s.index]), definitions)
            for s in logged.scores
        ]
        samples += [s.model_copy(update=renamed[s.item, s.index]) for s in logged.samples]
        offset += group.run.size(task)
    evaluations = {task: logged.evaluation for task, logged in parts.items()}
    first = next(iter(evaluations.values()))
    combined = first.model_copy(
        update={
            "task": group.name,
            "task_version": digest({t: e.task_version for t, e in evaluations.items()})[:12],
            **shared_settings(evaluations),
            "dataset_digest": digest([item.digest for item in items]),
            "items": len(items),
            "definitions": definitions,
            "metrics": aggregate(scores) | numbers(group.run, group.key, definitions, len(items)),
            "samples_digest": digest({t: e.samples_digest for t, e in evaluations.items()}),
            "scores_digest": records_digest(scores),
        }
    )
    return with_repeats(ScoredEvaluation(combined, scores, samples, items))


def shared_settings(parts: Mapping[str, Evaluation | Generation]) -> dict[str, Any]:
    """Combine the settings of a group's tasks: split, decoding and prompts."""
    splits = {part.split for part in parts.values()}
    return {
        "split": splits.pop() if len(splits) == 1 else "test",
        "decoding": {task: part.decoding for task, part in parts.items() if part.decoding},
        "prompt_digest": digest({task: part.prompt_digest for task, part in parts.items()}),
    }


def _group_definitions(group: Group, parts: Mapping[str, ScoredEvaluation]) -> dict[str, Metric]:
    """Define the metrics whose group score is the mean over the documents of the group's tasks."""
    known = {task: part.evaluation.definitions for task, part in parts.items()}
    definitions: dict[str, Metric] = {}
    for key, score in _table(group.run, group.key).items():
        if "," not in key or "_stderr," in key or not isinstance(score, float | int):
            continue
        name = key.removesuffix(",none")
        metrics = [metrics[name] for metrics in known.values() if name in metrics]
        agreed = len({(m.higher_is_better, m.low, m.high) for m in metrics}) == 1
        if agreed and _is_mean_over_documents(group, key, score, parts):
            kinds = {metric.kind for metric in metrics}
            changes = {
                "kind": kinds.pop() if len(kinds) == 1 else "continuous",
                "primary": not definitions,
                "description": f"over the documents of {len(metrics)} tasks of lm-eval",
            }
            definitions[name] = metrics[0].model_copy(update=changes)
    return definitions


def member_results(scored: ScoredEvaluation) -> dict[str, dict[str, MetricResult]]:
    """Return the results of each task of a group by name; none if it is not a group of lm-eval."""
    if not scored.evaluation.is_lm_eval:
        return {}
    scores = [s.model_copy(update={"values": _all_values(s)}) for s in scored.scores]
    return subgroups(scored.items, scores, "task", scored.evaluation.definitions)


def _all_values(score: Score) -> dict[str, float]:
    """Return the values of a score, and those that the gate cannot compare."""
    others: dict[str, float] = score.details.get("values", {})
    return others | score.values


def not_comparable(group: Group) -> UserError:
    """Explain why the gate cannot compare any score of a group."""
    instead = f"Gate its tasks instead: {listed(group.tasks)}."
    if not numbers(group.run, group.key, {}, 0):
        return UserError(f"lm-eval gives no score of the group {shorten(group.name)}. {instead}")
    return UserError(
        f"lm-eval's score of the group {shorten(group.name)} is not the mean over all documents: "
        "its tasks count alike although they differ in size (weight_by_size: false), or it is made "
        f"in another way. {instead}"
    )


def numbers(
    run: Run, name: str, definitions: Mapping[str, Metric], documents: int
) -> dict[str, MetricResult]:
    """Return lm-eval's numbers of a task or group that are not metrics with these definitions."""
    shown = {}
    for key, number in _table(run, name).items():
        metric_name = key.removesuffix(",none")
        is_number = isinstance(number, float | int) and not isinstance(number, bool)
        if "," in key and "_stderr," not in key and is_number and metric_name not in definitions:
            value = float(number) if math.isfinite(number) else None
            shown[metric_name] = MetricResult(mean=value, n=documents)
    return shown


def with_defined(score: Score, definitions: Mapping[str, Metric]) -> Score:
    """Keep the values of the defined metrics, and move those of others to the details.

    A metric that lm-eval does not average over the documents has no value per item.
    """
    others = {name: value for name, value in score.values.items() if name not in definitions}
    if not others and score.unscored.keys() <= definitions.keys():
        return score
    others = score.details.get("values", {}) | others
    return score.model_copy(
        update={
            "values": {n: v for n, v in score.values.items() if n in definitions},
            "unscored": {n: why for n, why in score.unscored.items() if n in definitions},
            "details": score.details | ({"values": others} if others else {}),
        }
    )


def _is_mean_over_documents(
    group: Group, key: str, score: float, parts: Mapping[str, ScoredEvaluation]
) -> bool:
    """Tell whether lm-eval's group score is that of its tasks, weighted by their documents."""
    name = key.removesuffix(",none")
    having = [task for task, part in parts.items() if name in part.evaluation.definitions]
    means = [_table(group.run, task).get(key) for task in having]
    numbers = [mean for mean in means if isinstance(mean, float | int)]
    if len(numbers) < len(having):
        return False
    sizes = [len(parts[task].items) for task in having]
    again = math.fsum(n * mean for n, mean in zip(sizes, numbers, strict=True)) / sum(sizes)
    return math.isclose(again, score, rel_tol=CLOSE_TO_GROUP, abs_tol=CLOSE_TO_GROUP)
