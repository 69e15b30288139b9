"""Run a training job in several processes that `accelerate launch` starts.

The job and its examples are written to a folder inside `job.out`, where the processes (`worker`)
read them and report progress and failures. The folder is removed when the processes have ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from pydantic import Field, field_validator

from harness.core.errors import OutOfMemoryError, UserError
from harness.core.files import parse, read_json, write_json, write_jsonl
from harness.core.log import say
from harness.core.progress import track
from harness.core.schema import Record
from rlrf.config import Device
from rlrf.objectives.dpo import dpo
from rlrf.objectives.job import DivergedError, Job, Objective
from rlrf.objectives.rlmec import RewriteExample, rlmec
from rlrf.objectives.rrhf import Ranking, rrhf
from rlrf.objectives.sft import Example, sft
from rlrf.pairs import Pair
from rlrf.training_config import Launch, Training

FOLDER = ".launch"
JOB = "job.json"
EXAMPLES = "examples.jsonl"
PROGRESS = "progress.json"
FAILURE = "failure.json"
PROCESS = "rlrf.objectives.worker"
POLL_SECONDS = 0.5
SECONDS_TO_EXIT = 10.0
LAST_LINES = 40

# The objectives that processes can be launched for, and the examples that each reads.
OBJECTIVES: Mapping[str, tuple[Objective[Any], type[Record]]] = {
    "dpo": (dpo, Pair),
    "sft": (sft, Example),
    "rrhf": (rrhf, Ranking),
    "rlmec": (rlmec, RewriteExample),
}


class LaunchedJob(Record):
    """A job as it is written for its processes."""

    objective: str = Field(description="a name in OBJECTIVES")
    job: Job[Training]

    @field_validator("objective")
    @classmethod
    def _is_listed(cls, name: str) -> str:
        if name not in OBJECTIVES:
            raise ValueError(f"OBJECTIVES does not list '{name}', so no process can run it")
        return name


class Failure(Record):
    """Why a process failed."""

    kind: Literal["diverged", "memory", "user", "unexpected"]
    message: str
    step: int = Field(default=0, description="the step that diverged")
    row: dict[str, str] = Field(default={}, description="its metrics, some of them not finite")
    rows: list[dict[str, float]] = Field(default=[], description="metrics of the steps before")


def failure(error: BaseException) -> Failure:
    """Describe `error` for the process that launched the job."""
    if isinstance(error, DivergedError):
        row = {name: repr(value) for name, value in error.row.items()}
        rows = [dict(earlier) for earlier in error.rows]
        return Failure(kind="diverged", message=str(error), step=error.step, row=row, rows=rows)
    if isinstance(error, OutOfMemoryError):
        return Failure(kind="memory", message=str(error))
    if isinstance(error, UserError):
        return Failure(kind="user", message=str(error))
    return Failure(kind="unexpected", message=f"{type(error).__name__}: {error}")


def check_launch(config: Training, device: Device) -> None:
    """Check that the files, programs and GPUs that `config.launch` names are on this machine.

    Raises:
        UserError: one of them is missing.
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
        raise UserError(
            f"train.launch.prefix begins with {asked.prefix[0]}, which is not installed here."
        )
    gpus = 0 if device.device == "cpu" else torch.cuda.device_count()
    if asked.processes is not None and 0 < gpus < asked.processes:
        raise UserError(
            f"train.launch asks for {asked.processes} processes, one per GPU, but this machine has "
            f"{gpus} GPUs. Start fewer, or name several machines in train.launch.accelerate."
        )


def launch(objective: Objective[Any], examples: Sequence[Any], job: Job[Training]) -> None:
    """Run `objective(examples, job)` in the processes that `job.config.launch` asks for.

    It writes the same files and raises the same errors as in one process.

    Raises:
        RuntimeError: a process failed unexpectedly.
        UserError: a process was killed.
    """
    assert job.config.launch is not None  # noqa: S101 (the caller checks)
    check_launch(job.config, job.device)
    folder = job.out.resolve() / FOLDER
    try:
        write_job(objective, examples, job)
        code, lines = _run(command(job.config.launch, folder), folder, job.start.name)
        if code:
            _raise(folder, code, lines)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_job(objective: Objective[Any], examples: Sequence[Any], job: Job[Training]) -> None:
    """Write a job and its examples to `FOLDER` in `job.out`, with absolute paths."""
    start = job.start
    adapter = start.adapter and start.adapter.resolve()
    job = job.model_copy(
        update={
            "start": replace(start, model=start.model.resolve(), adapter=adapter),
            "out": job.out.resolve(),
            "logs": job.logs and job.logs.resolve(),
            "references": job.references and job.references.resolve(),
        }
    )
    launched = LaunchedJob(objective=objective.__name__, job=job)
    write_jsonl(job.out / FOLDER / EXAMPLES, examples)
    # Without defaults: a default of 32 for a float would be read as 32.0, which PEFT would save.
    plain = launched.model_dump(mode="json", exclude_unset=True, exclude={"job": {"state"}})
    write_json(job.out / FOLDER / JOB, plain)


