"""Everything that is printed: results on stdout, progress on stderr.

Progress is a live bar for a person, a line now and then for a log.

With RLRF_LOG=json every line is a JSON object. While a run is open, its progress is also in a file
of its folder, for other processes, and what judges used up is in another, which stays. `seen` is
the same for whoever watches from within this process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from harness.core.text import terminal
from harness.core.time_left import Batches, Steady

BILL = "spend.json"
MAX_BILL = 1024 * 1024  # bytes
LOG_EVERY_SECONDS = 15.0
PUBLISH_EVERY_SECONDS = 1.0


@dataclass
class Work:
    """Something of which `done` of `total` is done."""

    name: str
    total: int
    unit: str
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    known: int = 0  # of those done, how many were done before it began
    estimate: tuple[float, float] | None = None  # when it was made, and the seconds left then

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def rate(self) -> float:
        return (self.done - self.known) / self.seconds

    @property
    def left(self) -> float | None:
        """Seconds; None where that cannot be said yet."""
        if self.estimate is None:
            return None
        made, left = self.estimate
        return max(0.0, left - (time.monotonic() - made))


class Advance:
    """Counts units of `work` as they are done: `advance(n)`.

    Whoever knows more than that tells it, so that the time left is worth reading: units that were
    done before (`already`), how many are under way together (`at_once`), what each step of a
    generation takes (`generating`), or the estimate of another process (`left`).
    """

    def __init__(self, work: Work, phases: Sequence[tuple[int, float]] = ()) -> None:
        self.show: Callable[[], None] = lambda: None
        self._work = work
        self._steady = Steady(work.total, time.monotonic(), phases)
        self._batches: Batches | None = None

    def __call__(self, n: int) -> None:
        self._count(n)
        self._steady.advance(n, time.monotonic())
        self._estimate()
        self._tell()

    def already(self, n: int) -> None:
        """Count units that were done before; they say nothing of the pace."""
        self._count(n)
        self._work.known += n
        self._steady.already(n, time.monotonic())

    def at_once(self, units: int) -> None:
        """Say how many units are under way together, so that the first of them come late."""
        self._steady.at_once = max(1, units)

    def left(self, seconds: float | None) -> None:
        """Take the estimate of another process, which does the work."""
        self._work.estimate = None if seconds is None else (time.monotonic(), seconds)

    def generating(self, limit: int, each: int) -> None:
        """Say that responses of at most `limit` tokens are generated, `each` by a row."""
        if self._batches is None or (self._batches.limit, self._batches.each) != (limit, each):
            self._batches = Batches(limit, each)

    def begin_batch(self, rows: int, since: float) -> None:
        """Say that `rows` are about to get tokens, made ready from `since` (monotonic) on."""
        if self._batches is not None:
            self._batches.begin(rows, time.monotonic(), since)

    def step(self, finished: int) -> None:
        """Say that each row got a token, and that `finished` of them ended with it."""
        if self._batches is None:
            return
        self._batches.advance(finished, time.monotonic())
        if time.monotonic() - _shown.published >= PUBLISH_EVERY_SECONDS:
            self._estimate()
            self._tell()

    def _count(self, n: int) -> None:
        work = self._work
        work.done += n
        key = work.name, work.unit
        _shown.done[key] = _shown.done.get(key, 0) + n

    def _estimate(self) -> None:
        now, work, batches = time.monotonic(), self._work, self._batches
        if batches is None:
            left = self._steady.seconds(now)
        else:
            if work.estimate is not None and now - work.estimate[0] < PUBLISH_EVERY_SECONDS:
                return
            waiting = (work.total - work.done) // batches.each - batches.rows
            left = batches.seconds(max(0, waiting))
        self.left(left)

    def _tell(self) -> None:
        self.show()
        if time.monotonic() - _shown.published >= PUBLISH_EVERY_SECONDS:
            _publish(self._work)


def already(advance: Callable[[int], None], n: int) -> None:
    """Count units done before with `advance`, which may be any function."""
    (advance.already if isinstance(advance, Advance) else advance)(n)


@dataclass(frozen=True)
class Seen:
    """What this process has done so far, as it can be seen at a moment."""

    run: Path | None  # the folder of the run that is open
    stage: str
    work: list[Work]  # what is under way, outermost first
    done: dict[tuple[str, str], int]  # (name of work, unit) -> units done
    seconds: dict[str, float]  # stage -> how long it was worked at
    used: dict[str, dict[str, float]]  # judge -> what of it was used up -> how much


@dataclass
class _Shown:
    """What this process shows: the stage of a run, what is done in it, and where to publish it."""

    file: Path | None = None
    since: float = 0.0
    stage: str = ""
    stage_since: float = 0.0
    published: float = 0.0
    work: list[Work] = field(default_factory=list)
    done: dict[tuple[str, str], int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    used: dict[str, dict[str, float]] = field(default_factory=dict)
    billed_before: dict[str, dict[str, float]] = field(default_factory=dict)
    billed: dict[str, dict[str, float]] = field(default_factory=dict)
    begin: Callable[[], None] | None = None


_shown = _Shown()


def seen() -> Seen:
    """What this process shows now; may be asked from another thread."""
    seconds = dict(_shown.seconds)
    if stage := _shown.stage:
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - _shown.stage_since
    return Seen(
        run=_shown.file.parent if _shown.file else None,
        stage=stage,
        work=list(_shown.work),
        done=dict(_shown.done),
        seconds=seconds,
        used={who: dict(amounts) for who, amounts in list(_shown.used.items())},
    )


def when_work_begins(act: Callable[[], None]) -> None:
    """Call `act` once, before the first work that this process shows."""
    _shown.begin = act


@contextlib.contextmanager
def track(
    stage: str, total: int, unit: str = "items", phases: Sequence[tuple[int, float]] = ()
) -> Iterator[Advance]:
    """Show `stage` with its rate and time left while the block runs; yields `advance(n)`.

    `phases` are (units, cost of each) in order, where some units take longer than others.
    """
    work = Work(stage, total, unit)
    advance = Advance(work, phases)
    show_bar = sys.stderr.isatty() and not logs_are_json()
    _shown.work.append(work)
    try:
        with _bar(work) if show_bar else _lines(work) as advance.show:
            _publish(work)
            yield advance
    finally:
        _shown.work.remove(work)


def used(by: str, amounts: Mapping[str, float]) -> None:
    """Count what a judge has used up since it was told last: calls, tokens, dollars."""
    so_far = _shown.used.setdefault(by, {})
    for name, amount in amounts.items():
        so_far[name] = so_far.get(name, 0) + amount


def say(line: str, level: str = "info") -> None:
    """Print progress or a finding, for people, on stderr."""
    if hasattr(sys.stderr, "end_line"):  # a JSON log: what a library has begun is a line of its own
        sys.stderr.end_line()
    line = as_object(line, level) if logs_are_json() else terminal(line)
    print(line, file=sys.stderr, flush=True)


def as_object(line: str, level: str = "info") -> str:
    """A line of a log that programs read: JSON, on one line."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "stage": _shown.stage, "message": line})


