"""Which weights: where a checkpoint lies, what identifies it, and the one that is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.schema import digest
from harness.engines.model_folder import model_digest
from rlrf.config import EngineConfig, Executor

if TYPE_CHECKING:
    from harness.engines.cluster import Cluster, ClusterEngine
    from harness.engines.hf import HFEngine
    from harness.engines.vllm import VLLMEngine
    from harness.judges.in_process import OpenEngine


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


@dataclass(frozen=True)
class JudgeModel:
    """A judge to load: under `transformers`, as its own file says, whatever the policy's engine."""

    model: Path
    device: str
    dtype: str


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
        self._hf: tuple[Checkpoint | JudgeModel, HFEngine] | None = None
        self._vllm: tuple[Path, VLLMEngine] | None = None
        self._cluster = None
        if executor is not None and executor.kind == "ray":
            from harness.engines.cluster import Cluster

            asked = executor.model_dump(exclude={"kind"})
            self._cluster = Cluster(Engines(config, rank), **asked)

    def load(self, what: Checkpoint | JudgeModel) -> HFEngine | VLLMEngine | ClusterEngine:
        """The engine of `what`; the one before is released."""
        if self._cluster is not None:
            return self._load_on_cluster(self._cluster, what)
        if self._config.kind == "vllm" and isinstance(what, Checkpoint):
            return self._load_vllm(what)
        return self.load_hf(what)

    def load_hf(self, what: Checkpoint | JudgeModel) -> HFEngine:
        """The engine of `what`, for what asks how likely a text is."""
        from harness.engines.hf import HFEngine

        if self._hf is None or self._hf[0] != what:
            self.release()
            if isinstance(what, Checkpoint):
                engine = HFEngine(what.model, adapter=what.adapter, **self._options())
                # A checkpoint's place on disk says nothing to readers of an evaluation.
                engine.model_id = what.name
            else:
                engine = HFEngine(what.model, device=what.device, dtype=what.dtype)
            self._hf = what, engine
        return self._hf[1]

    @property
    def open_judge(self) -> OpenEngine | None:
        """What opens a judge on the cluster, where it and the policy take turns; None: there is
        none, and the judge has an engine of its own."""
        cluster = self._cluster
        if cluster is None:
            return None
        return lambda model, **options: self._load_on_cluster(cluster, JudgeModel(model, **options))

    def _load_vllm(self, checkpoint: Checkpoint) -> VLLMEngine:
        from harness.engines.vllm import VLLMEngine

        if self._hf is not None:
            self.release()
        if self._vllm is None or self._vllm[0] != checkpoint.model:
            self.release()
            if self._vllm is not None:
                self._vllm[1].close()
            adapter = checkpoint.adapter
            engine = VLLMEngine(
                checkpoint.model, rank=self._rank, adapter=adapter, **self._options()
            )
            self._vllm = checkpoint.model, engine
        self._vllm[1].use(checkpoint.adapter)
        self._vllm[1].model_id = checkpoint.name
        return self._vllm[1]

    def _load_on_cluster(self, cluster: Cluster, what: Checkpoint | JudgeModel) -> ClusterEngine:
        from harness.engines.cluster import ClusterEngine
        from harness.engines.loading import load_tokenizer

        # As other machines find it, whatever folder their processes work in.
        found = replace(what, model=what.model.resolve())
        folders = [found.model]
        if isinstance(found, Checkpoint) and found.adapter is not None:
            adapter = found.adapter.resolve()
            found = replace(found, adapter=adapter)
            folders.append(adapter)
        self._hf = None
        return ClusterEngine(cluster, found, tokenizer=load_tokenizer(found.model), folders=folders)

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
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def close(self) -> None:
        """End what runs in other processes."""
        if self._vllm is not None:
            self._vllm[1].close()
        if self._cluster is not None:
            self._cluster.close()