def command(launch: Launch, folder: Path) -> list[str]:
    """Return the command that starts the processes of the job in `folder`."""
    settings = launch.accelerate
    if settings is None:
        # Our own file, so that accelerate ignores the one in the user's home.
        settings = str(folder / "accelerate.json")
        write_json(Path(settings), accelerate_settings(launch))
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", settings]
    return [*launch.prefix, *accelerate, "--module", PROCESS, str(folder)]


def accelerate_settings(launch: Launch) -> dict[str, Any]:
    """Return what `accelerate config` would write for processes on this machine."""
    sharded = launch.strategy == "fsdp"
    settings: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        # MULTI_CPU would start them by another launcher, MPI.
        "distributed_type": "FSDP" if sharded else "MULTI_GPU",
        "num_machines": 1,
        "num_processes": launch.processes,
        "machine_rank": 0,
        "main_process_port": 0,  # any free port
        "mixed_precision": "no",  # `train.bf16` decides
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


def _run(words: list[str], folder: Path, model: str) -> tuple[int, list[str]]:
    """Run the processes until they end; return the exit code and their last lines of output."""
    # As JSON lines, the main process's messages can be told from other output.
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
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the others
        )
    ) as process:
        lines: deque[str] = deque(maxlen=LAST_LINES)
        reader = threading.Thread(
            target=_relay, args=(process.stdout, lines, f"train from {model}: "), daemon=True
        )
        reader.start()
        code = _follow(process, folder / PROGRESS)
        reader.join(SECONDS_TO_EXIT)
    return code, list(lines)


def _relay(output: IO[str], lines: deque[str], shown: str) -> None:
    """Repeat the processes' messages, except progress (lines that begin with `shown`), which is
    shown in another way; collect the output of libraries in `lines`."""
    for line in output:
        try:
            record = json.loads(line)
            message, level = str(record["message"]), str(record["level"])
        except (ValueError, TypeError, KeyError):
            lines.append(line.rstrip())
            if os.environ.get("RLRF_DEBUG"):
                say(line.rstrip())
        else:
            if not message.startswith(shown):
                say(message, level)


def _follow(process: subprocess.Popen[str], file: Path) -> int:
    """Show the progress that the main process writes to `file` until all processes have ended."""
    with contextlib.ExitStack() as opened:
        advance, shown, total = None, 0, 0
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
            status = _progress(file)
            if status is not None and advance is None:
                total = status["total"]
                advance = opened.enter_context(track(status["doing"], total, status["unit"]))
            if advance is not None:
                done = status["done"] if status is not None else shown
                if process.returncode == 0:
                    done = total  # the last steps may not have been written
                advance(done - shown)
                advance.left(status.get("left") if status is not None else None)
                shown = done
            if process.returncode is not None:
                return process.returncode


def _progress(file: Path) -> dict[str, Any] | None:
    """Read what `run_status.publish_to` wrote to `file`; None if no work is under way."""
    try:
        status = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return status if "doing" in status else None


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """End `process` and all its children when the block ends, however it ends."""
    import psutil

    children: list[psutil.Process] = []
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        if process.poll() is None:
            process.terminate()  # the launcher ends its processes
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_EXIT)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.wait()


def _raise(folder: Path, code: int, lines: Sequence[str]) -> NoReturn:
    """Raise the error that made a process fail."""
    if (folder / FAILURE).exists():
        failed = parse(Failure, read_json(folder / FAILURE), str(folder / FAILURE))
        if failed.kind == "diverged":
            row = {name: float(value) for name, value in failed.row.items()}
            raise DivergedError(failed.step, row, failed.rows)
        kinds = {"memory": OutOfMemoryError, "user": UserError, "unexpected": RuntimeError}
        raise kinds[failed.kind](failed.message)
    for line in lines:
        say(line, "error")
    raise UserError(
        f"Training in several processes ended with code {code} and without a reason: a process was "
        "killed, for example because the machine ran out of memory, or accelerate could not start "
        "them. The lines above are their last output."
    )
