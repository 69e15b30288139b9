"""Token rewards: how likely the rewriter finds each token of a response that it is to rewrite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from harness.core.log import say
from harness.core.progress import track
from harness.core.schema import Item, Record
from rlrf.config import Rlmec
from rlrf.feedback import Judged
from rlrf.objectives import base
from rlrf.objectives.custom_loss import pad, token_logps
from rlrf.rlmec.rewriter import REWRITE, conversation
from rlrf.rlmec.teacher import is_right
from rlrf.rlmec.tokens import pieces
from tasks.task import Task

if TYPE_CHECKING:
    from harness.engines.hf import HFEngine

DIGITS = 6  # kept of a probability


class TokenRewards(Record):
    """What each token of a response is worth; `tokens` are their texts."""

    item: str
    repeat: int
    right: bool = Field(description="the response reaches the gold answer")
    tokens: list[str]
    probabilities: list[float] = Field(description="that the rewriter gives to the tokens")
    rewards: list[float]


def token_rewards(
    engine: HFEngine,
    judged: Sequence[Judged],
    items: Mapping[str, Item],
    tasks: Mapping[str, Task],
    config: Rlmec,
) -> list[TokenRewards]:
    """The token rewards of every scored response that fits into the rewriter's context.

    `engine` holds the rewriter.
    """
    tokenizer = engine.tokenizer
    rows: list[tuple[Judged, bool, list[int], list[int]]] = []
    long = 0
    for one in judged:
        sample, right = one.sample, is_right(one, tasks, config.gold)
        if right is None:
            continue
        asked = conversation(items[sample.item].prompt, sample.response, REWRITE)
        prompt = engine.encode(engine.render(asked))
        response = base.encode_response(sample.response, tokenizer, cut=_cut(one))
        if len(prompt) + len(response) > engine.context:
            long += 1
        elif response:
            rows.append((one, right, prompt, response))
    if long:
        say(f"{long} of {len(judged)} responses are too long for the rewriter to reward")
    probabilities: dict[int, list[float]] = {}
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i][2]) - len(rows[i][3]))
    with track("token rewards", len(rows), "responses") as advance:
        for first in range(0, len(order), config.train.batch_size):
            batch = order[first : first + config.train.batch_size]
            found = _probabilities(engine, [(rows[i][2], rows[i][3]) for i in batch])
            probabilities |= dict(zip(batch, found, strict=True))
            advance(len(batch))
    return [
        TokenRewards(
            item=one.sample.item,
            repeat=one.sample.repeat,
            right=right,
            tokens=pieces(one.sample.response, tokenizer, cut=_cut(one)),
            probabilities=probabilities[i],
            rewards=[round(token_reward(p, right, config), DIGITS) for p in probabilities[i]],
        )
        for i, (one, right, _, _) in enumerate(rows)
    ]


def token_reward(probability: float, right: bool, config: Rlmec) -> float:
    """Compute a token's reward R from the rewriter's probability P of it.

    R = clip(P - .5, 0, .5) in a right response and clip(P - .5, -.1, 0) in a wrong one: likely
    tokens of right responses are encouraged, unlikely tokens of wrong ones discouraged.
    """
    low, high = (0.0, config.most) if right else (-config.least, 0.0)
    return min(max(probability - config.middle, low), high)


def _cut(judged: Judged) -> bool:
    return judged.sample.finish_reason == "length"


def _probabilities(
    engine: HFEngine, texts: Sequence[tuple[list[int], list[int]]]
) -> list[list[float]]:
    """The model's probability of each token of a response after its prompt, teacher-forced."""
    import torch

    inputs = pad([prompt + response for prompt, response in texts], [len(p) for p, _ in texts], 0)
    with torch.inference_mode():
        on_device = {name: values.to(engine.device) for name, values in inputs.items()}
        logps = token_logps(engine.model, **on_device)
    found = iter(logps.exp().tolist())
    return [[round(next(found), DIGITS) for _ in response] for _, response in texts]
