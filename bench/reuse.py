"""Reuse one set of items for many decisions: the Ladder and e-LOND of docs/statistics.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError


@dataclass(frozen=True)
class Rung:
    """What may be told of one submission: whether it is the new best, and the best's mean."""

    climbed: bool
    released: float


def ladder(submissions: Iterable[npt.ArrayLike]) -> list[Rung]:
    """Release the means of `submissions`, shape (items,) each: higher is better.

    A submission is the new best where its mean exceeds the released one by s / sqrt(n), with s
    the standard deviation of its differences to the best so far; then its mean, rounded to 1/n,
    is released. All others see the old number again, so that nothing is learnt from noise:
    the Ladder without parameters of A. Blum and M. Hardt, ICML 2015 (arXiv 1502.04585), section 3.

    Raises:
        UserError: a submission has no scores, gaps, or other items than the first.
    """
    rungs: list[Rung] = []
    best: npt.NDArray[np.float64] | None = None
    for submission in submissions:
        scores = np.asarray(submission, dtype=np.float64)
        if scores.ndim != 1 or scores.size == 0 or np.isnan(scores).any():
            raise UserError("The Ladder needs one score for every item, and at least one item.")
        if best is not None and len(best) != len(scores):
            raise UserError(
                f"A submission has {len(scores)} scores, those before it {len(best)}: "
                "the Ladder compares on the same items."
            )
        n = len(scores)
        if best is None:
            climbed = True
        else:
            step = float(np.std(scores - best, ddof=1)) / math.sqrt(n) if n > 1 else math.inf
            climbed = float(scores.mean()) > rungs[-1].released + step
        if climbed:
            best = scores
        released = round(float(scores.mean()) * n) / n if climbed else rungs[-1].released
        rungs.append(Rung(climbed, released))
    return rungs


def e_lond_level(earlier: Sequence[bool], alpha: float) -> float:
    """Return the level of the gate that follows `earlier` ones, of which True were discoveries.

    alpha_t = alpha gamma_t (R_{t-1} + 1) with R the discoveries so far, and gamma_t =
    1 / (t (t + 1)), which adds up to 1: Z. Xu, A. Ramdas, "Online multiple testing with
    e-values", AISTATS 2024 (arXiv 2311.06412). A sequential gate of the stream is run at
    this level, not at alpha: `sequential_test(..., alpha=e_lond_level(earlier, alpha))`.
    """
    t = len(earlier) + 1
    return alpha * (sum(earlier) + 1) / (t * (t + 1))


def e_lond(log_e_values: Iterable[float], alpha: float) -> list[bool]:
    """Say which gates of a stream are discoveries: E_t >= 1 / alpha_t, see `e_lond_level`.

    The expected share of false ones among them is at most `alpha`, however the gates depend on
    each other: same items, candidates made from earlier verdicts. An e-value is evidence with a
    mean of at most 1 under its null, such as `harness.stats.sequential.log_evidence` at the end
    or wherever it stopped.

    Raises:
        UserError: a level outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise UserError(f"The level is {alpha:g}; it has to lie between 0 and 1.")
    found: list[bool] = []
    for log_e in log_e_values:
        found.append(log_e >= -math.log(e_lond_level(found, alpha)))
    return found
