"""Do raters agree? Krippendorff's alpha: 1 is agreement, 0 what chance would give.

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

from harness.errors import UserError

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
    table = np.asarray(ratings, dtype=np.float64)
    table = table[(~np.isnan(table)).sum(axis=1) >= 2]
    known = ~np.isnan(table)
    values, place, frequency = np.unique(table[known], return_inverse=True, return_counts=True)
    if len(values) < 2:
        return None
    per_unit = known.sum(axis=1)
    n = int(per_unit.sum())
    if level == "nominal":
        unit = np.repeat(np.arange(len(table)), per_unit)
        counts = np.unique(unit * len(values) + place, return_counts=True)
        same = np.bincount(counts[0] // len(values), np.square(counts[1]), len(table))
        observed = float(((per_unit**2 - same) / (per_unit - 1)).sum()) / n
        expected = (n * n - float(np.square(frequency).sum())) / (n * (n - 1))
        return 1 - observed / expected
    if level == "ordinal":
        values = np.cumsum(frequency) - (frequency - 1) / 2
    centered = np.zeros_like(table)
    centered[known] = (values - (values * frequency).sum() / n)[place]
    # sum_{i != j} (x_i - x_j)^2 = 2 (m sum x^2 - (sum x)^2) over m values
    squares, sums = np.square(centered).sum(axis=1), centered.sum(axis=1)
    observed = 2 * float(((per_unit * squares - sums**2) / (per_unit - 1)).sum()) / n
    expected = 2 * (n * float(squares.sum()) - float(sums.sum()) ** 2) / (n * (n - 1))
    return 1 - observed / expected


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
    names = list(range(len(table))) if clusters is None else list(clusters)
    if len(names) != len(table):
        raise UserError(f"{len(table)} units need {len(table)} cluster names, not {len(names)}.")
    rated = (~np.isnan(table)).sum(axis=1) >= 2
    if not rated.any():
        raise UserError("There is nothing to agree on: no answer was rated twice.")
    table = table[rated]
    members: dict[object, list[int]] = {}
    for row, name in enumerate(name for name, kept in zip(names, rated, strict=True) if kept):
        members.setdefault(name, []).append(row)
    groups = [np.array(rows) for rows in members.values()]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        chosen = rng.integers(len(groups), size=len(groups))
        found = alpha(table[np.concatenate([groups[g] for g in chosen])], level)
        drawn.append(math.nan if found is None else found)
    kept = np.array(drawn)[~np.isnan(drawn)]
    low = high = None
    if len(kept) >= 0.95 * draws and len(groups) > 1:
        tail = 100 * (1 - confidence) / 2
        low, high = (float(end) for end in np.percentile(kept, [tail, 100 - tail]))
    return Agreement(alpha(table, level), low, high, len(table))
