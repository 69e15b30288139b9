"""One process of a launched training job: `accelerate launch -m rlrf.objectives.worker FOLDER`.

`launch` starts the processes, reads their progress and raises their errors.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import parse, read_json, read_records
from harness.core.run_status import publish_to
from rlrf.objectives import data_parallel
from rlrf.objectives.job import Job
from rlrf.objectives.launch import (
    EXAMPLES,
    FAILURE,
    JOB,
    OBJECTIVES,
    PROGRESS,
    LaunchedJob,
    failure,
)
from rlrf.training_config import Training


def main(folder: Path) -> None:
    """Take part in the job in `folder`; write a failure there and end this process."""
    threading.Thread(target=_exit_when_orphaned, daemon=True).start()
    try:
        launched = parse(LaunchedJob, read_json(folder / JOB), str(folder / JOB))
        join(launched.job)
        if data_parallel.is_main():
            with publish_to(folder / PROGRESS):
                train(launched, folder)
        else:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                train(launched, folder)  # only the main process prints
    except BaseException as error:
        traceback.print_exc(file=sys.__stderr__)
        # The first failure is the cause; the others lose contact because of it.
        with contextlib.suppress(FileExistsError), open(folder / FAILURE, "x") as file:
            file.write(failure(error).model_dump_json())
        # At once: the other processes wait for this one.
        os._exit(1)


def join(job: Job[Training]) -> None:
    """Join the other processes of the job, on its device.

    Raises:
        UserError: accelerate's settings ask for something other than DDP or FSDP2, or there are
            more processes than examples in a batch.
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
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # `train.bf16` decides
    state = PartialState(cpu=job.device.device == "cpu" or not torch.cuda.is_available())
    if state.num_processes > job.config.batch_size:
        raise UserError(
            f"{state.num_processes} processes share a batch of {job.config.batch_size}; raise "
            "train.batch_size, or start fewer."
        )


def train(launched: LaunchedJob, folder: Path) -> None:
    """Run the job, whose examples are in `folder`, together with the other processes."""
    objective, kind = OBJECTIVES[launched.objective]
    objective(read_records(folder / EXAMPLES, kind), launched.job)


def _exit_when_orphaned() -> None:
    """End this process when the launcher, or the process that started the launcher, has ended."""
    import psutil

    try:
        launcher = psutil.Process(os.getppid())
        starter = launcher.ppid()
        while launcher.pid == os.getppid() and launcher.ppid() == starter:
            time.sleep(1)
    finally:  # also when the launcher is gone before it can be looked up
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
