"""How many times faster, with an interval: both sides on the same work in one run, by turns."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.stats import t as student

from harness.core.files import write_json
from harness.core.log import say

T = TypeVar("T")
S = TypeVar("S")


def race(
    claim: str,
    theirs: Callable[[], T],
    ours: Callable[[], T],
    *,
    rounds: int,
    same: Callable[[T, T], bool],
    warm: bool = True,
    **details: Any,
) -> dict[str, Any]:
    """Time both sides in every round, who begins changes; a row of the table.

    `ratio` is their time over ours, the geometric mean over the rounds, `low` and `high` its 95 %
    interval (Student's t of the logarithms). The first round is not counted if `warm`. `details`
    are kept in the row.

    Raises:
        SystemExit: the outputs of a round differ by `same(theirs, ours)`.
    """
    seconds: list[tuple[float, float]] = []
    for number in range(rounds + warm):
        order = (theirs, ours) if number % 2 else (ours, theirs)
        made, took = {}, {}
        for side in order:
            started = time.perf_counter()
            made[side] = side()
            took[side] = time.perf_counter() - started
        if not same(made[theirs], made[ours]):
            sys.exit(f"{claim}: the two sides' outputs differ")
        if number >= warm:
            seconds.append((took[theirs], took[ours]))
    row = {"claim": claim, **interval(seconds), "rounds": rounds, **details}
    say(f"{claim}: {shown(row)}")
    return row


def within(
    claim: str, limit: float, work: Callable[[], object], *, rounds: int, **details: Any
) -> dict[str, Any]:
    """A row on a time limit in seconds: `ratio` is the limit over what `work` takes."""
    work()  # warm
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        took.append((limit, time.perf_counter() - started))
    row = {"claim": claim, **interval(took), "rounds": rounds, "target": 1.0, **details}
    say(f"{claim}: {row['ours_seconds']:.3f} s of {limit:g}")
    return row


def interval(seconds: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Of (theirs, ours) a round: the ratio with its 95 % interval, and each side's median.

    One round has no interval: `low` and `high` are None.
    """
    logs = np.log([theirs / ours for theirs, ours in seconds])
    center, n = float(logs.mean()), len(logs)
    ends: dict[str, float | None] = {"low": None, "high": None}
    if n > 1:
        half = float(student.ppf(0.975, n - 1) * logs.std(ddof=1) / math.sqrt(n))
        ends = {"low": math.exp(center - half), "high": math.exp(min(center + half, 700.0))}
    return {
        "ratio": math.exp(center),
        **ends,
        "theirs_seconds": float(np.median([theirs for theirs, _ in seconds])),
        "ours_seconds": float(np.median([ours for _, ours in seconds])),
    }


def shown(row: dict[str, Any]) -> str:
    """The ratio of a row, with its interval."""
    if row["low"] is None:
        return f"{row['ratio']:.2f}"
    return f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def fastest(sizes: Sequence[S], work: Callable[[S], object]) -> S:
    """The size with which `work` takes least, each tried once if there are several."""
    if len(sizes) == 1:
        return sizes[0]
    took = {}
    for size in sizes:
        started = time.perf_counter()
        work(size)
        took[size] = time.perf_counter() - started
    return min(took, key=took.__getitem__)


def most_memory() -> float:
    """MiB, the largest resident size of this process so far.

    What `getrusage` says begins with that of the process which started this one.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def publish(rows: Iterable[dict[str, Any]], out: Path | None) -> None:
    """Print the rows as JSON; keep them in the file `out`, each as soon as it is made."""
    made: list[dict[str, Any]] = []
    for row in rows:
        made.append(row)
        if out is not None:
            write_json(out, made)
    print(json.dumps(made, indent=2))
