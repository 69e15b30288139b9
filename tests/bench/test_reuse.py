"""Reused items: the Ladder under attack, e-LOND's error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reuse import e_lond, e_lond_level, ladder

from harness.core.errors import UserError
from harness.stats.sequential import log_evidence


def test_only_a_gain_above_its_noise_is_released() -> None:
    first = np.r_[np.ones(50), np.zeros(50)]
    one_more, many_more = first.copy(), first.copy()
    one_more[60] = 1
    many_more[60:80] = 1
    rungs = ladder([first, one_more, many_more, first])
    assert [rung.climbed for rung in rungs] == [True, False, True, False]
    assert [rung.released for rung in rungs] == [0.5, 0.5, 0.7, 0.7]


def test_what_is_released_is_rounded_to_one_item() -> None:
    scores = np.random.default_rng(0).uniform(size=40)
    (rung,) = ladder([scores])
    assert rung.released * 40 == pytest.approx(round(scores.sum()))


def test_the_ladder_is_not_climbed_by_guessing() -> None:
    """The boosting attack of Blum and Hardt, section 4: vote together the guesses that scored.

    All are coin flips. The released number of an honest board misleads, the Ladder's much less.
    """
    rng, n, k = np.random.default_rng(0), 1000, 300
    truth = rng.integers(0, 2, n)
    guesses = rng.integers(0, 2, (k, n))
    right = (guesses == truth).astype(float)

    told = right.mean(axis=1)
    vote = guesses[told > 0.5].mean(axis=0) > 0.5
    honest = float((vote == truth).mean())

    rungs = ladder(right)
    climbed = np.array([rung.climbed for rung in rungs])
    vote = guesses[climbed].mean(axis=0) > 0.5
    assert honest > 0.58
    assert max(rungs[-1].released, float((vote == truth).mean())) < 0.56


@pytest.mark.parametrize("bad", [[[]], [[math.nan]], [[1.0, 0.0], [1.0]]])
def test_the_ladder_needs_every_item(bad: list[list[float]]) -> None:
    with pytest.raises(UserError):
        ladder(bad)


def test_the_levels_of_e_lond_are_a_share_of_alpha() -> None:
    assert e_lond_level([], 0.05) == pytest.approx(0.025)
    assert e_lond_level([False], 0.05) == pytest.approx(0.05 / 6)
    assert e_lond_level([True], 0.05) == pytest.approx(0.05 / 3)
    spent = sum(e_lond_level([False] * t, 0.05) for t in range(10_000))
    assert spent == pytest.approx(0.05, rel=1e-3)


def test_e_lond_discovers_where_the_evidence_suffices() -> None:
    needed = [math.log(40), math.log(60), math.log(0.05**-1 * 12 / 3)]
    assert e_lond(needed, 0.05) == [True, True, True]
    assert e_lond([needed[0] - 1e-9, needed[1]], 0.05) == [False, False]
    assert e_lond([math.inf, -math.inf], 0.05) == [True, False]
    with pytest.raises(UserError, match="level"):
        e_lond([1.0], 0.0)


def test_a_stream_of_gates_on_the_same_items_keeps_its_false_discovery_rate() -> None:
    """Gates 1, 4, ... are true; all share half of their noise, so that they depend strongly."""
    rng, streams, gates, n, alpha = np.random.default_rng(0), 600, 12, 400, 0.1
    shares, hits = [], 0
    for _ in range(streams):
        true = np.arange(gates) % 3 == 0
        drift = np.where(true, 0.15, -0.05)[:, None]
        noise = np.clip(rng.normal(0, 0.3, n) + rng.normal(0, 0.3, (gates, n)), -0.8, 0.8)
        found = np.array(e_lond(log_evidence(drift + noise, -0.05)[:, -1], alpha))
        hits += int((found & true).sum())
        shares.append(float((found & ~true).sum() / max(found.sum(), 1)))
    assert np.mean(shares) <= alpha
    assert hits > streams  # it does find something
