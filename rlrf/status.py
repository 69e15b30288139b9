"""Report how far a run is, from its folder alone: nothing is locked or written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.core.errors import UserError
from harness.core.files import parse, read_json, read_records
from harness.core.folders import is_in_use
from harness.core.run_status import read_spend
from harness.core.schema import Record
from harness.core.text import visible
from harness.judges.budget import Spend
from rlrf.result import METRICS, RESULT, IterationMetrics
from rlrf.run import IDENTITY, PROGRESS, explain_other_version
from rlrf.stage_folder import MANIFEST, Manifest

State = Literal["never started", "running", "stopped", "finished"]


class Progress(Record):
    """The status file of `harness.core.run_status`; `doing` is empty between works."""

    pid: int
    host: str
    since: float = Field(description="when the process opened the run, in seconds since 1970")
    at: float = Field(description="when this was written")
    stage: str
    doing: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    rate: float = Field(default=0.0, description="units per second")
    left: float | None = Field(default=None, description="seconds until `doing` is done")


class Status(Record):
    """State of a run at a moment."""

    folder: str
    state: State
    progress: Progress | None = Field(
        description="what the process does, or did when it was killed"
    )
    stages: dict[str, float] = Field(description="finished stage -> seconds")
    iterations: list[IterationMetrics] = Field(description="finished iterations")
    spend: dict[str, Spend] = Field(
        description="judge -> usage by all processes that worked on the run"
    )


def status(folder: Path) -> Status:
    """Read how far the run in `folder` is.

    Raises:
        UserError: a file of the run is malformed, or was written by another version.
    """
    with explain_other_version(folder):
        return _status(folder)


def _status(folder: Path) -> Status:
    started = (folder / IDENTITY).is_file()
    state: State = "stopped"
    if is_in_use(folder):
        state = "running"
    elif not started:
        state = "never started"
    elif (folder / RESULT).is_file():
        state = "finished"
    rows = folder / METRICS
    return Status(
        folder=str(folder),
        state=state,
        progress=_progress(folder / PROGRESS),
        stages=dict(_stages(folder)) if started else {},
        iterations=read_records(rows, IterationMetrics) if started and rows.is_file() else [],
        spend={who: Spend.of(amounts) for who, amounts in read_spend(folder).items()},
    )


def markdown(found: Status) -> str:
    """Show the state, current work and verdicts so far; the means are only in JSON."""
    said = {
        "never started": "There is no run yet",
        "running": "Running",
        "stopped": "Stopped; run the same command again to resume",
        "finished": "Finished",
    }
    lines = [f"{found.folder}: {said[found.state]}."]
    if found.progress is not None and found.state != "finished":
        lines.append(_under_way(found.progress, found.state == "running"))
    for iteration in found.iterations:
        guards = ", ".join(f"{name} {verdict}" for name, verdict in iteration.guards.items())
        told = f"; guards: {guards}" if guards else ""
        lines.append(f"{iteration.candidate}: {iteration.outcome}{told}")
    for judge, spend in found.spend.items():
        lines.append(f"judge {judge}: {spend.sentence()}")
    if found.stages:
        seconds = sum(found.stages.values())
        lines.append(f"{len(found.stages)} stages finished, which took {_time(seconds)}.")
    return visible("\n".join(lines))


def _under_way(progress: Progress, running: bool) -> str:
    where = f"{progress.stage or 'between stages'}"
    if progress.doing:
        where += f": {progress.doing}, {progress.done}/{progress.total} {progress.unit}"
        where += f", {progress.rate:.1f}/s"
    if not running:
        return f"killed in {where}"
    if progress.left is not None:
        where += f", {_time(max(0.0, progress.left - (time.time() - progress.at)))} left"
    since = _time(time.time() - progress.since)
    return f"{where} (process {progress.pid} on {progress.host}, for {since})"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _progress(path: Path) -> Progress | None:
    try:
        return parse(Progress, read_json(path), str(path))
    except UserError:  # the run ended just now
        return None


def _stages(folder: Path) -> Iterator[tuple[str, float]]:
    for path in sorted(folder.glob(f"*/*/{MANIFEST}")):
        if not path.parent.name.startswith("."):
            manifest = parse(Manifest, read_json(path), str(path))
            yield str(path.parent.relative_to(folder)), manifest.seconds
