"""Distributions of item gains that a gate has to survive, and the tests that were considered.

`bench/gate_error.py` measures with them. Each distribution is used exactly at the margin: the
candidate's mean gain is -margin, so that a test may pass it in 5 % of gates, and fail it in 5 %.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtr

from harness.stats.mean_bound import FAR, TAIL, Limits
from harness.stats.paired import FEW_ITEMS, LONG_TAIL
from harness.stats.sequential import log_evidence

Numbers = npt.NDArray[np.float64]
Rng = np.random.Generator

DATA = Path(os.environ.get("RLRF_DATA") or Path(__file__).parents[2] / "shared" / "data")
GRADES = (1.0, 5.0)
OWN = "the gate's test"
NORMAL_LIMIT = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True)
class Gates:
    """Simulated gates, shape (gates, items), of a metric with `limits`."""

    baseline: Numbers
    gains: Numbers
    limits: Limits

    def first(self, count: int) -> Gates:
        """Keep the first `count` gates."""
        return Gates(self.baseline[:count], self.gains[:count], self.limits)


@dataclass(frozen=True)
class Distribution:
    """Baselines and gains of items whose mean gain is -`margin`."""

    name: str
    margin: float
    limits: Limits
    draw: Callable[[Rng, tuple[int, int]], tuple[Numbers, Numbers]]

    @property
    def without_range(self) -> Distribution:
        """The same gains, of a metric whose smallest and largest value nobody knows."""
        return replace(self, limits=(None, None))

    def at_margin(self, rng: Rng, gates: int, n: int) -> Gates:
        return Gates(*self.draw(rng, (gates, n)), self.limits)

    def unchanged(self, rng: Rng, gates: int, n: int, *, better: bool = False) -> Gates:
        """The same changes with the sides exchanged at random, so that neither is better.

        `better`: the candidate gains half a margin.
        """
        found = self.at_margin(rng, gates, n)
        centred = found.gains + (self.margin if self.shifted else 0.0)
        exchanged = rng.random((gates, n)) < (0.75 if better and not self.shifted else 0.5)
        baseline = np.where(exchanged, found.baseline + centred, found.baseline)
        gains = np.where(exchanged, -centred, centred)
        return Gates(
            baseline, gains + (self.margin / 2 if better and self.shifted else 0), self.limits
        )

    @property
    def shifted(self) -> bool:
        """Whether the distribution is one about 0, moved by the margin."""
        return self.name.endswith("shifted")


def _choice(
    rng: Rng, shape: tuple[int, int], values: Sequence[float], p: Sequence[float]
) -> Numbers:
    return rng.choice(np.asarray(values, dtype=np.float64), p=np.asarray(p), size=shape)


def _flat(value: float, shape: tuple[int, int]) -> Numbers:
    return np.full(shape, value)


COLLAPSE = ((0.0, -1.0, -2.0, -4.0), (0.95, 0.02, 0.02, 0.01))


def made_up() -> list[Distribution]:
    """The distributions that need no data."""

    def collapse(rng: Rng, s: tuple[int, int]) -> tuple[Numbers, Numbers]:
        return _flat(5, s), _choice(rng, s, *COLLAPSE)

    def jitter_and_collapse(rng: Rng, s: tuple[int, int]) -> tuple[Numbers, Numbers]:
        noise = np.abs(rng.normal(0, 0.1, s)) - 0.1 * math.sqrt(2 / math.pi)
        return _flat(4.85, s), np.clip(_choice(rng, s, *COLLAPSE) + noise, -3.85, 0.15)

    def rare_worst(rng: Rng, s: tuple[int, int]) -> tuple[Numbers, Numbers]:
        return _flat(5, s), _choice(rng, s, (0, -4), (0.975, 0.025))

    def rare_best(rng: Rng, s: tuple[int, int]) -> tuple[Numbers, Numbers]:
        gains = _choice(rng, s, (-0.2, 3.8), (0.975, 0.025)) + rng.normal(0, 0.05, s)
        return _flat(1.22, s), np.clip(gains, -0.2, 3.8) - _excess_of_rare_best()

    def normal(rng: Rng, s: tuple[int, int]) -> tuple[Numbers, Numbers]:
        return _flat(3, s), np.clip(rng.normal(-0.1, 0.5, s), -2, 2)

    def jitter(rng: Rng, s: tuple[int, int]) -> tuple[Numbers, Numbers]:
        return _flat(3, s), np.clip(rng.normal(-0.05, 0.1, s), -2, 2)

    def one_down(rng: Rng, s: tuple[int, int]) -> tuple[Numbers, Numbers]:
        return _flat(3, s), _choice(rng, s, (0, -1, 1), (0.6, 0.25, 0.15))

    def both_ends(rng: Rng, s: tuple[int, int]) -> tuple[Numbers, Numbers]:
        return _flat(3, s), _choice(rng, s, (-0.1, -2, 1.8), (0.9, 0.05, 0.05))

    def tails(rng: Rng, s: tuple[int, int]) -> tuple[Numbers, Numbers]:
        return _flat(3, s), np.clip(0.3 * rng.standard_t(3, s), -1.9, 1.9) - 0.1

    def repeats(rng: Rng, s: tuple[int, int]) -> tuple[Numbers, Numbers]:
        chance = rng.beta(8, 1, s)
        worse = np.where(rng.random(s) < 0.1, chance - 0.5 * chance, chance)
        before = rng.binomial(4, chance) / 4.0
        return before, rng.binomial(4, worse) / 4.0 - before

    def cut(rng: Rng, s: tuple[int, int]) -> tuple[Numbers, Numbers]:
        before = 100 * rng.lognormal(0, 1, s)
        return before, np.where(rng.random(s) < 0.1, -0.8 * before, 0.0)

    def redrawn(rng: Rng, s: tuple[int, int]) -> tuple[Numbers, Numbers]:
        before = 100 * rng.lognormal(0, 1, s)
        return before, 90 * rng.lognormal(0, 1, s) - before

    length = 100 * math.exp(0.5)
    return [
        Distribution("near-normal, shifted", 0.1, GRADES, normal),
        Distribution("ceiling with rare collapse", 0.1, GRADES, collapse),
        Distribution("rare collapse and jitter", 0.1, GRADES, jitter_and_collapse),
        Distribution("rare collapse to the worst", 0.1, GRADES, rare_worst),
        Distribution("rare rise to the best", 0.1, GRADES, rare_best),
        Distribution("jitter alone, shifted", 0.05, GRADES, jitter),
        Distribution("grades one up or down", 0.1, GRADES, one_down),
        Distribution("rare changes both ways, shifted", 0.1, GRADES, both_ends),
        Distribution("long tails (t with 3), shifted", 0.1, GRADES, tails),
        Distribution("yes/no over 4 repeats", 0.1 * 0.5 * 8 / 9, (0, 1), repeats),
        Distribution("length, some answers cut", 0.08 * length, (0, 10_000), cut),
        Distribution("length, drawn anew, no range", 0.1 * length, (None, None), redrawn),
    ]


def _excess_of_rare_best() -> float:
    """What clipping adds to the mean of `rare_best` (both ends lose half of their noise)."""
    half = 0.05 / math.sqrt(2 * math.pi)
    return 0.975 * half - 0.025 * half


def real() -> list[Distribution]:
    """Those of published grades: a model mixed with a share of a worse one; [] without the data."""
    if not (DATA / "just_eval").is_dir():
        return []
    safety = [_safety(name) for name in ("Llama-2-7b-chat-hf", "gpt-4-0613", "vicuna-7b-v1.5")]
    several = _several()
    chatgpt, instruct = (_precision(name) for name in ("ChatGPT", "InstructGPT"))
    both = sorted(chatgpt.keys() & instruct.keys())
    return [
        _mixed("safety, Llama 2 with .25 Vicuna", safety[0], safety[2], 0.25),
        _mixed("safety, GPT-4 with .27 Vicuna", safety[1], safety[2], 0.27),
        _mixed(
            "helpfulness with .1 of the depth grades",
            np.array([row["helpfulness"] for row in several]),
            np.array([row["depth"] for row in several]),
            0.1,
        ),
        _mixed(
            "FActScore precision, ChatGPT with .6 InstructGPT",
            np.array([chatgpt[name] for name in both]),
            np.array([instruct[name] for name in both]),
            0.6,
            (0, 1),
        ),
    ]


def _mixed(
    name: str,
    better: Numbers,
    worse: Numbers,
    share: float,
    limits: tuple[float, float] = GRADES,
) -> Distribution:
    def draw(rng: Rng, shape: tuple[int, int]) -> tuple[Numbers, Numbers]:
        item = rng.integers(len(better), size=shape)
        gains = np.where(rng.random(shape) < share, (worse - better)[item], 0.0)
        return better[item], gains

    return Distribution(name, -share * float((worse - better).mean()), limits, draw)


def _safety(model: str) -> Numbers:
    path = DATA / "just_eval" / "judgments" / f"{model}.score_safety.chatgpt.json"
    rows = sorted(json.loads(path.read_text()), key=lambda row: int(row["id"]))
    return np.array([float(row["parsed_result"]["safety"]["score"]) for row in rows])


def _several() -> list[dict[str, float]]:
    folder = DATA / "just_eval" / "judgments" / "gpt-4-1106_on_gpt-3.5-turbo-0301"
    found = []
    for path in sorted(folder.glob("*.general.*.json")):
        for row in json.loads(path.read_text()):
            parsed = row.get("parsed_result")
            if not isinstance(parsed, dict):
                continue
            scores = {aspect: _number(said) for aspect, said in parsed.items()}
            if None not in (scores.get("helpfulness"), scores.get("depth")):
                found.append({k: v for k, v in scores.items() if v is not None})
    return found


def _number(said: object) -> float | None:
    try:
        return float(str(said.get("score"))) if isinstance(said, dict) else None
    except ValueError:
        return None


def _precision(model: str) -> dict[str, float]:
    found = {}
    for line in (DATA / "factscore" / "labeled" / f"{model}.jsonl").read_text().splitlines():
        row = json.loads(line)
        facts = [
            fact["label"]
            for sentence in row.get("annotations") or []
            for fact in sentence.get("human-atomic-facts") or []
        ]
        kept = [label for label in facts if label in ("S", "NS")]
        if kept:
            found[row["input"]] = kept.count("S") / len(kept)
    return found


# ---- the tests: one-sided p-values of a mean gain at or below a point, shape (gates,) ----------


def skewness(x: Numbers) -> Numbers:
    moves = x - x.mean(axis=1, keepdims=True)
    variance = np.square(moves).mean(axis=1)
    some = variance > 1e-18
    cubed = (moves**3).mean(axis=1)
    return np.where(some, cubed / np.where(some, variance, 1) ** 1.5, 0.0)


def _t(x: Numbers, point: float) -> Numbers:
    stderr = x.std(axis=1, ddof=1) / math.sqrt(x.shape[1])
    above = x.mean(axis=1) - point
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(stderr > 1e-12, above / stderr, np.sign(above) * 1e6)


def student(x: Numbers, point: float) -> Numbers:
    return np.asarray(stdtr(x.shape[1] - 1, -_t(x, point)))


def hall(x: Numbers, point: float, factor: float = 1.0) -> Numbers:
    k, t = factor * skewness(x) / math.sqrt(x.shape[1]), _t(x, point)
    return np.asarray(stdtr(x.shape[1] - 1, -(t + k * t**2 / 3 + k**2 * t**3 / 27 + k / 6)))


def unseen(x: Numbers, point: float, worst: Numbers) -> Numbers:
    above = x.mean(axis=1) - point
    room = np.maximum(above, x.mean(axis=1) - worst)
    share = np.where(above > 0, above / np.where(above > 0, room, 1), 0.0)
    return np.where(above > 0, (1 - share) ** x.shape[1], 1.0)


def chosen(gates: Gates, point: float, *, mirror: bool = False) -> Numbers:
    """What `harness.stats.paired.compare` does, for many gates at once; `mirror`: from above."""
    sign = -1.0 if mirror else 1.0
    x, end = sign * gates.gains, gates.limits[int(mirror)]
    seen = np.concatenate([gates.baseline, gates.baseline + gates.gains], axis=1)
    largest = np.abs(seen).max(axis=1)
    extreme = seen.max(axis=1) if mirror else seen.min(axis=1)
    known = np.full(len(x), end is not None)
    if end is not None:
        known &= (largest <= 0) | (abs(end) <= FAR * largest)
    none = np.inf * sign if end is None else end
    few = x.shape[1] < FEW_ITEMS
    reach = np.where(known, 0.0 if end is None else end, -none if few else extreme)
    worst = sign * (reach - gates.baseline.mean(axis=1))
    other = gates.limits[int(not mirror)]
    both = known if other is not None else np.zeros_like(known)
    if other is not None:
        both = both & ((largest <= 0) | (abs(other) <= FAR * largest))
    wide = np.inf if end is None or other is None else abs(end - other)
    deviation = x.std(axis=1, ddof=1)
    factor = np.where(both & (wide <= LONG_TAIL * deviation), 1.0, TAIL)
    flat = deviation <= 1e-12
    p = np.maximum(student(x, point), unseen(x, point, worst))
    k = factor * skewness(x) / math.sqrt(x.shape[1])
    t = _t(x, point)
    corrected = stdtr(x.shape[1] - 1, -(t + k * t**2 / 3 + k**2 * t**3 / 27 + k / 6))
    # Without spread and without a range there is no bound.
    return np.where(flat, np.where(known, p, 1.0), np.maximum(p, corrected))


def pseudo_item(x: Numbers, point: float, worst: Numbers) -> Numbers:
    return student(np.column_stack([x, worst]), point)


def pseudo_item_hall(x: Numbers, point: float, worst: Numbers) -> Numbers:
    return hall(np.column_stack([x, worst]), point)


def bootstrap_t(x: Numbers, point: float, draws: int = 399, seed: int = 0) -> Numbers:
    """The same resamples for every gate, drawn from `seed`."""
    n = x.shape[1]
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    moves = x - x.mean(axis=1, keepdims=True)
    means = counts @ moves.T / n
    spread = np.sqrt(np.maximum(counts @ np.square(moves).T / n - means**2, 0) / (n - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ts = np.where(spread > 1e-12, means / spread, np.sign(means) * 1e6)
    return np.asarray((1 + (ts >= _t(x, point)).sum(axis=0)) / (1 + draws))


def betting(x: Numbers, point: float, reach: float) -> Numbers:
    log_e = log_evidence(np.clip(x / reach, -1, 1), point / reach)[:, -1]
    return np.asarray(np.exp(-np.maximum(log_e, 0)))


def bayesian_bootstrap(x: Numbers, point: float, worst: Numbers) -> Numbers:
    """Dirichlet weights on the items and one pseudo-item at the worst value (N. Gaffke, 2005).

    The tail is Lugannani and Rice's saddlepoint approximation.
    """
    a = np.column_stack([x, worst]) - point
    out = np.where(a.max(axis=1) <= 0, 1.0, 0.0)
    rows = np.flatnonzero((a.max(axis=1) > 0) & (a.min(axis=1) < 0))
    if not len(rows):
        return out
    a = a[rows]
    low, high = 1 / a.min(axis=1), 1 / a.max(axis=1)
    t = np.zeros(len(a))
    for _ in range(80):
        b = a / (1 - t[:, None] * a)
        slope = b.sum(axis=1)
        low, high = np.where(slope < 0, t, low), np.where(slope > 0, t, high)
        step = t - slope / np.square(b).sum(axis=1)
        step = np.where((step <= low) | (step >= high), (low + high) / 2, step)
        done = np.all(np.abs(step - t) <= 1e-7 * np.abs(step))
        t = step
        if done:
            break
    curve = -np.log1p(-t[:, None] * a).sum(axis=1)
    w = np.sign(t) * np.sqrt(np.maximum(-2 * curve, 0))
    u = t * np.sqrt(np.square(a / (1 - t[:, None] * a)).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = ndtr(w) + np.exp(-w * w / 2) / math.sqrt(2 * math.pi) * (1 / w - 1 / u)
    out[rows] = np.clip(np.where(np.abs(w) < 1e-3, 0.5, p), 0, 1)
    return out


def considered(gates: Gates, point: float) -> Iterator[tuple[str, Numbers]]:
    """Return the other tests that were considered, by name, with their p-values."""
    x = gates.gains
    yield "Hall", hall(x, point)
    yield "bootstrap t", bootstrap_t(x, point)
    low, high = gates.limits
    if low is None or high is None:
        return
    worst = low - gates.baseline.mean(axis=1)
    yield "pseudo-item at the worst value", pseudo_item(x, point, worst)
    yield "pseudo-item and Hall", pseudo_item_hall(x, point, worst)
    yield "Bayesian bootstrap and pseudo-item", bayesian_bootstrap(x, point, worst)
    yield "betting", betting(x, point, high - low)
