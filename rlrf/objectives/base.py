"""What every training shares: weights in, arguments for the trainer, a watch on it, weights out.

Prompts and responses are tokenized apart, as they were generated, so that training sees the
tokens that sampling saw.
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
from typing import Any

from harness.core.errors import UserError, explain_out_of_memory
from harness.core.files import read_json, write_json, write_jsonl
from harness.core.log import say
from harness.core.progress import Advance
from harness.core.schema import Message, Record
from harness.engines import model_folder
from harness.engines.text import without_surrogates
from rlrf.checkpoint import Checkpoint
from rlrf.config import Adapter, Device, Optimisation, Training
from rlrf.objectives import data_parallel
from rlrf.objectives.checkpoints import Saves, clock

# `report_to` -> the packages of which it needs one.
REPORTERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}
# Where tensorboard, wandb and trackio are told to write.
LOGS = ("events.out.tfevents.*", "wandb", "trackio", "*.db", "*.db-wal", "*.db-shm")
LOGGING_FOLDERS = ("TENSORBOARD_LOGGING_DIR", "WANDB_DIR", "TRACKIO_DIR")


class Example(Record):
    """A response to learn as an answer to `prompt`, which is text as the policy saw it."""

    task: str
    item: str
    index: int
    prompt: str
    response: str
    cut: bool = False  # the length limit ended it, so no end is learned

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.response,)


class DivergedError(UserError):
    """A loss or gradient that is no number; `rows` are the metrics of the steps before."""

    def __init__(self, step: int, row: Mapping[str, float], rows: Sequence[Mapping[str, float]]):
        super().__init__(f"training diverged at step {step}: {dict(row)}; lower learning_rate")
        self.step, self.row, self.rows = step, dict(row), list(rows)


def load_tokenizer(start: Checkpoint) -> Any:
    """Load the tokenizer of `start`; it pads with its end token where it has no padding.

    Raises:
        UserError: it has no end token, or its chat template loses what a user says.
    """
    from harness.engines import loading, template

    model_folder.check(start.model)
    tokenizer = loading.load_tokenizer(start.model)
    loading.require_end(tokenizer)
    template.check_template(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(start: Checkpoint, adapter: Adapter | None, device: Device) -> tuple[Any, Any]:
    """The model to train, and the configuration of a LoRA adapter that is yet to be made.

    Full training holds float32 weights (autocast does the rest); LoRA leaves the base as it is.
    """
    import peft
    import torch

    from harness.engines import loading

    model_folder.check(start.model)
    dtype = "float32" if adapter is None else adapted_dtype(start.model, device)
    model = loading.load_model(start.model, torch.device("cpu"), dtype)
    if start.adapter is not None:
        model_folder.check_adapter(start.adapter)
        return peft.PeftModel.from_pretrained(model, start.adapter, is_trainable=True), None
    if adapter is None:
        return model, None
    return model, lora(adapter, "CAUSAL_LM")


def adapted_dtype(folder: Path, device: Device) -> str:
    """The type of the weights that an adapter is trained on: that which they are sampled in."""
    from harness.engines import loading
    from harness.engines.dtype import choose_dtype

    return choose_dtype(folder, loading.find_device(device.device), device.dtype)


def load_with_adapter(start: Checkpoint, adapter: Adapter | None, device: Device, seed: int) -> Any:
    """The model to train with its adapter, which TRL's trainers would add themselves, and draw by
    the same `seed`."""
    import peft
    import transformers

    model, lora = load_model(start, adapter, device)
    transformers.set_seed(seed)
    return model if lora is None else peft.get_peft_model(model, lora)


def lora(adapter: Adapter, task_type: str) -> Any:
    """The adapter as PEFT takes it."""
    import peft

    return peft.LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        task_type=task_type,
    )


def encode_response(response: str, tokenizer: Any, *, cut: bool = False) -> list[int]:
    """Token ids of a response, with the token that ends it unless the length limit cut it off."""
    ids: list[int] = tokenizer.encode(without_surrogates(response), add_special_tokens=False)
    return ids if cut else [*ids, end_of_response(tokenizer)]


@functools.lru_cache(maxsize=8)
def end_of_response(tokenizer: Any) -> int:
    """The token that ends an assistant's turn in the chat template, if generation stops at it;
    else the tokenizer's end token, which for some models (Gemma) ends whole documents alone."""
    import transformers

    from harness.engines import loading, template

    eos = loading.require_end(tokenizer)
    folder = Path(tokenizer.name_or_path)
    if tokenizer.chat_template is None or not (folder / loading.GENERATION).is_file():
        return eos
    stops = transformers.GenerationConfig.from_pretrained(folder).eos_token_id
    said = "7"
    turns = [Message(role="user", content="5"), Message(role="assistant", content=said)]
    text = template.render(tokenizer, turns, add_generation_prompt=False)
    after = text.rpartition(said)[2].lstrip()
    first = tokenizer.encode(after, add_special_tokens=False)[:1]
    return next((token for token in first if isinstance(stops, list) and token in stops), eos)


