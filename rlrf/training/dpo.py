"""Direct preference optimisation (R. Rafailov et al., arXiv 2305.18290), by TRL.

The reference is the policy that training starts from: its log-probabilities are computed once,
before the first step, so that no second model is held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.progress import track
from harness.store import write_jsonl
from rlrf.checkpoint import Checkpoint
from rlrf.config import Adapter, Device, Training
from rlrf.pairs import Pair
from rlrf.quiet import quiet
from rlrf.training import fitting

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
@fitting.in_memory()
def dpo(
    pairs: Sequence[Pair],
    start: Checkpoint,
    config: Training,
    *,
    adapter: Adapter | None,
    device: Device,
    seed: int,
    out: Path,
    logs: Path | None = None,
) -> None:
    """Train `start` on `pairs` and save it under `out`; `fitting.checkpoint(out, ...)` names it.

    Writes `out/model` or, with `adapter`, `out/adapter`, and `out/metrics.jsonl`, one row a step:
    `loss`, mean log-probabilities of chosen and rejected responses (summed over tokens), their
    implicit rewards and margin. A likelihood of the chosen that falls with the margin rising is
    displacement.

    Raises:
        DivergedError: the loss is not a number.
        UserError: every prompt is longer than `config.max_length`.
    """
    import datasets
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            """The rows are token ids already: TRL would tokenize prompt and response as one."""
            return dataset

        def compute_ref_log_probs(self, *args: Any) -> Any:
            found = super().compute_ref_log_probs(*args)
            advance(1)
            return found

    tokenizer = fitting.load_tokenizer(start)
    model, lora = fitting.load_model(start, adapter, device)
    max_length = fitting.room(model, config)
    rows = tokenize(pairs, tokenizer, max_length)
    fitting.check_room("pairs", len(rows), len(pairs), max_length)
    total = math.ceil(len(rows) / config.batch_size) + fitting.steps(len(rows), config)
    with (
        fitting.session(config, device, seed, logs) as arguments,
        track(f"train from {start.name}", total, "steps") as advance,
    ):
        watch = fitting.watch(advance, METRICS)
        trainer = Trainer(
            model=model,
            args=DPOConfig(
                **arguments,
                beta=config.beta,
                loss_type=list(config.loss),
                loss_weights=list(config.loss.values()),
                max_length=max_length,
                precompute_ref_log_probs=True,
                disable_dropout=adapter is None or adapter.dropout == 0,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[watch],
            peft_config=lora,
        )
        fitting.run(trainer)
    write_jsonl(out / "metrics.jsonl", watch.rows)
    fitting.save(trainer.model, tokenizer, start, adapter, out)


def tokenize(pairs: Sequence[Pair], tokenizer: Any, max_length: int) -> list[dict[str, list[int]]]:
    """Token ids of the pairs whose chosen response fits into `max_length` with its prompt."""
    rows = []
    for pair in pairs:
        prompt = fitting.encode_prompt(pair.prompt, tokenizer)
        chosen = fitting.encode_response(pair.chosen, tokenizer)
        rejected = fitting.encode_response(pair.rejected, tokenizer, cut=pair.rejected_cut)
        if len(prompt) + len(chosen) <= max_length:
            rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return rows
