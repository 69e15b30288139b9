"""Progress on stderr: a live bar for a person, a line now and then for a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

Advance = Callable[[int], None]

LOG_EVERY_SECONDS = 15.0


@contextlib.contextmanager
def track(stage: str, total: int, unit: str = "items") -> Iterator[Advance]:
    """Show `stage` with its rate and time left while the block runs; yields `advance(n)`."""
    if sys.stderr.isatty():
        with _bar(stage, total, unit) as advance:
            yield advance
        return
    started = last = time.monotonic()
    done = 0

    def advance_log(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS and done < total:
            last = now
            rate = done / (now - started)
            left = (total - done) / rate if rate else 0.0
            say(f"{stage}: {done}/{total} {unit}, {rate:.1f}/s, {left:.0f} s left")

    yield advance_log
    seconds = time.monotonic() - started
    say(f"{stage}: {done} {unit} in {seconds:.1f} s ({done / max(seconds, 1e-9):.1f}/s)")


def say(line: str) -> None:
    """Progress and findings, for people: a line on stderr."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar(stage: str, total: int, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(stage, total=total, rate="")
        started = time.monotonic()

        def advance(n: int) -> None:
            bar.update(task, advance=n)
            done = bar.tasks[task].completed
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, rate=f"{rate:,.1f} {unit}/s")

        yield advance
