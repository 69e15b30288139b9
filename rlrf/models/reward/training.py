"""Train reward models by TRL.

The loss is -log sigmoid(r_chosen - r_rejected) (R. A. Bradley and M. E. Terry, Biometrika 1952).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import write_json, write_jsonl
from harness.core.folders import new_folder
from harness.core.outputs import model_kind
from harness.core.progress import track
from harness.engines.model_folder import Checkpoint, model_digest
from rlrf.config import Device
from rlrf.models.reward.model import (
    MANIFEST,
    RewardManifest,
    RewardTraining,
    check_tokenizer,
    context,
    encode,
    load_model,
)
from rlrf.models.reward.preferences import Preference, preferences_digest
from rlrf.models.trained_model import file_digests
from rlrf.objectives import base as common
from rlrf.objectives.job import Job
from rlrf.quiet import quiet

KIND = model_kind("a reward model", MANIFEST)
METRICS = ("accuracy", "margin", "mean_reward", "min_reward", "max_reward")


def train(
    preferences: Sequence[Preference],
    base: Path,
    training: RewardTraining,
    *,
    device: Device,
    seed: int,
    out: Path,
) -> RewardManifest:
    """Train a reward model from `base` and save it as `out`; equal inputs give equal bytes.

    `base` is a language model, which gets a new head, or a reward model, which keeps its own.
    `out` becomes a plain `transformers` folder (one label; a LoRA adapter is merged) with
    `metrics.jsonl`, one row per step, and `reward_model.json`. An existing reward model is
    replaced only after training has succeeded.

    Raises:
        UserError: `out` holds something else, `base` cannot be used, no pair fits, or the loss is
            not a finite number.
    """
    KIND.check(out, reads=[base])
    with (
        quiet(),
        common.advise_on_memory(training.place),
        new_folder(out, KIND.may_replace) as folder,
    ):
        job = Job(
            start=Checkpoint("the base model", base),
            config=training,
            adapter=training.adapter,
            device=device,
            seed=seed,
            out=folder,
        )
        used = _fit(preferences, job)
        manifest = RewardManifest(
            base=model_digest(base),
            preferences=preferences_digest(preferences),
            pairs=used,
            left_out=len(preferences) - used,
            training=training,
            seed=seed,
            files=file_digests(folder),
        )
        write_json(folder / MANIFEST, manifest)
    return manifest


def _fit(preferences: Sequence[Preference], job: Job[RewardTraining]) -> int:
    """Train, and save model, tokenizer and metrics; return the number of pairs that were used."""
    import datasets
    import transformers
    from trl import RewardConfig, RewardTrainer

    training, base = job.config, job.start.model
    transformers.set_seed(job.seed)  # the new head is drawn when the model is loaded
    tokenizer = common.load_tokenizer(base)
    dtype = "float32" if training.adapter is None else common.adapted_dtype(base, job.device)
    model = load_model(base, dtype, new_head=True)
    check_tokenizer(tokenizer, model.config, base)
    rows = _tokenize(preferences, tokenizer, context(model, tokenizer, training.max_length))
    if not rows:
        raise UserError(
            f"None of the {len(preferences)} pairs fits into {training.max_length} tokens; raise "
            "max_length, or shorten the pairs."
        )
    steps = common.count_steps(len(rows), training)
    with (
        common.trainer_arguments(job) as arguments,
        track("train reward model", steps, "steps") as advance,
    ):
        metrics = common.metrics_callback(advance, {name: name for name in METRICS})
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                **arguments,
                max_length=None,  # the rows already fit
                center_rewards_coefficient=training.center or None,
                disable_dropout=training.adapter is None or training.adapter.dropout == 0,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[metrics],
            peft_config=training.adapter and common.lora_config(training.adapter, "SEQ_CLS"),
        )
        common.run_trainer(trainer, job)
    trained = trainer.model if training.adapter is None else trainer.model.merge_and_unload()
    common.save_model(trained, tokenizer, base, job.out)
    write_jsonl(job.out / "metrics.jsonl", metrics.rows)
    return len(rows)


def _tokenize(
    preferences: Sequence[Preference], tokenizer: Any, max_length: int
) -> list[dict[str, list[int]]]:
    """Encode the pairs of which both texts fit into `max_length` tokens."""
    rows = []
    for pair in preferences:
        chosen = encode(pair.prompt, pair.chosen, tokenizer)
        rejected = encode(pair.prompt, pair.rejected, tokenizer)
        if max(len(chosen), len(rejected)) <= max_length:
            rows.append({"chosen_ids": chosen, "rejected_ids": rejected})
    return rows
