"""Krippendorff's alpha: published worked examples, the definition, and its interval's coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.stats.agreement import LEVELS, Level, agreement, alpha

__ = math.nan
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), examples A, B and C.
BINARY = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
LETTERS = ["aabbdcccedda", "babbbccceddd"]
FOUR = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, __, __, __],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, __, 3],
    [__, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, __],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, __],
]


def test_the_published_examples_are_met() -> None:
    assert alpha(np.transpose(BINARY), "nominal") == pytest.approx(0.095, abs=5e-4)
    letters = np.transpose([[ord(letter) for letter in row] for row in LETTERS])
    assert alpha(letters, "nominal") == pytest.approx(0.692, abs=5e-4)
    four = np.transpose(FOUR)
    assert alpha(four, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert alpha(four, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert alpha(four, "interval") == pytest.approx(0.849, abs=5e-4)


def by_definition(table: np.ndarray, level: Level) -> float | None:
    """Alpha from pairs of values, one at a time, with the distances as they are published."""
    units = [[v for v in row if not math.isnan(v)] for row in table]
    units = [row for row in units if len(row) > 1]
    values = sorted(v for row in units for v in row)
    count = {v: values.count(v) for v in values}

    def distance(x: float, y: float) -> float:
        if level == "nominal":
            return float(x != y)
        if level == "interval":
            return (x - y) ** 2
        between = sum(c for v, c in count.items() if min(x, y) <= v <= max(x, y))
        return float((between - (count[x] + count[y]) / 2) ** 2)

    n = len(values)
    observed = sum(
        sum(distance(x, y) for x, y in itertools.permutations(row, 2)) / (len(row) - 1)
        for row in units
    )
    expected = sum(distance(x, y) for x, y in itertools.permutations(values, 2))
    return 1 - (n - 1) * observed / expected if expected else None


@given(
    st.lists(
        st.lists(st.sampled_from([__, 1.0, 2.0, 3.5, 5.0]), min_size=3, max_size=3),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(LEVELS),
)
def test_it_is_what_the_definition_says(rows: list[list[float]], level: Level) -> None:
    table = np.array(rows)
    assert alpha(table, level) == pytest.approx(by_definition(table, level), abs=1e-9)


def test_for_two_values_the_levels_are_one() -> None:
    found = [alpha(np.transpose(BINARY), level) for level in LEVELS]
    assert found == pytest.approx([found[0]] * 3)


def test_perfect_agreement_is_one_and_equal_values_say_nothing() -> None:
    assert alpha([[1, 1], [4, 4], [2, __]], "ordinal") == 1
    said = agreement([[3, 3], [3, 3]], "interval")
    assert (said.alpha, said.low, said.high, said.n) == (None, None, None, 2)


def test_what_was_rated_once_is_no_evidence() -> None:
    with pytest.raises(UserError, match="no answer was rated twice"):
        agreement([[1, __], [__, 2]], "nominal")
    with pytest.raises(UserError, match="cluster names"):
        agreement([[1, 2]], "nominal", clusters=["a", "b"])


def test_the_interval_is_seeded_and_repeats_of_an_item_are_no_evidence_of_their_own() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(1, 6, size=(60, 1))
    rated = np.clip(truth + rng.integers(-1, 2, size=(60, 2)), 1, 5)
    once = agreement(rated, "interval", draws=500)
    assert once == agreement(rated, "interval", draws=500)
    thrice = np.repeat(rated, 3, axis=0)
    clustered = agreement(thrice, "interval", draws=500, clusters=[i // 3 for i in range(180)])
    naive = agreement(thrice, "interval", draws=500)

    def width(found: object) -> float:
        return found.high - found.low  # type: ignore[attr-defined, no-any-return]

    assert width(clustered) == pytest.approx(width(once), rel=0.05)
    assert width(naive) < 0.7 * width(once)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_the_interval_covers(level: Level) -> None:
    """200 data sets of 80 answers, two judges; the truth is alpha of very many answers."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        quality = rng.normal(3.2, 1, size=(n, 1))
        return np.clip(np.rint(quality + rng.normal(0, 0.8, size=(n, 2))), 1, 5)

    truth = alpha(draw(np.random.default_rng(99), 400_000), level)
    assert truth is not None
    covered = 0
    for seed in range(200):
        found = agreement(draw(np.random.default_rng(seed), 80), level, draws=200)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert covered >= 180  # of 200; 190 are meant, and the bootstrap is a little narrow
