"""The formulas of RLMEC (arXiv 2401.06081), on tensors of tokens of any shape.

P is the rewriter's probability of a token, R its reward, rho = pi / pi_ref the ratio of the policy
to the one that training starts from. The sums go over the tokens of a batch; whether the paper's
go over a batch or a response is not published. A mean of each response's own would weigh a token
of a short response more, which rewards brevity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlrf.config import Rlmec

if TYPE_CHECKING:
    import torch


def token_reward(probability: float, right: bool, config: Rlmec) -> float:
    """R = clip(P - .5, 0, .5) for a token of a right response, clip(P - .5, -.1, 0) of a wrong one.

    What a right response says well is encouraged, what a wrong one says badly is discouraged.
    """
    low, high = (0.0, config.most) if right else (-config.least, 0.0)
    return min(max(probability - config.middle, low), high)


def weights(
    logps: torch.Tensor, reference: torch.Tensor, rewards: torch.Tensor, clip: float
) -> torch.Tensor:
    """w = min(rho R, clip(rho, 1 - c, 1 + c) R), without a gradient.

    Held constant, a weight that is clipped still pushes its token, which PPO's objective would
    leave alone.
    """
    import torch

    ratio = (logps.detach() - reference).exp()
    return torch.minimum(ratio * rewards, ratio.clamp(1 - clip, 1 + clip) * rewards)


def reinforcement(
    logps: torch.Tensor, weights: torch.Tensor, rewards: torch.Tensor
) -> torch.Tensor:
    """L_RL = - sum of w log pi / number of tokens with R != 0; 0 where there is none."""
    return -(weights * logps).sum() / (rewards != 0).sum().clamp(min=1)


def imitation(logps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """L_IMI = - sum of w log pi / number of tokens with w != 0; 0 where there is none."""
    return -(weights * logps).sum() / (weights != 0).sum().clamp(min=1)
