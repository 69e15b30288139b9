"""How often is each test of the gate wrong, how often does it see, what does stopping early save?

    .venv/bin/python bench/gate_error.py --out gate_error.json          all, 20 minutes on one core
    .venv/bin/python bench/gate_error.py --only panel,clusters --quick  a part, in a minute

Every row is measured over simulated gates, and carries its 95 % interval (Clopper and Pearson).
Every error rate in docs/statistics.md is one of these rows. What was measured is kept in --out: the
same command, given again, measures only what is missing.
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
import panel
from error_rows import ALPHA, Row, Used, row, show
from gate_clusters import clustered, few_clusters

from harness.core.files import write_bytes
from harness.core.schema import Noise
from harness.stats.holm import holm
from harness.stats.intervals import summarize
from harness.stats.noninferiority import mcnemar, tango, tango_statistic
from harness.stats.paired import compare
from harness.stats.power import items_needed
from harness.stats.repeatability import bounds, measure
from harness.stats.reuse import e_lond
from harness.stats.sequential import log_evidence

Numbers = npt.NDArray[np.float64]

MARGIN, GSM8K = 0.02, 1319
Z = NormalDist().inv_cdf(1 - ALPHA)


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


SIZES = (20, 50, 100, 200, 400, 1000)


def graded(rng: np.random.Generator, gates: int) -> Iterator[Row]:
    """Every test that was considered, on every distribution: at the margin, and unchanged."""
    for shape, n in itertools.product((*panel.made_up(), *panel.real()), SIZES):
        number = max(50, min(gates, 2_000_000 // n))
        at_margin = shape.at_margin(rng, number, n)
        _require_the_products(shape, at_margin)
        same, better = shape.unchanged(rng, number, n), shape.unchanged(rng, number, n, better=True)
        where = f"{shape.name}, n {n:,}, margin {shape.margin:.3g}"
        for event, case, mirror in (
            ("pass", at_margin, False),
            ("fail", at_margin, True),
            ("a/a fail", same, True),
            ("unchanged passes", same, False),
            ("half a margin better passes", better, False),
        ):
            point = shape.margin if mirror else -shape.margin
            tests = panel.used(case, point, mirror=mirror)
            if event in ("pass", "unchanged passes"):
                tests = itertools.chain(tests, panel.considered(case, point, mirror=mirror))
            for test, p in tests:
                own = test == "the gate's test" and "passes" not in event
                yield row("panel", test, where, event, "<= .06" if own else "", hits=p < ALPHA)


def _require_the_products(shape: panel.Distribution, gates: panel.Gates) -> None:
    """See that the vectorised test is the gate's, on the first gates."""
    low, high = gates.limits
    span = None if low is None or high is None else high - low
    passes = panel.chosen(gates, -shape.margin) < ALPHA
    fails = panel.chosen(gates, shape.margin, mirror=True) < ALPHA
    for i in range(20):
        before = gates.baseline[i]
        found = compare(
            before, before + gates.gains[i], margin=shape.margin, alpha=ALPHA, span=span,
            limits=gates.limits,
        )  # fmt: skip
        said = found.low > -shape.margin, found.high < -shape.margin
        if said != (passes[i], fails[i]):
            raise SystemExit(f"The simulated test is not the gate's: {shape.name}, gate {i}.")


