"""Which weights: where a checkpoint lies, what identifies it, and the one that is loaded."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.models import model_digest
from harness.schema import digest
from rlrf.config import EngineConfig, Executor

if TYPE_CHECKING:
    from harness.cluster import ClusterEngine
    from harness.engines.hf import HFEngine
    from harness.engines.vllm import VLLMEngine


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
    """Loads checkpoints for generation, one at a time, here or on a cluster.

    Args:
        rank: of the adapters to come, which vLLM makes room for.

    Raises:
        UserError: a cluster is asked for, and Ray is not installed.
    """

    def __init__(
        self, config: EngineConfig, rank: int = 0, executor: Executor | None = None
    ) -> None:
        self._config = config
        self._rank = rank
        self._hf: tuple[Checkpoint, HFEngine] | None = None
        self._vllm: tuple[Path, VLLMEngine] | None = None
        self._cluster = None
        if executor is not None and executor.kind == "ray":
            from harness.cluster import Cluster

            asked = executor.model_dump(exclude={"kind"})
            self._cluster = Cluster(Engines(config, rank), **asked)

    def load(self, checkpoint: Checkpoint) -> HFEngine | VLLMEngine | ClusterEngine:
        """The engine of `checkpoint`; the one before is released."""
        if self._cluster is not None:
            return self._load_on_cluster(checkpoint)
        if self._config.kind == "vllm":
            return self._load_vllm(checkpoint)
        return self.load_hf(checkpoint)

    def load_hf(self, checkpoint: Checkpoint) -> HFEngine:
        """The engine of `checkpoint`, for what asks how likely a text is."""
        from harness.engines.hf import HFEngine

        if self._hf is None or self._hf[0] != checkpoint:
            self.release()
            engine = HFEngine(checkpoint.model, adapter=checkpoint.adapter, **self._options())
            # A checkpoint's place on disk says nothing to readers of an evaluation.
            engine.model_id = checkpoint.name
            self._hf = checkpoint, engine
        return self._hf[1]

    def _load_vllm(self, checkpoint: Checkpoint) -> VLLMEngine:
        from harness.engines.vllm import VLLMEngine

        if self._vllm is None or self._vllm[0] != checkpoint.model:
            self.release()
            if self._vllm is not None:
                self._vllm[1].close()
            adapter = checkpoint.adapter
            engine = VLLMEngine(
                checkpoint.model, rank=self._rank, adapter=adapter, **self._options()
            )
            self._vllm = checkpoint.model, engine
        self._hf = None
        self._vllm[1].use(checkpoint.adapter)
        self._vllm[1].model_id = checkpoint.name
        return self._vllm[1]

    def _load_on_cluster(self, checkpoint: Checkpoint) -> ClusterEngine:
        from harness.cluster import ClusterEngine
        from harness.engines.loading import load_tokenizer

        assert self._cluster is not None  # noqa: S101 (whoever calls has looked)
        # As other machines find it, whatever folder their processes work in.
        adapter = None if checkpoint.adapter is None else checkpoint.adapter.resolve()
        found = Checkpoint(checkpoint.name, checkpoint.model.resolve(), adapter)
        self._hf = None
        return ClusterEngine(
            self._cluster,
            found,
            tokenizer=load_tokenizer(found.model),
            folders=[found.model, *([adapter] if adapter else [])],
        )

    def _options(self) -> dict[str, Any]:
        config = self._config
        return {"device": config.device, "dtype": config.dtype, "max_batch": config.max_batch}

    def release(self) -> None:
        """Give the memory back, for training or for the next checkpoint."""
        import torch

        self._hf = None
        if self._vllm is not None:
            self._vllm[1].release()
        if self._cluster is not None:
            self._cluster.release()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def close(self) -> None:
        """End what runs in other processes."""
        if self._vllm is not None:
            self._vllm[1].close()
        if self._cluster is not None:
            self._cluster.close()