def show(result: object) -> None:
    """Print a result for people on stdout; text of unknown origin in it steers nothing."""
    print(terminal(str(result)))


def write_out(document: str) -> None:
    """Print a document on stdout that a renderer has prepared: JSON, CSV, LaTeX, HTML."""
    print(document, end="")


def annotate(commands: Iterable[str]) -> None:
    """Print commands for the runner of a CI job on stderr, as they are, also in a JSON log.

    Without this a runner would not see them: it reads only lines that begin with the command.
    """
    stream = getattr(sys.stderr, "stream", sys.stderr)  # what a JSON log is written to
    for command in commands:
        print(command, file=stream, flush=True)


@contextlib.contextmanager
def within(stage: str) -> Iterator[None]:
    """What is shown while the block runs belongs to `stage` of the run."""
    _shown.stage_since, _shown.stage = time.monotonic(), stage
    _publish(None)
    try:
        yield
    finally:
        _shown.seconds, _shown.stage = seen().seconds, ""
        _bill()


@contextlib.contextmanager
def published(file: Path) -> Iterator[None]:
    """Keep what is under way in `file` (JSON) while the block runs; a killed process leaves it.

    Beside it, `BILL` (JSON, judge -> amounts) counts on what was `used`, from one process to the
    next; where no judge is asked there is none.
    """
    _shown.file, _shown.since = file, time.time()
    _shown.billed_before, _shown.billed, _shown.used = read_bill(file.parent), {}, {}
    _publish(None)
    try:
        yield
    finally:
        _bill()
        _shown.file = None
        file.unlink(missing_ok=True)


def read_bill(run: Path) -> dict[str, dict[str, float]]:
    """Judge -> what of it was used up -> how much, so far; empty where that cannot be read."""
    try:
        with open(run / BILL, "rb") as file:
            found = json.loads(file.read(MAX_BILL))
        bill = {who: {n: float(x) for n, x in amounts.items()} for who, amounts in found.items()}
    except (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        return {}
    sound = all(0 <= x < math.inf for amounts in bill.values() for x in amounts.values())
    return bill if sound else {}


def _bill() -> None:
    if _shown.file is None or not _shown.used:
        return
    total = {who: dict(amounts) for who, amounts in _shown.billed_before.items()}
    for who, amounts in _shown.used.items():
        of = total.setdefault(who, {})
        for name, amount in amounts.items():
            of[name] = of.get(name, 0) + amount
    if total != _shown.billed:
        _put(_shown.file.with_name(BILL), total, durable=True)
        _shown.billed = total


def _publish(work: Work | None) -> None:
    if _shown.begin is not None:
        begin, _shown.begin = _shown.begin, None
        begin()
    if _shown.file is None:
        return
    _shown.published = time.monotonic()
    _bill()
    found: dict[str, Any] = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": _shown.since,
        "at": time.time(),
        "stage": _shown.stage,
    }
    if work is not None:
        found |= {
            "doing": work.name,
            "done": work.done,
            "total": work.total,
            "unit": work.unit,
            "rate": work.rate,
            "left": work.left,
        }
    _put(_shown.file, found)


def _put(file: Path, value: Any, *, durable: bool = False) -> None:
    """Whole at any moment; and no run ends because it cannot be watched."""
    with contextlib.suppress(OSError):
        temporary = file.with_name(f"{file.name}.rlrf.tmp")
        with open(temporary, "w", encoding="utf-8") as writing:
            json.dump(value, writing)
            writing.flush()
            if durable:
                os.fsync(writing.fileno())
        os.replace(temporary, file)


def logs_are_json() -> bool:
    """Whether each line on stderr is to be a JSON object."""
    return os.environ.get("RLRF_LOG") == "json"


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
    say(f"{work.name}: {work.done} {work.unit} in {work.seconds:.1f} s ({work.rate:.1f}/s)")


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
