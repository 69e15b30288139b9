"""RRHF: train a model so that its better responses to a prompt become more likely than worse ones.

For responses to a prompt with rewards r and length-normalised log-probabilities p, the loss is

    sum over r_i < r_j of max(0, p_i - p_j)  -  log-probability of the best response

(Z. Yuan et al., RRHF, arXiv 2304.05302). The log-probability of the best response is a sum over
its tokens, as in the paper; the authors' program uses the mean, which multiplies the weight of the
ranking by the number of tokens. TRL has no such trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from harness.core.schema import Record
from harness.engines.prompts import encode
from rlrf.objectives import base, custom_loss
from rlrf.objectives.job import Job
from rlrf.training_config import Training

if TYPE_CHECKING:
    import torch


class Ranking(Record):
    """Responses to a prompt, best first."""

    task: str
    item: str
    index: int
    prompt: str = Field(description="as the policy model saw it when it explored")
    responses: list[str] = Field(min_length=2)
    ranks: list[int] = Field(description="0 is best; equally good responses have equal ranks")
    cut: list[bool] = Field(description="ended by the length limit, so no end is learned")

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self.responses)

    @model_validator(mode="after")
    def _one_of_each(self) -> Ranking:
        if not len(self.responses) == len(self.ranks) == len(self.cut):
            raise ValueError("a ranking needs one rank and one cut per response")
        return self


@base.objective
def rrhf(rankings: Sequence[Ranking], job: Job[Training]) -> None:
    """Train a policy model on ranked responses.

    A batch is `config.batch_size` prompts with all their responses. Each row of `metrics.jsonl` has
    the loss, its ranking part, and the mean log-probability of the best responses.

    Raises:
        DivergedError: the loss is not a finite number.
        UserError: every prompt is longer than `config.max_length`.
    """
    parts = custom_loss.CustomObjective(
        examples="rankings",
        tokenize=tokenize,
        collate=_collate,
        loss=_loss,
        metrics=("rank_loss", "logp_best"),
    )
    custom_loss.train(parts, rankings, job)


def tokenize(rankings: Sequence[Ranking], tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Encode the rankings whose best response fits into `max_length` tokens.

    Other responses that do not fit, or were cut off before their first word, are left out.
    """
    rows = []
    for ranking in rankings:
        prompt = encode(tokenizer, ranking.prompt)
        texts = [
            prompt + base.encode_response(text, tokenizer, cut=cut)
            for text, cut in zip(ranking.responses, ranking.cut, strict=True)
        ]
        fits = [i for i, ids in enumerate(texts) if len(prompt) < len(ids) <= max_length]
        if 0 in fits and len(fits) > 1:
            rows.append(
                {
                    "ids": [texts[place] for place in fits],
                    "ranks": [ranking.ranks[place] for place in fits],
                    "start": len(prompt),
                }
            )
    return rows


def _collate(batch: custom_loss.Rows, padding: int) -> dict[str, torch.Tensor]:
    import torch

    texts = [ids for row in batch for ids in row["ids"]]
    starts = [row["start"] for row in batch for _ in row["ids"]]
    return {
        **custom_loss.pad(texts, starts, padding),
        "group": torch.tensor([g for g, row in enumerate(batch) for _ in row["ids"]]),
        "rank": torch.tensor([rank for row in batch for rank in row["ranks"]]),
    }


def _loss(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, dict[str, float]]:
    ranked, best = loss_terms(*response_logps(model, inputs), inputs["rank"], inputs["group"])
    return ranked + best, {"rank_loss": ranked.item(), "logp_best": -best.item()}


def response_logps(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute log-probability and number of tokens of each response, both of shape (responses,).

    `inputs` are those that `custom_loss.pad` makes, with one response per row.
    """
    import torch

    learned = inputs["learned"]
    logps = custom_loss.token_logps(model, inputs["input_ids"], inputs["attention_mask"], learned)
    sizes = learned.sum(-1)
    totals = torch.stack([response.sum() for response in torch.split(logps, sizes.tolist())])
    return totals, sizes


def loss_terms(
    logps: torch.Tensor, sizes: torch.Tensor, ranks: torch.Tensor, groups: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the ranking loss and the negative log-likelihood of the best, means over prompts.

    `logps`, `sizes` (tokens), `ranks` (0 is best) and `groups` (number of the prompt, from 0) have
    shape (responses,); the first response to a prompt is its best.
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
