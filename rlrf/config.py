"""Read and validate the configuration of a run, one YAML file.

    model: meta-llama/Llama-2-13b-chat-hf
    tasks:
      - name: gsm8k

is a complete configuration; every other key has a default. Models, `data`, `include_path`, `judge`
and `demonstrations` are looked for next to the file first, then in the working directory; a model
that is in neither is a Hugging Face hub id. `board`, and `artefacts` unless it is a URL, are
folders in the working directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from harness.core import yaml
from harness.core.schema import Policy, PromotionRule, Record, digest
from harness.engines import Kind
from rlrf.guard_config import Guard, as_list, check_guards
from rlrf.training_config import Adapter, Rlmec, Training

if TYPE_CHECKING:
    from harness.engines.open import EngineSpec

Method = Literal["rlrf", "rejection_sampling", "reward_only", "rrhf", "rlmec"]


class TaskConfig(Record):
    """A benchmark that is trained on, gated on and sealed."""

    name: str = Field(description="name of a benchmark; `rlrf tasks` lists them")
    prompts: int = Field(default=200, gt=0, description="train items explored per iteration")
    data: str | None = Field(
        default=None,
        description="folder or file of the benchmark's data; default: what it comes with",
    )
    max_tokens: int | None = Field(
        default=None,
        gt=0,
        exclude_if=lambda limit: limit is None,
        description="longest response, in tokens; default: the benchmark's own limit",
    )
    feedback: Literal["task", "critique", "model", "score"] = Field(
        default="task",
        description="who says what is wrong with a response. task: the benchmark itself; critique: "
        "the judge; model: the feedback_model; score: nobody, a rewrite is requested by score "
        "alone",
    )

    @property
    def data_path(self) -> Path | None:
        return Path(self.data) if self.data else None


class Decoding(Record):
    """How the policy model samples."""

    temperature: float = Field(default=1.0, ge=0, description="0 is greedy")
    top_p: float = Field(default=1.0, gt=0, le=1, description="nucleus sampling; 1: all tokens")
    max_tokens: int | None = Field(
        default=None, gt=0, description="longest response; default: the task's own limit"
    )


class Explore(Decoding):
    """How the policy model explores: it responds to each train prompt several times."""

    n: int = Field(default=8, ge=1, description="responses per prompt")
    keep: int | None = Field(
        default=None,
        ge=1,
        description="responses per prompt that get feedback, the ones that the reward model "
        "prefers; default: all",
    )


class Reflect(Decoding):
    """How the policy model rewrites its own responses, given the feedback on them."""

    m: int = Field(default=4, ge=0, description="most refinements per prompt; 0: no reflection")


class Pairing(Record):
    """Which responses to a prompt become preference pairs; see `rlrf.pairs`."""

    threshold: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="smallest difference of reward; equal rewards never make a pair",
    )
    min_chosen: float = Field(
        default=0.0, ge=0, le=1, description="smallest reward of a chosen response"
    )
    max_similarity: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="largest share of words in common, relative to the longer text: pairs that "
        "differ in few tokens lower the likelihood of both",
    )
    per_prompt: int = Field(default=2, ge=1, description="most pairs per prompt")
    max_total: int | None = Field(default=None, ge=1, description="most pairs per iteration")


class RewardSource(Record):
    """Reward models, for methods that learn from rewards and for `explore.keep`."""

    models: list[str] = Field(
        min_length=1, description="folders or hub ids; several form an ensemble"
    )
    beta: float = Field(
        default=0.0,
        ge=0,
        description="ensemble: reward is mean - beta * standard deviation (arXiv 2310.02743)",
    )
    demonstrations: str | None = Field(
        default=None,
        description='JSONL file of {"prompt", "response"}: the closer a reward is to that of the '
        "demonstration, the better, -(r - r_demonstration)^2 (arXiv 2404.19409)",
    )


class Gate(Record):
    """What a candidate must show to become the incumbent."""

    policy: Policy | None = Field(
        default=None,
        description="gate policy; default: the primary metric of each task is critical",
    )
    slice: int = Field(
        default=200, ge=1, description="gate items per task, others in each iteration"
    )
    sealed: int = Field(default=400, ge=1, description="sealed items per task, opened at the end")
    enforce: bool = Field(
        default=True,
        description="false: every candidate becomes the incumbent, whatever the verdict",
    )
    promotion: PromotionRule | None = Field(
        default=None,
        exclude_if=lambda promotion: promotion is None,
        description="gain necessary for a promotion; default: the policy's, else 1 standard error",
    )
    overlap: int = Field(
        default=50,
        ge=8,
        description="length in words of a copied run that counts as a leak of a gate or sealed "
        "item. 50 is practically a whole item; use 13 unless prompts come from a template",
    )


class Device(Record):
    """Where models run, for generation and training."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: cuda if available"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="number format of the weights; auto: as they are stored"
    )
    max_batch: int | None = Field(
        default=None,
        ge=1,
        description="responses generated together; default: as many as memory holds",
    )

    def spec(self, model: str | Path = "", **options: Any) -> EngineSpec:
        """Return how `harness.engines.open` opens an engine with these settings."""
        from harness.engines.open import EngineSpec

        return EngineSpec(model, **self.model_dump(), **options)


