"""Measure how often each test of the gate is wrong, and how often it sees a change.

    python bench/gate_error.py --out runs/gate_error.json --docs docs
    python bench/gate_error.py --only panel,clusters --gates 2000
    python bench/gate_error.py --quick

Every figure that the README, docs/gate.md, docs/statistics.md and docs/results/statistics.md give
for the gate's statistics is a row of this script. `--docs docs` writes the rows to
docs/results/gate_error.csv, puts the tables into the pages, and names sentences that the rows no
longer support. Each row has its 95 % interval, the number of gates and the seed. All of it takes
under an hour on two cores; run the same command again to resume after an interruption.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import error_pages
import gate_clusters
import gate_intervals
import gate_loops
import gate_sequential
import numpy as np
import numpy.typing as npt
import panel
from error_rows import ALPHA, Row, Setting, show, to_csv

from harness.core.files import write_bytes, write_text
from harness.core.schema import Noise
from harness.stats.holm import holm
from harness.stats.noninferiority import mcnemar, tango, tango_statistic
from harness.stats.paired import compare
from harness.stats.power import tango_power
from harness.stats.repeatability import bounds, measure

Numbers = npt.NDArray[np.float64]
Rng = np.random.Generator
Cell = Callable[[Rng, int], Iterator[Row]]
Part = Callable[[], Iterator[tuple[str, Cell]]]

MARGIN, GSM8K = 0.02, 1319
Z = panel.NORMAL_LIMIT
QUICK = 200  # gates per row
MANY = 10  # changed answers
CONSIDERED = 2000  # gates per row at most, of tests that the gate does not use
VALUES = 4_000_000  # in memory at most


def flips(
    rng: Rng, gates: int, n: int, discordance: float, gain: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw the items gained and lost, shape (gates,)."""
    gained, lost = (discordance + gain) / 2, (discordance - gain) / 2
    counts = rng.multinomial(n, [gained, lost, 1 - discordance], size=gates)
    return counts[:, 0], counts[:, 1]


MARGINS, DISCORDANCES = (0.01, 0.02, 0.03, 0.05, 0.1), (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4)
CHANGING = [(d, m) for d, m in itertools.product(DISCORDANCES, MARGINS) if d >= m]


def yes_no() -> Iterator[tuple[str, Cell]]:
    """Yes/no metrics without clusters: errors at the margin, and power."""
    for n in (30, 50, 100, 200, 400, GSM8K):
        yield f"n {n}", partial(_yes_no, n=n)
    for least, most in ((30, 99), (100, 299), (300, GSM8K)):
        yield f"every n from {least} to {most}", partial(_every_size, least=least, most=most)


def _yes_no(rng: Rng, gates: int, *, n: int) -> Iterator[Row]:
    """The rates of Tango's test are exact, those of others are simulated."""
    for event in ("pass", "fail"):
        yield max((_at_margin(event, n, *case) for case in CHANGING), key=lambda row: row.value)
    wald = []
    for discordance, margin in CHANGING:
        b, c = flips(rng, 10 * gates, n, discordance, -margin)
        gain = (b - c) / n
        low = gain - Z * np.sqrt(np.maximum((b + c) / n - gain**2, 0) / n)
        case = f"discordance {discordance:g}, margin {margin:g}"
        wald.append(Setting("yes/no", "Wald (not used)", case, n).rate("pass", low > -margin))
    yield max(wald, key=lambda row: row.value)
    for margin, discordance in itertools.product((0.02, 0.05), (0.1, 0.2)):
        setting = Setting("yes/no", "Tango", f"discordance {discordance:g}, margin {margin:g}", n)
        yield setting.exact("unchanged passes", tango_power(n, discordance, margin))
        yield setting.exact("unchanged fails", tango_power(n, discordance, -margin), "<= .05")
    for discordance in (0.1, 0.2):
        b, c = flips(rng, 10 * gates, n, discordance, 0.0)
        setting = Setting("yes/no", "exact McNemar", f"discordance {discordance:g}", n)
        yield setting.rate("flip alarm", mcnemar(b, c) <= ALPHA, "<= .05")


