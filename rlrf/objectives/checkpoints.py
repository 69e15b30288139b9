"""The state of a training, saved now and then, so that one that is killed goes on.

Optimiser, scheduler, random numbers and log are saved and read by `transformers`. Its way with
weights may rename, merge or shard them for other programs, and reads them back in part or not at
all where it did; so the weights that are trained are saved as they are.

A state is whole or absent, as a stage is, and takes the place of the one before. All that is read
back was written by the same run and has the digests that it had then; PyTorch's files, which are
pickles, are read as tensors and plain values alone (`weights_only`).
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
from rlrf.run import is_whole, may_replace_stage, seal

WEIGHTS = "weights.pt"


@dataclass(frozen=True)
class Saves:
    """The state in `folder`, whose name says what the training is made from (a digest), saved when
    `minutes` have passed since the training began or was last saved."""

    folder: Path
    minutes: float

    @property
    def inputs(self) -> str:
        """What the state is made from: with other libraries, it is another one."""
        import torch
        import transformers

        return digest([self.folder.name, str(torch.__version__), transformers.__version__])

    @cached_property
    def last(self) -> Path | None:
        """What a training that was killed had saved, as `transformers` calls a checkpoint."""
        if not self.folder.is_dir():
            return None
        if not is_whole(self.folder, self.inputs):
            say(
                "what was saved of this training is damaged, or other versions of torch or "
                "transformers wrote it; it begins anew"
            )
            return None
        return next(self.folder.glob("checkpoint-*"), None)


class Resumable:
    """For a trainer of `transformers` in one process: it goes on from what is in `saves`."""

    saves: Saves | None = None
    args: Any
    model: Any

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A state that cannot be written ends no training: it is for the training's sake."""
        import transformers

        assert self.saves is not None  # noqa: S101 (nothing else asks for it)
        scratch = self.args.output_dir
        try:
            with new_folder(self.saves.folder, may_replace_stage) as new:
                self.args.output_dir = str(new)
                # Not TRL's, which writes a model card too.
                transformers.Trainer._save_checkpoint(self, model, trial)
                seal(new, self.saves.inputs)
        except (OSError, RuntimeError, UserError) as error:
            say(f"the state of this training cannot be saved, and it goes on without: {error}")
        finally:
            self.args.output_dir = scratch

    def save_model(self, output_dir: str, _internal_call: bool = True) -> None:
        import torch

        make_folder(Path(output_dir))
        torch.save(dict(self._trained()), Path(output_dir) / WEIGHTS)

    def _load_from_checkpoint(self, *_: Any) -> None:
        """Later, by `load_weights`: the reference is the model that training started from."""

    def load_weights(self, folder: Path) -> None:
        """Take the weights in `folder`, those that are trained."""
        import torch

        saved = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True, mmap=True)
        with torch.no_grad():
            for name, weight in self._trained():
                weight.copy_(saved[name])

    def _trained(self) -> list[tuple[str, Any]]:
        found = self.model.named_parameters()
        return [(name, weight) for name, weight in found if weight.requires_grad]


def clock(minutes: float) -> Any:
    """A callback that asks for the state to be saved when so many minutes have passed since the
    training began or was last saved; not after the last step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.since = time.monotonic()

        on_save = on_train_begin

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            due = time.monotonic() - self.since >= 60 * minutes
            control.should_save = due and state.global_step < state.max_steps

    return Clock()
