"""The configuration of a run: one YAML file, validated, unknown keys refused.

    model: meta-llama/Llama-2-13b-chat-hf
    tasks:
      - name: gsm8k

is a whole configuration; everything else has a default, described beside its field. Models, `data`,
`judge` and `demonstrations` are looked for beside the file first, then in the working directory; a
model found in neither is a Hugging Face hub id. `board`, and `artefacts` where it is no URL, are
folders of the working directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from harness.core import yaml
from harness.core.schema import Policy, PromotionRule, Record, digest

if TYPE_CHECKING:
    from harness.engines.open import EngineSpec

Method = Literal["rlrf", "rejection_sampling", "reward_only", "rrhf", "rlmec"]
Loss = Literal["sigmoid", "hinge", "ipo", "sigmoid_norm", "apo_zero", "apo_down", "sft"]


class Adapter(Record):
    """LoRA: train low-rank updates and leave the model's own weights alone."""

    r: int = Field(default=8, gt=0, description="rank")
    alpha: float = Field(default=32, gt=0, description="scale of the update is alpha / r")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the update's input")
    target_modules: list[str] | Literal["all-linear"] = Field(
        default="all-linear", description="names of the layers that get an update"
    )


class TaskConfig(Record):
    """A benchmark that is trained on, gated on and sealed."""

    name: str = Field(description="one of `rlrf tasks`")
    prompts: int = Field(default=200, gt=0, description="train items explored an iteration")
    data: str | None = Field(default=None, description="folder of the benchmark's data")
    feedback: Literal["task", "critique", "model", "score"] = Field(
        default="task",
        description="whose: the benchmark's own, or a critique by the judge or by the "
        "feedback_model; score: none, so that a rewrite is asked for without a word on what is "
        "wrong",
    )


class Decoding(Record):
    """How the policy samples."""

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, gt=0, description="default: the task's own")


class Explore(Decoding):
    """How the policy answers each train prompt."""

    n: int = Field(default=8, ge=1, description="responses a prompt")
    keep: int | None = Field(
        default=None,
        ge=1,
        description="the responses a prompt that the reward model finds best go on to feedback, "
        "this many; default: all",
    )


class Reflect(Decoding):
    """How the policy rewrites its own answers, given the feedback on them."""

    m: int = Field(default=4, ge=0, description="refinements a prompt at most; 0: no reflection")


class Pairing(Record):
    """Which responses of one prompt become a preference pair; see `rlrf.pairs`."""

    threshold: float = Field(
        default=0.1, ge=0, le=1, description="least difference of reward; never an equal one"
    )
    min_chosen: float = Field(default=0.0, ge=0, le=1, description="least reward of a chosen one")
    max_similarity: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="most words in common, of a pair's longer text: pairs that differ in few "
        "tokens lower the likelihood of both",
    )
    per_prompt: int = Field(default=2, ge=1, description="pairs a prompt at most")
    max_total: int | None = Field(default=None, ge=1, description="pairs an iteration at most")


class Optimisation(Record):
    """How weights are fitted, whatever the objective; `place` is where people write it."""

    place: ClassVar[str] = "train."

    learning_rate: float = Field(default=1e-6, gt=0)
    epochs: float = Field(default=1, gt=0)
    batch_size: int = Field(default=16, ge=1, description="examples a forward pass")
    gradient_accumulation: int = Field(default=1, ge=1, description="forward passes a step")
    max_length: int = Field(default=1024, gt=0, description="tokens of prompt and response")
    max_grad_norm: float = Field(default=1.0, gt=0)
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1, description="share of the steps")
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    bf16: bool | None = Field(default=None, description="default: on a GPU that has it")
    gradient_checkpointing: bool = Field(default=False, description="slower, less memory")


class Launch(Record):
    """Training in several processes by `accelerate launch`: the same batches, the same files."""

    processes: int | None = Field(
        default=None,
        ge=2,
        description="on this machine, one a GPU; each reads its part of a batch, so that what is "
        "learned does not depend on how many there are",
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="ddp: each process holds the whole model; fsdp: it is shared out (FSDP2)",
    )
    accelerate: str | None = Field(
        default=None,
        description="file of `accelerate config`, which says all of that in their place, and more: "
        "several machines, offloading",
    )
    prefix: list[str] = Field(
        default=[],
        description="words before `accelerate launch` that start it on every machine, such as "
        "[srun, --ntasks-per-node=1]",
    )

    @model_validator(mode="after")
    def _one_of_them_says(self) -> Launch:
        if (self.processes is None) == (self.accelerate is None):
            raise ValueError("launch needs processes, or accelerate, a file that says how many")
        if self.accelerate is not None and self.strategy != "ddp":
            raise ValueError("launch.accelerate says the strategy; leave strategy out")
        return self


