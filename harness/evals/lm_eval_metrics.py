"""Which metrics of stock lm-eval can be compared document by document, and within which range.

lm-eval logs a value per document, an aggregation and a direction, but no range. The range of a
metric comes from its definition here, or it is not known; it never comes from a candidate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.errors import UserError
from harness.core.schema import Evaluation, Metric, Score, mean
from harness.core.scored import ScoredEvaluation
from harness.evals.lm_eval_runs import Run, mapping, part

UNIT = (0.0, 1.0)
# Metrics that mean the same wherever lm-eval's tasks use their name. One whose scale depends on
# the task (BLEU and ROUGE are from 0 to 1 here and from 0 to 100 there) is not among them.
RANGES: dict[str, tuple[float, float]] = {
    "acc": UNIT,
    "acc_norm": UNIT,
    "acc_bytes": UNIT,
    "acc_mutual_info": UNIT,
    "accuracy": UNIT,
    "bleu_acc": UNIT,
    "brier_score": (0.0, 2.0),
    "em": UNIT,
    "exact_match": UNIT,
    "f1": UNIT,
    "math_verify": UNIT,
    "mcc": (-1.0, 1.0),
    "pass@1": UNIT,
    "pass_at_1": UNIT,
    "precision": UNIT,
    "prompt_level_loose_acc": UNIT,
    "prompt_level_strict_acc": UNIT,
    "recall": UNIT,
    "rouge1_acc": UNIT,
    "rouge2_acc": UNIT,
    "rougeL_acc": UNIT,
}
LOWER_IS_BETTER = {"brier_score"}
MEANS = {"mean", "nanmean"}  # of lm-eval's aggregations
CLOSE = 1e-6  # relative, of a mean in the table to the mean of the documents


def definitions(run: Run, task: str, scores: Sequence[Score], names: set[str]) -> dict[str, Metric]:
    """How the gate reads each of the metrics `names`; the first of lm-eval's table is the headline.

    Left out are those that lm-eval does not average over the documents, and those of which it
    does not say whether a higher value is better.
    """
    higher = mapping(mapping(run.results.get("higher_is_better")).get(task))
    shown = [key.removesuffix(",none") for key in _table(run, task)]
    values = {
        name: [score.values[name] for score in scores if name in score.values] for name in names
    }
    known = {
        name: better
        for name in sorted(names)
        if _is_mean(run, task, name, values[name])
        and (better := _direction(name, higher)) is not None
    }
    primary = next((name for name in shown if name in known), None)
    return {
        name: metric(name, values[name], higher_is_better=better, primary=name == primary)
        for name, better in known.items()
    }


def metric(name: str, values: Sequence[float], *, higher_is_better: bool, primary: bool) -> Metric:
    """How the gate reads a metric with these values per document.

    Where a value is outside the range of the metric's definition, the task means something else
    by the name, and the range is not known.
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
    """The name of a metric without that of a filter."""
    return name.partition(",")[0]


def alike(before: ScoredEvaluation, after: ScoredEvaluation) -> tuple[Evaluation, Evaluation]:
    """Return both evaluations with the baseline's definition of each metric that both have.

    A metric is yes/no only if it is on both sides.

    Raises:
        UserError: other numbers of documents, another direction of a metric, or a value of the
            candidate outside the metric's range.
    """
    old, new = before.evaluation, after.evaluation
    if old.items != new.items:
        raise UserError(
            f"The baseline has {old.items:,} documents of {old.task} and the candidate "
            f"{new.items:,}. Evaluate both with the same --limit or --samples of lm-eval."
        )
    shared = {
        name: _agreed(old.definitions[name], new.definitions[name], after)
        for name in old.definitions
        if name in new.definitions
    }
    return tuple(  # type: ignore[return-value]
        one.model_copy(update={"definitions": one.definitions | shared}) for one in (old, new)
    )


def _agreed(one: Metric, other: Metric, candidate: ScoredEvaluation) -> Metric:
    if one.higher_is_better != other.higher_is_better:
        raise UserError(
            f"The two lm-eval runs disagree whether a higher '{one.name}' is better: "
            "evaluate both with the same version of the task."
        )
    if one.low is not None and one.high is not None:
        for score in candidate.scores:
            value = score.values.get(one.name, one.low)
            if not one.low <= value <= one.high:
                raise UserError(
                    f"The candidate's {one.name} of document {score.index} of {score.task} is "
                    f"{value:g}, and the metric runs from {one.low:g} to {one.high:g}. Evaluate "
                    "both with the same version of the task."
                )
    kind = one.kind if one.kind == other.kind else "continuous"
    return one.model_copy(update={"kind": kind})


def _direction(name: str, higher: Mapping[str, Any]) -> bool | None:
    said = higher.get(base(name))
    if isinstance(said, bool):
        return said
    return base(name) not in LOWER_IS_BETTER if base(name) in RANGES else None


def _is_mean(run: Run, task: str, name: str, values: Sequence[float]) -> bool:
    """Whether lm-eval's number of the metric is the mean of its values per document.

    A mean is declared in the task's configuration. Where the aggregation is not declared, or is a
    function of the task's own, its number has to be equal to the mean.
    """
    declared = _aggregations(run, task).get(base(name))
    if isinstance(declared, str) and declared.isidentifier():
        return declared in MEANS
    number = _table(run, task).get(name if "," in name else f"{name},none")
    return (
        isinstance(number, float | int)
        and bool(values)
        and math.isclose(mean(list(values)), number, rel_tol=CLOSE, abs_tol=CLOSE)
    )


def undefined_for_some(run: Run, task: str) -> set[str]:
    """Metrics that may be NaN for a document, which then does not count."""
    return {name for name, how in _aggregations(run, task).items() if how == "nanmean"}


def _aggregations(run: Run, task: str) -> dict[str, Any]:
    configured = mapping(part(run.results, "configs", run.path).get(task)).get("metric_list")
    return {
        entry["metric"]: entry.get("aggregation")
        for entry in (configured if isinstance(configured, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("metric"), str)
    }


def _table(run: Run, task: str) -> dict[str, Any]:
    return mapping(mapping(run.results.get("results")).get(task))
