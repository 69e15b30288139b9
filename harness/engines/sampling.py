"""The rows of a batch that is being decoded: their random draws, their next token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from harness.engines import Sampling, seed_of


def draws(keys: Sequence[tuple[str, int]], sampling: Sampling) -> torch.Tensor:
    """Uniform draws in [0, 1) for each (prompt, sample), shape (rows, max_tokens).

    They come from Philox with a key of (seed, prompt, sample) alone, so that neither the order
    of the prompts nor the batch changes an answer.
    """
    drawn = np.empty((len(keys), sampling.max_tokens), dtype=np.float32)
    for row, (prompt, sample) in zip(drawn, keys, strict=True):
        generator = np.random.Generator(np.random.Philox(key=seed_of(sampling, prompt, sample)))
        generator.random(out=row, dtype=np.float32)
    return torch.from_numpy(drawn)


def choose(logits: torch.Tensor, sampling: Sampling, drawn: torch.Tensor) -> torch.Tensor:
    """The next token of each row, from logits (rows, vocabulary) and draws (rows,).

    At temperature 0 the likeliest; else the inverse of the distribution function at the draw,
    within the fewest likeliest tokens that together have `top_p`.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    shares = torch.softmax(logits.float() / sampling.temperature, -1)
    if sampling.top_p == 1:
        return _inverse(shares, drawn)
    shares, tokens = shares.sort(dim=-1, descending=True, stable=True)
    before = shares.cumsum(-1) - shares
    place = _inverse(shares.masked_fill(before >= sampling.top_p, 0.0), drawn)
    return tokens.gather(-1, place[:, None])[:, 0]


def _inverse(shares: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    # A draw is at most 1 - 2^-24, so that its product with the total rounds to less than it, and
    # the first place above it always exists and has a share.
    cumulative = shares.cumsum(-1)
    place = torch.searchsorted(cumulative, drawn[:, None] * cumulative[:, -1:], right=True)
    return place[:, 0]
