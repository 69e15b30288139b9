"""One of the processes of a training: `accelerate launch -m rlrf.objectives.worker FOLDER`.

`launch` starts them, reads what they say and raises what they could not go on for.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import parse, read_json, read_records
from harness.core.run_status import publish_to
from harness.core.schema import Record
from rlrf.objectives import data_parallel
from rlrf.objectives.base import Example
from rlrf.objectives.dpo import dpo
from rlrf.objectives.launch import FAILURE, JOB, LESSONS, PROGRESS, Job, failure
from rlrf.objectives.rlmec import RewriteExample, rlmec
from rlrf.objectives.rrhf import Ranking, rrhf
from rlrf.objectives.sft import sft
from rlrf.pairs import Pair

# The objective, what it learns from, and what of a job is its own.
OBJECTIVES: Mapping[str, tuple[Callable[..., None], type[Record], tuple[str, ...]]] = {
    "dpo": (dpo, Pair, ("references",)),
    "sft": (sft, Example, ()),
    "rrhf": (rrhf, Ranking, ()),
    "rlmec": (rlmec, RewriteExample, ("settings",)),
}


def main(folder: Path) -> None:
    """Take part in the job in `folder`, and end this process; a failure is told there."""
    threading.Thread(target=_leave_when_alone, daemon=True).start()
    try:
        job = parse(Job, read_json(folder / JOB), str(folder / JOB))
        join(job)
        if data_parallel.is_main():
            with publish_to(folder / PROGRESS):
                train(job, folder)
        else:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                train(job, folder)  # what is to be said is said once
    except BaseException as error:
        traceback.print_exc(file=sys.__stderr__)
        # The first to fail leaves word: that others lost touch with it is no cause.
        with contextlib.suppress(FileExistsError), open(folder / FAILURE, "x") as file:
            file.write(failure(error).model_dump_json())
        # The others wait for this process: there is no leave to take.
        os._exit(1)


def join(job: Job) -> None:
    """Meet the other processes, on the device of the job.

    Raises:
        UserError: accelerate's settings ask for something else than DDP or FSDP2.
    """
    import torch
    from accelerate import PartialState  # type: ignore[import-untyped]

    kinds = {
        "DeepSpeed": "ACCELERATE_USE_DEEPSPEED",
        "Megatron-LM": "ACCELERATE_USE_MEGATRON_LM",
        "a parallelism_config": "ACCELERATE_USE_PARALLELISM_CONFIG",
    }
    asked = [kind for kind, name in kinds.items() if os.environ.get(name, "").lower() == "true"]
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if sharded and os.environ.get("FSDP_VERSION") != "2":
        asked.append("the first FSDP")
    if asked:
        raise UserError(
            f"train.launch.accelerate asks for {asked[0]}; training works with DDP and with FSDP2 "
            "(fsdp_version: 2)."
        )
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # `train.bf16` says
    state = PartialState(cpu=job.device.device == "cpu" or not torch.cuda.is_available())
    if state.num_processes > job.config.batch_size:
        raise UserError(
            f"{state.num_processes} processes share a batch of {job.config.batch_size}; raise "
            "train.batch_size, or start fewer."
        )


def train(job: Job, folder: Path) -> None:
    """Do the job in `folder`, together with the processes that were met."""
    objective, kind, own = OBJECTIVES[job.objective]
    objective(
        read_records(folder / LESSONS, kind),
        job.start,
        job.config,
        adapter=job.adapter,
        device=job.device,
        seed=job.seed,
        out=job.out,
        logs=job.logs,
        **{name: getattr(job, name) for name in own},
    )


def _leave_when_alone() -> None:
    """End this process when the launcher has ended, or who started that: nobody is left behind by a
    run that is killed."""
    import psutil

    try:
        launcher = psutil.Process(os.getppid())
        starter = launcher.ppid()
        while launcher.pid == os.getppid() and launcher.ppid() == starter:
            time.sleep(1)
    finally:  # there is no such process any more
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
