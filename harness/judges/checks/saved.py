"""Functions that the checks of a judge share: draw items, get answers, compare evaluations."""

from __future__ import annotations

import random
from collections.abc import Sequence

from harness.core.errors import UserError
from harness.core.schema import Item, JudgeRef, Metric, MetricResult
from harness.core.scored import ScoredEvaluation
from tasks.task import Answered, Judge, Task


def metrics(saved: ScoredEvaluation) -> list[Metric]:
    """Return the metrics with a value per item, the primary one first."""
    return sorted(saved.evaluation.definitions.values(), key=lambda metric: not metric.primary)


def draw(items: Sequence[Item], count: int | None, seed: int) -> list[Item]:
    """Draw `count` of `items` at random, in their order; None: all."""
    if count is None or count >= len(items):
        return list(items)
    chosen = sorted(random.Random(seed).sample(range(len(items)), count))
    return [items[place] for place in chosen]


def answers(saved: ScoredEvaluation, items: Sequence[Item]) -> list[Answered]:
    """Return the answers to `items`, by index, then repeat."""
    wanted = {item.digest: item for item in items}
    ordered = sorted(saved.samples, key=lambda sample: (sample.index, sample.repeat))
    return [(wanted[sample.item], sample) for sample in ordered if sample.item in wanted]


def reference(judge: Judge, task: Task) -> JudgeRef:
    """Return the identity of `judge` as it scores answers to `task`."""
    return JudgeRef(id=judge.id, digest=judge.digest, prompt_digest=task.judge_prompt)


def require_same_answers(one: ScoredEvaluation, other: ScoredEvaluation) -> None:
    """Refuse evaluations that are not of the same answers to the same task.

    Raises:
        UserError: the tasks or the answers differ.
    """
    if one.evaluation.task != other.evaluation.task:
        raise UserError(
            f"One evaluation is of {one.evaluation.task}, the other of {other.evaluation.task}. "
            "Name two scorings of the same answers."
        )
    if one.evaluation.samples_digest != other.evaluation.samples_digest:
        raise UserError(
            f"The two evaluations of {one.evaluation.task} are of different answers. "
            "`rlrf score TASK FOLDER --judge FILE` lets another judge score the same ones."
        )


def exact_share(hits: int, n: int) -> MetricResult:
    """Return hits / n with the exact 95 % interval (Clopper, Pearson, Biometrika 26, 1934)."""
    from scipy.stats import binomtest

    if n == 0:
        return MetricResult(mean=None, n=0)
    interval = binomtest(hits, n).proportion_ci(0.95, "exact")
    return MetricResult(mean=hits / n, low=float(interval.low), high=float(interval.high), n=n)
