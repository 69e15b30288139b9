"""Shared by all objectives: load a model, build the trainer's arguments, run it, save the model.

Prompts and responses are tokenized separately, as they were generated, so that training sees the
same tokens as sampling.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.core.errors import UserError, explain_out_of_memory
from harness.core.files import read_json, write_json, write_jsonl
from harness.core.log import say
from harness.core.progress import Advance
from harness.core.schema import Message
from harness.engines import loading, model_folder
from harness.engines.model_folder import Checkpoint
from harness.engines.prompts import check_template, render, without_surrogates
from rlrf.config import Device
from rlrf.objectives import data_parallel
from rlrf.objectives.checkpoints import save_every
from rlrf.objectives.job import DivergedError, Job
from rlrf.quiet import quiet
from rlrf.training_config import Adapter, Optimisation, Training

# `report_to` -> packages, of which one is needed.
REPORTERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}
REPORTER_FILES = ("events.out.tfevents.*", "wandb", "trackio", "*.db", "*.db-wal", "*.db-shm")
REPORTER_VARIABLES = ("TENSORBOARD_LOGGING_DIR", "WANDB_DIR", "TRACKIO_DIR")

Train = TypeVar("Train", bound=Callable[..., None])


def objective(train: Train) -> Train:
    """Decorate an objective: hide libraries' notices and explain how to save memory.

    Raises:
        OutOfMemoryError: training does not fit in memory; it names the settings to lower.
    """

    @functools.wraps(train)
    def wrapped(examples: Sequence[Any], job: Job[Any]) -> None:
        with quiet(), advise_on_memory(job.config.place):
            train(examples, job)

    return wrapped  # type: ignore[return-value]


@contextlib.contextmanager
def advise_on_memory(settings: str) -> Iterator[None]:
    """Turn out-of-memory errors of training into one that names the `settings` to lower.

    Raises:
        OutOfMemoryError: training does not fit in memory.
    """
    with explain_out_of_memory(
        f"Training does not fit in memory. Lower {settings}batch_size, and raise "
        f"{settings}gradient_accumulation by as much; lower {settings}max_length; set "
        f"{settings}gradient_checkpointing: true; or train an adapter."
    ):
        yield


# Load a model --------------------------------------------------------------------------------


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in `folder`; without a padding token it pads with its end token.

    Raises:
        UserError: the tokenizer cannot be loaded or has no end token.
    """
    tokenizer = loading.load_tokenizer(folder)
    loading.require_end(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy_tokenizer(start: Checkpoint) -> Any:
    """Load the tokenizer of a policy model and check its chat template.

    Raises:
        UserError: the tokenizer has no end token, or its chat template drops the user's words.
    """
    model_folder.check(start.model)
    tokenizer = load_tokenizer(start.model)
    check_template(tokenizer)
    return tokenizer


def load_model(job: Job[Any]) -> tuple[Any, Any]:
    """Load the model to train, with the configuration of the LoRA adapter still to be added.

    The configuration is None if all weights are trained or if the start has an adapter already.
    Full training keeps float32 weights (autocast does the rest); LoRA keeps the base's dtype.
    """
    import peft
    import torch

    start, adapter = job.start, job.adapter
    model_folder.check(start.model)
    dtype = "float32" if adapter is None else adapted_dtype(start.model, job.device)
    model = loading.load_model(start.model, torch.device("cpu"), dtype)
    if start.adapter is not None:
        model_folder.check_adapter(start.adapter)
        return peft.PeftModel.from_pretrained(model, start.adapter, is_trainable=True), None
    return model, adapter and lora_config(adapter, "CAUSAL_LM")


def load_model_with_adapter(job: Job[Any]) -> Any:
    """Load the model to train and add its adapter, with the same seed as TRL's trainers do."""
    import peft
    import transformers

    model, lora = load_model(job)
    transformers.set_seed(job.seed)
    return model if lora is None else peft.get_peft_model(model, lora)


def adapted_dtype(folder: Path, device: Device) -> str:
    """Return the dtype of weights below an adapter: the one that sampling uses."""
    return loading.choose_dtype(folder, loading.find_device(device.device), device.dtype)


def lora_config(adapter: Adapter, task_type: str) -> Any:
    """Convert an adapter's settings to a PEFT configuration."""
    import peft

    return peft.LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        task_type=task_type,
    )


# Tokenize ------------------------------------------------------------------------------------


