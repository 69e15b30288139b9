"""Attend to what rows have in common once per step, while `transformers` models decode.

A row's keys and values lie in three stretches: the beginning of all prompts, the rest of its
prompt, which the samples of the prompt share, and its own tokens. All rows that share a stretch
attend to it in one matrix product. Each stretch has its own softmax, and the results are joined by
the logarithms of their totals (as in Hydragen, arXiv:2402.05099).

A column is one token position of a batch. Keys and values are (rows, heads, columns, dim).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

NAME = "shared_prefix"  # of this attention, in `transformers`
GROWTH = 64  # columns by which the store of own tokens grows at a time
HIDDEN = -1e30  # added to the score of a hidden key; finite, so that no 0/0 arises
# Arguments of attention that change nothing here
IGNORED = {"dropout", "is_causal", "position_ids", "output_attentions", "use_cache"}
IGNORED |= {"cache_position"}

KeysValues = tuple[torch.Tensor, torch.Tensor]  # of one layer


class _UnsupportedAttentionError(Exception):
    """A model's attention does more than this module does."""


class Attention(Protocol):
    """Attend for a layer of a model; see `shared_attention`."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Attend with the scaled `query`, (rows, query heads, columns, dim).

        `key` and `value` are (rows, heads, columns, dim); the result is (rows, columns, query
        heads, dim).
        """