class Training(Optimisation):
    """How the policy learns; `beta` and `loss` are those of direct preference optimisation."""

    beta: float = Field(default=0.1, gt=0, description="higher stays closer to the reference")
    loss: dict[Loss, float] = Field(
        default={"sigmoid": 1.0},
        min_length=1,
        description="TRL loss -> weight. `sft` is a mean over tokens, which rewards brevity where "
        "short answers are wrong ones; `sigmoid_norm` compares means and resists displacement; "
        "`hinge` with some `sft` is SLiC-HF (arXiv 2305.10425)",
    )
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default=[], description="where each step's metrics go beside RUN/**/metrics.jsonl"
    )
    launch: Launch | None = Field(
        default=None,
        exclude_if=lambda launch: launch is None,
        description="train in several processes; default: in the run's own",
    )
    checkpoint_minutes: float | None = Field(
        default=30,
        gt=0,
        exclude=True,  # no byte of what is trained depends on it
        description="training in one process saves its state in RUN/.parts/ this often (weights "
        "that are trained, and optimiser: full training of float32 takes 12 bytes a parameter, "
        "while it is written twice that), and goes on from there when it was killed; the "
        "rewriter's too; null: it begins anew",
    )

    @model_validator(mode="after")
    def _one_process_goes_on(self) -> Training:
        asked = "checkpoint_minutes" in self.model_fields_set
        if self.launch is not None and asked and self.checkpoint_minutes is not None:
            raise ValueError(
                "checkpoint_minutes is for training in one process; with launch a training that "
                "is killed begins anew, so leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _every_process_reads(self) -> Training:
        processes = self.launch and self.launch.processes
        if processes and processes > self.batch_size:
            raise ValueError(
                f"{processes} processes share a batch of {self.batch_size}; raise batch_size, or "
                "start fewer"
            )
        return self


class RewardSource(Record):
    """Reward models, for the methods that learn from rewards and for RLRF's cheap filter."""

    models: list[str] = Field(min_length=1, description="folders or hub ids; several: an ensemble")
    beta: float = Field(
        default=0.0,
        ge=0,
        description="of an ensemble: mean - beta * standard deviation (arXiv 2310.02743)",
    )
    demonstrations: str | None = Field(
        default=None,
        description='JSON lines of {"prompt", "response"}: rewards count by how near they come to '
        "that of the demonstration, -(r - r_demonstration)^2 (arXiv 2404.19409)",
    )


class RewriterTraining(Optimisation):
    """How the rewriter learns; the defaults are RLMEC's where those are published."""

    place: ClassVar[str] = "rlmec.train."

    learning_rate: float = Field(default=2e-5, gt=0)
    epochs: float = Field(default=3, gt=0)
    gradient_accumulation: int = Field(
        default=8, ge=1, description="forward passes of `batch_size` a step: 128 examples"
    )
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="share of the steps")
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"


class Rlmec(Record):
    """RLMEC (arXiv 2401.06081): its rewriter, token rewards and objective, as published.

    The policy of the paper samples with `explore: {n: 5, temperature: 0.7, top_p: 0.95}` and learns
    with `train: {learning_rate: 5.0e-6, epochs: 3, batch_size: 128, scheduler: cosine,
    warmup_ratio: 0.03}`.
    """

    teacher: Literal["task", "judge"] = Field(
        default="task",
        description="who puts wrong responses right for the rewriter to learn: the benchmark, or "
        "where it cannot the judge; judge: the judge everywhere",
    )
    base: str | None = Field(
        default=None, description="what the rewriter is trained from, folder or hub id; default: M0"
    )
    rewriter: str | None = Field(
        default=None, description="a trained rewriter, folder or hub id; none is trained then"
    )
    refresh: bool = Field(default=False, description="train it anew in each iteration")
    held_out: float = Field(
        default=0.1, ge=0, lt=1, description="share of the items that it is measured on instead"
    )
    train: RewriterTraining = RewriterTraining()
    gold: float = Field(
        default=1.0, gt=0, le=1, description="least reward of a response that is right"
    )
    middle: float = Field(
        default=0.5, ge=0, le=1, description="probability of a token that earns nothing"
    )
    most: float = Field(default=0.5, ge=0, le=1, description="reward of a right one's token")
    least: float = Field(default=0.1, ge=0, le=1, description="penalty of a wrong one's token")
    clip: float = Field(
        default=0.3, ge=0, lt=1, description="how far from 1 the ratio to the reference counts"
    )
    imitation: float = Field(default=1.0, ge=0, description="weight of the loss on the rewrites")
    edited: float = Field(default=1.0, ge=0, description="weight there of an edited token")
    kept: float = Field(default=0.5, ge=0, description="weight there of any other token")


