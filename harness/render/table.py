"""Lay out Markdown tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.core.schema import Evaluation, MetricResult
from harness.render.numbers import items, mean_and_interval
from harness.stats.repeats import can_count

ALL_ITEMS = "all items"  # of a table that divides them by nothing
NOT_GATEABLE = "not gateable: not a mean over items"
RESULT_HEADS = ["metric", "mean [95 % interval]", "n", "unscored"]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table, of which the first row is the header, in aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def mean(result: MetricResult) -> str:
    """Format a mean with its 95 % interval; "unscored" if there is no mean."""
    return "unscored" if result.mean is None else mean_and_interval(result)


def evaluation_table(
    evaluations: Sequence[Evaluation],
    members: Mapping[str, Mapping[str, Mapping[str, MetricResult]]] | None = None,
) -> str:
    """Lay out every metric of the evaluations, the primary ones bold.

    `members` are the results of the tasks of a group: group -> task -> metric -> result.
    """
    rows = [["task", *RESULT_HEADS]]
    for evaluation in evaluations:
        for name, result in evaluation.metrics.items():
            definition = evaluation.definitions.get(name)
            shown = f"**{name}**" if definition and definition.primary else name
            is_mean = definition is not None or can_count(name, evaluation.definitions)
            if evaluation.is_lm_eval and not is_mean:
                shown = f"{name} ({NOT_GATEABLE})"
            rows.append([evaluation.task, *_cells(shown, result)])
        for member, results in (members or {}).get(evaluation.task, {}).items():
            rows += [[f"- {member}", *_cells(name, results[name])] for name in sorted(results)]
    return table(rows)


def subgroup_table(
    subgroups: Mapping[str, Mapping[str, MetricResult]], metrics: Sequence[str]
) -> str:
    """Lay out the results of subgroups (tag -> metric -> result) for those `metrics` they have."""
    rows = [["slice", *RESULT_HEADS]]
    for tag, results in subgroups.items():
        rows += [[tag, *_cells(name, results[name])] for name in metrics if name in results]
    return table(rows)


def _cells(name: str, result: MetricResult) -> list[str]:
    return [name, mean(result), items(result), str(result.unscored)]
