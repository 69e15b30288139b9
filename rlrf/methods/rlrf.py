"""Reinforcement learning from reflective feedback: the paper's figure (arXiv 2403.14238)."""

from __future__ import annotations

from collections.abc import Sequence

from rlrf import stages
from rlrf.context import IterationContext
from rlrf.feedback import Judged
from rlrf.objectives.dpo import dpo
from rlrf.pairs import Pair, make_pairs
from rlrf.reward import reward_by_feedback
from rlrf.stages import Attempt
from rlrf.training_examples import ExamplesReport


def improve(iteration: IterationContext) -> Attempt:
    """Explore, select, give feedback, refine, pair, and optimise preferences."""
    explored = stages.explore(iteration)
    selected = stages.select(iteration, explored)
    judged = stages.give_feedback(iteration, selected)
    refined = stages.refine(iteration, judged)
    rejudged = stages.give_feedback_on_refinements(iteration, refined)
    pairs, report = pair(iteration, judged.records + rejudged.records)
    sampled = len(explored.records) + len(refined.records)  # including those not selected
    report = report.model_copy(update={"sampled": sampled})
    return stages.train(iteration, pairs, report, dpo)


def pair(
    iteration: IterationContext, judged: Sequence[Judged]
) -> tuple[list[Pair], ExamplesReport]:
    """Pair judged responses and refinements by preference."""
    responses = reward_by_feedback(judged, iteration.services.tasks)
    return make_pairs(responses, iteration.config.pairs, iteration.seed("pairs"))
