"""What RLRF is held against: pairs by a reward model alone, no feedback, no reflection.

With several `reward.models` an ensemble decides, with `reward.demonstrations` the nearness to
those, with `train.loss: {hinge: 1, sft: .1}` it is SLiC-HF; a reward model that
`rlrf reward-model self-evolve` has made is SER's.
"""

from __future__ import annotations

from functools import partial

from rlrf import stages
from rlrf.context import IterationContext
from rlrf.objectives.dpo import dpo
from rlrf.pairs import make_pairs
from rlrf.stages import Attempt


def improve(turn: IterationContext) -> Attempt:
    """Explore, let the reward model order the responses, pair, and optimise preferences."""
    explored = stages.explored(turn)
    responses = stages.ranked(turn, explored)
    pairs, report = make_pairs(responses, turn.lab.config.pairs, turn.seed("pairs"))
    return stages.learn(turn, pairs, report, partial(dpo, references=turn.references))
