"""Pair an evaluation with the scores, samples and items that its numbers were computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.schema import Evaluation, Item, Sample, Score


@dataclass(frozen=True)
class ScoredEvaluation:
    """One model's evaluation on one task, with its scores and what these were computed from.

    Scores and samples are sorted by index, then repeat; items by index. A board keeps neither
    samples nor items: both are then empty.
    """

    evaluation: Evaluation
    scores: Sequence[Score]
    samples: Sequence[Sample] = ()
    items: Sequence[Item] = ()
