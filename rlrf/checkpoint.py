"""Which weights: where a checkpoint lies, what identifies it, and the one that is loaded."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.models import model_digest
from harness.schema import digest
from rlrf.config import Device

if TYPE_CHECKING:
    from harness.engines.hf import HFEngine


@dataclass(frozen=True)
class Checkpoint:
    """Weights to load: a model folder, and the LoRA adapter on it, if any."""

    name: str
    model: Path
    adapter: Path | None = None

    @cached_property
    def digest(self) -> str:
        """Identity of weights, configuration and tokenizer, wherever they lie."""
        base = model_digest(self.model)
        return base if self.adapter is None else digest([base, model_digest(self.adapter)])


class Engines:
    """Loads checkpoints for generation, one at a time."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._loaded: tuple[Checkpoint, HFEngine] | None = None

    def load(self, checkpoint: Checkpoint) -> HFEngine:
        """The engine of `checkpoint`; the one before is released."""
        from harness.engines.hf import HFEngine

        if self._loaded is None or self._loaded[0] != checkpoint:
            self.release()
            engine = HFEngine(
                checkpoint.model,
                adapter=checkpoint.adapter,
                device=self._device.device,
                dtype=self._device.dtype,
                max_batch=self._device.max_batch,
            )
            # A checkpoint's place on disk says nothing to readers of an evaluation.
            engine.model_id = checkpoint.name
            self._loaded = checkpoint, engine
        return self._loaded[1]

    def release(self) -> None:
        """Give the memory back, for training or for the next checkpoint."""
        import torch

        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