class SharedCache:
    """Keys and values of the rows of a batch, and attention to them.

    Args:
        start: per layer, what all prompts begin with, as one row; empty if they have nothing in
            common, or if a layer has a sliding window.
        prompts: per layer, the rests of the prompts, padded on the left.
        positions: position of each column of `prompts` in its prompt, (prompts, columns); -1 is
            padding.
        owner: per row, the index of its prompt in `prompts`; ascending.
    """

    def __init__(
        self,
        start: list[KeysValues],
        prompts: list[KeysValues],
        positions: torch.Tensor,
        owner: torch.Tensor,
    ) -> None:
        self._start, self._prompts, self._positions = start, prompts, positions
        self._own: list[KeysValues] = []
        self._steps = -1
        self._biases: dict[int | None, tuple[torch.Tensor | None, torch.Tensor | None]] = {}
        self._lay_out(owner)

    def step(self) -> None:
        """Make room for one more token per row, which every layer attends with next."""
        self._steps += 1
        # Only the bias of a sliding window changes.
        self._biases = {window: bias for window, bias in self._biases.items() if window is None}

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but `rows`, and the prompts that none of them has."""
        self._own = [(keys[rows], values[rows]) for keys, values in self._own]
        prompts, owner = torch.unique_consecutive(self._owner[rows], return_inverse=True)
        if len(prompts) < len(self._positions):
            self._prompts = [(keys[prompts], values[prompts]) for keys, values in self._prompts]
            self._positions = self._positions[prompts]
        self._lay_out(owner)

    def _lay_out(self, owner: torch.Tensor) -> None:
        """Lay the rows out as (prompts, width), as wide as the prompt with most rows."""
        self._biases = {}
        first = torch.searchsorted(owner, owner)
        rank = torch.arange(len(owner), device=owner.device) - first
        self._owner, self._width = owner, int(rank.max()) + 1
        is_full = len(owner) == len(self._positions) * self._width
        self._slots = None if is_full else owner * self._width + rank

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Attend with the newest tokens' scaled `query`, and keep their `key` and `value`.

        Shapes: query (rows, query heads, 1, dim), key and value (rows, heads, 1, dim), result
        (rows, 1, query heads, dim).
        """
        rows, heads = key.shape[:2]
        query = query.reshape(rows, heads, -1, query.shape[-1])
        prompt_bias, own_bias = self._bias(window)
        # 1. The own tokens of each row.
        parts = [_attend(query, *self._append(layer, key, value), own_bias, softcap)]
        # 2. The prompts: one product per prompt for all its rows.
        part = _attend(self._by_prompt(query), *self._prompts[layer], prompt_bias, softcap)
        parts.append((self._by_row(part[0], rows), self._by_row(part[1], rows)))
        # 3. The beginning of all prompts: one product for all rows.
        if self._start:
            together = query.transpose(0, 1).reshape(1, heads, -1, query.shape[-1])
            out, total = (
                x[0].reshape(heads, rows, -1, x.shape[-1]).transpose(0, 1)
                for x in _attend(together, *self._start[layer], None, softcap)
            )
            parts.append((out, total))
        # 4. Join the stretches by their shares of the softmax over all columns.
        shares = torch.cat([total for _, total in parts], -1).softmax(-1)
        joined = sum(shares[..., i : i + 1] * out for i, (out, _) in enumerate(parts))
        return joined.reshape(rows, 1, -1, joined.shape[-1])  # type: ignore[union-attr]

    def _append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> KeysValues:
        if layer == len(self._own):
            self._own.append((key[:, :, :0], value[:, :, :0]))
        keys, values = self._own[layer]
        if self._steps >= keys.shape[2]:
            keys, values = (_widened(x, self._steps + GROWTH) for x in (keys, values))
            self._own[layer] = keys, values
        keys[:, :, self._steps], values[:, :, self._steps] = key[:, :, 0], value[:, :, 0]
        return keys[:, :, : self._steps + 1], values[:, :, : self._steps + 1]

    def _by_prompt(self, query: torch.Tensor) -> torch.Tensor:
        """(rows, heads, group, dim) as (prompts, heads, width x group, dim)."""
        if self._slots is not None:
            wide = query.new_zeros(len(self._positions) * self._width, *query.shape[1:])
            wide[self._slots] = query
            query = wide
        _, heads, group, dim = query.shape
        laid = query.view(-1, self._width, heads, group, dim).transpose(1, 2)
        return laid.reshape(-1, heads, self._width * group, dim)

    def _by_row(self, out: torch.Tensor, rows: int) -> torch.Tensor:
        """(prompts, heads, width x group, n) as (rows, heads, group, n)."""
        prompts, heads, _, n = out.shape
        laid = out.view(prompts, heads, self._width, -1, n).transpose(1, 2)
        laid = laid.reshape(prompts * self._width, heads, -1, n)
        return laid if self._slots is None else laid[self._slots]

    def _bias(self, window: int | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Compute what to add to the scores of prompts and of own tokens at this step."""
        if window not in self._biases:
            hidden = self._positions < 0
            own = None
            if window is not None:
                newest_hidden = self._positions[:, -1:] + 1 + self._steps - window
                hidden = hidden | (self._positions <= newest_hidden)
                columns = torch.arange(self._steps + 1, device=self._positions.device)
                own = _hiding(columns <= self._steps - window)
            prompts = _hiding(hidden)
            prompts = None if prompts is None else prompts[:, None, None]
            self._biases[window] = prompts, own
        return self._biases[window]


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to one stretch; return the result and the logarithm of the softmax's total."""
    scores = (query @ keys.transpose(-1, -2)).float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if bias is not None:
        scores += bias
    highest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(highest).exp_()
    total = weights.sum(-1, keepdim=True)
    return (weights.to(values.dtype) @ values).float() / total, highest + total.log()


def _hiding(hidden: torch.Tensor) -> torch.Tensor | None:
    return hidden * HIDDEN if hidden.any() else None


def _widened(store: torch.Tensor, columns: int) -> torch.Tensor:
    wide = store.new_empty(*store.shape[:2], columns, store.shape[3])
    wide[:, :, : store.shape[2]] = store
    return wide


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    shared: Attention,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as `transformers` asks."""
    scaling, window, softcap = (
        options.pop(name, None) for name in ("scaling", "sliding_window", "softcap")
    )
    if unknown := {name for name, given in options.items() if given is not None} - IGNORED:
        raise _UnsupportedAttentionError(f"attention with {', '.join(sorted(unknown))}")
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    out = shared.attend(module.layer_idx, query, key, value, window=window, softcap=softcap)
    return out.to(value.dtype), None


AttentionInterface.register(NAME, _attention)


@contextlib.contextmanager
def shared_attention(model: Any) -> Iterator[None]:
    """Let `model` attend through the `Attention` that it is called with as `shared`."""
    own = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = own


def supports_sharing(model: Any, device: torch.device) -> bool:
    """Check with one token whether every layer of `model` attends as this module does."""
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= {"full_attention", "sliding_attention"}:
        return False
    if not {type(layer) for layer in layers} <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return False
    probe = _Probe()
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    try:
        with shared_attention(model), torch.inference_mode():
            model(input_ids=token, position_ids=token, use_cache=False, shared=probe)
    except (TypeError, _UnsupportedAttentionError):
        return False
    return probe.slides == {i: type(x) is not DynamicLayer for i, x in enumerate(layers)}


class _Probe:
    """Stand in for a `SharedCache`; note which layers attend, and whether with a window."""

    def __init__(self) -> None:
        self.slides: dict[int, bool] = {}

    def attend(
        self, layer: int, query: torch.Tensor, *_: Any, window: int | None, **__: Any
    ) -> torch.Tensor:
        self.slides[layer] = window is not None
        return query.transpose(1, 2)
