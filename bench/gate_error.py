"""How often is each test of the gate wrong, how often does it see, what does stopping early save?

    .venv/bin/python bench/gate_error.py --out gate_error.json

Every row is measured over simulated gates, and carries its 95 % interval (Clopper and Pearson).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.schema import Noise
from harness.stats.holm import holm
from harness.stats.noninferiority import mcnemar, tango, tango_statistic
from harness.stats.paired import compare
from harness.stats.power import items_needed
from harness.stats.repeatability import bounds, measure
from harness.stats.resampling import sign_flip_p
from harness.stats.reuse import e_lond
from harness.stats.sequential import log_evidence

Numbers = npt.NDArray[np.float64]

ALPHA, MARGIN, GSM8K = 0.05, 0.02, 1319
Z = NormalDist().inv_cdf(1 - ALPHA)


@dataclass(frozen=True)
class Row:
    """`rate` of `gates` for which `event` was so; `wanted` is what was promised, if anything."""

    part: str
    test: str
    scenario: str
    event: str
    wanted: str
    gates: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Used:
    """How many items a gate used, over `gates`: the median, and the mean with its interval."""

    part: str
    test: str
    scenario: str
    gates: int
    decided: float
    mean: float
    low: float
    high: float
    median: float
    fixed: int | None  # what a test at one look needs for power .8


def row(*told: str, hits: npt.ArrayLike) -> Row:
    """A row of part, test, scenario, event and what was wanted, from whether each gate was it."""
    from scipy.stats import binomtest

    part, test, scenario, event, wanted = told
    said = np.asarray(hits, dtype=bool)
    found = binomtest(int(said.sum()), said.size).proportion_ci(0.95)
    return Row(
        part, test, scenario, event, wanted, said.size, float(said.mean()), found.low, found.high
    )


def flips(
    rng: np.random.Generator, gates: int, n: int, discordance: float, gain: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Items gained and lost, shape (gates,)."""
    gained, lost = (discordance + gain) / 2, (discordance - gain) / 2
    counts = rng.multinomial(n, [gained, lost, 1 - discordance], size=gates)
    return counts[:, 0], counts[:, 1]


def boundary(rng: np.random.Generator, gates: int) -> Iterator[Row]:
    """Type-I error where the candidate is exactly the margin worse."""
    for n in (30, 100, 400, GSM8K):
        for margin in (0.02, 0.05):
            b, c = flips(rng, 10 * gates, n, 0.1, -margin)
            z = tango_statistic(b, c, n, -margin)
            where = f"margin {100 * margin:g} %, n {n:,}, discordance .1"
            yield row("boundary", "Tango", where, "pass", "<= .05", hits=z > Z)
            yield row("boundary", "Tango", where, "fail", "<= .05", hits=z < -Z)
        worst: dict[str, Row] = {}
        for margin, discordance in itertools.product(
            (0.01, 0.02, 0.03, 0.05, 0.1), (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4)
        ):
            if discordance < margin:
                continue
            b, c = flips(rng, 10 * gates, n, discordance, -margin)
            gain = (b - c) / n
            wald = gain - Z * np.sqrt(np.maximum((b + c) / n - gain**2, 0) / n)
            where = f"n {n:,}, worst at margin {100 * margin:g} %, discordance {discordance:g}"
            for test, hits in (
                ("Tango", tango_statistic(b, c, n, -margin) > Z),
                ("Wald (not used)", wald > -margin),
            ):
                found = row("boundary", test, where, "pass", "<= .05", hits=hits)
                if test not in worst or found.rate > worst[test].rate:
                    worst[test] = found
        yield from worst.values()
    for n in (100, GSM8K):
        b, c = flips(rng, 10 * gates, n, 0.1, 0.0)
        where = f"no difference, n {n:,}, discordance .1"
        yield row("boundary", "exact McNemar", where, "flip", "<= .05", hits=mcnemar(b, c) <= ALPHA)


