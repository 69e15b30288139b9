"""RLMEC's objective: token rewards and edits, L = L_RL + c L_IMI (arXiv 2401.06081).

The tokens of a response are pushed by their rewards; the tokens of its rewrite are imitated, the
edited ones most. The reference model is the policy model that training starts from: its
log-probabilities are computed once, before the first step, so that no second model is kept in
memory.

The sums go over the tokens of a batch; the paper does not say whether its sums go over a batch or a
response. A mean per response would give a token of a short response more weight, which rewards
brevity.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from harness.core.schema import Record
from harness.engines.prompts import encode
from rlrf.objectives import base, custom_loss
from rlrf.objectives.custom_loss import Rows, token_logps
from rlrf.objectives.job import Job
from rlrf.training_config import Rlmec, Training

if TYPE_CHECKING:
    import torch

METRICS = ("rl", "imitation", "reward", "rewarded", "ratio", "clipped", "logp_rewrite")


class RewriteExample(Record):
    """A response with one reward per token, and its rewrite that reaches the gold answer.

    `tokens` and `rewrite_tokens` are text; the end token is spelled out.
    """

    task: str
    item: str
    index: int
    prompt: str = Field(description="as the policy model saw it when it explored")
    response: str
    cut: bool = Field(description="ended by the length limit, so no end is learned")
    right: bool = Field(description="the response itself reaches the gold answer")
    tokens: list[str]
    rewards: list[float] = Field(description="one per token of the response")
    rewrite: str
    rewrite_tokens: list[str]
    edited: list[bool] = Field(description="per token of the rewrite: inserted or substituted")

    @property
    def texts(self) -> tuple[str, ...]:
        return self.response, self.rewrite

    @model_validator(mode="after")
    def _one_of_each(self) -> RewriteExample:
        if len(self.tokens) != len(self.rewards) or len(self.rewrite_tokens) != len(self.edited):
            raise ValueError("a token needs one reward, and a token of the rewrite one edited flag")
        return self


@base.objective
def rlmec(rewrites: Sequence[RewriteExample], job: Job[Training]) -> None:
    """Train a policy model on token rewards and rewrites, with the settings `job.rlmec`.

    A batch is `config.batch_size` responses with their rewrites. Each row of `metrics.jsonl` has
    the loss and its two parts; the mean reward per token of a response and the share of tokens with
    a reward other than 0; the mean ratio to the reference model and the share of rewarded tokens
    whose ratio is clipped; and the mean log-probability per token of the rewrites.

    Raises:
        DivergedError: the loss is not a finite number.
        UserError: every response is longer than `config.max_length`.
    """
    parts = custom_loss.CustomObjective(
        examples="rewrites",
        tokenize=partial(tokenize, settings=job.rlmec),
        collate=_collate,
        loss=partial(loss_terms, settings=job.rlmec),
        metrics=METRICS,
        before=_read_reference,
    )
    custom_loss.train(parts, rewrites, job)


def tokenize(
    rewrites: Sequence[RewriteExample], tokenizer: Any, max_length: int, settings: Rlmec
) -> list[dict[str, Any]]:
    """Encode the rewrites that fit into `max_length` tokens, with token rewards and weights."""
    rows = []
    for example in rewrites:
        prompt = encode(tokenizer, example.prompt)
        response = base.encode_response(example.response, tokenizer, cut=example.cut)
        rewrite = base.encode_response(example.rewrite, tokenizer)
        if len(prompt) + max(len(response), len(rewrite)) <= max_length:
            rows.append(
                {
                    "prompt": prompt,
                    "response": response,
                    "rewrite": rewrite,
                    "rewards": example.rewards,
                    "reference": [0.0] * len(response),
                    "weights": [settings.edited if e else settings.kept for e in example.edited],
                }
            )
    return rows


def loss_terms(
    model: Any, inputs: dict[str, torch.Tensor], settings: Rlmec
) -> tuple[torch.Tensor, dict[str, float]]:
    """Compute the loss of a batch that `_collate` made, and its metrics."""
    learned = inputs["learned"]
    logps = token_logps(model, inputs["input_ids"], inputs["attention_mask"], learned)
    is_response, rewards, reference, imitated = (
        inputs[name][learned] for name in ("is_response", "rewards", "reference", "weights")
    )
    pushes = weights(logps, reference, rewards, settings.clip)
    rl = reinforcement(logps, pushes, rewards)
    imitation_loss = imitation(logps, imitated)
    rewarded = rewards != 0
    ratio = (logps.detach() - reference).exp()
    clipped = rewarded & (pushes != ratio * rewards)
    responses = is_response.sum()
    return rl + settings.imitation * imitation_loss, {
        "rl": rl.item(),
        "imitation": imitation_loss.item(),
        "reward": (rewards.sum() / responses).item(),
        "rewarded": (rewarded.sum() / responses).item(),
        "ratio": ratio[is_response].mean().item(),
        "clipped": (clipped.sum() / rewarded.sum().clamp(min=1)).item(),
        "logp_rewrite": logps.detach()[~is_response].mean().item(),
    }


def weights(
    logps: torch.Tensor, reference: torch.Tensor, rewards: torch.Tensor, clip: float
) -> torch.Tensor:
    """Compute w = min(rho R, clip(rho, 1 - c, 1 + c) R), without a gradient.

    rho = pi / pi_ref is the ratio of the policy model to the reference model, R the reward. Because
    the weight is a constant, a clipped one still pushes its token, unlike in PPO's objective.
    """
    import torch

    ratio = (logps.detach() - reference).exp()
    return torch.minimum(ratio * rewards, ratio.clamp(1 - clip, 1 + clip) * rewards)


def reinforcement(
    logps: torch.Tensor, weights: torch.Tensor, rewards: torch.Tensor
) -> torch.Tensor:
    """Compute L_RL = - sum of w log pi / number of tokens with R != 0; 0 without such tokens."""
    return -(weights * logps).sum() / (rewards != 0).sum().clamp(min=1)


def imitation(logps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute L_IMI = - sum of w log pi / number of tokens with w != 0; 0 without such tokens."""
    return -(weights * logps).sum() / (weights != 0).sum().clamp(min=1)