def room(model: Any, config: Optimisation) -> int:
    """The most tokens of an example: `config.max_length`, or the model's context if shorter."""
    context = getattr(model.config, "max_position_embeddings", None) or config.max_length
    return int(min(config.max_length, context))


def check_room(what: str, kept: int, count: int, most: int, settings: str = "train.") -> None:
    """Say how many of `count` examples are longer than `most` tokens and so left out.

    Raises:
        UserError: all of them.
    """
    if not kept:
        raise UserError(
            f"None of the {count} {what} fits into {most} tokens; raise {settings}max_length, or "
            "lower explore.max_tokens."
        )
    if kept < count:
        say(
            f"{count - kept} of {count} {what} do not fit into {most} tokens and are left out; "
            f"{settings}max_length says how many."
        )


@contextlib.contextmanager
def in_memory(settings: str = "train.") -> Iterator[None]:
    """Say which `settings` to lower where memory does not suffice for training.

    Raises:
        OutOfMemoryError: it does not.
    """
    with explain_out_of_memory(
        f"Training does not fit in memory. Lower {settings}batch_size, and raise "
        f"{settings}gradient_accumulation by as much; lower {settings}max_length; set "
        f"{settings}gradient_checkpointing: true; or train an adapter."
    ):
        yield


def steps(examples: int, config: Optimisation) -> int:
    """Optimiser steps of a training."""
    passes = math.ceil(examples / config.batch_size)
    return math.ceil(math.ceil(passes / config.gradient_accumulation) * config.epochs)


@contextlib.contextmanager
def session(
    config: Optimisation,
    device: Device,
    seed: int,
    logs: Path | None = None,
    saves: Saves | None = None,
) -> Iterator[dict[str, Any]]:
    """The arguments that every trainer of `transformers` and TRL takes, for as long as it trains.

    What `config.report_to` names writes into the folder `logs`, which is made anew unless the
    training goes on from `saves`.

    Raises:
        UserError: one of them is not installed.
    """
    import torch

    on_cpu = device.device == "cpu" or not torch.cuda.is_available()
    bf16 = not on_cpu and torch.cuda.is_bf16_supported() if config.bf16 is None else config.bf16
    with tempfile.TemporaryDirectory() as scratch, _reports(config, logs, saves) as reports:
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
            "use_cache": True,  # what it is set to is saved with the model
            "use_cpu": on_cpu,
            "seed": seed,
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            **reports,
        }


@contextlib.contextmanager
def _reports(
    config: Optimisation, logs: Path | None, saves: Saves | None
) -> Iterator[dict[str, Any]]:
    """Where a trainer reports to: some of its arguments, and the environment that it reads."""
    if logs is None or not isinstance(config, Training) or not config.report_to:
        yield {"report_to": "none"}
        return
    check_reporters(config)
    if data_parallel.is_main():
        if saves is None or saves.last is None:
            _remove_logs(logs)
        logs.mkdir(parents=True, exist_ok=True)
    before = {name: os.environ.get(name) for name in LOGGING_FOLDERS}
    os.environ.update(dict.fromkeys(LOGGING_FOLDERS, str(logs)))
    try:
        run_name = f"{logs.parents[1].name} {logs.name}"
        yield {"report_to": list(config.report_to), "run_name": run_name, "project": "rlrf"}
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _remove_logs(folder: Path) -> None:
    """Remove what reporters wrote in an earlier training, and nothing that somebody else did."""
    for pattern in LOGS:
        for entry in folder.glob(pattern):
            if entry.is_symlink() or entry.is_file():
                entry.unlink()
            else:
                shutil.rmtree(entry, ignore_errors=True)


