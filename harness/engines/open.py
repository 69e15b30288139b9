"""Open engines: `open_engine` for one model, `EngineLoader` for the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import ValidationError

from harness.core.errors import UserError
from harness.core.yaml import explain
from harness.engines import MAX_UNANSWERED, Engine, Kind, LocalEngine
from harness.engines.loading import load_tokenizer
from harness.engines.model_folder import Checkpoint, find

if TYPE_CHECKING:
    from harness.engines.cluster import Cluster
    from harness.engines.hf import HFEngine
    from harness.engines.vllm import VLLMEngine

E = TypeVar("E", bound=LocalEngine)

SHARED_OPTIONS = ("adapter", "tokenizer", "device", "dtype", "max_batch")  # of local engines
LOCAL_OPTIONS = ("adapter", "device", "dtype")
SERVER_OPTIONS = ("base_url", "api_key_env", "max_unanswered")


@dataclass(frozen=True)
class EngineSpec:
    """A model and how to run it. An option that is None has the engine's own default.

    Args:
        model: a folder, a hub name, or the server's name for the model.
        kind: hf (`transformers`), vllm, or openai for a server.
        name: name of the model in evaluations; None: `model`.
        revision: of the hub model; openai: the user's name for the server's weights.
        adapter: a LoRA folder on the model; not for servers.
        tokenizer: another tokenizer folder than the model's; openai: render prompts here with it.
        device: auto, cpu or cuda; not for servers.
        dtype: auto, float32, bfloat16 or float16; not for servers.
        max_batch: responses generated together; openai: requests under way together.
        rank: highest rank of adapters loaded later, for which vLLM reserves memory.
        base_url: address of the server.
        api_key_env: environment variable with the key of the server.
        max_unanswered: share of responses that the server may leave unanswered.
    """

    model: str | Path = ""
    kind: Kind = "hf"
    name: str | None = None
    revision: str | None = None
    adapter: Path | None = None
    tokenizer: Path | None = None
    device: str | None = None
    dtype: str | None = None
    max_batch: int | None = None
    rank: int = 0
    base_url: str | None = None
    api_key_env: str | None = None
    max_unanswered: float | None = None

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of the options `names` that are not None."""
        options = {name: getattr(self, name) for name in names}
        return {name: value for name, value in options.items() if value is not None}


OpenLocal = Callable[[EngineSpec], LocalEngine]


def open_engine(spec: EngineSpec) -> Engine:
    """Open the engine of `spec`.

    Raises:
        UserError: the engine does not take an option, or cannot be opened.
    """
    if spec.kind != "openai":
        return open_local_engine(spec)
    from harness.engines.openai import OpenAIEngine
    from harness.serving.settings import ServerSettings

    _refuse(spec, LOCAL_OPTIONS)
    if spec.base_url is None:
        raise UserError("The engine openai is a server: name its address as base_url.")
    options = spec.given("base_url", "api_key_env", "revision")
    if spec.max_batch is not None:
        options["max_concurrency"] = spec.max_batch
    try:
        server = ServerSettings.model_validate(options | {"model": str(spec.model)})
    except ValidationError as error:
        reason = explain(error, ServerSettings)
        raise UserError(f"The engine openai: {reason}") from error
    share = MAX_UNANSWERED if spec.max_unanswered is None else spec.max_unanswered
    return OpenAIEngine(server, tokenizer=spec.tokenizer, key=server.key(), max_unanswered=share)


def open_local_engine(spec: EngineSpec) -> LocalEngine:
    """Open the engine of `spec`, which loads the weights into this process.

    Raises:
        UserError: the engine is not local, does not take an option, or cannot load the model.
    """
    _refuse(spec, SERVER_OPTIONS)
    if spec.kind == "hf":
        return open_hf_engine(spec)
    if spec.kind == "vllm":
        return _open_vllm(spec)
    raise UserError(
        f"The engine {spec.kind} does not load weights in this process. Choose another."
    )


def open_hf_engine(spec: EngineSpec) -> HFEngine:
    """Open the model of `spec` under `transformers`, to use its weights."""
    from harness.engines.hf import HFEngine

    return _named(HFEngine(_find(spec), **spec.given(*SHARED_OPTIONS)), spec)


