"""Record what this process is doing and publish it: status file, judge spend, snapshot.

While a run is open, its folder holds a status file for other processes, and `SPEND`, which counts
what judges used up over all processes of the run. `snapshot` gives the same from within the
process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SPEND = "spend.json"
MAX_SPEND_BYTES = 1024 * 1024
PUBLISH_EVERY_SECONDS = 1.0

Amounts = dict[str, dict[str, float]]
"""What judges used up: judge -> calls, tokens, dollars, ... -> amount."""


@dataclass
class Work:
    """Count units of work: `done` of `total`."""

    name: str
    total: int
    unit: str
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    done_before: int = 0  # of `done`, units that were done before the work began
    estimate: tuple[float, float] | None = None  # when it was made, and the seconds left then

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def rate(self) -> float:
        return (self.done - self.done_before) / self.seconds

    @property
    def left(self) -> float | None:
        """Seconds until the work is done, or None while they cannot be estimated."""
        if self.estimate is None:
            return None
        made, left = self.estimate
        return max(0.0, left - (time.monotonic() - made))


@dataclass(frozen=True)
class Snapshot:
    """What this process has done so far."""

    run: Path | None  # the folder of the open run
    stage: str
    work: list[Work]  # under way, outermost first
    done: dict[tuple[str, str], int]  # (name of work, unit) -> units done
    seconds: dict[str, float]  # stage -> seconds worked on it
    spend: Amounts


@dataclass
class _State:
    file: Path | None = None  # the status file of the open run
    since: float = 0.0
    stage: str = ""
    stage_since: float = 0.0
    published: float = 0.0  # when the status file was last written
    work: list[Work] = field(default_factory=list)
    done: dict[tuple[str, str], int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    spend: Amounts = field(default_factory=dict)
    spent_before: Amounts = field(default_factory=dict)  # by earlier processes of the run
    written_spend: Amounts = field(default_factory=dict)
    before_first_work: Callable[[], None] | None = None


_state = _State()


def snapshot() -> Snapshot:
    """Return what this process is doing now; other threads may call this."""
    seconds = dict(_state.seconds)
    if stage := _state.stage:
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - _state.stage_since
    return Snapshot(
        run=_state.file.parent if _state.file else None,
        stage=stage,
        work=list(_state.work),
        done=dict(_state.done),
        seconds=seconds,
        spend={judge: dict(amounts) for judge, amounts in list(_state.spend.items())},
    )


def current_stage() -> str:
    """Return the stage of the run that is under way, or ""."""
    return _state.stage


def before_first_work(act: Callable[[], None]) -> None:
    """Call `act` once, before the first work of this process."""
    _state.before_first_work = act


@contextlib.contextmanager
def under_way(work: Work) -> Iterator[None]:
    """List `work` in the snapshot and the status file while the block runs."""
    _state.work.append(work)
    try:
        publish(work)
        yield
    finally:
        _state.work.remove(work)


def count_done(work: Work, units: int) -> None:
    """Add `units` to what `work` has done."""
    work.done += units
    key = work.name, work.unit
    _state.done[key] = _state.done.get(key, 0) + units


def count_spend(judge: str, amounts: Mapping[str, float]) -> None:
    """Add what `judge` used up since the last call: calls, tokens, dollars."""
    _add(_state.spend, judge, amounts)


@contextlib.contextmanager
def within_stage(stage: str) -> Iterator[None]:
    """Attribute the work and the log lines of the block to `stage` of the run."""
    _state.stage_since, _state.stage = time.monotonic(), stage
    publish(None)
    try:
        yield
    finally:
        _state.seconds, _state.stage = snapshot().seconds, ""
        _write_spend()


@contextlib.contextmanager
def publish_to(file: Path) -> Iterator[None]:
    """Keep what is under way in `file` (JSON) while the block runs; a killed process leaves it.

    `SPEND` (JSON, judge -> amounts), next to `file`, counts on from one process to the next. It is
    not written where no judge is called.
    """
    _state.file, _state.since = file, time.time()
    _state.spent_before, _state.written_spend, _state.spend = read_spend(file.parent), {}, {}
    publish(None)
    try:
        yield
    finally:
        _write_spend()
        _state.file = None
        file.unlink(missing_ok=True)


def read_spend(run: Path) -> Amounts:
    """Read what judges used up in a run folder; empty if the file is missing or damaged."""
    try:
        with open(run / SPEND, "rb") as file:
            value = json.loads(file.read(MAX_SPEND_BYTES))
        spend = {who: {n: float(x) for n, x in amounts.items()} for who, amounts in value.items()}
    except (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        return {}
    is_sound = all(0 <= x < math.inf for amounts in spend.values() for x in amounts.values())
    return spend if is_sound else {}


def publish_if_due(work: Work) -> None:
    """Write the status file if `PUBLISH_EVERY_SECONDS` have passed since the last time."""
    if is_due():
        publish(work)


def is_due() -> bool:
    """Tell whether it is time to write the status file again."""
    return time.monotonic() - _state.published >= PUBLISH_EVERY_SECONDS


def publish(work: Work | None) -> None:
    """Write the status file, with `work` as what is being done."""
    if _state.before_first_work is not None:
        act, _state.before_first_work = _state.before_first_work, None
        act()
    if _state.file is None:
        return
    _state.published = time.monotonic()
    _write_spend()
    status: dict[str, Any] = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": _state.since,
        "at": time.time(),
        "stage": _state.stage,
    }
    if work is not None:
        status |= {
            "doing": work.name,
            "done": work.done,
            "total": work.total,
            "unit": work.unit,
            "rate": work.rate,
            "left": work.left,
        }
    _write(_state.file, status)


def _write_spend() -> None:
    if _state.file is None or not _state.spend:
        return
    total = {judge: dict(amounts) for judge, amounts in _state.spent_before.items()}
    for judge, amounts in _state.spend.items():
        _add(total, judge, amounts)
    if total != _state.written_spend:
        _write(_state.file.with_name(SPEND), total, durable=True)
        _state.written_spend = total


def _add(spend: Amounts, judge: str, amounts: Mapping[str, float]) -> None:
    total = spend.setdefault(judge, {})
    for name, amount in amounts.items():
        total[name] = total.get(name, 0) + amount


def _write(file: Path, value: Any, *, durable: bool = False) -> None:
    """Replace `file` atomically. No run ends because its status cannot be written."""
    with contextlib.suppress(OSError):
        temporary = file.with_name(f"{file.name}.rlrf.tmp")
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump(value, stream)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(temporary, file)
