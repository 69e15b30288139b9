"""Direct preference optimisation (R. Rafailov et al., arXiv 2305.18290), by TRL.

The reference is the policy that training starts from: its log-probabilities are computed once,
before the first step, so that no second model is held. Of TRL's trainer only the way to the
log-probabilities is our own (`shared_prompt`, where the model suits it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.core.progress import Advance, track
from harness.core.schema import digest
from harness.engines.text import encode
from rlrf.checkpoint import Checkpoint
from rlrf.config import Adapter, Device, Training
from rlrf.objectives import base as fitting
from rlrf.objectives import data_parallel
from rlrf.objectives.checkpoints import Resumable, Saves
from rlrf.objectives.reference import ReferenceLogps
from rlrf.pairs import Pair
from rlrf.quiet import quiet

SIDES = ("chosen", "rejected")
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

TRAINED_TO_READ = 3.0  # what a batch costs to train on, where reading it costs 1

Row = dict[str, list[int]]


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
    saves: Saves | None = None,
    references: Path | None = None,
) -> None:
    """Train `start` on `pairs` and save it under `out`; `fitting.checkpoint(out, ...)` names it.

    Writes `out/model` or, with `adapter`, `out/adapter`, and `out/metrics.jsonl`, one row a step:
    `loss`, mean log-probabilities of chosen and rejected responses (summed over tokens), their
    implicit rewards and margin. A likelihood of the chosen that falls with the margin rising is
    displacement. What the reference gives to the pairs is kept in the folder `references`, and is
    not computed again where it is there. A training that was killed goes on from `saves`.

    Raises:
        DivergedError: the loss is not a number.
        UserError: every prompt is longer than `config.max_length`.
    """
    import datasets
    from trl import DPOConfig

    tokenizer = fitting.load_tokenizer(start)
    model, lora = fitting.load_model(start, adapter, device)
    max_length = fitting.room(model, config)
    rows = tokenize(pairs, tokenizer, max_length)
    fitting.check_room("pairs", len(rows), len(pairs), max_length)
    shared = share_prompts(model)
    asked, steps = math.ceil(len(rows) / config.batch_size), fitting.steps(len(rows), config)
    # A batch is read once for the reference; a step reads several, and goes back through each.
    phases = [(asked, 1.0), (steps, TRAINED_TO_READ * config.gradient_accumulation)]
    with (
        fitting.session(config, device, seed, logs, saves) as arguments,
        track(f"train from {start.name}", asked + steps, "steps", phases) as advance,
    ):
        watch = fitting.watch(advance, METRICS)
        arithmetic = [start.digest, str(model.dtype), arguments["bf16"], device.device]
        kept = ReferenceLogps(references if data_parallel.is_main() else None, digest(arithmetic))
        trainer = trainer_class(kept, shared, advance)(
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
        fitting.run(trainer, first=trainer.read_reference, saves=saves)
    fitting.keep(
        trainer, watch.rows, tokenizer, start=start, adapter=adapter, device=device, out=out
    )


def share_prompts(model: Any) -> bool:
    """Let `model` read prompts once, if it suits that."""
    from rlrf.objectives import shared_prompt

    base = model.get_base_model() if hasattr(model, "peft_config") else model
    suits = shared_prompt.suits(base)
    if suits:
        shared_prompt.prepare(base)
    return suits


def trainer_class(kept: ReferenceLogps, shared: bool, advance: Advance) -> Any:
    """The class of TRL's trainer, with log-probabilities by `shared_prompt` if `shared`, and those
    of the reference only where they are not `kept`."""
    from trl import DPOTrainer

    from rlrf.objectives import shared_prompt

    class Trainer(Resumable, data_parallel.WholeBatches, DPOTrainer):  # type: ignore[misc]
        data_collator: Any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.collate = self.data_collator
            self.data_collator = self.collate_with_reference

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            """The rows are token ids already: TRL would tokenize prompt and response as one."""
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
            """`read_reference` does, with the model that is trained: TRL would hold another one
            where that is sharded."""
            return dataset

        def read_reference(self, model: Any) -> None:
            """Ask `model`, which has not been trained yet, about the pairs that are not known."""
            kept.known = data_parallel.from_main(kept.known)
            found: dict[str, float] = {}
            # Whole batches, as rounding depends on what is computed together.
            size = self.args.per_device_train_batch_size
            for at in range(0, len(self.train_dataset), size):
                batch = range(len(self.train_dataset))[at : at + size]
                rows = self.train_dataset.select(batch).to_list()
                keys = [[key(row, side) for row in rows] for side in SIDES]
                if all(one in kept.known for of_side in keys for one in of_side):
                    advance(1)
                    continue
                logps = self.compute_ref_log_probs(model, self._prepare_inputs(self.collate(rows)))
                for of_side, of_texts in zip(keys, logps, strict=True):
                    found.update(zip(of_side, of_texts.tolist(), strict=True))
            if found:
                kept.add(found)

        def collate_with_reference(self, rows: list[Row]) -> Any:
            logps = [
                {f"ref_{side}_logps": kept.known[key(row, side)] for side in SIDES} for row in rows
            ]
            return self.collate([row | of_row for row, of_row in zip(rows, logps, strict=True)])

        def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
            found = super().compute_ref_log_probs(reader(model), inputs)
            advance(1)
            return found

        def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
            return super()._compute_loss(reader(model), inputs, return_outputs)

        def log(self, logs: dict[str, float], *args: Any) -> None:
            for name in shared_prompt.UNMEASURED if shared or data_parallel.processes() > 1 else ():
                self._metrics["train"].pop(name, None)
            super().log(logs, *args)

    def key(row: Row, side: str) -> str:
        return kept.key(row["prompt_ids"], row[f"{side}_ids"])

    def reader(model: Any) -> Any:
        return share(shared_prompt.reader(model) if shared else model)

    return Trainer


def share(read: Any) -> Any:
    """What TRL asks for log-probabilities; of several processes each reads a share of the pairs."""
    if data_parallel.processes() == 1:
        return read
    import torch

    from rlrf.objectives import shared_prompt

    def read_share(**inputs: Any) -> Any:
        pairs = len(inputs["input_ids"]) // 2  # the chosen texts, then the rejected
        balance = None

        def read_pairs(places: torch.Tensor) -> torch.Tensor:
            nonlocal balance
            texts = torch.cat([places, places + pairs])
            mine = {k: v[texts] if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
            output = read(**mine)
            balance = getattr(output, "aux_loss", None)  # of a model of experts
            logps: torch.Tensor = output.log_probs.unflatten(0, (2, -1)).transpose(0, 1)
            return logps

        log_probs = data_parallel.whole(pairs, read_pairs).transpose(0, 1).flatten(0, 1)
        return shared_prompt.output(log_probs, balance)

    return read_share


def tokenize(pairs: Sequence[Pair], tokenizer: Any, max_length: int) -> list[Row]:
    """Token ids of the pairs whose chosen response fits into `max_length` with its prompt."""
    rows = []
    for pair in pairs:
        prompt = encode(tokenizer, pair.prompt)
        chosen = fitting.encode_response(pair.chosen, tokenizer)
        rejected = fitting.encode_response(pair.rejected, tokenizer, cut=pair.rejected_cut)
        if len(prompt) + len(chosen) <= max_length:
            room = max_length - len(prompt)
            rows.append(
                {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected[:room]}
            )
    return rows