class EngineConfig(Device):
    """What generates responses, for exploration, rewrites and evaluation."""

    kind: Kind = Field(default="hf", description="hf: transformers; vllm: vLLM, if installed")

    @field_validator("kind")
    @classmethod
    def _has_weights(cls, kind: str) -> str:
        if kind == "openai":
            raise ValueError(
                "the weights behind a server cannot be trained; choose hf or vllm (openai is only "
                "for `rlrf eval`)"
            )
        return kind


class Executor(Record):
    """Where the engines of the policy model and of a local judge run.

    Not part of a run's identity: changing it does not restart the run.
    """

    kind: Literal["local", "ray"] = Field(
        default="local", description="local: this process; ray: processes of a Ray cluster"
    )
    address: str | None = Field(
        default=None,
        description="auto, or host:port of an existing cluster; default: start a cluster on this "
        "machine for the run",
    )
    engines: int = Field(default=1, ge=1, description="number of engines")
    cpus: float = Field(default=1, ge=0, description="CPUs per engine")
    gpus: float = Field(
        default=0, ge=0, le=1, description="GPUs per engine; 0.5: two engines share a GPU"
    )
    in_flight: int = Field(
        default=2, ge=1, description="batches that are sent to an engine at a time"
    )
    wait: int = Field(
        default=300, ge=1, description="longest wait for a free place for one engine, in seconds"
    )

    @model_validator(mode="after")
    def _only_ray_has_options(self) -> Executor:
        known = type(self).model_fields
        others = [name for name in known if getattr(self, name) != known[name].default]
        if self.kind == "local" and others:
            raise ValueError(f"{others[0]} is for a cluster; set kind: ray, or leave it out")
        if self.address is not None and "://" in self.address:
            raise ValueError(
                "address is auto or host:port; to send a run to a cluster, use `ray job submit`"
            )
        return self

    def cluster_options(self) -> dict[str, Any] | None:
        """Return the options of a Ray cluster, or None to run in this process."""
        return None if self.kind == "local" else self.model_dump(exclude={"kind"})