def _every_size(_: Rng, gates: int, *, least: int, most: int) -> Iterator[Row]:
    """Take the worst number of items: with few changes, rates jump from one number to the next."""
    step = 1 if gates >= QUICK else 10
    for event, few in itertools.product(("pass", "fail"), (True, False)):
        rows = []
        for discordance, margin in CHANGING:
            sizes = range(least, most + 1, step)
            changes = [n * discordance for n in sizes]
            # With many changes the rates hardly differ between neighbours.
            tried = [
                n
                for n, count in zip(sizes, changes, strict=True)
                if (count < MANY) == few and (count < 2 * MANY or n % 10 == 0)
            ]
            rows += [_at_margin(event, n, discordance, margin) for n in tried]
        worst = max(rows, key=lambda row: row.value)
        kind = "fewer than" if few else "at least"
        case = f"{worst.case}, {kind} {MANY} changes expected, any number of items"
        yield replace(worst, case=case)


def _at_margin(event: str, n: int, discordance: float, margin: float) -> Row:
    """Return the exact chance that Tango's test passes, or fails, a candidate at the margin."""
    sign = 1 if event == "pass" else -1  # failing is passing with gains and losses exchanged
    chance = tango_power(n, discordance, sign * margin, gain=-sign * margin)
    setting = Setting("yes/no", "Tango", f"discordance {discordance:g}, margin {margin:g}", n)
    return setting.exact(event, chance, "<= .07" if event == "pass" else "<= .1")


def same_model() -> Iterator[tuple[str, Cell]]:
    """Two runs of one model: what is blocked although nothing changed."""
    for n in (200, GSM8K):
        yield f"n {n}", partial(_same_model, n=n)
    yield "labels", _labels


def _same_model(rng: Rng, gates: int, *, n: int) -> Iterator[Row]:
    for discordance in (0.1, 0.2):
        b, c = flips(rng, 10 * gates, n, discordance, 0.0)
        case = f"two runs of one model, discordance {discordance:g}"
        gain, z = (b - c) / n, tango_statistic(b, c, n, -MARGIN)
        yield Setting("same", "no drop allowed (not used)", case, n).rate("blocked", gain < 0)
        yield Setting("same", "at most 1 point (not used)", case, n).rate("blocked", gain < -0.01)
        yield Setting("same", "Tango, margin .02", case, n).rate("blocked", z < -Z, "<= .05")
        yield Setting("same", "Tango, margin .02", case, n).rate("inconclusive", abs(z) <= Z)


def _labels(rng: Rng, gates: int) -> Iterator[Row]:
    false = []
    for _ in range(gates):
        b, c = flips(rng, 8, GSM8K, 0.1, 0.0)
        false.append(min(holm([float(p) for p in mcnemar(b, c)])) <= ALPHA)
    case = "8 metrics of one model, discordance 0.1"
    yield Setting("same", "Holm on McNemar", case, GSM8K).rate("any false label", false, "<= .05")


def noisy() -> Iterator[tuple[str, Cell]]:
    """Runs of one model that differ as wholes; n 400, every answer drawn anew."""
    for share in (0.0, 0.5, 1.0, 2.0):
        yield f"runs differ by {share:g} standard errors", partial(_noisy, share=share)