def _read_reference(trainer: Any, model: Any) -> None:
    """Set each row's reference log-probabilities: those of its response under `model`."""
    import torch

    rows, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
    for first in range(0, len(rows), size):
        batch = rows[first : first + size]
        inputs = trainer._prepare_inputs(trainer.data_collator(batch))
        learned = inputs["learned"]
        with torch.no_grad():
            logps = token_logps(model, inputs["input_ids"], inputs["attention_mask"], learned)
        values = iter(logps.tolist())
        for row in batch:
            row["reference"] = [next(values) for _ in row["response"]]
            for _ in row["rewrite"]:
                next(values)


def _collate(batch: Rows, padding: int) -> dict[str, torch.Tensor]:
    """Make a batch of each row's response and rewrite: tensors of shape (2 rows, longest).

    `rewards`, `reference` and `weights` are 0 where they do not apply.
    """
    import torch

    made = custom_loss.pad(
        [row["prompt"] + row[key] for row in batch for key in ("response", "rewrite")],
        [len(row["prompt"]) for row in batch for _ in range(2)],
        padding,
    )
    learned = made["learned"]
    made["is_response"] = learned.clone()
    made["is_response"][1::2] = False
    for name in ("rewards", "reference", "weights"):
        made[name] = torch.zeros(learned.shape)
    for place, row in enumerate(batch):
        response, rewrite = learned[2 * place], learned[2 * place + 1]
        made["rewards"][2 * place, response] = torch.tensor(row["rewards"])
        made["reference"][2 * place, response] = torch.tensor(row["reference"])
        made["weights"][2 * place + 1, rewrite] = torch.tensor(row["weights"])
    return made
