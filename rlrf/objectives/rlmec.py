"""Training by token rewards and edits: L = L_RL + c L_IMI (RLMEC, arXiv 2401.06081).

Of a response the tokens are pushed by their rewards, of its rewrite they are imitated, the edited
ones most. The reference is the policy that training starts from: its log-probabilities are
computed once, before the first step, so that no second model is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from harness.core.progress import track
from harness.core.schema import Record
from harness.engines.text import encode
from rlrf.checkpoint import Checkpoint
from rlrf.config import Adapter, Device, Rlmec, Training
from rlrf.objectives import base, custom_loss
from rlrf.objectives.checkpoints import Saves
from rlrf.objectives.custom_loss import token_logps
from rlrf.quiet import quiet
from rlrf.rlmec import objective

if TYPE_CHECKING:
    import torch

METRICS = {
    "loss": "loss",
    "rl": "rl",
    "imitation": "imitation",
    "reward": "reward",
    "rewarded": "rewarded",
    "ratio": "ratio",
    "clipped": "clipped",
    "logp_rewrite": "logp_rewrite",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}

Row = dict[str, Any]


class RewriteExample(Record):
    """A response with a reward a token, and the rewrite of it that reaches the gold answer.

    `tokens` and `rewrite_tokens` are text, the end token in its own spelling.
    """

    task: str
    item: str
    index: int
    prompt: str = Field(description="as the policy saw it when it explored")
    response: str
    cut: bool = Field(description="the length limit ended it, so no end is learned")
    right: bool = Field(description="the response itself reaches the gold answer")
    tokens: list[str]
    rewards: list[float] = Field(description="of each token of the response")
    rewrite: str
    rewrite_tokens: list[str]
    edited: list[bool] = Field(description="of each token of the rewrite: inserted or substituted")

    @property
    def texts(self) -> tuple[str, ...]:
        return self.response, self.rewrite

    @model_validator(mode="after")
    def _one_of_each(self) -> RewriteExample:
        if len(self.tokens) != len(self.rewards) or len(self.rewrite_tokens) != len(self.edited):
            raise ValueError("a token has one reward, a token of the rewrite is edited or not")
        return self


@quiet()
@base.in_memory()
def rlmec(
    rewrites: Sequence[RewriteExample],
    start: Checkpoint,
    config: Training,
    *,
    settings: Rlmec,
    adapter: Adapter | None,
    device: Device,
    seed: int,
    out: Path,
    logs: Path | None = None,
    saves: Saves | None = None,
) -> None:
    """Train `start` on `rewrites` and save it under `out`, as `dpo` does.

    A batch is `config.batch_size` responses with their rewrites. `metrics.jsonl` has the loss and
    its two parts, the mean reward of a response's token and the share that has one other than 0,
    the mean ratio to the reference and the share of rewarded tokens where it is clipped, and the
    mean log-probability of a token of the rewrites.

    Raises:
        DivergedError: the loss is not a number.
        UserError: every response is longer than `config.max_length`.
    """
    import transformers

    tokenizer = base.load_tokenizer(start)
    model = base.load_with_adapter(start, adapter, device, seed)
    max_length = base.room(model, config)
    rows = tokenize(rewrites, tokenizer, settings, max_length)
    base.check_room("rewrites", len(rows), len(rewrites), max_length)

    def collate(batch: Sequence[Row]) -> dict[str, torch.Tensor]:
        return _collate(batch, tokenizer.pad_token_id)

    with (
        base.session(config, device, seed, logs, saves) as arguments,
        track(f"train from {start.name}", base.steps(len(rows), config), "steps") as advance,
    ):
        watch = base.watch(advance, METRICS)
        trainer = custom_loss.trainer(partial(loss_terms, settings=settings))(
            model=model,
            args=transformers.TrainingArguments(**arguments, remove_unused_columns=False),
            train_dataset=rows,
            data_collator=collate,
            callbacks=[watch],
        )

        def read_reference(model: Any) -> None:
            for first in range(0, len(rows), config.batch_size):
                batch = rows[first : first + config.batch_size]
                _add_reference(model, batch, trainer._prepare_inputs(collate(batch)))

        base.run(trainer, means=True, first=read_reference, saves=saves)
    base.keep(trainer, watch.rows, tokenizer, start=start, adapter=adapter, device=device, out=out)


def tokenize(
    rewrites: Sequence[RewriteExample], tokenizer: Any, settings: Rlmec, max_length: int
) -> list[Row]:
    """Token ids, rewards and weights of the rewrites that fit, with their responses."""
    rows = []
    for one in rewrites:
        prompt = encode(tokenizer, one.prompt)
        response = base.encode_response(one.response, tokenizer, cut=one.cut)
        rewrite = base.encode_response(one.rewrite, tokenizer)
        if len(prompt) + max(len(response), len(rewrite)) <= max_length:
            rows.append(
                {
                    "prompt": prompt,
                    "response": response,
                    "rewrite": rewrite,
                    "rewards": one.rewards,
                    "reference": [0.0] * len(response),
                    "weights": [settings.edited if e else settings.kept for e in one.edited],
                }
            )
    return rows


def loss_terms(
    model: Any, inputs: dict[str, torch.Tensor], settings: Rlmec
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a batch, as `_collate` makes it, and what is worth watching of it."""
    learned = inputs["learned"]
    logps = token_logps(model, inputs["input_ids"], inputs["attention_mask"], learned)
    is_response, rewards, reference, imitated = (
        inputs[name][learned] for name in ("is_response", "rewards", "reference", "weights")
    )
    pushes = objective.weights(logps, reference, rewards, settings.clip)
    rl = objective.reinforcement(logps, pushes, rewards)
    imitation = objective.imitation(logps, imitated)
    rewarded = rewards != 0
    ratio = (logps.detach() - reference).exp()
    clipped = rewarded & (pushes != ratio * rewards)
    responses = is_response.sum()
    return rl + settings.imitation * imitation, {
        "rl": rl.item(),
        "imitation": imitation.item(),
        "reward": (rewards.sum() / responses).item(),
        "rewarded": (rewarded.sum() / responses).item(),
        "ratio": ratio[is_response].mean().item(),
        "clipped": (clipped.sum() / rewarded.sum().clamp(min=1)).item(),
        "logp_rewrite": logps.detach()[~is_response].mean().item(),
    }


