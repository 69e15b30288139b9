"""Shared by the objectives that TRL lacks: a trainer for a custom loss, token log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.core.progress import track
from harness.core.schema import mean
from rlrf.objectives import base, data_parallel
from rlrf.objectives.checkpoints import Resumable
from rlrf.objectives.job import Job
from rlrf.training_config import Training

if TYPE_CHECKING:
    import torch

Rows = Sequence[dict[str, Any]]
# (model, batch) -> the loss, a mean over the batch, and further metrics of the batch.
Loss = Callable[[Any, dict[str, Any]], tuple["torch.Tensor", dict[str, float]]]


@dataclass(frozen=True)
class CustomObjective:
    """The parts of an objective with a loss of its own.

    Attributes:
        examples: what its examples are called in messages.
        tokenize: (examples, tokenizer, most tokens) -> rows.
        collate: (rows, padding token) -> batch.
        loss: computes the loss of a batch.
        metrics: names of its metrics.
        before: called with the trainer and the model before the first step.
    """

    examples: str
    tokenize: Callable[[Sequence[Any], Any, int], Rows]
    collate: Callable[[Rows, int], dict[str, torch.Tensor]]
    loss: Loss
    metrics: Sequence[str]
    before: Callable[[Any, Any], None] | None = None


def train(parts: CustomObjective, examples: Sequence[Any], job: Job[Training]) -> None:
    """Train a model on examples by a custom loss, and save it."""
    import transformers

    config, before = job.config, parts.before
    tokenizer = base.load_policy_tokenizer(job.start)
    model = base.load_model_with_adapter(job)
    max_length = base.max_tokens(model, config)
    rows = parts.tokenize(examples, tokenizer, max_length)
    base.report_too_long(parts.examples, len(rows), len(examples), max_length, config.place)
    steps = base.count_steps(len(rows), config)
    with (
        base.trainer_arguments(job) as arguments,
        track(f"train from {job.start.name}", steps, "steps") as advance,
    ):
        metrics = base.metrics_callback(advance, {name: name for name in parts.metrics})
        trainer = _trainer_class(parts.loss)(
            model=model,
            args=transformers.TrainingArguments(**arguments, remove_unused_columns=False),
            train_dataset=rows,
            data_collator=lambda batch: parts.collate(batch, tokenizer.pad_token_id),
            callbacks=[metrics],
        )
        base.run_trainer(trainer, job, mean_loss=True, before=before and partial(before, trainer))
    base.save(trainer, metrics.rows, tokenizer, job)


def _trainer_class(loss: Loss) -> Any:
    """Return a `transformers` trainer class for `loss` that logs its metrics per step."""
    import transformers

    class Trainer(Resumable, data_parallel.WholeBatches, transformers.Trainer):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.batch_metrics: list[dict[str, float]] = []  # of the forward passes of a step

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any
        ) -> torch.Tensor:
            value, metrics = loss(model, inputs)
            self.batch_metrics.append(metrics)
            return value

        def log(self, logs: dict[str, float], *args: Any) -> None:
            if "loss" in logs:
                names = self.batch_metrics[0]
                logs = {**logs, **{n: mean([one[n] for one in self.batch_metrics]) for n in names}}
                self.batch_metrics.clear()
            super().log(logs, *args)

    return Trainer


def pad(texts: Sequence[list[int]], starts: Sequence[int], padding: int) -> dict[str, torch.Tensor]:
    """Pad token ids at the end, to tensors of shape (texts, longest).

    Returns:
        `input_ids`, `attention_mask`, and `learned`: true from each text's start of its response.
    """
    import torch

    shape = (len(texts), max(map(len, texts)))
    ids, mask = torch.full(shape, padding), torch.zeros(shape, dtype=torch.long)
    learned = torch.zeros(shape, dtype=torch.bool)
    for place, (text, start) in enumerate(zip(texts, starts, strict=True)):
        ids[place, : len(text)] = torch.tensor(text)
        mask[place, : len(text)] = 1
        learned[place, start : len(text)] = True
    return {"input_ids": ids, "attention_mask": mask, "learned": learned}


def token_logps(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, learned: torch.Tensor
) -> torch.Tensor:
    """Compute the log-probability of each token where `learned` is true, shape (learned,).

    The inputs are those that `pad` makes; the first token of a text is never learned. Each of
    several processes reads a share of the texts, and all of them get the whole result.
    """

    def read(texts: Any) -> torch.Tensor:
        ids, mask, where = input_ids[texts], attention_mask[texts], learned[texts, 1:]
        output = model(input_ids=ids, attention_mask=mask, use_cache=False)
        # A log-softmax that includes the prompts would need as much memory as the logits again.
        logits = output.logits[:, :-1][where].float()
        chosen = logits.gather(-1, ids[:, 1:][where][:, None])[:, 0]
        logps: torch.Tensor = chosen - logits.logsumexp(-1)
        return logps.new_zeros(where.shape).masked_scatter(where, logps)

    logps: torch.Tensor = data_parallel.read_in_shares(len(input_ids), read)[learned[:, 1:]]
    return logps