class Config(Record):
    """Configuration of a run: a model, the tasks, and how each stage works."""

    method: Method = Field(default="rlrf", description="how an iteration learns")
    model: str = Field(description="folder or hub id of M0, the model that the run starts from")
    revision: str | None = Field(default=None, description="revision of a hub model")
    adapter: Adapter | None = Field(
        default=None, description="train a LoRA adapter; default: all weights"
    )
    seed: int = Field(default=0, ge=0, description="seed of sampling, item choice and training")
    iterations: int = Field(default=2, ge=1, description="number of iterations")
    tasks: list[TaskConfig] = Field(
        min_length=1, description="benchmarks to train on, gate on and seal"
    )
    guards: list[Guard] = Field(
        default=[],
        exclude_if=lambda guards: not guards,
        description="benchmarks to measure and gate on, and never to train on",
    )
    include_path: list[str] = Field(
        default=[],
        exclude_if=lambda folders: not folders,
        description="folder with benchmarks of your own, or a list of folders",
    )
    explore: Explore = Field(default=Explore(), description="how the policy model explores")
    reflect: Reflect = Field(default=Reflect(), description="how it rewrites its responses")
    pairs: Pairing = Field(default=Pairing(), description="which responses become pairs")
    train: Training = Field(default=Training(), description="how the policy model is trained")
    reward: RewardSource | None = Field(default=None, description="reward models, if any")
    rlmec: Rlmec = Field(default=Rlmec(), description="settings of `method: rlmec`")
    gate: Gate = Field(default=Gate(), description="what a candidate must show")
    engine: EngineConfig = Field(default=EngineConfig(), description="what generates responses")
    executor: Executor = Field(default=Executor(), description="where engines run")
    judge: str | None = Field(
        default=None, description="file that says how responses are judged, as `rlrf eval --judge`"
    )
    feedback_model: str | None = Field(
        default=None,
        description="folder or hub id of a model from `rlrf feedback-model train`, for tasks with "
        "feedback: model",
    )
    board: str | None = Field(default=None, description="folder of the board; default: OUT/board")
    artefacts: str | None = Field(
        default=None,
        description="folder or fsspec URL, such as s3://bucket/runs, where finished stages are "
        "also stored, and fetched from",
    )

    @field_validator("include_path", mode="before")
    @classmethod
    def _one_folder_or_a_list(cls, folders: Any) -> Any:
        return as_list(folders)

    @field_validator("tasks")
    @classmethod
    def _each_task_once(cls, tasks: list[TaskConfig]) -> list[TaskConfig]:
        names = [task.name for task in tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is named twice")
        return tasks

    @model_validator(mode="after")
    def _gated_tasks_are_run(self) -> Config:
        names = {task.name for task in self.tasks} | {guard.task for guard in self.guards}
        rules = self.gate.policy.rules if self.gate.policy else []
        absent = sorted({rule.task for rule in rules} - names)
        if absent:
            where = "tasks or guards" if self.guards else "tasks"
            raise ValueError(f"gate.policy has rules for {', '.join(absent)}, not in {where}")
        if self.gate.promotion and self.gate.policy and self.gate.policy.promotion:
            raise ValueError("gate.promotion and gate.policy.promotion are both given: keep one")
        return self

    @model_validator(mode="after")
    def _guards_fit(self) -> Config:
        rules = self.gate.policy.rules if self.gate.policy else []
        check_guards(self.guards, {task.name for task in self.tasks}, {rule.task for rule in rules})
        return self

    @model_validator(mode="after")
    def _feedback_has_an_author(self) -> Config:
        if self.judge is None and any(task.feedback == "critique" for task in self.tasks):
            raise ValueError("feedback: critique needs a judge; name its file as 'judge'")
        if self.feedback_model is None and any(task.feedback == "model" for task in self.tasks):
            raise ValueError("feedback: model needs a model; name its folder as 'feedback_model'")
        return self

    @model_validator(mode="after")
    def _rewards_have_a_model(self) -> Config:
        if self.reward is None and self.method == "reward_only":
            raise ValueError("method: reward_only needs reward.models to rank responses")
        if self.reward is None and self.explore.keep is not None:
            raise ValueError("explore.keep needs reward.models to choose responses")
        if self.method != "rlrf" and self.explore.keep is not None:
            raise ValueError(f"explore.keep is only for method: rlrf, not {self.method}")
        if self.reward is not None and self.reward.beta and len(self.reward.models) == 1:
            raise ValueError("reward.beta is for an ensemble; name several reward.models")
        return self

    @model_validator(mode="after")
    def _engines_have_their_gpu(self) -> Config:
        if self.executor.kind == "ray" and self.executor.gpus == 0 and self.engine.device == "cuda":
            raise ValueError("engine.device is cuda: set executor.gpus, the GPUs per engine")
        if self.engine.kind == "vllm" and 0 < self.executor.gpus < 1:
            raise ValueError("engine.kind: vllm needs a whole GPU; set executor.gpus to 1")
        return self

    @property
    def include_paths(self) -> list[str]:
        """Folders of the user's benchmarks, those of the guards last."""
        of_guards = [folder for guard in self.guards for folder in guard.include_path]
        return list(dict.fromkeys([*self.include_path, *of_guards]))

    @property
    def critiqued(self) -> list[str]:
        """Tasks whose feedback is a critique by the judge."""
        return [task.name for task in self.tasks if task.feedback == "critique"]

    def limited(self, n: int) -> Config:
        """Return the configuration of a dry run: one iteration, a board of its own, and at most `n`
        prompts, gate items and sealed items per task."""
        tasks = [t.model_copy(update={"prompts": min(n, t.prompts)}) for t in self.tasks]
        few = {"slice": min(n, self.gate.slice), "sealed": min(n, self.gate.sealed)}
        gate = self.gate.model_copy(update=few)
        guards = [g.model_copy(update={"items": min(n, g.items or n)}) for g in self.guards]
        return self.model_copy(
            update={
                "iterations": 1,
                "tasks": tasks,
                "guards": guards,
                "gate": gate,
                "board": None,
            }
        )

    @property
    def identity(self) -> str:
        """Digest of all settings except where things are: models, data, judge, board, artefacts
        and engines. Runs with the same identity are the same run."""
        places = {"model", "revision", "judge", "feedback_model", "board", "artefacts", "executor"}
        kept = self.model_dump(mode="json", exclude=places | {"include_path"})
        if kept["reward"] is not None:
            del kept["reward"]["models"], kept["reward"]["demonstrations"]
        del kept["rlmec"]["base"], kept["rlmec"]["rewriter"]
        if "launch" in kept["train"]:
            del kept["train"]["launch"]["accelerate"]
        for task in kept["tasks"]:
            del task["data"]
        for guard in kept.get("guards", ()):
            del guard["data"], guard["include_path"]
        return digest(kept)


def load(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown or missing, or a value is out
            of range; the message names the file, the key, and the nearest known key.
    """
    config = yaml.load(path, Config)
    tasks = [task.model_copy(update={"data": _next_to(path, task.data)}) for task in config.tasks]
    places: dict[str, Any] = {
        "model": _next_to(path, config.model),
        "judge": _next_to(path, config.judge),
        "feedback_model": _next_to(path, config.feedback_model),
        "include_path": [_next_to(path, folder) for folder in config.include_path],
        "guards": [_guard_next_to(path, guard) for guard in config.guards],
    }
    places["rlmec"] = config.rlmec.model_copy(
        update={
            "base": _next_to(path, config.rlmec.base),
            "rewriter": _next_to(path, config.rlmec.rewriter),
        }
    )
    if config.train.launch is not None:
        launch = config.train.launch
        file = {"accelerate": _next_to(path, launch.accelerate)}
        places["train"] = config.train.model_copy(update={"launch": launch.model_copy(update=file)})
    if config.reward is not None:
        found = {
            "models": [_next_to(path, model) for model in config.reward.models],
            "demonstrations": _next_to(path, config.reward.demonstrations),
        }
        places["reward"] = config.reward.model_copy(update=found)
    return config.model_copy(update=places | {"tasks": tasks})


def _guard_next_to(path: Path, guard: Guard) -> Guard:
    folders = [_next_to(path, folder) for folder in guard.include_path]
    return guard.model_copy(update={"data": _next_to(path, guard.data), "include_path": folders})


def _next_to(path: Path, place: str | None) -> str | None:
    """Return `place` relative to the folder of the file if it exists there."""
    # Not `Path.exists`, which raises where a name is too long for a file.
    if place is None or not os.path.exists(path.parent / place):
        return place
    return str((path.parent / place).resolve())
