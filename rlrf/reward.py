"""Reward responses for training, by score and feedback or by a reward model."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.core.schema import Feedback, Metric, Record, Sample, Score
from rlrf.feedback import Judged
from tasks.task import Task, quality


class ModelReward(Record):
    """The number that a reward model gives to one response."""

    item: str
    repeat: int
    reward: float


@dataclass(frozen=True)
class Reward:
    """A reward in [0, 1], 1 is best; between equal values the `grade` decides."""

    value: float
    grade: float = 0.0

    def over(self, other: Reward) -> float:
        """Return the difference to `other` in value, or in grade if the values are equal."""
        return self.value - other.value or self.grade - other.grade


@dataclass(frozen=True)
class Rewarded:
    """A response with its reward; None if it could not be rewarded.

    Args:
        draft: the repeat that the response rewrites; None for explored responses.
        raw: the reward model's own number.
    """

    sample: Sample
    reward: Reward | None
    draft: int | None = None
    raw: float | None = None


def of_feedback(metric: Metric, score: Score, feedback: Feedback) -> Reward | None:
    """Scale the primary `metric` to [0, 1], with the mean grade of the feedback's aspects.

    None if the score or the feedback is missing.
    """
    if metric.name not in score.values or not feedback.aspects:
        return None
    return Reward(quality(metric, score.values[metric.name]), feedback.grade)


def reward_by_feedback(judged: Sequence[Judged], tasks: Mapping[str, Task]) -> list[Rewarded]:
    """Reward judged responses by their score and feedback, in order."""
    return [
        Rewarded(
            one.sample,
            of_feedback(tasks[one.sample.task].primary, one.score, one.feedback),
            one.draft,
        )
        for one in judged
    ]


def reward_by_model(samples: Sequence[Sample], rewards: Sequence[float]) -> list[Rewarded]:
    """Turn the numbers of a reward model into rewards, in order.

    The value is the probability that a response is better than the median response to its prompt:
    sigmoid(r - median r) (R. A. Bradley and M. E. Terry, Biometrika 1952), because preferences
    determine only differences of reward within a prompt. The grade, r - median r, keeps the order
    where floats are too coarse for a probability near 0 or 1.
    """
    of_item: dict[str, list[float]] = defaultdict(list)
    for sample, reward in zip(samples, rewards, strict=True):
        of_item[sample.item].append(reward)
    middle = {item: statistics.median(found) for item, found in of_item.items()}
    over = [
        float(reward - middle[sample.item]) for sample, reward in zip(samples, rewards, strict=True)
    ]
    return [
        Rewarded(sample, Reward(float(sigmoid(above)), grade=above), raw=float(reward))
        for sample, reward, above in zip(samples, rewards, over, strict=True)
    ]


def sigmoid(rewards: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Compute 1 / (1 + exp(-reward)) without overflow."""
    half = np.asarray(rewards, dtype=np.float64) / 2
    return np.asarray((np.tanh(half) + 1) / 2)
