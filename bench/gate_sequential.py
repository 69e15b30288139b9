"""Measure tests that are looked at while items are answered; parts of `bench/gate_error.py`."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import panel
from error_rows import ALPHA, Row, Setting
from reuse import e_lond

from harness.stats.noninferiority import tango_statistic
from harness.stats.power import tango_items_needed
from harness.stats.sequential import log_evidence

Numbers = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Rng = np.random.Generator

GSM8K = 1319
MARGIN = 0.02
BATCH = 500  # gates in memory at once
LOOKS = np.arange(29, GSM8K, 10)  # of someone who looks at a fixed test every ten items

# Items, discordance, margin; the gains are the margin lost, none, and the margin won.
SETTINGS = (
    (400, 0.1, 0.05),
    (400, 0.2, 0.05),
    (GSM8K, 0.1, 0.02),
    (GSM8K, 0.2, 0.02),
    (GSM8K, 0.1, 0.05),
    (GSM8K, 0.2, 0.05),
)


@dataclass(frozen=True)
class Stopped:
    """For each gate, the items until it passes and until it fails (one more than all: never)."""

    to_pass: Counts
    to_fail: Counts

    @classmethod
    def of(cls, gains: Numbers, margin: float, estimand: str) -> Stopped:
        """Run gates item by item, as `sequential_test` does; shape (gates, items)."""
        n = gains.shape[1]
        population = n if estimand == "items" else None
        stops = []
        for sign in (1, -1):
            log_e = log_evidence(sign * gains, -sign * margin, population)
            crossed = log_e >= -math.log(ALPHA)
            stops.append(np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, n + 1))
        return cls(*stops)

    @property
    def passed(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.to_pass < self.to_fail)

    @property
    def failed(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.to_fail < self.to_pass)


def cells() -> Iterator[tuple[str, partial[Iterator[Row]]]]:
    """Both estimands, on items sampled from all questions and on items that are all there are."""
    for n, discordance, margin in SETTINGS:
        for gain in (-margin, 0.0, margin):
            yield (
                f"n {n}, discordance {discordance:g}, margin {margin:g}, gain {gain:g}",
                partial(_watched, n=n, discordance=discordance, margin=margin, gain=gain),
            )
    yield "published answers", _published


def _watched(
    rng: Rng, gates: int, *, n: int, discordance: float, margin: float, gain: float
) -> Iterator[Row]:
    gates = min(gates, 5000)
    names = {-margin: "a margin worse", 0.0: "unchanged", margin: "a margin better"}
    plan = f"discordance {discordance:g}, margin {margin:g}"
    for estimand in ("population", "items"):
        drawn = (_sampled(rng, number, n, discordance, gain) for number in _batches(gates))
        case = f"{names[gain]} over all questions, {plan}"
        yield from _report(Setting("sequential", f"betting, {estimand}", case, n), margin, drawn)
    if gain == -margin:
        finite = (_shuffled(rng, number, n, discordance, gain) for number in _batches(gates))
        case = f"a margin worse on these items, {plan}"
        yield from _report(Setting("sequential", "betting, items", case, n), margin, finite)
        if n == GSM8K:
            peeked = np.concatenate(
                [
                    _peeks(_sampled(rng, number, n, discordance, gain), margin)
                    for number in _batches(gates)
                ]
            )
            test = "Tango, looking every 10 items (not used)"
            case = f"a margin worse, {plan}"
            yield Setting("sequential", test, case, n).rate("pass", peeked)


def _report(setting: Setting, margin: float, drawn: Iterator[Numbers]) -> Iterator[Row]:
    """Watch gates of a setting: its test names the estimand, its case the candidate."""
    n, estimand = setting.n, setting.test.split()[1]
    stops = [Stopped.of(gains, margin, estimand) for gains in drawn]
    whole = Stopped(
        np.concatenate([part.to_pass for part in stops]),
        np.concatenate([part.to_fail for part in stops]),
    )
    finite = "these items" in setting.case  # there failing is right
    promised = "<= .05" if finite or estimand == "population" else ""
    worse = setting.case.startswith("a margin worse")
    yield setting.rate("pass", whole.passed, promised if worse else "")
    yield setting.rate("fail", whole.failed, "" if finite else promised)
    used = np.minimum(np.minimum(whole.to_pass, whole.to_fail), n)
    yield setting.average("items used", used)


def _batches(gates: int) -> Iterator[int]:
    for start in range(0, gates, BATCH):
        yield min(BATCH, gates - start)


def _sampled(rng: Rng, gates: int, n: int, discordance: float, gain: float) -> Numbers:
    """Differences of items that are a sample of all questions."""
    chances = [(discordance - gain) / 2, 1 - discordance, (discordance + gain) / 2]
    return rng.choice([-1.0, 0.0, 1.0], p=chances, size=(gates, n))


def _shuffled(rng: Rng, gates: int, n: int, discordance: float, gain: float) -> Numbers:
    """Differences of the same items in another order; their mean is `gain`, or just below it."""
    gained = round(n * (discordance + gain) / 2)
    lost = gained - math.floor(n * gain)
    items = np.repeat([-1.0, 0.0, 1.0], [lost, n - lost - gained, gained])
    return rng.permuted(np.tile(items, (gates, 1)), axis=1)


def _peeks(gains: Numbers, margin: float) -> npt.NDArray[np.bool_]:
    """Say which gates pass if one stops at the first of many looks that pleases."""
    gained, lost = (np.cumsum(sign * gains > 0, axis=1)[:, LOOKS] for sign in (1, -1))
    z = tango_statistic(gained, lost, LOOKS + 1, -margin)
    return np.asarray(np.any(z > panel.NORMAL_LIMIT, axis=1))


def _published(rng: Rng, gates: int) -> Iterator[Row]:
    """Answers to GSM8K that were published, of two sizes of one model, in random orders."""
    file = panel.DATA / "gsm8k" / "example_model_solutions.jsonl"
    if not file.is_file():
        return
    solutions = [json.loads(line) for line in file.read_text().splitlines()]
    small, large = (
        np.array([float(row[f"{size}_verification"]["is_correct"]) for row in solutions])
        for size in ("6b", "175b")
    )
    for who, gains in (("the larger model", large - small), ("the smaller model", small - large)):
        orders = rng.permuted(np.tile(gains, (min(gates, 500), 1)), axis=1)
        whole = Stopped.of(orders, MARGIN, "items")
        used = np.minimum(np.minimum(whole.to_pass, whole.to_fail), len(gains))
        points = 100 * float(gains.mean())
        case = f"published answers, {who} as candidate ({points:+.0f} points), margin .02"
        yield Setting("sequential", "betting, items", case, len(gains)).average("items used", used)


def one_look() -> Iterator[tuple[str, partial[Iterator[Row]]]]:
    """Does the planned number of items give the planned power?"""
    for discordance, margin in itertools.product((0.05, 0.1, 0.2), (0.02, 0.05)):
        yield (
            f"discordance {discordance:g}, margin {margin:g}",
            partial(_planned, discordance=discordance, margin=margin),
        )


def _planned(rng: Rng, gates: int, *, discordance: float, margin: float) -> Iterator[Row]:
    gates = 10 * gates
    n = tango_items_needed(discordance, margin)
    gained, lost, _ = rng.multinomial(
        n, [discordance / 2, discordance / 2, 1 - discordance], size=gates
    ).T
    passed = tango_statistic(gained, lost, n, -margin) > panel.NORMAL_LIMIT
    case = f"planned for power .8, discordance {discordance:g}, margin {margin:g}"
    yield Setting("power", "Tango", case, n).rate("unchanged passes", passed, ">= .79")


def stream() -> Iterator[tuple[str, partial[Iterator[Row]]]]:
    """Twelve gates on the same items; every third is a true gain, others are at the margin."""
    yield "twelve gates", _stream


def _stream(rng: Rng, gates: int) -> Iterator[Row]:
    n, true = 400, np.arange(12) % 3 == 0
    tests: dict[str, list[npt.NDArray[np.bool_]]] = {"e-LOND": [], "every gate at 1/alpha": []}
    for _ in range(max(gates // 12, 20)):
        shift = np.where(true, 0.05, -0.05)[:, None]
        noise = np.clip(rng.normal(0, 0.3, n) + rng.normal(0, 0.3, (12, n)), -0.9, 0.9)
        log_e = log_evidence(shift + noise, -0.05)[:, -1]
        tests["e-LOND"].append(np.array(e_lond(log_e, ALPHA)))
        tests["every gate at 1/alpha"].append(log_e >= -math.log(ALPHA))
    case = "12 gates on the same items"
    for test, gate_hits in tests.items():
        hits = np.array(gate_hits)
        share = (hits & ~true).sum(axis=1) / np.maximum(hits.sum(axis=1), 1)
        yield Setting("stream", test, case, n).rate("false discoveries of gates", hits[:, ~true])
        yield Setting("stream", test, case, n).rate("true gains found", hits[:, true])
        yield Setting("stream", test, case, n).average("false share of discoveries", share)
