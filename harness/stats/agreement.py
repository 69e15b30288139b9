"""Measure whether raters agree: Krippendorff's alpha, 1 for agreement, 0 for chance.

Source: K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011); Content Analysis,
4th edition (2019), chapter 12. Any number of raters, values may be missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError

Numbers = npt.NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval"]
LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval")


@dataclass(frozen=True)
class Agreement:
    """Alpha with its interval; None where all values are one, so that nothing can be said."""

    alpha: float | None
    low: float | None
    high: float | None
    n: int  # units that two raters or more have rated


def alpha(ratings: npt.ArrayLike, level: Level) -> float | None:
    """Krippendorff's alpha = 1 - D_o / D_e of `ratings`, shape (units, raters), NaN where missing.

    With n_u values of a unit u, n in all over the units that have two or more, and distance d^2,

        D_o = 1/n sum_u 1/(n_u - 1) sum_{i != j in u} d^2(x_i, x_j)
        D_e = 1/(n (n - 1)) sum_{i != j} d^2(x_i, x_j)

    d^2 is 0 or 1 for `nominal`, (x - y)^2 for `interval`. For `ordinal` it is the square of how
    many values lie between, half of the tied ones counted, which is `interval` on mid-ranks.
    None where D_e is 0: all values are equal, or fewer than two raters rated any one unit.
    """
    rated = _rated(np.asarray(ratings, dtype=np.float64))
    return _alpha(rated, level, np.ones(len(rated.size)))


@dataclass(frozen=True)
class _Rated:
    """The ratings of the units that have two or more, one after the other."""

    values: Numbers  # (values,): those that occur, rising
    place: npt.NDArray[np.int64]  # (ratings,): which value
    unit: npt.NDArray[np.int64]  # (ratings,): of which unit
    size: Numbers  # (units,): its ratings
    alike: Numbers  # (units,): ordered pairs of equal ratings, each with itself included


def _rated(table: Numbers) -> _Rated:
    table = table[(~np.isnan(table)).sum(axis=1) >= 2]
    known = ~np.isnan(table)
    values, place = np.unique(table[known], return_inverse=True)
    size = known.sum(axis=1)
    unit = np.repeat(np.arange(len(table)), size)
    cells, times = np.unique(unit * len(values) + place, return_counts=True)
    alike = np.bincount(cells // max(len(values), 1), np.square(times), len(table))
    return _Rated(values, place, unit, size.astype(np.float64), alike.astype(np.float64))


def _alpha(rated: _Rated, level: Level, counts: Numbers) -> float | None:
    """Alpha where unit u is there `counts[u]` times."""
    place, unit, size = rated.place, rated.unit, rated.size
    frequency = np.bincount(place, counts[unit], len(rated.values))
    n = float(frequency.sum())
    if np.count_nonzero(frequency) < 2:
        return None
    if level == "nominal":
        within = size**2 - rated.alike
        expected = n * n - float(np.square(frequency).sum())
    else:
        scale = np.cumsum(frequency) - frequency / 2 if level == "ordinal" else rated.values
        scale = scale - float(scale @ frequency) / n
        # sum_{i != j} (x_i - x_j)^2 = 2 (m sum x^2 - (sum x)^2) over m values
        squares = np.bincount(unit, np.square(scale)[place], len(size))
        within = 2 * (size * squares - np.square(np.bincount(unit, scale[place], len(size))))
        expected = 2 * n * float(np.square(scale) @ frequency)
    return 1 - (n - 1) * float(counts @ (within / (size - 1))) / expected


def agreement(
    ratings: npt.ArrayLike,
    level: Level,
    *,
    clusters: Sequence[object] | None = None,
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Agreement:
    """`alpha` with the percentile interval of a bootstrap over clusters of units.

    Units are clusters of their own by default. A draw in which alpha is undefined is left out;
    where that is more than one in 20, there is no interval.

    Raises:
        UserError: no unit has two ratings, or clusters and units do not match.
    """
    table = np.asarray(ratings, dtype=np.float64)
    names = range(len(table)) if clusters is None else clusters
    if len(names) != len(table):
        raise UserError(f"{len(table)} units need {len(table)} cluster names, not {len(names)}.")
    rated = _rated(table)
    units = len(rated.size)
    if not units:
        raise UserError("There is nothing to agree on: no answer was rated twice.")
    twice = (~np.isnan(table)).sum(axis=1) >= 2
    number: dict[object, int] = {}
    cluster = np.array(
        [
            number.setdefault(name, len(number))
            for name, kept in zip(names, twice, strict=True)
            if kept
        ]
    )
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        times = np.bincount(rng.integers(len(number), size=len(number)), minlength=len(number))
        found = _alpha(rated, level, times.astype(np.float64)[cluster])
        drawn.append(math.nan if found is None else found)
    kept = np.array(drawn)[~np.isnan(drawn)]
    low = high = None
    if len(kept) >= 0.95 * draws and len(number) > 1:
        tail = 100 * (1 - confidence) / 2
        low, high = (float(end) for end in np.percentile(kept, [tail, 100 - tail]))
    return Agreement(_alpha(rated, level, np.ones(units)), low, high, units)
