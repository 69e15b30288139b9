"""Supervised fine-tuning on responses, by TRL: what rejection sampling does with the best ones."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engines.text import encode
from harness.progress import track
from rlrf.checkpoint import Checkpoint
from rlrf.config import Adapter, Device, Optimisation
from rlrf.quiet import quiet
from rlrf.training import fitting, shares
from rlrf.training.fitting import Example
from rlrf.training.saves import Resumable, Saves

if TYPE_CHECKING:
    import torch

METRICS = {
    "loss": "loss",
    "mean_token_accuracy": "token_accuracy",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


@quiet()
def sft(
    examples: Sequence[Example],
    start: Checkpoint,
    config: Optimisation,
    *,
    adapter: Adapter | None,
    device: Device,
    seed: int,
    out: Path,
    logs: Path | None = None,
    saves: Saves | None = None,
) -> None:
    """Train `start` on the responses of `examples` (not on their prompts) and save it under `out`.

    Writes what `dpo` writes; `metrics.jsonl` has `loss`, the mean over the tokens of a batch, and
    the share of tokens that the policy would have chosen itself.

    Raises:
        DivergedError: the loss is not a number.
        UserError: every example is longer than `config.max_length`.
    """
    import datasets
    from trl import SFTConfig, SFTTrainer

    class Trainer(Resumable, shares.WholeBatches, SFTTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            """The rows are token ids already: TRL would tokenize prompt and response as one."""
            return dataset

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            if shares.processes() > 1:
                inputs = share(inputs)
                # TRL counts the tokens of all processes, each of which counted the whole batch.
                num_items_in_batch = num_items_in_batch / shares.processes()
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    tokenizer = fitting.load_tokenizer(start)
    with contextlib.ExitStack() as opened:
        opened.enter_context(fitting.in_memory(config.place))
        model, lora = fitting.load_model(start, adapter, device)
        max_length = fitting.room(model, config)
        rows = tokenize(examples, tokenizer, max_length)
        fitting.check_room("responses", len(rows), len(examples), max_length, config.place)
        arguments = opened.enter_context(fitting.session(config, device, seed, logs, saves))
        total = fitting.steps(len(rows), config)
        advance = opened.enter_context(track(f"train from {start.name}", total, "steps"))
        watch = fitting.watch(advance, METRICS)
        trainer = Trainer(
            model=model,
            args=SFTConfig(
                **arguments,
                max_length=None,  # rows are token ids that fit
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[watch],
            peft_config=lora,
        )
        fitting.run(trainer, saves=saves)
    fitting.keep(
        trainer, watch.rows, tokenizer, start=start, adapter=adapter, device=device, out=out
    )


def share(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What this process reads of a batch; texts that do not count have no labels."""
    places, counted = shares.share(len(inputs["labels"]))
    found = {name: values[places] for name, values in inputs.items()}
    found["labels"][counted:] = -100
    return found


def tokenize(
    examples: Sequence[Example], tokenizer: Any, max_length: int
) -> list[dict[str, list[int]]]:
    """Token ids, and labels that leave the prompt out, of the examples that fit."""
    rows = []
    for one in examples:
        prompt = encode(tokenizer, one.prompt)
        response = fitting.encode_response(one.response, tokenizer, cut=one.cut)
        if len(prompt) + len(response) <= max_length:
            labels = [-100] * len(prompt) + response
            rows.append({"input_ids": prompt + response, "labels": labels})
    return rows