def encode_response(response: str, tokenizer: Any, *, cut: bool = False) -> list[int]:
    """Encode a response, with its end token unless the length limit `cut` it off."""
    ids: list[int] = tokenizer.encode(without_surrogates(response), add_special_tokens=False)
    return ids if cut else [*ids, end_of_response(tokenizer)]


@functools.lru_cache(maxsize=8)
def end_of_response(tokenizer: Any) -> int:
    """Return the token that ends an assistant's turn in the chat template, if generation stops
    there; else the tokenizer's end token, which in some models (Gemma) only ends documents."""
    import transformers

    eos = loading.require_end(tokenizer)
    folder = Path(tokenizer.name_or_path)
    if tokenizer.chat_template is None or not (folder / loading.GENERATION).is_file():
        return eos
    stops = transformers.GenerationConfig.from_pretrained(folder).eos_token_id
    response = "7"
    turns = [Message(role="user", content="5"), Message(role="assistant", content=response)]
    text = render(tokenizer, turns, add_generation_prompt=False)
    after = text.rpartition(response)[2].lstrip()
    first = tokenizer.encode(after, add_special_tokens=False)[:1]
    return next((token for token in first if isinstance(stops, list) and token in stops), eos)


def max_tokens(model: Any, config: Optimisation) -> int:
    """Return the longest example in tokens: `config.max_length` or the model's context."""
    context = getattr(model.config, "max_position_embeddings", None) or config.max_length
    return int(min(config.max_length, context))


def report_too_long(what: str, kept: int, count: int, most: int, settings: str) -> None:
    """Report how many of `count` examples are longer than `most` tokens and left out.

    Raises:
        UserError: all of them are too long.
    """
    if not kept:
        raise UserError(
            f"None of the {count} {what} fits into {most} tokens; raise {settings}max_length, or "
            "lower explore.max_tokens."
        )
    if kept < count:
        say(
            f"{count - kept} of {count} {what} do not fit into {most} tokens and are left out; "
            f"raise {settings}max_length to keep them."
        )


# The trainer's arguments and reporters ---------------------------------------------------------


def count_steps(examples: int, config: Optimisation) -> int:
    """Count the optimiser steps of a training job."""
    passes = math.ceil(examples / config.batch_size)
    return math.ceil(math.ceil(passes / config.gradient_accumulation) * config.epochs)


@contextlib.contextmanager
def trainer_arguments(job: Job[Any]) -> Iterator[dict[str, Any]]:
    """Yield the arguments that trainers of `transformers` and TRL share, while the job runs.

    The reporters in `config.report_to` write into `job.logs`, which is emptied unless the job
    resumes.

    Raises:
        UserError: a reporter is not installed.
    """
    import torch

    config = job.config
    on_cpu = job.device.device == "cpu" or not torch.cuda.is_available()
    bf16 = not on_cpu and torch.cuda.is_bf16_supported() if config.bf16 is None else config.bf16
    with tempfile.TemporaryDirectory() as scratch, _reporters(job) as reporters:
        yield {
            "output_dir": scratch,
            "learning_rate": config.learning_rate,
            "num_train_epochs": config.epochs,
            "per_device_train_batch_size": config.batch_size,
            "gradient_accumulation_steps": config.gradient_accumulation,
            "max_grad_norm": config.max_grad_norm,
            "warmup_steps": config.warmup_ratio,
            "lr_scheduler_type": config.scheduler,
            "bf16": bf16,
            "gradient_checkpointing": config.gradient_checkpointing,
            "use_cache": True,  # this value is saved with the model
            "use_cpu": on_cpu,
            "seed": job.seed,
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            **reporters,
        }


@contextlib.contextmanager
def _reporters(job: Job[Any]) -> Iterator[dict[str, Any]]:
    """Yield the trainer arguments for reporters, and set the environment that they read."""
    config, logs = job.config, job.logs
    if logs is None or not isinstance(config, Training) or not config.report_to:
        yield {"report_to": "none"}
        return
    check_reporters(config)
    if data_parallel.is_main():
        if job.state is None or job.state.last is None:
            _remove_reporter_files(logs)
        logs.mkdir(parents=True, exist_ok=True)
    before = {name: os.environ.get(name) for name in REPORTER_VARIABLES}
    os.environ.update(dict.fromkeys(REPORTER_VARIABLES, str(logs)))
    try:
        run_name = f"{logs.parents[1].name} {logs.name}"
        yield {"report_to": list(config.report_to), "run_name": run_name, "project": "rlrf"}
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _remove_reporter_files(folder: Path) -> None:
    """Remove what reporters wrote in an earlier training, and nothing else."""
    for pattern in REPORTER_FILES:
        for entry in folder.glob(pattern):
            if entry.is_symlink() or entry.is_file():
                entry.unlink()
            else:
                shutil.rmtree(entry, ignore_errors=True)


