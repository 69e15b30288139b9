"""Tokens of a response: their texts, their rewards, and which of them a rewrite edits."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harness.core.log import say
from harness.core.progress import track
from harness.core.schema import Item, Record
from harness.engines.prompts import without_surrogates
from rlrf.feedback import Judged
from rlrf.objectives import base
from rlrf.objectives.custom_loss import pad, token_logps
from rlrf.rlmec.rewriter import REWRITE
from rlrf.rlmec.teacher import is_right
from rlrf.sampling import conversation
from rlrf.training_config import Rlmec
from tasks.task import Task

if TYPE_CHECKING:
    from harness.engines.hf import HFEngine

DIGITS = 6  # kept of a probability


class TokenRewards(Record):
    """The reward of each token of a response; `tokens` are their texts."""

    item: str
    repeat: int
    right: bool = Field(description="the response reaches the gold answer")
    tokens: list[str]
    probabilities: list[float] = Field(description="of the tokens, by the rewriter")
    rewards: list[float]


def token_rewards(
    engine: HFEngine,
    judged: Sequence[Judged],
    items: Mapping[str, Item],
    tasks: Mapping[str, Task],
    config: Rlmec,
) -> list[TokenRewards]:
    """Compute the token rewards of every scored response that fits into the rewriter's context.

    A reward depends on how likely the rewriter, in `engine`, finds a token of the response that it
    is asked to rewrite.
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
            of_batch = _probabilities(engine, [(rows[i][2], rows[i][3]) for i in batch])
            probabilities |= dict(zip(batch, of_batch, strict=True))
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
    """Compute the model's probability of each token of a response after its prompt."""
    import torch

    inputs = pad([prompt + response for prompt, response in texts], [len(p) for p, _ in texts], 0)
    with torch.inference_mode():
        on_device = {name: values.to(engine.device) for name, values in inputs.items()}
        logps = token_logps(engine.model, **on_device)
    values = iter(logps.exp().tolist())
    return [[round(next(values), DIGITS) for _ in response] for _, response in texts]


def pieces(text: str, tokenizer: Any, *, cut: bool = False) -> list[str]:
    """Return the text of each token of `encode_response(text, ...)`.

    The end token is spelled out. A character made of several tokens belongs to the first.
    """
    text = without_surrogates(text)
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = [0]
        for _, end in encoded["offset_mapping"]:
            ends.append(max(end, ends[-1]))
        ends[-1] = len(text) if len(ends) > 1 else 0
        texts = [text[a:b] for a, b in itertools.pairwise(ends)]
    else:
        ids = tokenizer.encode(text, add_special_tokens=False)
        texts = [tokenizer.decode([token]) for token in ids]
    return texts if cut else [*texts, tokenizer.eos_token]


# Edits ------------------------------------------------------------------------------------------


def edited(before: Sequence[int], after: Sequence[int]) -> list[bool]:
    """Mark the tokens of `after` that were inserted or substituted."""
    return [
        place is None or before[place] != token
        for place, token in zip(align(before, after), after, strict=True)
    ]


def align(before: Sequence[int], after: Sequence[int]) -> list[int | None]:
    """Align `after` with `before` by as few insertions, substitutions and deletions as possible.

    Returns the position in `before` of each token of `after`, None if it was inserted. Of several
    such alignments, the result keeps the common beginning and end. Levenshtein's distance with unit
    costs (V. I. Levenshtein, Soviet Physics Doklady 1966; R. A. Wagner and M. J. Fischer, JACM
    1974).
    """
    shorter = min(len(before), len(after))
    head = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    room = shorter - head
    tail = next((i for i in range(room) if before[-1 - i] != after[-1 - i]), room)
    end = len(before) - tail
    middle = _align(before[head:end], after[head : len(after) - tail])
    moved = [None if place is None else head + place for place in middle]
    return [*range(head), *moved, *range(end, len(before))]


def _align(before: Sequence[int], after: Sequence[int]) -> list[int | None]:
    costs = _costs(before, after)
    places: list[int | None] = [None] * len(after)
    i, j = len(before), len(after)
    while i and j:
        if costs[i, j] == costs[i - 1, j - 1] + (before[i - 1] != after[j - 1]):
            i, j = i - 1, j - 1
            places[j] = i
        elif costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return places


def _costs(before: Sequence[int], after: Sequence[int]) -> npt.NDArray[np.int32]:
    """Compute the edit distance of each pair of prefixes, shape (before + 1, after + 1)."""
    wanted = np.asarray(after, dtype=np.int64)
    steps = np.arange(len(after) + 1, dtype=np.int32)
    costs = np.empty((len(before) + 1, len(after) + 1), dtype=np.int32)
    costs[0] = steps
    for i, token in enumerate(before, start=1):
        row = costs[i - 1] + 1  # the token is deleted
        np.minimum(row[1:], costs[i - 1, :-1] + (wanted != token), out=row[1:])
        # Insertions move along the row: the minimum of row[k] + (j - k) over k <= j.
        costs[i] = np.minimum.accumulate(row - steps) + steps
    return costs