class Gate(Record):
    """What a candidate must show before it becomes the incumbent."""

    policy: Policy | None = Field(default=None, description="default: `default_policy`")
    slice: int = Field(default=200, ge=1, description="gate items a task, fresh each iteration")
    sealed: int = Field(default=400, ge=1, description="sealed items a task, opened at the end")
    enforce: bool = Field(
        default=True, description="false: every candidate is promoted, whatever the verdict"
    )
    promotion: PromotionRule | None = Field(
        default=None,
        exclude_if=lambda promotion: promotion is None,
        description="gain that a promotion takes; None: as the policy says, else 1 standard error",
    )
    overlap: int = Field(
        default=50,
        ge=8,
        description="words in a row that no training text may share with a gate or sealed item; "
        "50 asks for whole items, as those of one template share much; 13 suits free text",
    )


class Device(Record):
    """Where generation runs; training follows it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_batch: int | None = Field(
        default=None, ge=1, description="responses decoded together; default: what memory holds"
    )

    def spec(self, model: str | Path = "", **options: Any) -> EngineSpec:
        """Return how `harness.engines.open` opens an engine with these settings."""
        from harness.engines.open import EngineSpec

        return EngineSpec(model, **self.model_dump(), **options)


class EngineConfig(Device):
    """What generates: the policy samples, rewrites and is measured with it."""

    kind: Literal["hf", "vllm", "openai"] = Field(
        default="hf", description="hf: transformers; vllm, where it is installed"
    )

    @field_validator("kind")
    @classmethod
    def _has_weights(cls, kind: str) -> str:
        if kind == "openai":
            raise ValueError(
                "the weights behind a server cannot be trained; choose hf or vllm, and leave "
                "openai to `rlrf eval`"
            )
        return kind


class Executor(Record):
    """Where engines run, the policy's and a judge's that is a model: in this process, or in those
    of a Ray cluster, each with an engine of its own. It is no part of what a run is."""

    kind: Literal["local", "ray"] = "local"
    address: str | None = Field(
        default=None,
        description="auto, or host:port of a cluster that is there; default: one is started on "
        "this machine for the run",
    )
    engines: int = Field(default=1, ge=1, description="that are asked for")
    cpus: float = Field(default=1, ge=0, description="that an engine takes of its node")
    gpus: float = Field(
        default=0, ge=0, le=1, description="that an engine takes; 0.5: two share a GPU"
    )
    in_flight: int = Field(
        default=2, ge=1, description="parts of the work that an engine has under way or waiting"
    )
    wait: int = Field(
        default=300, ge=1, description="seconds until there must be room for one engine"
    )

    @model_validator(mode="after")
    def _local_has_none_of_it(self) -> Executor:
        known = type(self).model_fields
        others = [name for name in known if getattr(self, name) != known[name].default]
        if self.kind == "local" and others:
            raise ValueError(f"{others[0]} is for a cluster; say kind: ray, or leave it out")
        if self.address is not None and "://" in self.address:
            raise ValueError(
                "address is auto or host:port; a run is sent to a cluster by `ray job submit`"
            )
        return self

    def cluster_options(self) -> dict[str, Any] | None:
        """Return the options of a Ray cluster, or None to run in this process."""
        return None if self.kind == "local" else self.model_dump(exclude={"kind"})


class Config(Record):
    """A whole run: explore, feedback, reflect, pairs, train, evaluate, gate, and again."""

    method: Method = Field(default="rlrf", description="how an iteration learns; see rlrf.methods")
    model: str = Field(description="folder or hub id of M0")
    revision: str | None = Field(default=None, description="of the hub model")
    adapter: Adapter | None = Field(default=None, description="train by LoRA")
    seed: int = Field(default=0, ge=0)
    iterations: int = Field(default=2, ge=1)
    tasks: list[TaskConfig] = Field(min_length=1)
    explore: Explore = Explore()
    reflect: Reflect = Reflect()
    pairs: Pairing = Pairing()
    train: Training = Training()
    reward: RewardSource | None = Field(default=None, description="reward models, if any")
    rlmec: Rlmec = Rlmec()
    gate: Gate = Gate()
    engine: EngineConfig = EngineConfig()
    executor: Executor = Executor()
    judge: str | None = Field(
        default=None, description="file that says how answers are judged, as `rlrf eval --judge`"
    )
    feedback_model: str | None = Field(
        default=None,
        description="folder or hub id of what `rlrf feedback-model train` made, for the tasks "
        "with feedback: model",
    )
    board: str | None = Field(default=None, description="leaderboard; default: OUT/board")
    artefacts: str | None = Field(
        default=None,
        description="folder or fsspec URL, such as s3://bucket/runs, where finished stages are "
        "kept too, and fetched from",
    )

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
        names = {task.name for task in self.tasks}
        rules = self.gate.policy.rules if self.gate.policy else []
        absent = sorted({rule.task for rule in rules} - names)
        if absent:
            raise ValueError(f"gate.policy has rules for {', '.join(absent)}, not in tasks")
        if self.gate.promotion and self.gate.policy and self.gate.policy.promotion:
            raise ValueError("gate.promotion and gate.policy.promotion both are given: keep one")
        return self

    @model_validator(mode="after")
    def _critiques_have_an_author(self) -> Config:
        if self.judge is None and any(task.feedback == "critique" for task in self.tasks):
            raise ValueError("feedback: critique needs a judge; name its file as 'judge'")
        if self.feedback_model is None and any(task.feedback == "model" for task in self.tasks):
            raise ValueError("feedback: model needs one; name its folder as 'feedback_model'")
        return self

    @model_validator(mode="after")
    def _rewards_have_a_model(self) -> Config:
        if self.reward is None and self.method == "reward_only":
            raise ValueError("method: reward_only needs reward.models, which say what is better")
        if self.reward is None and self.explore.keep is not None:
            raise ValueError("explore.keep needs reward.models, which say what to keep")
        if self.method != "rlrf" and self.explore.keep is not None:
            raise ValueError(f"explore.keep is RLRF's filter, and method: {self.method} has none")
        if self.reward is not None and self.reward.beta and len(self.reward.models) == 1:
            raise ValueError("reward.beta is of an ensemble; name several reward.models")
        return self

    @model_validator(mode="after")
    def _engines_have_their_gpu(self) -> Config:
        if self.executor.kind == "ray" and self.executor.gpus == 0 and self.engine.device == "cuda":
            raise ValueError("engine.device is cuda: say in executor.gpus what an engine takes")
        if self.engine.kind == "vllm" and 0 < self.executor.gpus < 1:
            raise ValueError("engine.kind: vllm takes a whole GPU; set executor.gpus to 1")
        return self

    @property
    def critiqued(self) -> list[str]:
        """The tasks whose feedback is the judge's critique."""
        return [task.name for task in self.tasks if task.feedback == "critique"]

    def limited(self, n: int) -> Config:
        """A dry run of this: one iteration on at most `n` prompts, gate and sealed items a task,
        recorded on a board of its own."""
        tasks = [t.model_copy(update={"prompts": min(n, t.prompts)}) for t in self.tasks]
        few = {"slice": min(n, self.gate.slice), "sealed": min(n, self.gate.sealed)}
        gate = self.gate.model_copy(update=few)
        return self.model_copy(
            update={"iterations": 1, "tasks": tasks, "gate": gate, "board": None}
        )

    @property
    def identity(self) -> str:
        """What makes two runs the same: all of it but places: models', data's, judge's, the
        board's, that of artefacts, and where engines run."""
        places = {"model", "revision", "judge", "feedback_model", "board", "artefacts", "executor"}
        kept = self.model_dump(mode="json", exclude=places)
        if kept["reward"] is not None:
            del kept["reward"]["models"], kept["reward"]["demonstrations"]
        del kept["rlmec"]["base"], kept["rlmec"]["rewriter"]
        if "launch" in kept["train"]:
            del kept["train"]["launch"]["accelerate"]
        for task in kept["tasks"]:
            del task["data"]
        return digest(kept)


