"""Configuration of training: adapter, optimiser, processes, and what RLMEC trains."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from harness.core.schema import Record

Loss = Literal["sigmoid", "hinge", "ipo", "sigmoid_norm", "apo_zero", "apo_down", "sft"]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]


class Adapter(Record):
    """LoRA: train low-rank updates and leave the model's own weights unchanged."""

    r: int = Field(default=8, gt=0, description="rank of the updates")
    alpha: float = Field(default=32, gt=0, description="scale: an update is multiplied by alpha/r")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout on the update's input")
    target_modules: list[str] | Literal["all-linear"] = Field(
        default="all-linear", description="names of the layers to update"
    )


class Optimisation(Record):
    """How weights are fitted, whatever the objective."""

    place: ClassVar[str] = "train."  # where these keys stand in a configuration file

    learning_rate: float = Field(default=1e-6, gt=0, description="peak learning rate of AdamW")
    epochs: float = Field(default=1, gt=0, description="passes over the training examples")
    batch_size: int = Field(default=16, ge=1, description="examples per forward pass")
    gradient_accumulation: int = Field(default=1, ge=1, description="forward passes per step")
    max_length: int = Field(
        default=1024, gt=0, description="most tokens of prompt and response together"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this")
    warmup_ratio: float = Field(
        default=0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises"
    )
    scheduler: Scheduler = Field(
        default="linear", description="how the learning rate changes after warmup"
    )
    bf16: bool | None = Field(
        default=None, description="compute in bfloat16; default: if the GPU supports it"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations: slower, with less memory"
    )


class Launch(Record):
    """Training in several processes by `accelerate launch`: the same batches, the same files."""

    processes: int | None = Field(
        default=None,
        ge=2,
        description="processes on this machine, one per GPU; they share every batch, so their "
        "number does not change what is learned",
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="ddp: each process holds the whole model; fsdp: processes share it (FSDP2)",
    )
    accelerate: str | None = Field(
        default=None,
        description="file written by `accelerate config`, in place of processes and strategy; for "
        "several machines or offloading",
    )
    prefix: list[str] = Field(
        default=[],
        description="words before `accelerate launch` that start it on every machine, such as "
        "[srun, --ntasks-per-node=1]",
    )

    @model_validator(mode="after")
    def _processes_or_file(self) -> Launch:
        if (self.processes is None) == (self.accelerate is None):
            raise ValueError("launch needs either processes or accelerate, a file that names them")
        if self.accelerate is not None and self.strategy != "ddp":
            raise ValueError("launch.accelerate names the strategy; leave strategy out")
        return self


class Training(Optimisation):
    """How the policy model is trained; `beta` and `loss` are for DPO."""

    beta: float = Field(
        default=0.1, gt=0, description="DPO: higher values stay closer to the reference model"
    )
    loss: dict[Loss, float] = Field(
        default={"sigmoid": 1.0},
        min_length=1,
        description="TRL loss -> weight. `sft` is a mean over tokens, which rewards brevity where "
        "short answers are wrong; `sigmoid_norm` compares means and resists displacement; "
        "`hinge` with some `sft` is SLiC-HF (arXiv 2305.10425)",
    )
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default=[], description="where each step's metrics go, besides RUN/**/metrics.jsonl"
    )
    launch: Launch | None = Field(
        default=None,
        exclude_if=lambda launch: launch is None,
        description="train in several processes; default: in the process of the run",
    )
    checkpoint_minutes: float | None = Field(
        default=30,
        gt=0,
        exclude=True,  # no byte of what is trained depends on it
        description="minutes between saves of the training state in RUN/.parts/, from which a "
        "killed training in one process resumes, the rewriter's too. A save holds the trained "
        "weights and the optimiser: 12 bytes per parameter for full training in float32, twice "
        "that while it is written. null: training starts again",
    )

    @model_validator(mode="after")
    def _only_one_process_resumes(self) -> Training:
        asked = "checkpoint_minutes" in self.model_fields_set
        if self.launch is not None and asked and self.checkpoint_minutes is not None:
            raise ValueError(
                "checkpoint_minutes is for training in one process; with launch a training that "
                "is killed starts again, so leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _every_process_gets_an_example(self) -> Training:
        processes = self.launch and self.launch.processes
        if processes and processes > self.batch_size:
            raise ValueError(
                f"{processes} processes share a batch of {self.batch_size}; raise batch_size, or "
                "start fewer"
            )
        return self


class RewriterTraining(Optimisation):
    """How RLMEC's rewriter is trained; published values are the defaults."""

    place: ClassVar[str] = "rlmec.train."

    learning_rate: float = Field(default=2e-5, gt=0, description="peak learning rate of AdamW")
    epochs: float = Field(default=3, gt=0, description="passes over the training examples")
    gradient_accumulation: int = Field(
        default=8, ge=1, description="forward passes per step: 128 examples with `batch_size` 16"
    )
    warmup_ratio: float = Field(
        default=0.03, ge=0, lt=1, description="share of the steps in which the learning rate rises"
    )
    scheduler: Scheduler = Field(
        default="cosine", description="how the learning rate changes after warmup"
    )


class Rlmec(Record):
    """RLMEC (arXiv 2401.06081): its rewriter, token rewards and objective, as published.

    The paper samples with `explore: {n: 5, temperature: 0.7, top_p: 0.95}` and trains with
    `train: {learning_rate: 5.0e-6, epochs: 3, batch_size: 128, scheduler: cosine,
    warmup_ratio: 0.03}`.
    """

    teacher: Literal["task", "judge"] = Field(
        default="task",
        description="who corrects wrong responses to train the rewriter. task: the benchmark, or "
        "the judge where it cannot; judge: always the judge",
    )
    base: str | None = Field(
        default=None,
        description="model that the rewriter is trained from, folder or hub id; default: M0",
    )
    rewriter: str | None = Field(
        default=None, description="a trained rewriter, folder or hub id, instead of training one"
    )
    refresh: bool = Field(default=False, description="train the rewriter again in every iteration")
    held_out: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of the items that the rewriter is measured on instead of trained on",
    )
    train: RewriterTraining = Field(
        default=RewriterTraining(), description="how the rewriter is trained"
    )
    gold: float = Field(
        default=1.0, gt=0, le=1, description="reward from which a response counts as right"
    )
    middle: float = Field(
        default=0.5, ge=0, le=1, description="probability of a token that gets no reward"
    )
    most: float = Field(
        default=0.5, ge=0, le=1, description="largest reward of a token in a right response"
    )
    least: float = Field(
        default=0.1, ge=0, le=1, description="largest penalty of a token in a wrong response"
    )
    clip: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        description="largest distance from 1 at which the ratio to the reference still counts",
    )
    imitation: float = Field(
        default=1.0, ge=0, description="weight of the imitation loss on the rewrites"
    )
    edited: float = Field(
        default=1.0, ge=0, description="weight of an edited token in the imitation loss"
    )
    kept: float = Field(
        default=0.5, ge=0, description="weight of any other token in the imitation loss"
    )
