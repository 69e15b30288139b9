"""Training: direct preference optimisation by TRL. The only module that knows TRL.

The reference is the policy that training starts from: its log-probabilities are computed once,
before the first step, so that no second model is held. Pairs are tokenized as they were
generated, prompt and response apart, so that training sees the tokens that sampling saw.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.progress import Advance, track
from harness.store import read_json, write_json, write_jsonl
from rlrf.checkpoint import Checkpoint
from rlrf.config import Adapter, Device, Training
from rlrf.pairs import Pair
from rlrf.quiet import quiet

METRICS = {
    "loss": "loss",
    "logps/chosen": "logp_chosen",
    "logps/rejected": "logp_rejected",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


@quiet()
def dpo(
    pairs: Sequence[Pair],
    start: Checkpoint,
    config: Training,
    *,
    adapter: Adapter | None,
    device: Device,
    seed: int,
    out: Path,
) -> None:
    """Train `start` on `pairs` and save the result under `out`; `checkpoint(out, ...)` names it.

    Writes `out/model` (weights as safetensors, and tokenizer: a plain `transformers` folder) or,
    with `adapter`, `out/adapter` (PEFT), and `out/metrics.jsonl`, one row a step: `loss`, mean log
    probabilities of chosen and rejected responses (summed over tokens), their implicit rewards
    and margin. A likelihood of the chosen that falls with the margin rising is displacement.

    Raises:
        UserError: the loss is not a number, or every prompt is longer than `config.max_length`.
    """
    import datasets
    import torch
    import transformers
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            """The rows are token ids already: TRL would tokenize prompt and response as one."""
            return dataset

        def compute_ref_log_probs(self, *args: Any) -> Any:
            found = super().compute_ref_log_probs(*args)
            advance(1)
            return found

    tokenizer = transformers.AutoTokenizer.from_pretrained(start.model)
    model, lora = _load(start, adapter, device)
    context = getattr(model.config, "max_position_embeddings", config.max_length)
    max_length = min(config.max_length, context)
    rows = tokenize(pairs, tokenizer, max_length)
    if not rows:
        raise UserError(
            f"None of the {len(pairs)} pairs fits into {max_length} tokens; raise train.max_length."
        )
    on_cpu = device.device == "cpu" or not torch.cuda.is_available()
    bf16 = not on_cpu and torch.cuda.is_bf16_supported() if config.bf16 is None else config.bf16
    reference = math.ceil(len(rows) / config.batch_size)
    steps = math.ceil(math.ceil(reference / config.gradient_accumulation) * config.epochs)
    with (
        tempfile.TemporaryDirectory() as scratch,
        track(f"train from {start.name}", reference + steps, "steps") as advance,
    ):
        watch = _watch(advance)
        trainer = Trainer(
            model=model,
            args=DPOConfig(
                output_dir=scratch,
                beta=config.beta,
                loss_type=list(config.loss),
                loss_weights=list(config.loss.values()),
                learning_rate=config.learning_rate,
                num_train_epochs=config.epochs,
                per_device_train_batch_size=config.batch_size,
                gradient_accumulation_steps=config.gradient_accumulation,
                max_length=max_length,
                max_grad_norm=config.max_grad_norm,
                warmup_steps=config.warmup_ratio,
                lr_scheduler_type=config.scheduler,
                precompute_ref_log_probs=True,
                disable_dropout=adapter is None or adapter.dropout == 0,
                bf16=bf16,
                gradient_checkpointing=config.gradient_checkpointing,
                use_cpu=on_cpu,
                use_cache=True,
                seed=seed,
                save_strategy="no",
                report_to="none",
                logging_steps=1,
                disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[watch],
            peft_config=lora,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        write_jsonl(out / "metrics.jsonl", watch.rows)
        _save(trainer.model, tokenizer, start, adapter, out)


def tokenize(pairs: Sequence[Pair], tokenizer: Any, max_length: int) -> list[dict[str, list[int]]]:
    """Token ids of the pairs whose chosen response fits into `max_length` with its prompt.

    A response ends with the tokenizer's end token, unless the length limit cut it off.
    """
    rows = []
    for pair in pairs:
        # As `HFEngine.encode`: a rendered prompt that starts with BOS gets no other.
        bare = bool(tokenizer.bos_token) and pair.prompt.startswith(tokenizer.bos_token)
        prompt = tokenizer.encode(pair.prompt, add_special_tokens=not bare)
        chosen, rejected = tokenizer([pair.chosen, pair.rejected], add_special_tokens=False)[
            "input_ids"
        ]
        chosen = [*chosen, tokenizer.eos_token_id]
        if not pair.rejected_cut:
            rejected = [*rejected, tokenizer.eos_token_id]
        if len(prompt) + len(chosen) <= max_length:
            rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return rows


def checkpoint(out: Path, name: str, start: Checkpoint) -> Checkpoint:
    """What `dpo` saved under `out` when it began from `start`."""
    if (out / "adapter").is_dir():
        return Checkpoint(name, start.model, out / "adapter")
    return Checkpoint(name, out / "model")


def _load(start: Checkpoint, adapter: Adapter | None, device: Device) -> tuple[Any, Any]:
    """The model to train, and the configuration of a LoRA adapter that is yet to be made.

    Full training holds float32 weights (autocast does the rest); LoRA leaves the base as it is.
    """
    import peft
    import transformers

    dtype = "float32" if adapter is None else device.dtype
    model = transformers.AutoModelForCausalLM.from_pretrained(start.model, dtype=dtype)
    if start.adapter is not None:
        return peft.PeftModel.from_pretrained(model, start.adapter, is_trainable=True), None
    if adapter is None:
        return model, None
    return model, peft.LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        task_type="CAUSAL_LM",
    )


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
    dtype = transformers.AutoConfig.from_pretrained(start.model).dtype
    model.to(dtype or model.dtype).save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")


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
            row = {name: float(logs[key]) for key, name in METRICS.items() if key in logs}
            if not all(math.isfinite(value) for value in row.values()):
                raise UserError(
                    f"Training diverged at step {state.global_step}: {row}. The incumbent stays. "
                    "Lower train.learning_rate or raise train.beta, and train into another --out."
                )
            self.rows.append({"step": state.global_step, **row})

    return Watch()
