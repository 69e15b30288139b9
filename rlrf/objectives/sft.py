"""Supervised fine-tuning on responses, by TRL: what rejection sampling does with the best ones."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.progress import track
from harness.engines.text import encode
from rlrf.checkpoint import Checkpoint
from rlrf.config import Adapter, Device, Optimisation
from rlrf.objectives import base, data_parallel
from rlrf.objectives.base import Example
from rlrf.objectives.checkpoints import Resumable, Saves
from rlrf.quiet import quiet

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

    class Trainer(Resumable, data_parallel.WholeBatches, SFTTrainer):  # type: ignore[misc]
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
            if data_parallel.processes() > 1:
                inputs = share(inputs)
                # TRL counts the tokens of all processes, each of which counted the whole batch.
                num_items_in_batch = num_items_in_batch / data_parallel.processes()
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    tokenizer = base.load_tokenizer(start)
    with contextlib.ExitStack() as opened:
        opened.enter_context(base.in_memory(config.place))
        model, lora = base.load_model(start, adapter, device)
        max_length = base.room(model, config)
        rows = tokenize(examples, tokenizer, max_length)
        base.check_room("responses", len(rows), len(examples), max_length, config.place)
        arguments = opened.enter_context(base.session(config, device, seed, logs, saves))
        total = base.steps(len(rows), config)
        advance = opened.enter_context(track(f"train from {start.name}", total, "steps"))
        watch = base.watch(advance, METRICS)
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
        base.run(trainer, saves=saves)
    base.keep(trainer, watch.rows, tokenizer, start=start, adapter=adapter, device=device, out=out)


def share(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What this process reads of a batch; texts that do not count have no labels."""
    places, counted = data_parallel.share(len(inputs["labels"]))
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
        response = base.encode_response(one.response, tokenizer, cut=one.cut)
        if len(prompt) + len(response) <= max_length:
            labels = [-100] * len(prompt) + response
            rows.append({"input_ids": prompt + response, "labels": labels})
    return rows
