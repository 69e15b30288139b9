"""Which weights: where a checkpoint lies, what identifies it, and the one that is loaded."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.schema import digest
from rlrf.config import Device

if TYPE_CHECKING:
    from harness.engines.hf import HFEngine

HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class Checkpoint:
    """Weights to load: a model folder, and the LoRA adapter on it, if any."""

    name: str
    model: Path
    adapter: Path | None = None

    @cached_property
    def digest(self) -> str:
        """Identity of weights, configuration and tokenizer, wherever they lie."""
        from harness.engines.hf import model_digest

        base = model_digest(self.model)
        return base if self.adapter is None else digest([base, model_digest(self.adapter)])


def resolve(model: str, revision: str | None = None) -> Path:
    """The folder of a model: itself, or where the hub's files were downloaded to.

    Raises:
        UserError: there is neither such a folder nor such a hub model, or it holds no weights.
    """
    import huggingface_hub

    folder = Path(model)
    if not folder.is_dir():
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    model, revision=revision, allow_patterns=HUB_FILES
                )
            )
        except Exception as error:
            raise UserError(
                f"The model '{model}' is neither a folder here nor one that the Hugging Face hub "
                f"gives out ({type(error).__name__}). Name a folder with config.json and "
                "*.safetensors, or check the name, the connection and `hf auth login`."
            ) from error
    for wanted in ("config.json", "*.safetensors"):
        if not any(folder.glob(wanted)):
            raise UserError(
                f"The model folder {folder} has no {wanted}; name one that "
                "`save_pretrained` of transformers wrote."
            )
    return folder


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
