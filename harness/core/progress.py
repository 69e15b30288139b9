"""Show the progress of work on stderr: a live bar for a person, a line now and then for a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from harness.core import run_status
from harness.core.log import logs_are_json, say
from harness.core.run_status import Work, count_done, is_due, publish_if_due, under_way
from harness.core.text import plural
from harness.core.time_left import Batches, Steady

LOG_EVERY_SECONDS = 15.0


class Advance:
    """Count units of work as they are done: `advance(n)`.

    A caller that knows more than the count says so, which makes the time left more accurate: units
    done before (`already`), units under way together (`at_once`), each step of a generation
    (`generating`, `begin_batch`, `step`), or the estimate of another process (`left`).
    """

    def __init__(self, work: Work, phases: Sequence[tuple[int, float]] = ()) -> None:
        self.show: Callable[[], None] = lambda: None
        self._work = work
        self._steady = Steady(work.total, time.monotonic(), phases)
        self._batches: Batches | None = None

    def __call__(self, n: int) -> None:
        count_done(self._work, n)
        self._steady.advance(n, time.monotonic())
        self._estimate()
        self._tell()

    def already(self, n: int) -> None:
        """Count units that were done before, which say nothing about the pace."""
        count_done(self._work, n)
        self._work.done_before += n
        self._steady.already(n, time.monotonic())

    def at_once(self, units: int) -> None:
        """Set how many units are under way together, so that the first ones finish late."""
        self._steady.at_once = max(1, units)

    def left(self, seconds: float | None) -> None:
        """Take the time left from another process, which does the work."""
        self._work.estimate = None if seconds is None else (time.monotonic(), seconds)

    def generating(self, limit: int, each: int) -> None:
        """Announce responses of at most `limit` tokens, of which each row makes `each`."""
        if self._batches is None or (self._batches.limit, self._batches.each) != (limit, each):
            self._batches = Batches(limit, each)

    def begin_batch(self, rows: int, since: float) -> None:
        """Announce a batch of `rows`, whose preparation began at `since` (monotonic)."""
        if self._batches is not None:
            self._batches.begin(rows, time.monotonic(), since)

    def step(self, finished: int) -> None:
        """Count one token per row, with which `finished` of the rows ended."""
        if self._batches is None:
            return
        self._batches.advance(finished, time.monotonic())
        if is_due():
            self._estimate()
            self._tell()

    def _estimate(self) -> None:
        now, work, batches = time.monotonic(), self._work, self._batches
        if batches is None:
            left = self._steady.seconds(now)
        else:
            every = run_status.PUBLISH_EVERY_SECONDS
            if work.estimate is not None and now - work.estimate[0] < every:
                return
            waiting = (work.total - work.done) // batches.each - batches.rows
            left = batches.seconds(max(0, waiting))
        self.left(left)

    def _tell(self) -> None:
        self.show()
        publish_if_due(self._work)


def already(advance: Callable[[int], None], n: int) -> None:
    """Count units done before with `advance`, which may be any function."""
    (advance.already if isinstance(advance, Advance) else advance)(n)


@contextlib.contextmanager
def track(
    name: str, total: int, unit: str = "items", phases: Sequence[tuple[int, float]] = ()
) -> Iterator[Advance]:
    """Show the work `name` with its rate and time left while the block runs; yield `advance(n)`.

    `phases` are (units, cost of each) in order, where some units take longer than others.
    """
    work = Work(name, total, unit)
    advance = Advance(work, phases)
    show_bar = sys.stderr.isatty() and not logs_are_json()
    with _bar(work) if show_bar else _lines(work) as advance.show, under_way(work):
        yield advance


@contextlib.contextmanager
def _lines(work: Work) -> Iterator[Callable[[], None]]:
    last = work.started

    def show() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS and work.done < work.total:
            last = now
            left = "" if work.left is None else f", {work.left:.0f} s left"
            say(f"{work.name}: {work.done}/{work.total} {work.unit}, {work.rate:.1f}/s{left}")

    yield show
    unit = plural(work.unit.removesuffix("s"), work.done)
    say(f"{work.name}: {work.done} {unit} in {work.seconds:.1f} s ({work.rate:.1f}/s)")


@contextlib.contextmanager
def _bar(work: Work) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(work.name, total=work.total, rate="", left="")

        def show() -> None:
            left = "" if work.left is None else f"{timedelta(seconds=round(work.left))} left"
            rate = f"{work.rate:,.1f} {work.unit}/s"
            bar.update(task, completed=work.done, rate=rate, left=left)

        yield show