def tables(rng: np.random.Generator, gates: int) -> Iterator[Row]:
    """How often the interval of a table holds the true mean, and lies within the range."""
    cases: list[tuple[str, panel.Limits, Callable[[int], Numbers], float]] = [
        ("5, and 4 for one in ten", (1, 5), lambda n: 5.0 - (rng.random(n) < 0.1), 4.9),
        ("5, and 4 for three in 100", (1, 5), lambda n: 5.0 - (rng.random(n) < 0.03), 4.97),
        ("5, and 1 for one in 20", (1, 5), lambda n: 5 - 4.0 * (rng.random(n) < 0.05), 4.8),
        ("all 5", (1, 5), lambda n: np.full(n, 5.0), 5.0),
        ("yes/no over 3 repeats, .95", (0, 1), lambda n: rng.binomial(3, 0.95, n) / 3, 0.95),
        (
            "yes/no over 4 repeats, few items known",
            (0, 1),
            lambda n: rng.binomial(4, rng.beta(0.3, 2.7, n)) / 4,
            0.1,
        ),
        ("uniform", (0, 1), rng.random, 0.5),
        ("near 0 (beta .2, 3.8)", (0, 1), lambda n: rng.beta(0.2, 3.8, n), 0.05),
    ]
    for shape in panel.real():
        first = shape.at_margin(np.random.default_rng(0), 1, 1_000_000)
        values = (first.baseline + first.gains)[0]

        def again(n: int, values: Numbers = values) -> Numbers:
            return rng.choice(values, n)

        cases.append((shape.name, shape.limits, again, float(values.mean())))
    for (what, limits, draw, mean), n in itertools.product(cases, (5, 10, *SIZES)):
        covers, wide = [], []
        for _ in range(min(gates, 4000)):
            found = summarize(draw(n).tolist(), limits=limits)
            low, high = found.low or 0.0, found.high or 0.0
            covers.append(low - 1e-9 <= mean <= high + 1e-9)
            wide.append(high > low and limits[0] <= low and high <= limits[1])
        where = f"{what}, n {n:,}"
        yield row("tables", "interval of a table", where, "covers", ">= .93", hits=covers)
        yield row("tables", "interval of a table", where, "within the range", "1", hits=wide)


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
        compare(np.zeros(n), rng.normal(0, 1, n), margin=0.2, alpha=ALPHA, span=8).low > -0.2
        for _ in range(gates)
    ]
    yield row(
        "power",
        "t, allowing for skew",
        f"margin .2 sd, planned n {n:,}",
        "pass",
        ".80",
        hits=graded,
    )


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


Part = Callable[[np.random.Generator, int], Iterator[Row | Used]]
PARTS: dict[str, Part] = {
    "boundary": boundary,
    "clusters": clustered,
    "sequential": sequential,
    "same": same_model,
    "power": power,
    "stream": stream,
    "noise": noisy,
    "few": few_clusters,
    "panel": graded,
    "tables": tables,
}
QUICK = 300  # gates a row


def measured(parts: Sequence[str], seed: int, gates: int, out: Path | None) -> dict[str, Any]:
    """The rows of every part; those that `out` has of the same seed and gates are kept."""
    kept: dict[str, Any] = {"seed": seed, "gates": gates, "parts": {}}
    if out is not None and out.exists():
        before = json.loads(out.read_text())
        if all(before.get(key) == kept[key] for key in ("seed", "gates")):
            kept = before
    for number, (name, part) in enumerate(PARTS.items()):
        if name not in parts or name in kept["parts"]:
            continue
        started, rows = time.perf_counter(), []
        for found in part(np.random.default_rng([seed, number]), gates):
            rows.append(asdict(found))
            print(show(found), flush=True)
        kept["parts"][name] = {"seconds": round(time.perf_counter() - started), "rows": rows}
        if out is not None:
            write_bytes(out, (json.dumps(kept, indent=1) + "\n").encode())
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--gates", type=int, help="gates per row (10,000); ten times where cheap")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} gates per row")
    parser.add_argument("--only", help=f"parts, by comma: {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the rows in a JSON file")
    asked = parser.parse_args()
    parts = asked.only.split(",") if asked.only else list(PARTS)
    if strangers := set(parts) - PARTS.keys():
        raise SystemExit(f"There is no part '{min(strangers)}'; there are {', '.join(PARTS)}.")
    if not panel.real():
        print(f"The published grades are not at {panel.DATA}: their rows are left out.")
    print(
        "| test | scenario | measured [95 % interval] | promised | gates |\n|---|---|---|---|---:|"
    )
    gates = asked.gates or (QUICK if asked.quick else 10_000)
    kept = measured(parts, asked.seed, gates, asked.out)
    rows = [row for name in parts for row in kept["parts"][name]["rows"]]
    took = sum(kept["parts"][name]["seconds"] for name in parts)
    print(f"\n{len(rows)} rows, seed {asked.seed}, {took:,} s")


if __name__ == "__main__":
    main()
