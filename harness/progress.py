"""Progress on stderr: a live bar for a person, a line now and then for a log.

With RLRF_LOG=json every line is a JSON object. While a run is open, its progress is also in a file
of its folder, for other processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Advance = Callable[[int], None]

LOG_EVERY_SECONDS = 15.0
PUBLISH_EVERY_SECONDS = 1.0


@dataclass
class _Work:
    """Something of which `done` of `total` is done."""

    name: str
    total: int
    unit: str
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def rate(self) -> float:
        return self.done / self.seconds

    @property
    def left(self) -> float | None:
        """Seconds; None where nothing is done yet."""
        return (self.total - self.done) / self.rate if self.done else None


@dataclass
class _Shown:
    """What this process shows: the stage of a run, what is done in it, and where to publish it."""

    file: Path | None = None
    since: float = 0.0
    stage: str = ""
    published: float = 0.0


_shown = _Shown()


@contextlib.contextmanager
def track(stage: str, total: int, unit: str = "items") -> Iterator[Advance]:
    """Show `stage` with its rate and time left while the block runs; yields `advance(n)`."""
    work = _Work(stage, total, unit)
    show_bar = sys.stderr.isatty() and not _as_json()
    with _bar(work) if show_bar else _lines(work) as show:

        def advance(n: int) -> None:
            work.done += n
            show()
            if time.monotonic() - _shown.published >= PUBLISH_EVERY_SECONDS:
                _publish(work)

        _publish(work)
        yield advance


def say(line: str, level: str = "info") -> None:
    """Progress and findings, for people: a line on stderr."""
    if _as_json():
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "level": level, "stage": _shown.stage, "message": line})
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def within(stage: str) -> Iterator[None]:
    """What is shown while the block runs belongs to `stage` of the run."""
    _shown.stage = stage
    _publish(None)
    try:
        yield
    finally:
        _shown.stage = ""


@contextlib.contextmanager
def published(file: Path) -> Iterator[None]:
    """Keep what is under way in `file` (JSON) while the block runs; a killed process leaves it."""
    _shown.file, _shown.since = file, time.time()
    _publish(None)
    try:
        yield
    finally:
        _shown.file = None
        file.unlink(missing_ok=True)


def _publish(work: _Work | None) -> None:
    if _shown.file is None:
        return
    _shown.published = time.monotonic()
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
    # Whole at any moment, but not durable; and no run ends because it cannot be watched.
    with contextlib.suppress(OSError):
        temporary = _shown.file.with_name(f"{_shown.file.name}.rlrf.tmp")
        temporary.write_text(json.dumps(found))
        os.replace(temporary, _shown.file)


def _as_json() -> bool:
    return os.environ.get("RLRF_LOG") == "json"


@contextlib.contextmanager
def _lines(work: _Work) -> Iterator[Callable[[], None]]:
    last = work.started

    def show() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS and work.done < work.total:
            last = now
            say(
                f"{work.name}: {work.done}/{work.total} {work.unit}, {work.rate:.1f}/s, "
                f"{work.left or 0:.0f} s left"
            )

    yield show
    say(f"{work.name}: {work.done} {work.unit} in {work.seconds:.1f} s ({work.rate:.1f}/s)")


@contextlib.contextmanager
def _bar(work: _Work) -> Iterator[Callable[[], None]]:
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
        task = bar.add_task(work.name, total=work.total, rate="")
        yield lambda: bar.update(task, completed=work.done, rate=f"{work.rate:,.1f} {work.unit}/s")
