"""Holm's correction against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from harness.stats.holm import holm


def test_the_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.slow
def test_it_is_statsmodels_correction() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 5, 12):
        p_values = list(np.round(rng.random(size) ** 3, 2))  # small ones, and ties
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_nothing_one_and_certain() -> None:
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_one_false_call_in_twenty_families() -> None:
    families = np.random.default_rng(0).random((4000, 5))
    false = np.mean([min(holm(list(p))) <= 0.05 for p in families])
    assert false == pytest.approx(0.049, abs=0.012)