def noisy(rng: np.random.Generator, gates: int) -> Iterator[Row]:
    """Type-I error where runs of one model differ as wholes; n 400, every answer drawn anew.

    An item is right with a chance of its own, .25 to .85, moved in each run by the run's own
    effect, whose standard deviation is a share of the paired difference's standard error.
    """
    n, margin = 400, 0.05
    chances = np.linspace(0.25, 0.85, n)
    stderr = math.sqrt(2 * float((chances * (1 - chances)).mean()) / n)
    interval = functools.cache(functools.partial(tango, n=n, margin=margin, alpha=ALPHA))
    for share in (0.0, 0.5, 1.0, 2.0):
        sd = share * stderr / math.sqrt(2)

        def runs(number: int, gain: float = 0.0, sd: float = sd) -> Numbers:
            moved = chances + gain + rng.normal(0, sd, (number, 1))
            return (rng.random((number, n)) < moved).astype(np.float64)

        events: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for _ in range(gates):
            (before,), (after,) = runs(1), runs(1, -margin)
            found = interval(int((after > before).sum()), int((after < before).sum()))
            events["Tango", "pass"].append(found.low > -margin)
            events["Tango", "fail"].append(found.high < -margin)
            for number in (5, 10):
                seen = measure(runs(number))
                low, high = bounds(found, Noise(sd=seen.shared_sd, runs=number), ALPHA)
                name = f"Tango, noise of {number} runs"
                events[name, "pass"].append(low > -margin)
                events[name, "fail"].append(high < -margin)
        where = f"runs differ by {share:g} standard errors, n {n}"
        for (test, event), hits in events.items():
            yield row("noise", test, where, event, "<= .05", hits=hits)


def clustered(rng: np.random.Generator, gates: int) -> Iterator[Row]:
    """Graded answers in clusters of five that go together; the same boundary."""
    for groups in (6, 8, 12, 30, 60):
        names = np.repeat(np.arange(groups), 5)
        passed, failed, tests, ignoring = [], [], set(), []
        for _ in range(gates):
            d = rng.normal(0, 1, groups)[names] + rng.normal(0, 0.7, len(names)) - 0.1
            zero = np.zeros_like(d)
            found = compare(zero, d, margin=0.1, alpha=ALPHA, span=10, clusters=list(names))
            tests.add(found.test)
            passed.append(found.low > -0.1)
            failed.append(found.high < -0.1)
            naive = Z * d.std(ddof=1) / np.sqrt(len(d))
            ignoring.append(d.mean() - naive > -0.1)
        where = f"{groups} clusters of 5"
        (test,) = tests
        yield row("boundary", test, where, "pass", "<= .05", hits=passed)
        yield row("boundary", test, where, "fail", "<= .05", hits=failed)
        naive_z = "z, clusters ignored (not used)"
        yield row("boundary", naive_z, where, "pass", "<= .05", hits=ignoring)
    flipped = [
        sign_flip_p(
            rng.standard_t(3, 30) - 0.1, margin=0.1, draws=199, seed=int(rng.integers(1 << 31))
        )
        <= ALPHA
        for _ in range(gates)
    ]
    where = "30 clusters, long tails (t with 3)"
    yield row("boundary", "sign flips, 199 draws", where, "p <= .05", "<= .05", hits=flipped)


@dataclass(frozen=True)
class Case:
    """Differences item by item; `finite`: these items are all there are, not a sample."""

    gain: float
    discordance: float
    finite: bool

    def draw(self, rng: np.random.Generator, gates: int, n: int) -> Numbers:
        """Shape (gates, n)."""
        changed = [(self.discordance - self.gain) / 2, (self.discordance + self.gain) / 2]
        if not self.finite:
            chances = [changed[0], 1 - sum(changed), changed[1]]
            return rng.choice([-1.0, 0.0, 1.0], p=chances, size=(gates, n))
        gained = round(n * changed[1])
        lost = gained - math.floor(n * self.gain)  # at the boundary, or just beyond it
        items = np.repeat([-1.0, 0.0, 1.0], [lost, n - lost - gained, gained])
        return rng.permuted(np.tile(items, (gates, 1)), axis=1)