def _noisy(rng: Rng, gates: int, *, share: float) -> Iterator[Row]:
    """Gate at the margin, without and with the noise that was measured on 5 or 10 runs.

    An item is right with a chance of its own, .25 to .85, moved in each run by the run's own
    effect, whose standard deviation is a share of the paired difference's standard error.
    """
    gates, n, margin = min(gates, 5000), 400, 0.05
    chances = np.linspace(0.25, 0.85, n)
    stderr = math.sqrt(2 * float((chances * (1 - chances)).mean()) / n)
    interval = functools.cache(partial(tango, n=n, margin=margin, alpha=ALPHA))
    sd = share * stderr / math.sqrt(2)

    def runs(number: int, gain: float = 0.0) -> Numbers:
        moved = chances + gain + rng.normal(0, sd, (number, 1))
        return (rng.random((number, n)) < moved).astype(np.float64)

    events: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for _ in range(gates):
        (before,), (after,) = runs(1), runs(1, -margin)
        estimate = interval(int((after > before).sum()), int((after < before).sum()))
        events["Tango alone", "pass"].append(estimate.low > -margin)
        events["Tango alone", "fail"].append(estimate.high < -margin)
        for number in (5, 10):
            measured = measure(runs(number))
            low, high = bounds(estimate, Noise(sd=measured.shared_sd, runs=number), ALPHA)
            test = f"Tango, noise of {number} runs"
            events[test, "pass"].append(low > -margin)
            events[test, "fail"].append(high < -margin)
    case = f"runs differ by {share:g} standard errors, margin .05"
    for (test, event), hits in events.items():
        promised = "" if "alone" in test and share else "<= .06"
        yield Setting("noise", test, case, n).rate(event, hits, promised)


SIZES = (20, 50, 100, 200, 400, 1000)


def graded() -> Iterator[tuple[str, Cell]]:
    """Graded metrics: every test that was considered, on every distribution of gains."""
    for shape, n in itertools.product((*panel.made_up(), *panel.real()), SIZES):
        yield f"{shape.name}, n {n}", partial(_graded, shape=shape, n=n)