def _open_vllm(spec: EngineSpec) -> VLLMEngine:
    from harness.engines.vllm import VLLMEngine

    return _named(VLLMEngine(_find(spec), rank=spec.rank, **spec.given(*SHARED_OPTIONS)), spec)


def _find(spec: EngineSpec) -> str | Path:
    return spec.model if spec.revision is None else find(spec.model, spec.revision)


def _named(engine: E, spec: EngineSpec) -> E:
    """Name the engine as evaluations name it: where a checkpoint lies tells readers nothing."""
    engine.model_id = spec.name or str(spec.model)
    return engine


def _refuse(spec: EngineSpec, names: tuple[str, ...]) -> None:
    for name in spec.given(*names):
        raise UserError(f"The engine {spec.kind} does not take {name}. Remove it.")


class EngineLoader:
    """Load the checkpoints of a run for generation, one at a time, here or on a Ray cluster.

    Args:
        defaults: how to run every checkpoint.
        cluster: options of `harness.engines.cluster.Cluster`; None: load in this process.

    Raises:
        UserError: `cluster` is given, and Ray is not installed.
    """

    def __init__(self, defaults: EngineSpec, cluster: Mapping[str, Any] | None = None) -> None:
        self._defaults = defaults
        self._loaded: tuple[EngineSpec, LocalEngine] | None = None  # by other engines than vLLM
        self._vllm: tuple[str | Path, VLLMEngine] | None = None
        self._cluster = None
        if cluster is not None:
            from harness.engines.cluster import Cluster

            self._cluster = Cluster(EngineLoader(defaults), **cluster)

    def load(self, model: Checkpoint | EngineSpec) -> LocalEngine:
        """Load a model; the engine loaded before it frees its memory."""
        spec = self._spec(model)
        if self._cluster is not None:
            return self._load_on_cluster(self._cluster, spec)
        return self._load_vllm(spec) if spec.kind == "vllm" else self._load(spec)

    def load_hf(self, checkpoint: Checkpoint) -> HFEngine:
        """Load a checkpoint under `transformers` in this process, to score texts with it."""
        return cast("HFEngine", self._load(replace(self._spec(checkpoint), kind="hf")))

    @property
    def open_judge(self) -> OpenLocal | None:
        """What opens a judge on the cluster, where it takes turns with the policy model.

        None: without a cluster, a judge opens its own engine.
        """
        return None if self._cluster is None else partial(self._load_on_cluster, self._cluster)

    def _spec(self, model: Checkpoint | EngineSpec) -> EngineSpec:
        if isinstance(model, EngineSpec):
            return model
        return replace(self._defaults, model=model.model, adapter=model.adapter, name=model.name)

    def _load(self, spec: EngineSpec) -> LocalEngine:
        if self._loaded is None or self._loaded[0] != spec:
            self.release()
            self._loaded = spec, open_local_engine(spec)
        return self._loaded[1]

    def _load_vllm(self, spec: EngineSpec) -> VLLMEngine:
        if self._loaded is not None:
            self.release()
        if self._vllm is None or self._vllm[0] != spec.model:
            self.release()
            if self._vllm is not None:
                self._vllm[1].close()
            self._vllm = spec.model, _open_vllm(spec)
        # The base stays loaded while checkpoints are adapters on it.
        self._vllm[1].use(spec.adapter)
        return _named(self._vllm[1], spec)

    def _load_on_cluster(self, cluster: Cluster, spec: EngineSpec) -> LocalEngine:
        from harness.engines.cluster import ClusterEngine

        # Other machines find absolute paths, whatever folder their processes work in.
        folder = Path(spec.model).resolve()
        adapter = None if spec.adapter is None else spec.adapter.resolve()
        self._loaded = None
        return ClusterEngine(
            cluster,
            replace(spec, model=folder, adapter=adapter),
            tokenizer=load_tokenizer(folder),
            folders=[folder] if adapter is None else [folder, adapter],
        )

    def release(self) -> None:
        """Free the memory of what is loaded, for training or for the next checkpoint."""
        import torch

        self._loaded = None
        if self._vllm is not None:
            self._vllm[1].release()
        if self._cluster is not None:
            self._cluster.release()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Stop the processes that engines started."""
        for engine in (self._vllm and self._vllm[1], self._cluster):
            if engine is not None:
                engine.close()