def watched(
    rng: np.random.Generator, gates: int, case: Case
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Numbers]:
    """For each gate the items until pass and until fail (n + 1: never), and what peeking says."""
    population = GSM8K if case.finite else None
    looks = np.arange(29, GSM8K, 10)
    found: list[list[npt.NDArray[Any]]] = [[], [], []]
    for start in range(0, gates, 1000):
        x = case.draw(rng, min(1000, gates - start), GSM8K)
        for kept, sign in zip(found, (1, -1), strict=False):
            crossed = log_evidence(sign * x, -sign * MARGIN, population) >= -math.log(ALPHA)
            kept.append(np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, GSM8K + 1))
        b, c = np.cumsum(x > 0, axis=1)[:, looks], np.cumsum(x < 0, axis=1)[:, looks]
        found[2].append(np.any(tango_statistic(b, c, looks + 1, -MARGIN) > Z, axis=1))
    to_pass, to_fail, peeked = (np.concatenate(kept) for kept in found)
    return to_pass, to_fail, peeked


def sequential(rng: np.random.Generator, gates: int) -> Iterator[Row | Used]:
    """Errors of looking after every item, and the items it uses."""
    for finite, discordance, gain in itertools.product(
        (False, True), (0.1, 0.2), (0.02, 0.0, -MARGIN)
    ):
        test = "betting, without replacement" if finite else "betting"
        where = f"true gain {100 * gain:+g} pp, n {GSM8K:,}, discordance {discordance:g}"
        to_pass, to_fail, peeked = watched(rng, gates, Case(gain, discordance, finite))
        part = "boundary" if gain == -MARGIN else "power" if gain else "a/a"
        promised = "<= .05" if gain == -MARGIN else ""
        yield row(part, test, where, "pass", promised, hits=to_pass < to_fail)
        if not (finite and gain == -MARGIN):  # there failing is right
            yield row(part, test, where, "fail", "<= .05", hits=to_fail < to_pass)
        if gain == -MARGIN and not finite:
            peeking = "Tango, looking every 10 items (not used)"
            yield row(part, peeking, where, "pass", promised, hits=peeked)
        used = np.minimum(to_pass, to_fail)
        stopped = np.minimum(used, GSM8K)
        half = 1.96 * float(stopped.std(ddof=1)) / math.sqrt(gates)
        yield Used(
            part="items",
            test=test,
            scenario=where,
            gates=gates,
            decided=float((used <= GSM8K).mean()),
            mean=float(stopped.mean()),
            low=float(stopped.mean()) - half,
            high=float(stopped.mean()) + half,
            median=float(np.median(stopped)),
            fixed=items_needed(gain + MARGIN, discordance**0.5) if gain > -MARGIN else None,
        )


def same_model(rng: np.random.Generator, gates: int) -> Iterator[Row]:
    """Two runs of one model: what is blocked although nothing changed."""
    for n in (200, GSM8K):
        for discordance in (0.1, 0.2):
            b, c = flips(rng, 10 * gates, n, discordance, 0.0)
            where = f"n {n:,}, discordance {discordance:g}"
            gain = (b - c) / n
            z = tango_statistic(b, c, n, -MARGIN)
            yield row("a/a", "no drop allowed (not used)", where, "blocked", "", hits=gain < 0)
            yield row("a/a", "at most 1 pp (not used)", where, "blocked", "", hits=gain < -0.01)
            yield row("a/a", "Tango, margin 2 pp", where, "fail", "<= .05", hits=z < -Z)
            yield row("a/a", "Tango, margin 2 pp", where, "inconclusive", "", hits=abs(z) <= Z)
    false = []
    for _ in range(gates):
        b, c = flips(rng, 8, GSM8K, 0.1, 0.0)
        false.append(min(holm([float(p) for p in mcnemar(b, c)])) <= ALPHA)
    where = f"8 metrics, n {GSM8K:,}, discordance .1"
    yield row("a/a", "labels (Holm on McNemar)", where, "any false label", "<= .05", hits=false)


