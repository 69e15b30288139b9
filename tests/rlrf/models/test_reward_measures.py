from __future__ import annotations

import math

import numpy as np
import pytest

from rlrf.models.reward.measure import accuracy, calibration, measure
from rlrf.models.reward.model import Ensemble, batches, lower_bound
from rlrf.models.reward.preferences import Preference
from rlrf.models.reward.self_evolve import PairRewards, SelfLabelled, Thresholds, detect


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_ties_are_half_right_and_the_interval_is_wilsons():
    found = accuracy([2.0, 1.0, 0.0, -1.0])
    assert (found.mean, found.n) == (0.625, 4)
    plain = accuracy([1.0] * 8 + [-1.0] * 2)
    # Wilson, 8 of 10: 0.4902 to 0.9433 (worked by hand from the score equation).
    assert plain.low == pytest.approx(0.4902, abs=1e-4)
    assert plain.high == pytest.approx(0.9433, abs=1e-4)
    z = 1.959964
    for bound in (plain.low, plain.high):
        assert abs(0.8 - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / 10), abs=1e-5)
    assert accuracy([1.0]).stderr is None


def test_intervals_hold_the_true_accuracy_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        found = accuracy(np.where(rng.random(60) < 0.8, 1.0, -1.0))
        held += found.low <= 0.8 <= found.high
    assert 0.93 < held / 2000 < 0.98


def test_no_margins_and_margins_that_are_no_numbers_are_refused():
    for margins in ([], [math.nan], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="numbers"):
            accuracy(margins)
    with pytest.raises(ValueError, match="1 margins, 2 domains"):
        measure([1.0], ["a", "b"])


def test_calibration_error_is_the_weighted_gap_of_each_bin():
    # Three pairs of confidence .8, two right; one of .6, wrong: (|2 - 2.4| + |0 - .6|) / 4.
    found = calibration([logit(0.8), logit(0.8), -logit(0.8), -logit(0.6)], bins=5)
    assert found.error == pytest.approx(0.25)
    assert [b.n for b in found.bins] == [1, 3]
    assert found.bins[1].confidence == pytest.approx(0.8)
    assert found.bins[1].accuracy == pytest.approx(2 / 3)
    assert found.overconfidence.mean == pytest.approx((0.8 * 3 + 0.6) / 4 - 0.5)
    assert found.n == 4


def test_a_model_that_is_right_as_often_as_it_says_has_the_error_that_chance_gives():
    rng = np.random.default_rng(1)
    errors, floors, outside = [], [], 0
    for _ in range(200):
        confidence = rng.uniform(0.5, 0.95, 200)
        sign = np.where(rng.random(200) < confidence, 1, -1)
        found = calibration(sign * np.log(confidence / (1 - confidence)))
        errors.append(found.error)
        floors.append(found.floor)
        over = found.overconfidence
        outside += not over.low <= 0 <= over.high
    assert np.mean(errors) == pytest.approx(np.mean(floors), rel=0.05)
    assert outside / 200 < 0.09


def test_measures_are_taken_by_domain_where_one_is_named():
    found = measure([1.0, -1.0, 2.0], ["sums", "", "sums"])
    assert found.accuracy.mean == pytest.approx(2 / 3)
    assert {name: result.mean for name, result in found.by_domain.items()} == {"sums": 1.0}


def test_status_one_wants_one_response_sure_to_be_good_and_the_other_sure_to_be_bad():
    p = np.array([0.6, 0.40, 0.9, 0.54, 0.2])
    q = np.array([0.4, 0.56, 0.6, 0.44, 0.1])
    rewards = np.log(p / (1 - p)), np.log(q / (1 - q))
    found = detect(*rewards, Thresholds(minimum=2))
    assert found.status == 1
    assert found.kept.tolist() == [True, True, False, False, False]
    mirrored = detect(*rewards[::-1], Thresholds(minimum=2))
    assert mirrored.kept.tolist() == found.kept.tolist()


def test_status_two_wants_a_wide_difference_and_less_than_that_is_nothing_learned():
    p = np.array([0.95, 0.40, 0.30, 0.9])
    q = np.array([0.60, 0.05, 0.10, 0.7])
    rewards = np.log(p / (1 - p)), np.log(q / (1 - q))
    found = detect(*rewards, Thresholds(minimum=2))
    assert found.status == 2
    assert found.kept.tolist() == [True, True, False, False]
    stopped = detect(*rewards, Thresholds(minimum=3))
    assert stopped.status is None
    assert not stopped.kept.any()


def test_rewards_of_any_size_are_taken():
    assert detect([1e4], [-1e4], Thresholds(minimum=1)).kept.tolist() == [True]


def pool_of(size: int) -> list[Preference]:
    return [Preference(prompt=f"p{i}", chosen="good", rejected="bad") for i in range(size)]


def rewards_of(chosen: list[float], rejected: list[float]) -> PairRewards:
    return PairRewards(
        held_out_chosen=[1], held_out_rejected=[0], pool_chosen=chosen, pool_rejected=rejected
    )


def test_self_labels_accumulate_and_old_ones_stay():
    known = SelfLabelled(pool_of(3), seed=0)
    thresholds = Thresholds(minimum=1)
    first = known.add(rewards_of([2, -2, 0], [-2, 2, 0.1]), thresholds)
    assert first.status == 1
    assert [(one.prompt, one.chosen) for one in known.labels()] == [("p0", "good"), ("p1", "bad")]
    assert known.summary(known.kept).accuracy.mean == 0.5
    assert known.summary(known.kept).share == pytest.approx(2 / 3)
    # The next model thinks otherwise of p0 and p1; only p2 is new to it.
    second = known.add(rewards_of([-2, 2, 3], [2, -2, -3]), thresholds)
    assert second.kept.tolist() == [False, False, True]
    assert [one.chosen for one in known.labels()] == ["good", "bad", "good"]
    assert known.add(rewards_of([9, 9, 9], [-9, -9, -9]), thresholds).status is None


def test_of_a_tie_a_coin_decides_and_not_the_hidden_label():
    known = SelfLabelled(pool_of(400), seed=3)
    known.take(rewards_of([0.0] * 400, [0.0] * 400), np.ones(400, dtype=bool))
    assert 0.4 < known.summary(known.kept).accuracy.mean < 0.6


class Fixed:
    """A scorer whose rewards are written down."""

    def __init__(self, rewards: list[float]) -> None:
        self.rewards = np.array(rewards)
        self.digest = str(rewards)

    def score(self, prompts, responses):
        return self.rewards


def test_an_ensemble_trusts_what_its_members_agree_on():
    assert lower_bound([[1, 3], [3, 3]], 0).tolist() == [2, 3]
    # 1 and 3 have standard deviation sqrt(2) with one degree of freedom.
    assert lower_bound([[1, 3], [3, 3]], 0.5) == pytest.approx([2 - 0.5 * math.sqrt(2), 3])
    both = Ensemble([Fixed([1, 3]), Fixed([3, 3])], beta=1)
    assert both.score(["a", "b"], ["x", "y"]) == pytest.approx([2 - math.sqrt(2), 3])


def test_batches_hold_texts_of_like_length_and_not_too_many_tokens():
    assert batches([5, 1, 2, 9], most=6) == [[1, 2], [0], [3]]
    assert batches([], most=6) == []