def check_reporters(config: Training) -> None:
    """Check that the reporters in `config.report_to` are installed.

    Raises:
        UserError: a reporter is not installed.
    """
    for name in config.report_to:
        if not any(importlib.util.find_spec(package) for package in REPORTERS[name]):
            raise UserError(
                f"train.report_to names {name}, which is not installed: pip install {name}"
            )


def metrics_callback(advance: Advance, names: Mapping[str, str]) -> Any:
    """Return a trainer callback that collects metrics in `rows`, one row per step.

    `names` maps the trainer's names of metrics to ours, besides loss, gradient norm and rate.

    Raises, from the trainer:
        DivergedError: a metric is not a finite number.
    """
    from transformers import TrainerCallback

    kept = {name: name for name in ("loss", "grad_norm", "learning_rate")} | dict(names)

    class MetricsCallback(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows: list[dict[str, float]] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            for logs in state.log_history:  # of the steps before, in a job that resumes
                self.collect(logs["step"], logs)
            advance.already(state.global_step)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            advance(1)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.collect(state.global_step, logs)

        def collect(self, step: int, logs: Mapping[str, Any]) -> None:
            if "loss" not in logs:
                return
            row = {name: float(logs[key]) for key, name in kept.items() if key in logs}
            if not all(math.isfinite(value) for value in row.values()):
                raise DivergedError(step, row, self.rows)
            self.rows.append({"step": step, **row})

    return MetricsCallback()


# Run the trainer and save the model --------------------------------------------------------------


def run_trainer(
    trainer: Any,
    job: Job[Any],
    *,
    mean_loss: bool = False,
    before: Callable[[Any], None] | None = None,
) -> None:
    """Train, and resume from `job.state` if an interrupted job left one.

    Args:
        trainer: a trainer that is `Resumable` if `job.state` is set.
        job: the job that it trains.
        mean_loss: the loss is a mean over its batch, not over the tokens of a whole step, so that
            accumulated gradients must be divided.
        before: called in every process with the model that training starts from, before saved
            weights are loaded and before the first step.
    """
    import torch
    import transformers

    last = job.state and job.state.last

    class Start(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if before is not None:
                trainer.model_wrapped.eval()
                before(trainer.model_wrapped)
            if data_parallel.rank():  # so that processes draw different dropout masks
                torch.manual_seed(trainer.args.seed + data_parallel.rank())
            if last:
                trainer.load_weights(last)
                say(f"training resumes after step {state.global_step} of {state.max_steps}")

    if mean_loss:
        trainer.model_accepts_loss_kwargs = False
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(Start)
    if job.state is not None:
        trainer.training_state = job.state
        trainer.add_callback(save_every(job.state.minutes))
    trainer.train(resume_from_checkpoint=last and str(last))


def save(trainer: Any, rows: Sequence[Mapping[str, float]], tokenizer: Any, job: Job[Any]) -> None:
    """Write `metrics.jsonl` from `rows`, and the model: a `transformers` folder `model`, or a PEFT
    folder `adapter`."""
    model = trainer.model
    if trainer.is_fsdp_enabled:
        weights = trainer.accelerator.get_state_dict(model)
        if data_parallel.is_main():
            model = load_model_with_adapter(job)
            model.load_state_dict({name: weights[name] for name in model.state_dict()})
    if data_parallel.is_main():
        write_jsonl(job.out / "metrics.jsonl", rows)
        if job.adapter is None:
            save_model(model, tokenizer, job.start.model, job.out / "model")
        else:
            _save_adapter(model, job.out / "adapter")


def save_model(model: Any, tokenizer: Any, start: Path, folder: Path) -> None:
    """Save a plain `transformers` folder, with weights in the dtype that `start` is stored in."""
    import transformers

    dtype = transformers.AutoConfig.from_pretrained(start, trust_remote_code=False).dtype
    model.to(dtype or model.dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_adapter(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, selected_adapters=["default"])
    (folder / "README.md").unlink(missing_ok=True)
    saved = read_json(folder / "adapter_config.json")
    # PEFT writes a set, whose order differs between processes.
    saved["target_modules"] = sorted(saved["target_modules"])
    saved["base_model_name_or_path"] = None  # a path on this machine
    write_json(folder / "adapter_config.json", saved)
