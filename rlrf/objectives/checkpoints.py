"""Save the state of a training job from time to time, so that an interrupted one resumes.

`transformers` saves and loads the optimiser, the scheduler, the random number generators and the
log. We save the trained weights ourselves, exactly as they are: `transformers` may rename, merge
or shard weights for other programs, and then loads them back only in part or not at all.

A saved state is complete or absent, like a stage, and replaces the one before it. Everything that
is loaded was written by the same run and has matching digests; PyTorch's files, which are pickles,
are loaded as tensors and plain values only (`weights_only`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import make_folder
from harness.core.folders import new_folder
from harness.core.log import say
from harness.core.schema import digest
from rlrf.stage_folder import is_whole, may_replace_stage, seal

WEIGHTS = "weights.pt"


@dataclass(frozen=True)
class TrainingState:
    """The saved state of one training job.

    Attributes:
        folder: where it is saved; its name is the digest of the job's inputs.
        minutes: time between two saves.
    """

    folder: Path
    minutes: float

    @property
    def inputs(self) -> str:
        """Digest of the job's inputs and of the library versions, which a state depends on."""
        import torch
        import transformers

        return digest([self.folder.name, str(torch.__version__), transformers.__version__])

    @cached_property
    def last(self) -> Path | None:
        """The `transformers` checkpoint folder to resume from, or None to start anew."""
        if not self.folder.is_dir():
            return None
        if not is_whole(self.folder, self.inputs):
            say(
                "the saved state of this training is damaged, or other versions of torch or "
                "transformers wrote it; training starts from the beginning"
            )
            return None
        return next(self.folder.glob("checkpoint-*"), None)


class Resumable:
    """Mixin for a `transformers` trainer in one process: save and resume its `training_state`."""

    training_state: TrainingState | None = None
    args: Any
    model: Any

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save the state; if that fails, report it and continue training."""
        import transformers

        assert self.training_state is not None  # noqa: S101 (only called if a state is saved)
        scratch = self.args.output_dir
        try:
            with new_folder(self.training_state.folder, may_replace_stage) as new:
                self.args.output_dir = str(new)
                # Not TRL's method, which also writes a model card.
                transformers.Trainer._save_checkpoint(self, model, trial)
                seal(new, self.training_state.inputs)
        except (OSError, RuntimeError, UserError) as error:
            say(f"cannot save the state of this training, which continues without it: {error}")
        finally:
            self.args.output_dir = scratch

    def save_model(self, output_dir: str, _internal_call: bool = True) -> None:
        import torch

        make_folder(Path(output_dir))
        torch.save(dict(self._trained()), Path(output_dir) / WEIGHTS)

    def _load_from_checkpoint(self, *_: Any) -> None:
        """Do nothing yet: the reference model needs the weights that training started from.
        `load_weights` is called after it was read."""

    def load_weights(self, folder: Path) -> None:
        """Load the trained weights from `folder`."""
        import torch

        saved = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True, mmap=True)
        with torch.no_grad():
            for name, weight in self._trained():
                weight.copy_(saved[name])

    def _trained(self) -> list[tuple[str, Any]]:
        named = self.model.named_parameters()
        return [(name, weight) for name, weight in named if weight.requires_grad]


def save_every(minutes: float) -> Any:
    """Return a trainer callback that saves the state every `minutes`, but not after the last
    step."""
    from transformers import TrainerCallback

    class SaveEvery(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.since = time.monotonic()

        on_save = on_train_begin

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            due = time.monotonic() - self.since >= 60 * minutes
            control.should_save = due and state.global_step < state.max_steps

    return SaveEvery()
