from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlrf.objectives.rlmec import imitation, reinforcement, weights
from rlrf.rlmec.tokens import token_reward
from rlrf.training_config import Rlmec

PUBLISHED = Rlmec()


def slow_weight(ratio: float, reward: float, clip: float) -> float:
    """min(rho R, clip(rho, 1 - c, 1 + c) R), spelled out."""
    if reward > 0:
        return reward * (ratio if ratio < 1 + clip else 1 + clip)
    return reward * (ratio if ratio > 1 - clip else 1 - clip)


@pytest.mark.parametrize(
    ("probability", "right", "expected"),
    [
        (1.0, True, 0.5),
        (0.8, True, 0.3),
        (0.5, True, 0.0),
        (0.2, True, 0.0),
        (1.0, False, 0.0),
        (0.5, False, 0.0),
        (0.45, False, -0.05),
        (0.4, False, -0.1),
        (0.0, False, -0.1),
    ],
)
def test_token_rewards_worked_by_hand(probability, right, expected):
    assert token_reward(probability, right, PUBLISHED) == pytest.approx(expected)


def test_the_bounds_of_a_reward_are_the_configurations():
    config = Rlmec(middle=0.2, most=0.1, least=0.15)
    assert token_reward(0.25, True, config) == pytest.approx(0.05)
    assert token_reward(0.9, True, config) == pytest.approx(0.1)
    assert token_reward(0.0, False, config) == pytest.approx(-0.15)


def test_weights_worked_by_hand():
    ratio = torch.tensor([1.0, 1.2, 2.0, 0.5, 2.0, 0.5, 3.0])
    rewards = torch.tensor([0.5, 0.5, 0.5, 0.5, -0.1, -0.1, 0.0])
    found = weights(ratio.log(), torch.zeros(7), rewards, 0.3)
    assert found.tolist() == pytest.approx([0.5, 0.6, 0.65, 0.25, -0.2, -0.07, 0.0])


@given(
    st.lists(
        st.tuples(st.floats(-6, 0), st.floats(-6, 0), st.floats(-0.1, 0.5)),
        min_size=1,
        max_size=12,
    ),
    st.floats(0, 0.9),
)
def test_weights_and_loss_are_those_of_the_slow_way(tokens, clip):
    logps, reference, rewards = torch.tensor(tokens, dtype=torch.float64).T
    found = weights(logps, reference, rewards, clip)
    slow = [slow_weight(math.exp(p - q), r, clip) for p, q, r in tokens]
    assert found.tolist() == pytest.approx(slow, abs=1e-12)
    counted = sum(r != 0 for _, _, r in tokens)
    loss = -sum(w * p for w, (p, _, _) in zip(slow, tokens, strict=True)) / max(counted, 1)
    assert reinforcement(logps, found, rewards).item() == pytest.approx(loss, abs=1e-12)


def test_a_weight_has_no_gradient_and_a_clipped_token_still_has_one():
    logps = torch.tensor([-0.1, -1.0, -2.0], requires_grad=True)
    reference = torch.tensor([-2.0, -1.0, -1.0])  # ratios e^1.9 (clipped), 1, e^-1
    rewards = torch.tensor([0.4, 0.2, -0.1])
    found = weights(logps, reference, rewards, 0.3)
    assert not found.requires_grad
    reinforcement(logps, found, rewards).backward()
    # d/dlogp of -w logp / 3 is -w / 3 and no more, as w is constant.
    assert logps.grad.tolist() == pytest.approx([-0.4 * 1.3 / 3, -0.2 / 3, 0.1 * 0.7 / 3])


def test_only_tokens_with_a_reward_are_counted():
    logps = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    rewards = torch.tensor([0.5, 0.0, 0.0, -0.1])
    assert reinforcement(logps, rewards, rewards).item() == pytest.approx((0.5 - 0.4) / 2)
    assert reinforcement(logps, torch.zeros(4), torch.zeros(4)).item() == 0


def test_imitation_worked_by_hand():
    logps = torch.tensor([-1.0, -2.0, -3.0, -7.0])
    found = imitation(logps, torch.tensor([1.0, 0.5, 0.5, 0.0]))
    assert found.item() == pytest.approx((1 + 1 + 1.5) / 3)  # the token without a weight is none
    assert imitation(logps, torch.zeros(4)).item() == 0


@given(
    st.lists(st.tuples(st.floats(-9, 0), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=9)
)
def test_imitation_is_that_of_the_slow_way(tokens):
    logps, weighted = torch.tensor(tokens, dtype=torch.float64).T
    count = sum(w != 0 for _, w in tokens)
    slow = -sum(w * p for p, w in tokens) / max(count, 1)
    assert imitation(logps, weighted).item() == pytest.approx(slow, abs=1e-12)
