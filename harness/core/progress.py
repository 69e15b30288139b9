"""Show the progress of work on stderr: a live bar for a person, a line now and then for a log.

`TimeLeft` estimates the seconds until work is done, or None while it cannot.

Units that are done one after the other, or a fixed number at a time, continue at the pace of the
latest half of them. Responses that are generated in batches do not: the short ones finish first, so
the pace of finished responses is not that of the others. For them the estimate combines

- the lengths of responses, from those that finished and the ages of those under way (E. L. Kaplan
  and P. Meier, JASA 1958; beyond the oldest, the rate at which the latest ended), and
- the cost of a step: a constant plus a cost per row of the batch (least squares).
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from harness.core import run_status
from harness.core.log import logs_are_json, say
from harness.core.run_status import Work, count_done, is_due, publish_if_due, under_way
from harness.core.text import plural

ROUNDS = 2  # of units under way together, to be done before the first estimate
MAX_MARKS = 256  # moments that are kept
LATEST_ENDS, LATEST_SHARE = 3, 0.2  # responses whose rate of ending is extrapolated
FINISHED_SHARE = 0.25  # of a batch's rows, before the first estimate
STEPS_SHARE = 0.5  # of the longest response: from then on at most as much is left


class Steady:
    """Estimate work whose units are done one after the other, or several at a time.

    Args:
        phases: (units, cost of each) in order, if their costs differ.
    """

    def __init__(self, total: int, now: float, phases: Sequence[tuple[int, float]] = ()) -> None:
        self.total = total
        self.at_once = 1
        self._phases = phases
        self._first = self._done = 0
        self._marks = [(now, 0.0)]

    def already(self, count: int, now: float) -> None:
        """Count units that were done before, which say nothing about the pace."""
        self._first += count
        self._done += count
        self._marks = [(now, self._cost(self._done))]

    def advance(self, count: int, now: float) -> None:
        self._done += count
        self._marks.append((now, self._cost(self._done)))
        if len(self._marks) > MAX_MARKS:
            self._marks = [*self._marks[::2], self._marks[-1]]

    def seconds(self, now: float) -> float | None:
        """Return the seconds until all units are done, or None."""
        fresh = self._done - self._first
        if fresh < 1 or (fresh < ROUNDS * self.at_once and 2 * self._done < self.total):
            return None
        start, end = self._marks[0][1], self._marks[-1][1]
        since, before = max(mark for mark in self._marks if mark[1] <= (start + end) / 2)
        return (self._cost(self.total) - end) * (now - since) / (end - before)

    def _cost(self, done: int) -> float:
        if not self._phases:
            return float(done)
        cost, left = 0.0, done
        for units, each in self._phases:
            cost += each * min(units, left)
            left -= min(units, left)
        return cost


@dataclass
class Batches:
    """Estimate responses that are generated in batches: each step adds a token to each row.

    A row stands for `each` responses, because equal ones are generated once.
    """

    limit: int  # tokens of a response, at most
    each: int = 1
    rows: int = 0  # under way
    step: int = 0  # tokens of each row so far
    size: int = 0  # rows at the beginning of the batch
    _ended: Counter[int] = field(default_factory=Counter)  # length -> responses, finished by now
    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)  # of 1, r, rr, t, rt by steps
    _last: float = 0.0
    _overhead: float = 0.0  # seconds between batches: prompts that are read

    def begin(self, rows: int, now: float, since: float) -> None:
        """Begin a batch of `rows`, whose preparation began at `since`."""
        self.rows = self.size = rows
        self.step = 0
        self._overhead = now - since
        self._last = now

    def advance(self, finished: int, now: float) -> None:
        """Count one token per row, with which `finished` of the rows ended."""
        r, t = self.rows, now - self._last
        self._sums = [s + x for s, x in zip(self._sums, (1, r, r * r, t, r * t), strict=True)]
        self._last = now
        self.step += 1
        self.rows -= finished
        self._ended[self.step] += finished

    def seconds(self, waiting: int) -> float | None:
        """Return the seconds until these rows and the `waiting` ones are done, or None."""
        ended = self._ended.total()
        if ended < FINISHED_SHARE * (ended + self.rows) and self.step < STEPS_SHARE * self.limit:
            return None
        alive = self._survival()
        of_step, of_row = self._costs()
        found = 0.0
        if self.rows:
            found += _time(alive[self.step :], self.rows, of_step, of_row)
        full, rest = divmod(waiting, max(1, self.size))
        for count, rows in ((full, self.size), (min(1, rest), rest)):
            if count:
                found += count * (self._overhead + _time(alive, rows, of_step, of_row))
        return found

    def _survival(self) -> list[float]:
        """Estimate the share of responses with more than 0, 1, ... tokens; all end at the limit."""
        oldest = max(self.step if self.rows else 0, max(self._ended, default=0))
        total = self._ended.total()
        alive, risks, risk = [1.0], [0], total + self.rows
        for length in range(1, min(oldest + 1, self.limit)):
            risks.append(risk)
            dead = self._ended[length]
            alive.append(alive[-1] * (1 - dead / risk) if risk else alive[-1])
            risk -= dead + (self.rows if length == self.step else 0)
        wanted = max(LATEST_ENDS, total * LATEST_SHARE)
        ends = exposed = 0
        for length in range(len(risks) - 1, 0, -1):
            ends, exposed = ends + self._ended[length], exposed + risks[length]
            if ends >= wanted:
                break
        hazard = (ends + 0.5) / (exposed + 1)
        while len(alive) < self.limit:
            alive.append(alive[-1] * (1 - min(1.0, hazard)))
        return alive

    def _costs(self) -> tuple[float, float]:
        """Fit the seconds per step, and per row in a step."""
        n, r, rr, t, rt = self._sums
        spread = n * rr - r * r
        if spread > 1e-4 * r * r:
            of_row = (n * rt - r * t) / spread
            of_row = min(max(0.0, of_row), t / r)
        else:
            of_row = t / r / 2
        return (t - of_row * r) / n, of_row


def _time(alive: Sequence[float], rows: int, of_step: float, of_row: float) -> float:
    """Estimate the seconds for a batch of `rows`, whose survival `alive` gives per step."""
    first = alive[0] if alive else 0.0
    if first <= 0:
        return 0.0
    steps = tokens = 0.0
    for share in alive:
        left = share / first
        if left * rows < 1e-3:
            break
        tokens += rows * left
        steps += -math.expm1(rows * math.log1p(-left)) if left < 1 else 1.0
    return of_step * steps + of_row * tokens


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
