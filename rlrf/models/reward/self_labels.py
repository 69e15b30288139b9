"""Which pairs a reward model may label itself: the heart of self-evolved reward learning. Pure.

A response's probability is p = sigmoid(reward). A model that tells a good response from a bad one
puts one above and the other below a half (status 1); a model that cannot yet say so may still see
a wide difference (status 2); a model that sees neither for enough pairs stops to learn.
C. Huang et al., Self-Evolved Reward Learning for LLMs, arXiv 2411.00418.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harness.core.schema import Record

Status = Literal[1, 2]


class Thresholds(Record):
    """When a model is sure of a pair, and how many such pairs a loop needs.

    The defaults are those published; `minimum` is for HH-RLHF, of about 160,000 pairs.
    """

    high: float = Field(default=0.55, ge=0.5, lt=1, description="status 1: one p is above")
    low: float = Field(default=0.45, gt=0, le=0.5, description="status 1: the other is below")
    difference: float = Field(default=0.3, ge=0, lt=1, description="status 2: p differ by more")
    minimum: int = Field(default=600, ge=1, description="pairs of a status, or it does not hold")


@dataclass(frozen=True)
class Learned:
    """What a model has learned: its status (None: too little), and which pairs it may label."""

    status: Status | None
    kept: npt.NDArray[np.bool_]


def detect(first: npt.ArrayLike, second: npt.ArrayLike, thresholds: Thresholds) -> Learned:
    """The status of a model, from the rewards of the two responses of each pair, and its pairs.

    `kept` has a place a pair, True where the model's own order is to become a label; all False
    where the status is None.
    """
    p, q = sigmoid(first), sigmoid(second)
    above, below = np.maximum(p, q), np.minimum(p, q)
    sure = (above > thresholds.high) & (below < thresholds.low)
    if sure.sum() >= thresholds.minimum:
        return Learned(1, sure)
    wide = (above - below) > thresholds.difference
    if wide.sum() >= thresholds.minimum:
        return Learned(2, wide)
    return Learned(None, np.zeros(len(p), dtype=np.bool_))


def sigmoid(rewards: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """1 / (1 + exp(-reward)), without overflow."""
    half = np.asarray(rewards, dtype=np.float64) / 2
    return np.asarray((np.tanh(half) + 1) / 2)
