"""Measure how often the intervals of tables hold the true mean; a part of `bench/gate_error.py`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import panel
from error_rows import Row, Setting

from harness.stats.intervals import summarize

Numbers = npt.NDArray[np.float64]
Rng = np.random.Generator

SIZES = (5, 10, 20, 50, 100, 200, 400, 1000)
COVERAGE = ">= .93"
IN_CLUSTERS = (
    "yes/no, 0.5 right",
    "yes/no, 0.9 right",
    "grade 5, one in ten a 4",
    "grade 5, one in 20 a 1",
    "uniform",
    "skewed: near 0 (beta .2, 3.8)",
)
POPULATION = 1_000_000  # values of a published distribution that samples are drawn from


@dataclass(frozen=True)
class Family:
    """Values of one metric, with their true mean."""

    name: str
    limits: panel.Limits
    draw: Callable[[Rng, int], Numbers]
    mean: float


def cells() -> Iterator[tuple[str, partial[Iterator[Row]]]]:
    """Every family of values with every number of items."""
    for family, n in itertools.product((*made_up(), *published()), SIZES):
        yield f"{family.name}, n {n}", partial(_covers, family=family, n=n)


def clustered_cells() -> Iterator[tuple[str, partial[Iterator[Row]]]]:
    """Families of values in clusters of ten on average, of equal and of unequal sizes."""
    families = [family for family in made_up() if family.name in IN_CLUSTERS]
    for family, count, kind in itertools.product(families, (20, 40, 100), ("equal", "unequal")):
        yield (
            f"{family.name}, {count} {kind} clusters",
            partial(_clustered, family=family, count=count, kind=kind),
        )


def _clustered(rng: Rng, gates: int, *, family: Family, count: int, kind: str) -> Iterator[Row]:
    """With a chance of sqrt(ICC) an item takes its cluster's value instead of one of its own."""
    sizes = rng.geometric(0.1, count) if kind == "unequal" else np.full(count, 10)
    group = np.repeat(np.arange(count), sizes)
    names = group.tolist()
    for icc in (0.2, 0.5, 1.0):
        covers: dict[str, list[bool]] = {"clusters named": [], "clusters ignored (not used)": []}
        for _ in range(min(gates, 2000)):
            own, shared = family.draw(rng, len(group)), family.draw(rng, count)[group]
            values = np.where(rng.random(len(group)) < np.sqrt(icc), shared, own).tolist()
            for test, clusters in zip(covers, (names, None), strict=True):
                found = summarize(values, limits=family.limits, clusters=clusters)
                low, high = found.low or 0.0, found.high or 0.0
                covers[test].append(low - 1e-9 <= family.mean <= high + 1e-9)
        for test, hits in covers.items():
            case = f"{family.name}, {kind} clusters, ICC {icc:g}"
            promised = "" if "not used" in test else COVERAGE
            yield Setting("clustered tables", test, case, count).rate("covers", hits, promised)


def made_up() -> Iterator[Family]:
    """Families of values that need no data: ceilings, floors, repeats, skew, yes/no."""
    for share in (0.02, 0.1, 0.5, 0.9, 0.98):
        yield Family(
            f"yes/no, {share:g} right",
            (0, 1),
            lambda rng, n, share=share: (rng.random(n) < share).astype(float),  # type: ignore[misc]
            share,
        )
    grades = (1, 5)
    yield Family("grade 5, one in ten a 4", grades, lambda rng, n: 5.0 - (rng.random(n) < 0.1), 4.9)
    yield Family(
        "grade 5, three in 100 a 4", grades, lambda rng, n: 5.0 - (rng.random(n) < 0.03), 4.97
    )
    yield Family(
        "grade 5, one in 20 a 1", grades, lambda rng, n: 5 - 4.0 * (rng.random(n) < 0.05), 4.8
    )
    yield Family("grade 5 throughout", grades, lambda _, n: np.full(n, 5.0), 5.0)
    yield Family(
        "yes/no over 3 repeats, .95 right",
        (0, 1),
        lambda rng, n: rng.binomial(3, 0.95, n) / 3,
        0.95,
    )
    yield Family(
        "yes/no over 4 repeats, few items known",
        (0, 1),
        lambda rng, n: rng.binomial(4, rng.beta(0.3, 2.7, n)) / 4,
        0.1,
    )
    yield Family("uniform", (0, 1), lambda rng, n: rng.random(n), 0.5)
    yield Family(
        "skewed: near 0 (beta .2, 3.8)", (0, 1), lambda rng, n: rng.beta(0.2, 3.8, n), 0.05
    )
    yield Family(
        "skewed: lengths without a range (lognormal)",
        (None, None),
        lambda rng, n: rng.lognormal(0, 1, n),
        float(np.exp(0.5)),
    )


def published() -> Iterator[Family]:
    """Published grades, resampled."""
    for shape in panel.real():
        gates = shape.at_margin(np.random.default_rng(0), 1, POPULATION)
        values = (gates.baseline + gates.gains)[0]
        yield Family(
            f"published: {shape.name}",
            shape.limits,
            lambda rng, n, values=values: rng.choice(values, n),  # type: ignore[misc]
            float(values.mean()),
        )


def _covers(rng: Rng, gates: int, *, family: Family, n: int) -> Iterator[Row]:
    """Count intervals that hold the mean, lie within the range and have some width."""
    least, most = (
        end if end is not None else sign * np.inf
        for end, sign in zip(family.limits, (-1, 1), strict=True)
    )
    covers = []
    for _ in range(min(gates, 4000)):
        found = summarize(family.draw(rng, n).tolist(), limits=family.limits)
        low, high = found.low or 0.0, found.high or 0.0
        holds = low - 1e-9 <= family.mean <= high + 1e-9
        covers.append(holds and least <= low < high <= most)
    wilson = family.name.startswith("yes/no, ")  # covers 95 % on average over true values
    promised = "" if wilson or None in family.limits else COVERAGE
    setting = Setting("tables", "interval of a table", family.name, n)
    yield setting.rate("covers", covers, promised)
