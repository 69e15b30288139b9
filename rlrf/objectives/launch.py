"""Training in processes that `accelerate launch` starts: the job, their progress, their end.

The job lies in a folder beside what is trained, where the processes find it and leave word of what
went wrong (`launched` is their side of it). It is gone when they are.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from pydantic import Field

from harness.core.errors import OutOfMemoryError, UserError
from harness.core.files import parse, read_json, write_json, write_jsonl
from harness.core.log import say
from harness.core.progress import track
from harness.core.schema import Record
from rlrf.checkpoint import Checkpoint
from rlrf.config import Adapter, Device, Launch, Rlmec, Training
from rlrf.objectives.base import DivergedError

FOLDER = ".launch"
JOB = "job.json"
LESSONS = "lessons.jsonl"
PROGRESS = "progress.json"
FAILURE = "failure.json"
PROCESS = "rlrf.objectives.worker"
LOOK_EVERY_SECONDS = 0.5
SECONDS_TO_LEAVE = 10.0
LAST_LINES = 40


class Job(Record):
    """A training as its processes read it, from `FOLDER` in `out`."""

    objective: Literal["dpo", "sft", "rrhf", "rlmec"]
    name: str
    model: Path
    start_adapter: Path | None
    config: Training
    adapter: Adapter | None
    device: Device
    seed: int
    out: Path
    logs: Path | None
    references: Path | None = None  # of dpo
    settings: Rlmec | None = None  # of rlmec

    @property
    def start(self) -> Checkpoint:
        """The policy that training starts from."""
        return Checkpoint(self.name, self.model, self.start_adapter)


class Failure(Record):
    """Why a process could not go on."""

    kind: Literal["diverged", "memory", "user", "unexpected"]
    said: str
    step: int = 0  # of one that diverged, as what follows
    row: dict[str, str] = Field(default={}, description="numbers, and what is none")
    rows: list[dict[str, float]] = Field(default=[])


def failure(error: BaseException) -> Failure:
    """What is to be told of `error`."""
    if isinstance(error, DivergedError):
        row = {name: repr(value) for name, value in error.row.items()}
        rows = [dict(one) for one in error.rows]
        return Failure(kind="diverged", said=str(error), step=error.step, row=row, rows=rows)
    if isinstance(error, OutOfMemoryError):
        return Failure(kind="memory", said=str(error))
    if isinstance(error, UserError):
        return Failure(kind="user", said=str(error))
    return Failure(kind="unexpected", said=f"{type(error).__name__}: {error}")


def check_launch(config: Training, device: Device) -> None:
    """See that what `config.launch` asks for is here.

    Raises:
        UserError: it is not.
    """
    import torch

    asked = config.launch
    if asked is None:
        return
    if asked.accelerate is not None and not Path(asked.accelerate).is_file():
        raise UserError(
            f"There is no file {asked.accelerate}; train.launch.accelerate names one that "
            "`accelerate config --config_file FILE` writes."
        )
    if asked.prefix and shutil.which(asked.prefix[0]) is None:
        raise UserError(f"train.launch.prefix begins with {asked.prefix[0]}, which is not here.")
    gpus = 0 if device.device == "cpu" else torch.cuda.device_count()
    if asked.processes is not None and 0 < gpus < asked.processes:
        raise UserError(
            f"train.launch asks for {asked.processes} processes, one a GPU, and there are {gpus} "
            "GPUs here; start fewer, or name several machines in train.launch.accelerate."
        )


def launch(
    objective: Any,
    lessons: Sequence[Any],
    start: Checkpoint,
    config: Training,
    *,
    adapter: Adapter | None,
    device: Device,
    seed: int,
    out: Path,
    logs: Path | None,
) -> None:
    """`objective(lessons, start, config, ...)` in the processes that `config.launch` asks for.

    It leaves the files that it leaves in one process, and raises what it raises there.

    Raises:
        RuntimeError: a process failed, and could not say why in a sentence for the user.
        UserError: a process was killed.
    """
    assert config.launch is not None  # noqa: S101 (whoever calls asks for it)
    check_launch(config, device)
    folder = out.resolve() / FOLDER
    try:
        job = write_job(
            objective, lessons, start, config,
            adapter=adapter, device=device, seed=seed, out=out, logs=logs,
        )  # fmt: skip
        code, lines = _run(command(config.launch, folder), folder, job)
        if code:
            _raise(folder, code, lines)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_job(
    objective: Any,
    lessons: Sequence[Any],
    start: Checkpoint,
    config: Training,
    *,
    adapter: Adapter | None,
    device: Device,
    seed: int,
    out: Path,
    logs: Path | None,
) -> Job:
    """Leave the job in `FOLDER` of `out`, for the processes that do it."""
    partial = isinstance(objective, functools.partial)
    job = Job(
        objective=objective.func.__name__ if partial else objective.__name__,
        name=start.name,
        model=start.model.resolve(),
        start_adapter=start.adapter and start.adapter.resolve(),
        config=config,
        adapter=adapter,
        device=device,
        seed=seed,
        out=out.resolve(),
        logs=logs and logs.resolve(),
        **(objective.keywords if partial else {}),
    )
    write_jsonl(out / FOLDER / LESSONS, lessons)
    # Defaults stay out: one that is 32 for a float comes back as 32.0, which PEFT writes otherwise.
    write_json(out / FOLDER / JOB, job.model_dump(mode="json", exclude_unset=True))
    return job


def command(launch: Launch, folder: Path) -> list[str]:
    """What starts the processes of the job in `folder`."""
    settings = launch.accelerate
    if settings is None:
        # A file of its own, so that the one that somebody may have at home does not count.
        settings = str(folder / "accelerate.json")
        write_json(Path(settings), accelerate_settings(launch))
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", settings]
    return [*launch.prefix, *accelerate, "--module", PROCESS, str(folder)]


def accelerate_settings(launch: Launch) -> dict[str, Any]:
    """What `accelerate config` would write for processes on this machine."""
    sharded = launch.strategy == "fsdp"
    settings: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        # That of processes on CPUs is another launcher's, MPI's.
        "distributed_type": "FSDP" if sharded else "MULTI_GPU",
        "num_machines": 1,
        "num_processes": launch.processes,
        "machine_rank": 0,
        "main_process_port": 0,  # one that is free
        "mixed_precision": "no",  # `train.bf16` says
        "use_cpu": False,
    }
    if sharded:
        settings["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_reshard_after_forward": True,
            "fsdp_offload_params": False,
            "fsdp_cpu_ram_efficient_loading": True,
            "fsdp_state_dict_type": "FULL_STATE_DICT",
        }
    return settings


def _run(words: list[str], folder: Path, job: Job) -> tuple[int, list[str]]:
    """Run the processes until they end; the exit code and the last lines that they wrote."""
    # Lines that a program reads: what the main process says is said here.
    environment = os.environ | {"RLRF_LOG": "json", "PYTHONUNBUFFERED": "1"}
    with _ended(
        subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for this process, which ends them
        )
    ) as process:
        lines: deque[str] = deque(maxlen=LAST_LINES)
        reader = threading.Thread(
            target=_relay, args=(process.stdout, lines, f"train from {job.name}: "), daemon=True
        )
        reader.start()
        code = _follow(process, folder / PROGRESS)
        reader.join(SECONDS_TO_LEAVE)
    return code, list(lines)


def _relay(output: IO[str], lines: deque[str], shown: str) -> None:
    """Say what the processes say, but for progress (lines that begin with `shown`), which is shown
    otherwise; keep what libraries write."""
    for line in output:
        try:
            said = json.loads(line)
            message, level = str(said["message"]), str(said["level"])
        except (ValueError, TypeError, KeyError):
            lines.append(line.rstrip())
            if os.environ.get("RLRF_DEBUG"):
                say(line.rstrip())
        else:
            if not message.startswith(shown):
                say(message, level)


def _follow(process: subprocess.Popen[str], file: Path) -> int:
    """Show the progress that the main process writes to `file`, until all have ended."""
    with contextlib.ExitStack() as opened:
        advance, shown, total = None, 0, 0
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_EVERY_SECONDS)
            found = _progress(file)
            if found is not None and advance is None:
                total = found["total"]
                advance = opened.enter_context(track(found["doing"], total, found["unit"]))
            if advance is not None:
                done = found["done"] if found is not None else shown
                if process.returncode == 0:
                    done = total  # what was not written any more
                advance(done - shown)
                advance.left(found.get("left") if found is not None else None)
                shown = done
            if process.returncode is not None:
                return process.returncode


def _progress(file: Path) -> dict[str, Any] | None:
    """What `harness.core.run_status.publish_to` wrote there, if it is about work."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return found if "doing" in found else None


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """See that nothing is left of `process`, however the block ends."""
    import psutil

    found: list[psutil.Process] = []
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(process.pid).children(recursive=True)
        if process.poll() is None:
            process.terminate()  # the launcher ends its processes
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_LEAVE)
        for one in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.kill()
        process.wait()


def _raise(folder: Path, code: int, lines: Sequence[str]) -> NoReturn:
    """Raise what a process could not go on for."""
    if (folder / FAILURE).exists():
        found = parse(Failure, read_json(folder / FAILURE), str(folder / FAILURE))
        if found.kind == "diverged":
            row = {name: float(value) for name, value in found.row.items()}
            raise DivergedError(found.step, row, found.rows)
        if found.kind == "memory":
            raise OutOfMemoryError(found.said)
        if found.kind == "user":
            raise UserError(found.said)
        raise RuntimeError(found.said)
    for line in lines:
        say(line, "error")
    raise UserError(
        f"Training in several processes ended with code {code}, and none of them could say why: "
        "one was killed, as by a machine that is out of memory, or accelerate could not start "
        "them; the lines above are the last that they wrote."
    )
