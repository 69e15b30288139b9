"""Reinforcement learning from reflective feedback: the paper's figure (arXiv 2403.14238)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rlrf import stages
from rlrf.context import IterationContext
from rlrf.feedback import Judged
from rlrf.objectives.dpo import dpo
from rlrf.pairs import Pair, make_pairs
from rlrf.reward import by_feedback
from rlrf.stages import Attempt
from rlrf.training_examples import ExamplesReport


def improve(turn: IterationContext) -> Attempt:
    """Explore, give feedback on what is promising, reflect, pair, and optimise preferences."""
    explored = stages.explored(turn)
    promising = stages.promising(turn, explored)
    judged = stages.judged(turn, promising)
    refined = stages.refined(turn, judged)
    rejudged = stages.rejudged(turn, refined)
    pairs, report = pair(turn, judged.records + rejudged.records)
    sampled = len(explored.records) + len(refined.records)  # with those that were not promising
    report = report.model_copy(update={"sampled": sampled})
    return stages.learn(turn, pairs, report, partial(dpo, references=turn.references))


def pair(turn: IterationContext, judged: Sequence[Judged]) -> tuple[list[Pair], ExamplesReport]:
    """Preference pairs of judged responses and refinements."""
    responses = by_feedback(judged, turn.lab.tasks)
    return make_pairs(responses, turn.lab.config.pairs, turn.seed("pairs"))
