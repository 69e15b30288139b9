"""How the gate's tests do where items come in clusters; a part of `bench/gate_error.py`."""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import panel
from error_rows import ALPHA, Row, row

from harness.stats import Estimate
from harness.stats.clusters import clustered_tango
from harness.stats.noninferiority import tango
from harness.stats.paired import compare
from harness.stats.resampling import sign_flip_p

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """What happens to an item of a candidate that is exactly the margin worse."""

    name: str
    margin: float
    values: tuple[float, ...]
    chances: tuple[float, ...]

    def draw(
        self,
        rng: np.random.Generator,
        group: npt.NDArray[np.int64],
        icc: float,
        *,
        signed: bool = False,
    ) -> Numbers:
        """Differences of items in clusters; `signed`: as often up as down."""
        count = int(group.max()) + 1
        own, shared = (rng.choice(self.values, p=self.chances, size=k) for k in (len(group), count))
        if signed:
            own, shared = (x * rng.choice([-1.0, 1.0], size=len(x)) for x in (own, shared))
        return np.where(rng.random(len(group)) < math.sqrt(icc), shared[group], own)


CHANGES = (
    *(
        Change(
            f"yes/no, discordance {share:g}, margin .05",
            0.05,
            (1.0, -1.0, 0.0),
            ((share - 0.05) / 2, (share + 0.05) / 2, 1 - share),
        )
        for share in (0.05, 0.1, 0.3)
    ),
    Change("grades, rare collapse, margin .1", 0.1, *panel.COLLAPSE),
    Change("grades, up or down, margin .1", 0.1, (0.0, -1.0, 1.0), (0.6, 0.25, 0.15)),
)


def clustered(rng: np.random.Generator, gates: int) -> Iterator[Row]:
    """Clusters of ten that go together, of equal and of unequal sizes; 2,000 gates a row at most.

    With a chance of sqrt(ICC) an item takes its cluster's change instead of one of its own.
    """
    gates = min(gates, 2000)
    uneven = np.random.default_rng(1).geometric(0.1, 100)
    for count, kind, icc in itertools.product(
        (20, 40, 100), ("equal", "unequal"), (0, 0.2, 0.5, 1)
    ):
        sizes = np.full(count, 10) if kind == "equal" else uneven[:count]
        group = np.repeat(np.arange(count), sizes)
        for change in CHANGES:
            events: dict[tuple[str, str], list[bool]] = defaultdict(list)
            for _ in range(gates):
                for name, found in _by_cluster(change.draw(rng, group, icc), group, change):
                    events[name, "pass"].append(found.low > -change.margin)
                    events[name, "fail"].append(found.high < -change.margin)
                for name, found in _by_cluster(
                    change.draw(rng, group, icc, signed=True), group, change
                ):
                    events[name, "a/a fail"].append(found.high < -change.margin)
                    events[name, "unchanged passes"].append(found.low > -change.margin)
            where = f"{change.name}, {count} {kind} clusters, ICC {icc:g}"
            for (name, event), hits in events.items():
                wanted = "" if event == "unchanged passes" or "not used" in name else "<= .06"
                yield row("clusters", name, where, event, wanted, hits=hits)


def _by_cluster(
    d: Numbers, group: npt.NDArray[np.int64], change: Change
) -> Iterator[tuple[str, Estimate]]:
    """The gate's test, and the one that takes items for independent."""
    margin = change.margin
    if change.name.startswith("yes/no"):
        flipped = int((d > 0).sum()), int((d < 0).sum())
        yield "clustered Tango", clustered_tango(d, group, margin=margin, alpha=ALPHA)
        yield (
            "Tango, clusters ignored (not used)",
            tango(*flipped, len(d), margin=margin, alpha=ALPHA),
        )
        return
    gate = functools.partial(compare, margin=margin, alpha=ALPHA, span=4)
    zero = np.zeros_like(d)
    yield "clustered t, allowing for skew", gate(zero, d, clusters=group.tolist())
    yield "clustered t (before)", gate(zero, d, clusters=group.tolist(), allow_skew=False)


def few_clusters(rng: np.random.Generator, gates: int) -> Iterator[Row]:
    """Fewer than ten clusters of five: sign flips, alone and allowing for skew."""
    for count in (6, 8):
        names = np.repeat(np.arange(count), 5).tolist()
        hits: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
        for _ in range(gates):
            shared = rng.choice([0.0, -2.0], p=[0.85, 0.15], size=count)
            for what, d, margin in (
                ("normal", rng.normal(0, 1, count)[names] + rng.normal(0, 0.7, 5 * count) - 2, 2.0),
                ("whole clusters fall", shared[names] + rng.normal(0, 0.05, 5 * count), 0.3),
            ):
                for test, allow in (("sign flips, allowing for skew", True), ("sign flips", False)):
                    found = compare(
                        np.zeros_like(d), d, margin=margin, alpha=ALPHA, span=4, clusters=names,
                        allow_skew=allow,
                    )  # fmt: skip
                    hits[test, what, "pass"].append(found.low > -margin)
                    hits[test, what, "fail"].append(found.high < -margin)
        for (test, what, event), said in hits.items():
            name = test if "skew" in test else f"{test} (before)"
            yield row(
                "few clusters", name, f"{what}, {count} clusters of 5", event, "<= .06", hits=said
            )
    flipped = [
        sign_flip_p(
            rng.standard_t(3, 30) - 0.1, margin=0.1, draws=199, seed=int(rng.integers(1 << 31))
        )
        <= ALPHA
        for _ in range(gates)
    ]
    where = "30 clusters, long tails (t with 3)"
    yield row("few clusters", "sign flips, 199 draws", where, "p <= .05", "<= .05", hits=flipped)
