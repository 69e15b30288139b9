"""Describe a training job: what every objective is given besides its examples.

An objective is a function `objective(examples, job)` that trains `job.start` on the examples and
saves the result under `job.out`. `dpo`, `sft`, `rrhf` and `rlmec` are objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from harness.core.errors import UserError
from harness.core.schema import Record
from harness.engines.model_folder import Checkpoint
from rlrf.config import Device
from rlrf.objectives.checkpoints import TrainingState
from rlrf.training_config import Adapter, Optimisation, Rlmec, Training

Config_co = TypeVar("Config_co", bound=Optimisation, covariant=True)
Example_contra = TypeVar("Example_contra", contravariant=True)


class Job(Record, Generic[Config_co]):
    """One training job.

    Attributes:
        start: the weights that training starts from; the reference model of dpo and rlmec.
        config: hyperparameters of the optimiser and, in a `Training`, of the objective.
        adapter: the LoRA adapter to train, or None to train all weights.
        device: where to train.
        seed: of the adapter's first weights, of dropout and of the order of the examples.
        out: folder that gets `model` or `adapter`, and `metrics.jsonl` with one row per step.
        logs: folder for the reporters that `config.report_to` names.
        state: where the training state is saved, to resume after a crash (one process only).
        references: folder where dpo caches the log-probabilities of its reference model.
        rlmec: settings of the rlmec objective.
    """

    start: Checkpoint
    config: Config_co
    adapter: Adapter | None
    device: Device
    seed: int
    out: Path
    logs: Path | None = None
    state: TrainingState | None = None
    references: Path | None = None
    rlmec: Rlmec = Rlmec()


class Objective(Protocol[Example_contra]):
    """A function that trains a policy model on examples and saves it."""

    __name__: str

    def __call__(self, examples: Sequence[Example_contra], job: Job[Training], /) -> None: ...


class DivergedError(UserError):
    """The loss or the gradient is not a finite number; `rows` are the metrics of earlier steps."""

    def __init__(self, step: int, row: Mapping[str, float], rows: Sequence[Mapping[str, float]]):
        super().__init__(f"training diverged at step {step}: {dict(row)}; lower learning_rate")
        self.step, self.row, self.rows = step, dict(row), list(rows)


def checkpoint(out: Path, name: str, start: Checkpoint) -> Checkpoint:
    """Name the weights that a training job from `start` saved under `out`."""
    if (out / "adapter").is_dir():
        return Checkpoint(name, start.model, out / "adapter")
    return Checkpoint(name, out / "model")
