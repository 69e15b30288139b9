"""Hold measured rates and means with their 95 % intervals, and keep them as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import numpy as np
import numpy.typing as npt

ALPHA = 0.05


@dataclass(frozen=True)
class Row:
    """One measured figure: how often `event` happened, or the mean of the amount it names.

    `n` is the number of items per gate (clusters per gate in the parts about clusters). `promised`
    is "<= x" or ">= x", or empty if the figure is only reported.
    """

    part: str
    test: str
    case: str
    n: int
    event: str
    promised: str
    gates: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Setting:
    """What is measured, without the event."""

    part: str
    test: str
    case: str
    n: int

    def rate(self, event: str, hits: npt.ArrayLike, promised: str = "") -> Row:
        """Return the share of gates in which the event happened, and Clopper-Pearson's interval.

        `hits` says for each gate whether it happened.
        """
        from scipy.stats import binomtest

        happened = np.asarray(hits, dtype=bool).ravel()
        interval = binomtest(int(happened.sum()), happened.size).proportion_ci(0.95)
        return Row(
            **vars(self),
            event=event,
            promised=promised,
            gates=happened.size,
            value=float(happened.mean()),
            low=float(interval.low),
            high=float(interval.high),
        )

    def exact(self, event: str, chance: float, promised: str = "") -> Row:
        """Return a rate that was computed, not simulated: without gates and interval."""
        rates = dict.fromkeys(("value", "low", "high"), chance)
        return Row(**vars(self), event=event, promised=promised, gates=0, **rates)

    def average(self, event: str, amounts: npt.ArrayLike) -> Row:
        """Return the mean amount per gate, with its normal interval."""
        values = np.asarray(amounts, dtype=np.float64).ravel()
        half = 1.96 * float(values.std(ddof=1)) / values.size**0.5
        mean = float(values.mean())
        return Row(
            **vars(self),
            event=event,
            promised="",
            gates=values.size,
            value=mean,
            low=mean - half,
            high=mean + half,
        )


def exceeds(row: Row, level: float) -> bool:
    """Say whether a promised rate is broken beyond doubt: by chance it happens with `level`."""
    from scipy.stats import binom

    if not row.promised:
        return False
    relation, bound = row.promised.split()
    if not row.gates:
        return row.value > float(bound) if relation == "<=" else row.value < float(bound)
    hits, limit = round(row.value * row.gates), float(bound)
    if relation == "<=":
        return float(binom.sf(hits - 1, row.gates, limit)) < level
    return float(binom.cdf(hits, row.gates, limit)) < level


def to_csv(rows: Iterable[Row], seed: int) -> str:
    """Write rows as CSV, one line per row, with the seed of the run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(field.name for field in fields(Row)), "seed"])
    for row in rows:
        cells = asdict(row)
        for name in ("value", "low", "high"):
            cells[name] = f"{cells[name]:.4g}"
        writer.writerow([*cells.values(), seed])
    return text.getvalue()


def from_csv(text: str) -> tuple[list[Row], int]:
    """Read what `to_csv` wrote: the rows and the seed."""
    rows, seed = [], 0
    for cells in csv.DictReader(io.StringIO(text)):
        seed = int(cells.pop("seed"))
        rows.append(
            Row(
                **{name: cells[name] for name in ("part", "test", "case", "event", "promised")},
                **{name: int(cells[name]) for name in ("n", "gates")},
                **{name: float(cells[name]) for name in ("value", "low", "high")},
            )
        )
    return rows, seed


def show(row: Row) -> str:
    """Show a row as a line of a Markdown table."""
    return (
        f"| {row.test} | {row.case} | {row.n:,} | {row.event} | {row.value:.4g} "
        f"[{row.low:.4g}, {row.high:.4g}] | {row.promised} | {row.gates:,} |"
    )
