"""Training by rank: responses to a prompt are to be as likely as they are good.

Of responses with rewards r and length-normalised log-probabilities p of a prompt, the loss is

    sum over r_i < r_j of max(0, p_i - p_j)  -  log-probability of the best one

(Z. Yuan et al., RRHF, arXiv 2304.05302). The log-probability of the best one is a sum over its
tokens, as in the paper; the authors' program takes the mean, against which the ranking weighs as
many times more as there are tokens. TRL has nothing like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from harness.core.progress import track
from harness.core.schema import Record
from harness.engines.text import encode
from rlrf.checkpoint import Checkpoint
from rlrf.config import Adapter, Device, Training
from rlrf.objectives import base, custom_loss
from rlrf.objectives.checkpoints import Saves
from rlrf.quiet import quiet

if TYPE_CHECKING:
    import torch

METRICS = {
    "loss": "loss",
    "rank_loss": "rank_loss",
    "logp_best": "logp_best",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


class Ranking(Record):
    """Responses to a prompt, best first."""

    task: str
    item: str
    index: int
    prompt: str = Field(description="as the policy saw it when it explored")
    responses: list[str] = Field(min_length=2)
    ranks: list[int] = Field(description="0 the best; equally good ones have equal ranks")
    cut: list[bool] = Field(description="the length limit ended it, so no end is learned")

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self.responses)

    @model_validator(mode="after")
    def _one_of_each(self) -> Ranking:
        if not len(self.responses) == len(self.ranks) == len(self.cut):
            raise ValueError("a ranking has one rank and one cut a response")
        return self


@quiet()
@base.in_memory()
def rrhf(
    rankings: Sequence[Ranking],
    start: Checkpoint,
    config: Training,
    *,
    adapter: Adapter | None,
    device: Device,
    seed: int,
    out: Path,
    logs: Path | None = None,
    saves: Saves | None = None,
) -> None:
    """Train `start` on `rankings` and save it under `out`, as `dpo` does.

    A batch is `config.batch_size` prompts with all their responses. `metrics.jsonl` has the loss,
    the part of it that ranks, and the mean log-probability of the best responses.

    Raises:
        DivergedError: the loss is not a number.
        UserError: every prompt is longer than `config.max_length`.
    """
    import datasets
    import torch
    import transformers

    tokenizer = base.load_tokenizer(start)
    model = base.load_with_adapter(start, adapter, device, seed)
    max_length = base.room(model, config)
    rows = tokenize(rankings, tokenizer, max_length)
    base.check_room("rankings", len(rows), len(rankings), max_length)

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [ids for row in batch for ids in row["ids"]]
        starts = [row["start"] for row in batch for _ in row["ids"]]
        longest = max(map(len, texts))
        ids = torch.full((len(texts), longest), tokenizer.pad_token_id)
        mask, learned = torch.zeros_like(ids), torch.zeros_like(ids)
        for place, (text, first) in enumerate(zip(texts, starts, strict=True)):
            ids[place, : len(text)] = torch.tensor(text)
            mask[place, : len(text)] = 1
            learned[place, first : len(text)] = 1
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "learned": learned,
            "group": torch.tensor([g for g, row in enumerate(batch) for _ in row["ids"]]),
            "rank": torch.tensor([rank for row in batch for rank in row["ranks"]]),
        }

    with (
        base.session(config, device, seed, logs, saves) as arguments,
        track(f"train from {start.name}", base.steps(len(rows), config), "steps") as advance,
    ):
        watch = base.watch(advance, METRICS)
        trainer = custom_loss.trainer(_loss)(
            model=model,
            args=transformers.TrainingArguments(**arguments, remove_unused_columns=False),
            train_dataset=datasets.Dataset.from_list(rows),
            data_collator=collate,
            callbacks=[watch],
        )
        base.run(trainer, means=True, saves=saves)
    base.keep(trainer, watch.rows, tokenizer, start=start, adapter=adapter, device=device, out=out)


def tokenize(rankings: Sequence[Ranking], tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Token ids of the rankings whose best response fits; others of a ranking that are longer, or
    were cut off before a word, are left out."""
    rows = []
    for one in rankings:
        prompt = encode(tokenizer, one.prompt)
        texts = [
            prompt + base.encode_response(text, tokenizer, cut=cut)
            for text, cut in zip(one.responses, one.cut, strict=True)
        ]
        fits = [i for i, ids in enumerate(texts) if len(prompt) < len(ids) <= max_length]
        if 0 in fits and len(fits) > 1:
            rows.append(
                {
                    "ids": [texts[place] for place in fits],
                    "ranks": [one.ranks[place] for place in fits],
                    "start": len(prompt),
                }
            )
    return rows


def _loss(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, dict[str, float]]:
    ranked, best = loss_terms(*response_logps(model, inputs), inputs["rank"], inputs["group"])
    return ranked + best, {"rank_loss": ranked.item(), "logp_best": -best.item()}


def response_logps(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and number of tokens of each response, both of shape (responses,).

    `inputs` are `input_ids`, `attention_mask` and `learned`, 1 where there is a response, all of
    shape (responses, longest).
    """
    import torch

    learned = inputs["learned"].bool()
    logps = custom_loss.token_logps(model, inputs["input_ids"], inputs["attention_mask"], learned)
    sizes = learned.sum(-1)
    totals = torch.stack([of_one.sum() for of_one in torch.split(logps, sizes.tolist())])
    return totals, sizes


def loss_terms(
    logps: torch.Tensor, sizes: torch.Tensor, ranks: torch.Tensor, groups: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ranking loss and the negative log-likelihood of the best, means over prompts.

    `logps`, `sizes` (tokens), `ranks` (0 the best) and `groups` (which prompt a response belongs
    to, from 0) have shape (responses,); the first response of a prompt is its best.
    """
    import torch

    same = groups[:, None] == groups[None, :]
    worse = same & (ranks[:, None] > ranks[None, :])  # i is worse than j
    prompts = groups.max() + 1
    means = logps / sizes
    ranked = (torch.relu(means[:, None] - means[None, :]) * worse).sum() / prompts
    first = torch.ones_like(groups, dtype=torch.bool)
    first[1:] = groups[1:] != groups[:-1]
    return ranked, -logps[first].mean()