def _add_reference(model: Any, rows: Sequence[Row], inputs: dict[str, torch.Tensor]) -> None:
    """Give each row the log-probabilities of its response under `model`; `inputs` are the rows."""
    import torch

    with torch.no_grad():
        logps = token_logps(model, inputs["input_ids"], inputs["attention_mask"], inputs["learned"])
    found = iter(logps.tolist())
    for row in rows:
        row["reference"] = [next(found) for _ in row["response"]]
        for _ in row["rewrite"]:
            next(found)


def _collate(batch: Sequence[Row], padding: int) -> dict[str, torch.Tensor]:
    """A response and its rewrite of each row: tensors of shape (2 rows, longest).

    `learned` is true where a token is learned; `rewards`, `reference` and `weights` are 0 where
    they do not apply.
    """
    import torch

    sequences = [(row, key) for row in batch for key in ("response", "rewrite")]
    longest = max(len(row["prompt"]) + len(row[key]) for row, key in sequences)
    shape = (len(sequences), longest)
    made = {
        "input_ids": torch.full(shape, padding),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "learned": torch.zeros(shape, dtype=torch.bool),
        "is_response": torch.zeros(shape, dtype=torch.bool),
        "rewards": torch.zeros(shape),
        "reference": torch.zeros(shape),
        "weights": torch.zeros(shape),
    }
    for at, (row, key) in enumerate(sequences):
        text = row["prompt"] + row[key]
        span = slice(len(row["prompt"]), len(text))
        made["input_ids"][at, : len(text)] = torch.tensor(text)
        made["attention_mask"][at, : len(text)] = 1
        made["learned"][at, span] = True
        if key == "response":
            made["is_response"][at, span] = True
            made["rewards"][at, span] = torch.tensor(row["rewards"])
            made["reference"][at, span] = torch.tensor(row["reference"])
        else:
            made["weights"][at, span] = torch.tensor(row["weights"])
    return made
