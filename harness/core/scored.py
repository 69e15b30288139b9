"""Pair an evaluation with the scores, samples and items that its numbers were computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.core.schema import Evaluation, Item, Metric, Sample, Score


@dataclass(frozen=True)
class ScoredEvaluation:
    """An evaluation of one model on one task, with its scores and what they were computed from.

    Attributes:
        evaluation: identity and metrics.
        scores: one per sample, sorted by index, then repeat.
        samples: the responses, in the same order; empty if read from a board.
        items: sorted by index; empty if read from a board.
    """

    evaluation: Evaluation
    scores: Sequence[Score]
    samples: Sequence[Sample] = ()
    items: Sequence[Item] = ()

    def with_definitions(self, definitions: Mapping[str, Metric]) -> ScoredEvaluation:
        """Return the evaluation with these metrics defined instead; its values stay as they are."""
        evaluation = self.evaluation.model_copy(update={"definitions": dict(definitions)})
        return replace(self, evaluation=evaluation)
