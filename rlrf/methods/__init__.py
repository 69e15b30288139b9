"""Methods: how an iteration learns, one file per method; all meet the same gate.

`rlrf` is reinforcement learning from reflective feedback; `rlmec` learns from token rewards and
edits; `rejection_sampling`, `reward_only` and `rrhf` are baselines for comparison.
"""

from __future__ import annotations

from rlrf.config import Method
from rlrf.context import IterationContext
from rlrf.methods import rejection_sampling, reward_only, rlmec, rlrf, rrhf
from rlrf.stages import Attempt

METHODS = {
    "rlrf": rlrf.improve,
    "rejection_sampling": rejection_sampling.improve,
    "reward_only": reward_only.improve,
    "rrhf": rrhf.improve,
    "rlmec": rlmec.improve,
}


def improve(method: Method, iteration: IterationContext) -> Attempt:
    """Make a candidate from the policy model by `method`, or say why there is none."""
    return METHODS[method](iteration)