def power(rng: np.random.Generator, gates: int) -> Iterator[Row]:
    """Does the planned number of items give the planned power?"""
    for discordance in (0.1, 0.2):
        for margin in (0.02, 0.05):
            n = items_needed(margin, discordance**0.5)
            b, c = flips(rng, 10 * gates, n, discordance, 0.0)
            where = f"margin {margin:g}, planned n {n:,}, discordance {discordance:g}"
            passed = tango_statistic(b, c, n, -margin) > Z
            yield row("power", "Tango", where, "pass", ".80", hits=passed)
    n = items_needed(0.2, 1.0)
    graded = [
        compare(np.zeros(n), rng.normal(0, 1, n), margin=0.2, alpha=ALPHA, span=10).low > -0.2
        for _ in range(gates)
    ]
    yield row("power", "clustered t", f"margin .2 sd, planned n {n:,}", "pass", ".80", hits=graded)


def stream(rng: np.random.Generator, gates: int) -> Iterator[Row]:
    """Twelve gates in a row on the same items; every third is a true gain, others at the margin."""
    n, true = 400, np.arange(12) % 3 == 0
    streams: dict[str, list[npt.NDArray[np.bool_]]] = {"e-LOND": [], "each at 1/alpha": []}
    for _ in range(gates // 12):
        shift = np.where(true, 0.05, -0.05)[:, None]
        noise = np.clip(rng.normal(0, 0.3, n) + rng.normal(0, 0.3, (12, n)), -0.9, 0.9)
        log_e = log_evidence(shift + noise, -0.05)[:, -1]
        streams["e-LOND"].append(np.array(e_lond(log_e, ALPHA)))
        streams["each at 1/alpha"].append(log_e >= -math.log(ALPHA))
    for test, said in streams.items():
        hits = np.array(said)
        share = (hits & ~true).sum(axis=1) / np.maximum(hits.sum(axis=1), 1)
        where = f"12 gates on the same 400 items, false discovery proportion {share.mean():.4f}"
        yield row("stream", test, where, "false", "", hits=hits[:, ~true])
        yield row("stream", test, where, "found", "", hits=hits[:, true])


PARTS: Sequence[Callable[[np.random.Generator, int], Iterator[Row | Used]]] = (
    boundary,
    clustered,
    sequential,
    same_model,
    power,
    stream,
    noisy,
)


def show(found: Row | Used) -> str:
    if isinstance(found, Used):
        return (
            f"| {found.test} | {found.scenario} | items used: mean {found.mean:,.0f} "
            f"[{found.low:,.0f}, {found.high:,.0f}], median {found.median:,.0f}, decided "
            f"{found.decided:.3f} | one look at power .8: {found.fixed or '-'} | {found.gates:,} |"
        )
    return (
        f"| {found.test} | {found.scenario} | {found.event}: {found.rate:.4f} "
        f"[{found.low:.4f}, {found.high:.4f}] | {found.wanted} | {found.gates:,} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--gates", type=int, default=10_000, help="gates a row; ten times as many where cheap"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    told = parser.parse_args()
    started = time.perf_counter()
    rows: list[Row | Used] = []
    print(
        "| test | scenario | measured [95 % interval] | promised | gates |\n|---|---|---|---|---:|"
    )
    for number, part in enumerate(PARTS):
        for found in part(np.random.default_rng([told.seed, number]), told.gates):
            rows.append(found)
            print(show(found), flush=True)
    took = time.perf_counter() - started
    print(f"\n{len(rows)} rows, seed {told.seed}, {took:.0f} s")
    if told.out:
        kept = {"seed": told.seed, "gates": told.gates, "rows": [asdict(found) for found in rows]}
        told.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
