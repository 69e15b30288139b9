"""What tests start in the place of `rlrf.objectives.worker`: a program, and what it is asked to do.

    accelerate launch ... -m helpers.processes FOLDER

takes part in the job in FOLDER and in those that DO_ALSO names, as starting processes takes longer
than what they do here. FSDP2 is let run on CPUs: torch can, accelerate asks for accelerators.
`LACK_MEMORY` makes them lack memory, and `FAIL` raise what nobody expects: fakes, as no machine of
ours does either when a test asks.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ENVIRONMENT = ("DO_ALSO", "SHARDED", "LACK_MEMORY", "FAIL")


@contextlib.contextmanager
def started_by_tests(**environment: object) -> Iterator[None]:
    """While the block runs, this is what is started, with an environment."""
    import pytest

    from rlrf.objectives import launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "PROCESS", "helpers.processes")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        for name, value in environment.items():
            assert name in ENVIRONMENT
            patch.setenv(name, str(value))
        yield


def shard_on_cpus() -> None:
    """Let accelerate take CPUs for accelerators, and count the weights that it shares out."""
    import accelerate.accelerator
    from accelerate import PartialState
    from accelerate.utils import DistributedType
    from torch.distributed.tensor import DTensor

    made, prepare = PartialState.__init__, accelerate.accelerator.fsdp2_prepare_model
    sharded: list[tuple[int, int]] = []

    def init(self, *args, **kwargs):
        made(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    def count(*args):
        model = prepare(*args)
        weights = list(model.parameters())
        here = sum(one.to_local().numel() for one in weights if isinstance(one, DTensor))
        sharded.append((here, sum(one.numel() for one in weights)))
        Path(os.environ["SHARDED"]).write_text(json.dumps(sharded))
        return model

    PartialState.__init__ = init
    accelerate.accelerator.fsdp2_prepare_model = count


def lack(*_, **__):
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def fail(*_, **__):
    raise ValueError("a fault of ours")


def main(folder: Path) -> None:
    from rlrf.objectives import base, worker

    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpus()
    if os.environ.get("LACK_MEMORY"):
        base.load_model = lack
    if os.environ.get("FAIL") == os.environ["RANK"]:
        base.load_model = fail
    train = worker.train
    also = [Path(one) for one in json.loads(os.environ.get("DO_ALSO", "[]"))]

    def train_all(job, place):
        train(job, place)
        for other in also:
            train(worker.parse(worker.LaunchedJob, worker.read_json(other / "job.json"), ""), other)

    worker.train = train_all
    worker.main(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
