"""The rows of a batch that is being decoded: their cache, their random draws, their next token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from harness.engines import Sampling

SPARE = 64  # columns by which a cache grows at a time


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """Keys and values of one layer, in place: a step writes one column and copies nothing.

    The stock layer copies the whole cache at every step, into memory that it asks for anew.
    """

    _stores: tuple[torch.Tensor, torch.Tensor]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append `key_states` and `value_states`, (rows, heads, new, dim); return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._stores = key_states, value_states
            start = 0
        else:
            start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._stores[0].shape[-2]:
            self._grow(end + SPARE)
        if start:
            self._stores[0][:, :, start:end] = key_states
            self._stores[1][:, :, start:end] = value_states
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices`, in that order; a row may be kept several times."""
        columns = self.keys.shape[-2]
        self._stores = self.keys[indices], self.values[indices]
        self._grow(columns + SPARE)
        self._show(columns)

    def _grow(self, columns: int) -> None:
        self._stores = _widened(self._stores[0], columns), _widened(self._stores[1], columns)

    def _show(self, columns: int) -> None:
        self.keys, self.values = (store[:, :, :columns] for store in self._stores)


def _widened(store: torch.Tensor, columns: int) -> torch.Tensor:
    rows, heads, used, dim = store.shape
    wide = store.new_empty(rows, heads, columns, dim)
    wide[:, :, :used] = store
    return wide


def new_cache(config: Any) -> DynamicCache:
    """An empty cache for a model: full attention in `GrowingLayer`s, the rest as it comes."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(x) is DynamicLayer else x for x in cache.layers]
    return cache


def draws(keys: Sequence[tuple[str, int]], sampling: Sampling) -> torch.Tensor:
    """Uniform draws in [0, 1) for each (prompt, sample), shape (rows, max_tokens).

    They come from Philox with a key of (seed, prompt, sample) alone, so that neither the order
    of the prompts nor the batch changes an answer.
    """
    drawn = np.empty((len(keys), sampling.max_tokens), dtype=np.float32)
    for row, (prompt, sample) in zip(drawn, keys, strict=True):
        named = f"{sampling.seed}/{sample}/{prompt}".encode("utf-8", "surrogatepass")
        key = int.from_bytes(hashlib.sha256(named).digest()[:16], "little")
        np.random.Generator(np.random.Philox(key=key)).random(out=row, dtype=np.float32)
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
