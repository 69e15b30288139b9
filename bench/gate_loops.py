"""Measure what rules of promotion do to a training loop; a part of `bench/gate_error.py`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from error_rows import Row

from harness.core.schema import MetricResult
from harness.gate.lab.simulate import (
    PolicyOutcome,
    Settings,
    compare_thresholds,
    simulate,
)

Rng = np.random.Generator

WIDE = 0.5  # a margin that stops no candidate
NOISE = "noise candidates promoted"
FIGURES = ("promotions", "harmful", "true_gain", "seen_gain", "regressed")


def cells() -> Iterator[tuple[str, partial[Iterator[Row]]]]:
    """Policies at three discordances, and promotion thresholds in three settings."""
    for discordance in (0.08, 0.1, 0.2):
        yield f"policies, discordance {discordance:g}", partial(_policies, discordance=discordance)
    for items, margin in ((1319, 0.02), (200, 0.05), (1319, WIDE)):
        yield (
            f"thresholds, {items} items, margin {margin:g}",
            partial(_thresholds, items=items, margin=margin),
        )


def _policies(rng: Rng, gates: int, *, discordance: float) -> Iterator[Row]:
    settings = Settings(discordance=discordance, loops=gates, seed=_seed(rng))
    case = f"discordance {discordance:g}, margin .02"
    for outcome in simulate(settings):
        yield from _rows(outcome.policy, case, settings, outcome)


def _thresholds(rng: Rng, gates: int, *, items: int, margin: float) -> Iterator[Row]:
    settings = Settings(items=items, margin=margin, loops=gates, seed=_seed(rng))
    for found in compare_thresholds(settings):
        test = f"threshold {found.threshold:g}, {found.items} items"
        case = f"discordance {settings.discordance:g}, margin {margin:g}"
        yield from _rows(test, case, settings, found.outcome)
        yield _row(test, case, settings, NOISE, found.noise)


def _seed(rng: Rng) -> int:
    return int(rng.integers(1 << 31))


def _rows(test: str, case: str, settings: Settings, outcome: PolicyOutcome) -> Iterator[Row]:
    for name in FIGURES:
        yield _row(test, case, settings, name.replace("_", " "), getattr(outcome, name))


def _row(test: str, case: str, settings: Settings, event: str, found: MetricResult) -> Row:
    value, low, high = (x or 0.0 for x in (found.mean, found.low, found.high))
    return Row("loops", test, case, settings.items, event, "", settings.loops, value, low, high)