def _graded(rng: Rng, gates: int, *, shape: panel.Distribution, n: int) -> Iterator[Row]:
    number = max(50, min(gates, VALUES // n))
    at_margin = shape.at_margin(rng, number, n)
    _require_the_products(shape, at_margin)
    same, better = shape.unchanged(rng, number, n), shape.unchanged(rng, number, n, better=True)
    case = f"{shape.name}, margin {shape.margin:.3g}"
    for event, drawn, mirror in (
        ("pass", at_margin, False),
        ("fail", at_margin, True),
        ("unchanged fails", same, True),
        ("unchanged passes", same, False),
        ("half a margin better passes", better, False),
    ):
        point = shape.margin if mirror else -shape.margin
        hits = panel.chosen(drawn, point, mirror=mirror) < ALPHA
        promised = "" if "passes" in event else "<= .06"
        yield Setting("panel", panel.OWN, case, n).rate(event, hits, promised)
        if event not in ("pass", "unchanged passes"):
            continue
        hits = panel.student(drawn.gains, point) < ALPHA
        yield Setting("panel", "t (not used)", case, n).rate(event, hits)
        for test, p in panel.considered(drawn.first(CONSIDERED), point):
            yield Setting("panel", test, case, n).rate(event, p < ALPHA)


def unknown_range() -> Iterator[tuple[str, Cell]]:
    """Graded metrics without a known range: nothing bounds a loss that no item shows."""
    shapes = [shape.without_range for shape in (*panel.made_up(), *panel.real())]
    for shape, n in itertools.product(shapes, SIZES):
        yield f"{shape.name}, n {n}", partial(_unknown_range, shape=shape, n=n)


def _unknown_range(rng: Rng, gates: int, *, shape: panel.Distribution, n: int) -> Iterator[Row]:
    number = max(50, min(gates, VALUES // n))
    at_margin, same = shape.at_margin(rng, number, n), shape.unchanged(rng, number, n)
    _require_the_products(shape, at_margin)
    name = shape.name.removesuffix(", no range")
    case = f"{name}, no range, margin {shape.margin:.3g}"
    for event, drawn, mirror in (
        ("pass", at_margin, False),
        ("fail", at_margin, True),
        ("unchanged passes", same, False),
    ):
        point = shape.margin if mirror else -shape.margin
        hits = panel.chosen(drawn, point, mirror=mirror) < ALPHA
        yield Setting("no range", panel.OWN, case, n).rate(event, hits)


def _require_the_products(shape: panel.Distribution, gates: panel.Gates) -> None:
    """See that the vectorised test agrees with the gate's own on some gates."""
    low, high = gates.limits
    span = None if low is None or high is None else high - low
    passes = panel.chosen(gates, -shape.margin) < ALPHA
    fails = panel.chosen(gates, shape.margin, mirror=True) < ALPHA
    quietest = np.argsort(gates.gains.std(axis=1), kind="stable")[:10]
    for i in {*range(20), *quietest.tolist()}:
        before = gates.baseline[i]
        estimate = compare(
            before, before + gates.gains[i], margin=shape.margin, alpha=ALPHA, span=span,
            limits=gates.limits,
        )  # fmt: skip
        verdict = estimate.low > -shape.margin, estimate.high < -shape.margin
        if verdict != (passes[i], fails[i]):
            raise SystemExit(f"The simulated test is not the gate's: {shape.name}, gate {i}.")


PARTS: dict[str, Part] = {
    "yes/no": yes_no,
    "panel": graded,
    "no range": unknown_range,
    "clusters": gate_clusters.cells,
    "few": gate_clusters.few_cells,
    "shared": gate_clusters.shared_cells,
    "sequential": gate_sequential.cells,
    "power": gate_sequential.one_look,
    "same": same_model,
    "noise": noisy,
    "tables": gate_intervals.cells,
    "clustered tables": gate_intervals.clustered_cells,
    "stream": gate_sequential.stream,
    "loops": gate_loops.cells,
}


def measured(parts: Sequence[str], seed: int, gates: int, out: Path | None) -> list[Row]:
    """Return the rows of every part; cells that `out` holds for this seed and these gates count.

    Every cell has random numbers of its own, so that the rows do not depend on which cells were
    measured before.
    """
    kept: dict[str, Any] = {"seed": seed, "gates": gates, "cells": {}}
    if out is not None and out.exists():
        before = json.loads(out.read_text())
        if all(before.get(key) == kept[key] for key in ("seed", "gates")):
            kept = before
    rows: list[Row] = []
    for part in parts:
        for name, cell in PARTS[part]():
            key = f"{part}: {name}"
            if key not in kept["cells"]:
                started = time.perf_counter()
                found = [*cell(np.random.default_rng([seed, zlib.crc32(key.encode())]), gates)]
                for row in found:
                    print(show(row), flush=True)
                kept["cells"][key] = {
                    "seconds": round(time.perf_counter() - started, 1),
                    "rows": [asdict(row) for row in found],
                }
                if out is not None:
                    out.parent.mkdir(parents=True, exist_ok=True)
                    write_bytes(out, (json.dumps(kept) + "\n").encode())
            rows += [Row(**row) for row in kept["cells"][key]["rows"]]
    seconds = sum(cell["seconds"] for cell in kept["cells"].values())
    print(f"\n{len(rows):,} rows, seed {seed}, {gates:,} gates, {seconds:,.0f} s")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--gates", type=int, help="gates per row (10,000); ten times where cheap")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} gates per row")
    parser.add_argument("--only", help=f"parts, by comma: {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the rows in a JSON file, and resume from it")
    parser.add_argument("--docs", type=Path, help="write the rows and tables into this folder")
    options = parser.parse_args()
    parts = options.only.split(",") if options.only else list(PARTS)
    if unknown := set(parts) - PARTS.keys():
        parser.error(f"there is no part '{min(unknown)}'; choose from {', '.join(PARTS)}")
    if options.docs and set(parts) != set(PARTS):
        parser.error("--docs takes all parts: leave --only out")
    if not panel.real():
        print(f"The published grades are not at {panel.DATA}: their rows are left out.")
    print("| test | case | n | event | measured [95 % interval] | promised | gates |")
    print("|---|---|---:|---|---|---|---:|")
    gates = options.gates or (QUICK if options.quick else 10_000)
    rows = measured(parts, options.seed, gates, options.out)
    if options.docs:
        if not panel.real():
            raise SystemExit("The pages need the rows on published grades. Set RLRF_DATA.")
        write_text(options.docs / error_pages.CSV, to_csv(rows, options.seed))
        error_pages.write(options.docs)


if __name__ == "__main__":
    main()
