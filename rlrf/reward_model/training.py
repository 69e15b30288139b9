"""Training of reward models, by TRL: the only module of the package that knows TRL.

The loss is -log sigmoid(r_chosen - r_rejected) (R. A. Bradley and M. E. Terry, Biometrika 1952).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.errors import UserError
from harness.models import model_digest
from harness.progress import Advance, track
from harness.schema import Record
from harness.store import file_digest, new_folder, write_json, write_jsonl
from rlrf.config import Device
from rlrf.quiet import quiet
from rlrf.reward_model.config import RewardTraining
from rlrf.reward_model.encoding import encode
from rlrf.reward_model.loading import check_tokenizer, context, load_model, load_tokenizer
from rlrf.reward_model.preferences import Preference, preferences_digest

MANIFEST = "reward_model.json"
METRICS = "metrics.jsonl"
LOGGED = {
    "loss": "loss",
    "accuracy": "accuracy",
    "margin": "margin",
    "mean_reward": "mean_reward",
    "min_reward": "min_reward",
    "max_reward": "max_reward",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


class Manifest(Record):
    """`reward_model.json` of a trained reward model: what it was made from, and what it is."""

    base: str = Field(description="digest of the model that training started from")
    preferences: str = Field(description="digest of the preferences, in order")
    pairs: int
    left_out: int = Field(description="pairs that are longer than `max_length`")
    training: RewardTraining
    seed: int
    files: dict[str, str] = Field(description="file -> sha256")


def train(
    preferences: Sequence[Preference],
    base: Path,
    training: RewardTraining,
    *,
    device: Device,
    seed: int,
    out: Path,
) -> Manifest:
    """Train a reward model from `base` and save it as `out`; equal inputs give equal bytes.

    `base` is a language model, which gets a new head, or a reward model, which goes on from its
    own. `out` becomes a plain `transformers` folder (one label; a LoRA adapter is merged) with
    `metrics.jsonl`, one row a step, and `reward_model.json`, its `Manifest`; what was there
    before stays until training has ended well.

    Raises:
        UserError: `base` cannot be used, no pair fits, or the loss is not a number.
    """
    with quiet(), new_folder(out) as folder:
        kept = _fit(preferences, base, training, device=device, seed=seed, folder=folder)
        manifest = Manifest(
            base=model_digest(base),
            preferences=preferences_digest(preferences),
            pairs=kept,
            left_out=len(preferences) - kept,
            training=training,
            seed=seed,
            files={f.name: file_digest(f) for f in sorted(folder.iterdir()) if f.is_file()},
        )
        write_json(folder / MANIFEST, manifest)
    return manifest


def _fit(
    preferences: Sequence[Preference],
    base: Path,
    training: RewardTraining,
    *,
    device: Device,
    seed: int,
    folder: Path,
) -> int:
    """Train, and save model, tokenizer and metrics in `folder`; the pairs that were used."""
    import datasets
    import torch
    import transformers
    from trl import RewardConfig, RewardTrainer

    transformers.set_seed(seed)  # the new head is drawn when the model is loaded
    tokenizer = load_tokenizer(base)
    dtype = "float32" if training.adapter is None else device.dtype
    model = load_model(base, dtype, new_head=True)
    check_tokenizer(tokenizer, model, base)
    stored_dtype = transformers.AutoConfig.from_pretrained(base).dtype
    rows = _tokenize(preferences, tokenizer, context(model, tokenizer, training.max_length))
    if not rows:
        raise UserError(
            f"None of the {len(preferences)} pairs fits into {training.max_length} tokens; raise "
            "max_length, or shorten the pairs."
        )
    on_cpu = device.device == "cpu" or not torch.cuda.is_available()
    bf16 = not on_cpu and torch.cuda.is_bf16_supported() if training.bf16 is None else training.bf16
    passes = math.ceil(len(rows) / training.batch_size)
    steps = math.ceil(math.ceil(passes / training.gradient_accumulation) * training.epochs)
    with (
        tempfile.TemporaryDirectory() as scratch,
        track("train reward model", steps, "steps") as advance,
    ):
        watch = _watch(advance)
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                output_dir=scratch,
                learning_rate=training.learning_rate,
                num_train_epochs=training.epochs,
                per_device_train_batch_size=training.batch_size,
                gradient_accumulation_steps=training.gradient_accumulation,
                max_length=None,  # rows are token ids that fit
                center_rewards_coefficient=training.center or None,
                max_grad_norm=training.max_grad_norm,
                warmup_steps=training.warmup_ratio,
                lr_scheduler_type=training.scheduler,
                disable_dropout=training.adapter is None or training.adapter.dropout == 0,
                bf16=bf16,
                gradient_checkpointing=training.gradient_checkpointing,
                use_cpu=on_cpu,
                seed=seed,
                save_strategy="no",
                report_to="none",
                logging_steps=1,
                disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[watch],
            peft_config=_lora(training),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    trained = trainer.model
    if training.adapter is not None:
        trained = trained.merge_and_unload()
    trained.to(stored_dtype or trained.dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_jsonl(folder / METRICS, watch.rows)
    return len(rows)


def _tokenize(
    preferences: Sequence[Preference], tokenizer: Any, max_length: int
) -> list[dict[str, list[int]]]:
    """Token ids of the pairs of which both texts fit into `max_length`."""
    rows = []
    for one in preferences:
        chosen = encode(one.prompt, one.chosen, tokenizer)
        rejected = encode(one.prompt, one.rejected, tokenizer)
        if max(len(chosen), len(rejected)) <= max_length:
            rows.append({"chosen_ids": chosen, "rejected_ids": rejected})
    return rows


def _lora(training: RewardTraining) -> Any:
    """The adapter as PEFT takes it, which trains the head in full beside it; None without one."""
    import peft

    if training.adapter is None:
        return None
    return peft.LoraConfig(
        r=training.adapter.r,
        lora_alpha=training.adapter.alpha,
        lora_dropout=training.adapter.dropout,
        target_modules=training.adapter.target_modules,
        task_type="SEQ_CLS",
    )


def _watch(advance: Advance) -> Any:
    """A callback that keeps the metrics of every step and stops at the first that is no number."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows: list[dict[str, float]] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            advance(1)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" not in logs:
                return
            row = {name: float(logs[key]) for key, name in LOGGED.items() if key in logs}
            if not all(math.isfinite(value) for value in row.values()):
                raise UserError(
                    f"Training diverged at step {state.global_step}: {row}. What was there before "
                    "stays. Lower learning_rate."
                )
            self.rows.append({"step": state.global_step, **row})

    return Watch()
