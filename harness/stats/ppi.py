"""Correct the mean of a judge's scores by human labels: prediction-powered inference.

Source: A. Angelopoulos, J. Duchi, T. Zrnic, "PPI++: Efficient Prediction-Powered Inference",
arXiv 2311.01453. The gain of one model over another is the mean of its items' differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError
from harness.stats.distributions import student_quantile
from harness.stats.noninferiority import unseen_change

Numbers = npt.NDArray[np.float64]

MIN_LABELLED = 10
YES_NO, YES_NO_CHANGE = (0.0, 1.0), (-1.0, 0.0, 0.0, 1.0)
PRIOR = 2.0  # how many observations the outcomes of a yes/no metric count for together


@dataclass(frozen=True)
class Corrected:
    """A corrected mean with its interval; arrays of shape (...), one value a data set."""

    mean: Numbers
    stderr: Numbers
    low: Numbers
    high: Numbers
    weight: Numbers  # lambda: how far the judge is followed; 0 is not at all
    effective_n: Numbers  # labels alone that would give this standard error


def corrected_mean(
    human: npt.ArrayLike,
    judged: npt.ArrayLike,
    unlabelled: npt.ArrayLike,
    *,
    weight: float | None = None,
    outcomes: Sequence[float] = (),
    span: float = 0.0,
    confidence: float = 0.95,
) -> Corrected:
    """Estimate the mean of human labels from few of them and many scores of a judge.

    `human` and `judged`, shape (..., n), are both sides' values of the labelled items, a random
    part of all; `unlabelled`, shape (..., N), is what the judge says of the others. With means m,

        theta = m(human) + lambda (m(unlabelled) - m(judged))
        SE^2 = Var(human - lambda judged) / n + lambda^2 Var(unlabelled) / N
        lambda = Cov(human, judged) / ((1 + n / N) Var(judge)), which makes SE^2 smallest

    A `weight` given is lambda: 0 is the mean of the labels alone, 1 plain prediction-powered
    inference. Lambda is not held to [0, 1], so the judge may use a scale of its own. With fewer
    than two items unlabelled it is 0.

    The interval is Student's t with n - 1 degrees of freedom, one less where lambda is estimated,
    both in the variance and in the quantile: normal quantiles cover .88 instead of .95 at n = 10,
    these .93 to .96 (simulated, n = 10 to 200, scores normal or five skewed grades).

    `outcomes` are the values of a yes/no metric, `YES_NO`, or of its change, `YES_NO_CHANGE`. The
    interval, not the mean, then counts `PRIOR` further labels spread evenly over all pairs of
    outcomes (after A. Agresti and Y. Min, Statistics in Medicine 24, 2005). Without them it covers
    .64 at a share of .95 and n = 20; with them at least .94 (simulated, shares .5 to .95).

    `span` is the width of the metric's range. Where no label differs from what the judge's score
    leads to expect, the interval reaches as far as `unseen_change` of the labels could move it.

    Raises:
        UserError: fewer than `MIN_LABELLED` labels.
    """
    y, f, rest = (np.asarray(x, dtype=np.float64) for x in (human, judged, unlabelled))
    n = y.shape[-1]
    if rest.shape[-1] < 2:
        rest, weight = rest[..., :0], 0.0
    if n < MIN_LABELLED:
        raise UserError(
            f"{n} items have both a human label and a judge's score; at least {MIN_LABELLED} are "
            "needed. Label more items, chosen at random."
        )
    sides = np.full(n, 1.0)
    center, variance, used, left = _fit(y, f, rest, sides, weight)
    middle, widened, freedom = center, variance, n
    if outcomes:
        pairs = np.array([(a, b) for a in outcomes for b in outcomes])
        prior = np.broadcast_to(pairs, (*y.shape[:-1], *pairs.shape))
        counts = np.append(sides, np.full(len(pairs), PRIOR / len(pairs)))
        middle, widened, _, left = _fit(
            np.concatenate([y, prior[..., 0]], axis=-1),
            np.concatenate([f, prior[..., 1]], axis=-1),
            rest,
            counts,
            weight,
        )
        freedom = n + int(PRIOR)
    half = student_quantile(freedom - 1 - (weight is None), (1 + confidence) / 2) * np.sqrt(widened)
    half += np.where(left <= 1e-9 * span, span * unseen_change(n, (1 - confidence) / 2), 0)
    low, high = middle - half, middle + half
    if outcomes:
        low, high = np.maximum(low, min(outcomes)), np.minimum(high, max(outcomes))
    alone = np.var(y, axis=-1, ddof=1)
    effective = np.where(variance > 0, alone / np.where(variance > 0, variance, 1), n)
    return Corrected(center, np.sqrt(variance), low, high, used, effective)


def _fit(
    y: Numbers, f: Numbers, rest: Numbers, counts: Numbers, weight: float | None
) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Mean, its variance, lambda, and the labels' spread about what the judge leads to expect.

    Label i counts for `counts[i]` labels.
    """
    n, others = float(counts.sum()), rest.shape[-1]
    mean_y, mean_f = (y * counts).sum(axis=-1) / n, (f * counts).sum(axis=-1) / n
    moves_y, moves_f = y - mean_y[..., None], f - mean_f[..., None]
    used = np.full(y.shape[:-1], 0.0 if weight is None else weight)
    if weight is None:
        # What counts for less than a label is no judge's word.
        judge = np.concatenate([f[..., counts == 1], rest], axis=-1)
        variance = (1 + n / others) * np.var(judge, axis=-1, ddof=1)
        together = (moves_y * moves_f * counts).sum(axis=-1) / (n - 1)
        used = np.where(variance > 0, together / np.where(variance > 0, variance, 1), 0.0)
    left = moves_y - used[..., None] * moves_f
    spread = (left**2 * counts).sum(axis=-1) / (n - 1 - (weight is None))
    variance = spread / n
    center = mean_y
    if others:
        center = center + used * (rest.mean(axis=-1) - mean_f)
        variance = variance + used**2 * np.var(rest, axis=-1, ddof=1) / others
    return center, variance, used, np.sqrt(spread)
