"""Supervised fine-tuning on responses, by TRL, as rejection sampling does on the best ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.core.progress import track
from harness.core.schema import Record
from harness.engines.prompts import encode
from rlrf.objectives import base, data_parallel
from rlrf.objectives.checkpoints import Resumable
from rlrf.objectives.job import Job
from rlrf.training_config import Optimisation

if TYPE_CHECKING:
    import torch

METRICS = {"mean_token_accuracy": "token_accuracy"}


class Example(Record):
    """A response to learn; `prompt` is text as the policy model saw it."""

    task: str
    item: str
    index: int
    prompt: str
    response: str
    cut: bool = False  # ended by the length limit, so its end is not learned

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.response,)


@base.objective
def sft(examples: Sequence[Example], job: Job[Optimisation]) -> None:
    """Train a model on the responses of `examples`, but not on their prompts.

    Each row of `metrics.jsonl` has `loss`, the mean over the tokens of a batch, and the share of
    tokens that the model itself finds most likely.

    Raises:
        DivergedError: the loss is not a finite number.
        UserError: every example is longer than `config.max_length`.
    """
    import datasets
    from trl import SFTConfig, SFTTrainer

    class Trainer(Resumable, data_parallel.WholeBatches, SFTTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            """Keep the rows, which are token ids: TRL would encode prompt and response as one."""
            return dataset

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            if data_parallel.processes() > 1:
                inputs = select_share(inputs)
                # TRL adds the counts of all processes, each of which counted the whole batch.
                num_items_in_batch = num_items_in_batch / data_parallel.processes()
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    config = job.config
    tokenizer = base.load_policy_tokenizer(job.start)
    model, lora = base.load_model(job)
    max_length = base.max_tokens(model, config)
    rows = tokenize(examples, tokenizer, max_length)
    base.report_too_long("responses", len(rows), len(examples), max_length, config.place)
    with (
        base.trainer_arguments(job) as arguments,
        track(
            f"train from {job.start.name}", base.count_steps(len(rows), config), "steps"
        ) as advance,
    ):
        metrics = base.metrics_callback(advance, METRICS)
        trainer = Trainer(
            model=model,
            args=SFTConfig(**arguments, max_length=None),  # the rows already fit
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[metrics],
            peft_config=lora,
        )
        base.run_trainer(trainer, job)
    base.save(trainer, metrics.rows, tokenizer, job)


def select_share(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Select this process's share of a batch; texts that do not count lose their labels."""
    places, counted = data_parallel.own_share(len(inputs["labels"]))
    mine = {name: values[places] for name, values in inputs.items()}
    mine["labels"][counted:] = -100
    return mine


def tokenize(
    examples: Sequence[Example], tokenizer: Any, max_length: int
) -> list[dict[str, list[int]]]:
    """Encode the examples that fit into `max_length` tokens; prompts have no labels."""
    rows = []
    for example in examples:
        prompt = encode(tokenizer, example.prompt)
        response = base.encode_response(example.response, tokenizer, cut=example.cut)
        if len(prompt) + len(response) <= max_length:
            labels = [-100] * len(prompt) + response
            rows.append({"input_ids": prompt + response, "labels": labels})
    return rows
