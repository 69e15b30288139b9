"""Preference pairs ranked by a reward model alone: the baseline for RLRF.

Several `reward.models` form an ensemble; `reward.demonstrations` rewards closeness to
demonstrations; `train.loss: {hinge: 1, sft: .1}` makes it SLiC-HF; with a reward model from
`rlrf reward-model self-evolve` it is SER.
"""

from __future__ import annotations

from rlrf import stages
from rlrf.context import IterationContext
from rlrf.objectives.dpo import dpo
from rlrf.pairs import make_pairs
from rlrf.stages import Attempt


def improve(iteration: IterationContext) -> Attempt:
    """Explore, reward the responses, pair, and optimise preferences."""
    explored = stages.explore(iteration)
    responses = stages.reward(iteration, explored)
    pairs, report = make_pairs(responses, iteration.config.pairs, iteration.seed("pairs"))
    return stages.train(iteration, pairs, report, dpo)