def load(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        UserError: missing, not YAML, an unknown or missing key, a value out of range; the
            sentence names the file and the key, and for an unknown key the nearest known one.
    """
    config = yaml.load(path, Config)
    tasks = [task.model_copy(update={"data": _beside(path, task.data)}) for task in config.tasks]
    places: dict[str, Any] = {
        "model": _beside(path, config.model),
        "judge": _beside(path, config.judge),
        "feedback_model": _beside(path, config.feedback_model),
    }
    places["rlmec"] = config.rlmec.model_copy(
        update={
            "base": _beside(path, config.rlmec.base),
            "rewriter": _beside(path, config.rlmec.rewriter),
        }
    )
    if config.train.launch is not None:
        launch = config.train.launch
        file = {"accelerate": _beside(path, launch.accelerate)}
        places["train"] = config.train.model_copy(update={"launch": launch.model_copy(update=file)})
    if config.reward is not None:
        found = {
            "models": [_beside(path, model) for model in config.reward.models],
            "demonstrations": _beside(path, config.reward.demonstrations),
        }
        places["reward"] = config.reward.model_copy(update=found)
    return config.model_copy(update=places | {"tasks": tasks})


def _beside(path: Path, place: str | None) -> str | None:
    """`place` as it lies beside the file, where it does."""
    # Not `Path.exists`, which raises where a name is too long for a file.
    if place is None or not os.path.exists(path.parent / place):
        return place
    return str((path.parent / place).resolve())
