"""Direct preference optimisation (R. Rafailov et al., arXiv 2305.18290), by TRL.

The reference model is the policy model that training starts from: its log-probabilities are
computed once, before the first step, so that no second model is kept in memory. The only change to
TRL's trainer is how log-probabilities are computed (`shared_prompt`, if the model supports it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.core.errors import UserError
from harness.core.files import read_records, write_jsonl
from harness.core.progress import Advance, track
from harness.core.schema import Record, digest
from harness.engines.prompts import encode
from rlrf.objectives import base, data_parallel
from rlrf.objectives.checkpoints import Resumable
from rlrf.objectives.job import Job
from rlrf.pairs import Pair
from rlrf.training_config import Training

SIDES = ("chosen", "rejected")
METRICS = {
    "logps/chosen": "logp_chosen",
    "logps/rejected": "logp_rejected",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
}

TRAINING_COST = 3.0  # of a batch, if a forward pass without gradients costs 1

Ids = list[int]
Row = dict[str, Ids]


@base.objective
def dpo(pairs: Sequence[Pair], job: Job[Training]) -> None:
    """Train a policy model on preference pairs.

    Each row of `metrics.jsonl` has `loss`, the mean log-probabilities of chosen and rejected
    responses (summed over tokens), their implicit rewards and the margin. If the likelihood of the
    chosen responses falls while the margin rises, that is displacement. The reference model's
    log-probabilities are cached in `job.references`.

    Raises:
        DivergedError: the loss is not a finite number.
        UserError: every prompt is longer than `config.max_length`.
    """
    import datasets
    from trl import DPOConfig

    config, adapter = job.config, job.adapter
    tokenizer = base.load_policy_tokenizer(job.start)
    model, lora = base.load_model(job)
    max_length = base.max_tokens(model, config)
    rows = tokenize(pairs, tokenizer, max_length)
    base.report_too_long("pairs", len(rows), len(pairs), max_length, config.place)
    shared = prepare_shared_prompts(model)
    batches, steps = math.ceil(len(rows) / config.batch_size), base.count_steps(len(rows), config)
    # The reference reads each batch once; a step trains on `gradient_accumulation` batches.
    phases = [(batches, 1.0), (steps, TRAINING_COST * config.gradient_accumulation)]
    with (
        base.trainer_arguments(job) as arguments,
        track(f"train from {job.start.name}", batches + steps, "steps", phases) as advance,
    ):
        metrics = base.metrics_callback(advance, METRICS)
        arithmetic = [job.start.digest, str(model.dtype), arguments["bf16"], job.device.device]
        folder = job.references if data_parallel.is_main() else None
        references = ReferenceLogps(folder, digest(arithmetic))
        trainer = trainer_class(references, shared, advance)(
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
            callbacks=[metrics],
            peft_config=lora,
        )
        base.run_trainer(trainer, job, before=trainer.read_reference)
    base.save(trainer, metrics.rows, tokenizer, job)


def tokenize(pairs: Sequence[Pair], tokenizer: Any, max_length: int) -> list[Row]:
    """Encode the pairs whose prompt and chosen response together fit into `max_length` tokens."""
    rows = []
    for pair in pairs:
        prompt = encode(tokenizer, pair.prompt)
        chosen = base.encode_response(pair.chosen, tokenizer)
        rejected = base.encode_response(pair.rejected, tokenizer, cut=pair.rejected_cut)
        if len(prompt) + len(chosen) <= max_length:
            room = max_length - len(prompt)
            rows.append(
                {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected[:room]}
            )
    return rows


def prepare_shared_prompts(model: Any) -> bool:
    """Make `model` read the prompt of each pair once; return whether it supports that."""
    from rlrf.objectives import shared_prompt

    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    supported = shared_prompt.is_supported(plain)
    if supported:
        shared_prompt.prepare(plain)
    return supported


def trainer_class(references: ReferenceLogps, shared: bool, advance: Advance) -> Any:
    """Return TRL's trainer class, changed to compute log-probabilities by `shared_prompt` if
    `shared`, and those of the reference model only if they are not in `references`."""
    from trl import DPOTrainer

    from rlrf.objectives import shared_prompt

    class Trainer(Resumable, data_parallel.WholeBatches, DPOTrainer):  # type: ignore[misc]
        data_collator: Any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.collate = self.data_collator
            self.data_collator = self.collate_with_reference

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            """Keep the rows, which are token ids: TRL would encode prompt and response as one."""
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
            """Leave it to `read_reference`, which uses the trained model: if that is sharded, TRL
            would keep a second one."""
            return dataset

        def read_reference(self, model: Any) -> None:
            """Compute the log-probabilities that are not cached, by the yet untrained `model`."""
            references.known = data_parallel.from_main(references.known)
            computed: dict[str, float] = {}
            # Whole batches, because rounding depends on what is computed together.
            size = self.args.per_device_train_batch_size
            for first in range(0, len(self.train_dataset), size):
                batch = range(len(self.train_dataset))[first : first + size]
                rows = self.train_dataset.select(batch).to_list()
                keys = [[key(row, side) for row in rows] for side in SIDES]
                if all(one in references.known for side_keys in keys for one in side_keys):
                    advance(1)
                    continue
                logps = self.compute_ref_log_probs(model, self._prepare_inputs(self.collate(rows)))
                for side_keys, side_logps in zip(keys, logps, strict=True):
                    computed.update(zip(side_keys, side_logps.tolist(), strict=True))
            if computed:
                references.add(computed)

        def collate_with_reference(self, rows: list[Row]) -> Any:
            logps = [
                {f"ref_{side}_logps": references.known[key(row, side)] for side in SIDES}
                for row in rows
            ]
            return self.collate([row | more for row, more in zip(rows, logps, strict=True)])

        def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
            logps = super().compute_ref_log_probs(reader(model), inputs)
            advance(1)
            return logps

        def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
            return super()._compute_loss(reader(model), inputs, return_outputs)

        def log(self, logs: dict[str, float], *args: Any) -> None:
            for name in shared_prompt.UNMEASURED if shared or data_parallel.processes() > 1 else ():
                self._metrics["train"].pop(name, None)
            super().log(logs, *args)

    def key(row: Row, side: str) -> str:
        return references.key(row["prompt_ids"], row[f"{side}_ids"])

    def reader(model: Any) -> Any:
        return read_pairs_in_shares(shared_prompt.reader(model) if shared else model)

    return Trainer


def read_pairs_in_shares(read: Any) -> Any:
    """Wrap what TRL calls for log-probabilities so that each process reads a share of the pairs."""
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
            balance = getattr(output, "aux_loss", None)  # of a mixture of experts
            logps: torch.Tensor = output.log_probs.unflatten(0, (2, -1)).transpose(0, 1)
            return logps

        log_probs = data_parallel.read_in_shares(pairs, read_pairs).transpose(0, 1).flatten(0, 1)
        return shared_prompt.output(log_probs, balance)

    return read_share


class CachedLogp(Record):
    """The reference model's log-probability of a completion; `key` is `ReferenceLogps.key`."""

    key: str = Field(pattern="^[0-9a-f]{64}$")
    logp: float = Field(allow_inf_nan=False)


@dataclass
class ReferenceLogps:
    """Cache of the reference model's log-probabilities, kept between training jobs.

    Attributes:
        folder: where the cache file lies, or None to keep nothing.
        reference: digest of the reference model's weights, tokenizer and arithmetic.
        known: key of prompt and completion -> log-probability.
    """

    folder: Path | None
    reference: str
    known: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self._file is not None and self._file.is_file():
            try:
                self.known = {one.key: one.logp for one in read_records(self._file, CachedLogp)}
            except UserError:  # damaged: computed again
                self.known = {}

    @property
    def _file(self) -> Path | None:
        # gzip adds a checksum.
        return self.folder and self.folder / f"{self.reference}.jsonl.gz"

    def key(self, prompt: Ids, completion: Ids) -> str:
        """Return the sha256 of the reference model and the tokens."""
        return digest([self.reference, prompt, completion])

    def add(self, logps: Mapping[str, float]) -> None:
        """Remember `logps`, and save those that are finite."""
        self.known |= logps
        if self._file is not None:
            finite = {key: logp for key, logp in self.known.items() if math.isfinite(logp)}
            write_jsonl(self._file, (CachedLogp(key=k, logp=v) for k, v in sorted(finite.items())))