def check_reporters(config: Training) -> None:
    """See that what `config.report_to` names is installed.

    Raises:
        UserError: it is not.
    """
    for name in config.report_to:
        if not any(importlib.util.find_spec(package) for package in REPORTERS[name]):
            raise UserError(
                f"train.report_to names {name}, which is not installed: pip install {name}"
            )


def watch(advance: Advance, metrics: Mapping[str, str]) -> Any:
    """A callback that keeps `metrics` (the trainer's name -> ours) of every step, in `rows`.

    Raises, from the trainer:
        DivergedError: at the first value that is no number.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows: list[dict[str, float]] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            for logs in state.log_history:  # of the steps before, in a training that goes on
                self.keep(logs["step"], logs)
            advance.already(state.global_step)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            advance(1)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.keep(state.global_step, logs)

        def keep(self, step: int, logs: Mapping[str, Any]) -> None:
            if "loss" not in logs:
                return
            row = {name: float(logs[key]) for key, name in metrics.items() if key in logs}
            if not all(math.isfinite(value) for value in row.values()):
                raise DivergedError(step, row, self.rows)
            self.rows.append({"step": step, **row})

    return Watch()


def run(
    trainer: Any,
    *,
    means: bool = False,
    first: Callable[[Any], None] | None = None,
    saves: Saves | None = None,
) -> None:
    """Train, without the notices of the trainer's own.

    `means`: the loss is a mean over a batch of its own, not over the tokens of a whole step, so
    that accumulated gradients have to be divided. `first` is called with the model that training
    starts from, in all the processes that train it: before the first step, and before the weights
    of `saves` are taken by a training that goes on from there, which a trainer that is
    `saves.Resumable` does.
    """
    import torch
    import transformers

    last = saves and saves.last

    class First(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if first is not None:
                trainer.model_wrapped.eval()
                first(trainer.model_wrapped)
            if (
                data_parallel.rank()
            ):  # drops other things out of its share than the main process does
                torch.manual_seed(trainer.args.seed + data_parallel.rank())
            if last:
                trainer.load_weights(last)
                say(f"training goes on after step {state.global_step} of {state.max_steps}")

    if means:
        trainer.model_accepts_loss_kwargs = False
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(First)
    if saves is not None:
        trainer.saves = saves
        trainer.add_callback(clock(saves.minutes))
    trainer.train(resume_from_checkpoint=last and str(last))


def keep(
    trainer: Any,
    rows: Sequence[Mapping[str, float]],
    tokenizer: Any,
    *,
    start: Checkpoint,
    adapter: Adapter | None,
    device: Device,
    out: Path,
) -> None:
    """Write `out/metrics.jsonl`, and `out/model`, a plain `transformers` folder, or `out/adapter`
    (PEFT)."""
    model = trainer.model
    if trainer.is_fsdp_enabled:
        weights = trainer.accelerator.get_state_dict(model)
        if data_parallel.is_main():
            model = load_with_adapter(start, adapter, device, trainer.args.seed)
            model.load_state_dict({name: weights[name] for name in model.state_dict()})
    if data_parallel.is_main():
        write_jsonl(out / "metrics.jsonl", rows)
        _save(model, tokenizer, start, adapter, out)


def _save(
    model: Any, tokenizer: Any, start: Checkpoint, adapter: Adapter | None, out: Path
) -> None:
    import transformers

    if adapter is not None:
        folder = out / "adapter"
        model.save_pretrained(folder, selected_adapters=["default"])
        (folder / "README.md").unlink(missing_ok=True)
        saved = read_json(folder / "adapter_config.json")
        # PEFT keeps a set there, whose order changes from process to process.
        saved["target_modules"] = sorted(saved["target_modules"])
        saved["base_model_name_or_path"] = None  # a place on this machine
        write_json(folder / "adapter_config.json", saved)
        return
    dtype = transformers.AutoConfig.from_pretrained(start.model, trust_remote_code=False).dtype
    model.to(dtype or model.dtype).save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")


def checkpoint(out: Path, name: str, start: Checkpoint) -> Checkpoint:
    """What a training saved under `out` when it began from `start`."""
    if (out / "adapter").is_dir():
        return Checkpoint(name, start.model, out / "adapter")
    return Checkpoint(name, out / "model")
