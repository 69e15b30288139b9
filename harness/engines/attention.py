"""Attention while decoding: what rows have in common is kept once, and read once a step.

The keys of a row lie in three stretches: the beginning that all prompts share, the rest of its
prompt, which the samples of the prompt share, and its own tokens. The queries of all rows that
share a stretch meet it in one matrix product; each stretch has a softmax of its own, and their
results are joined by the logarithms of their totals (as in Hydragen, arXiv:2402.05099).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

NAME = "shared_stretches"
SPARE = 64  # columns by which the own tokens' store grows at a time
BLIND = -1e30  # added to the score of a key that is not to be seen; finite, so that no 0/0 arises
KNOWN = {"dropout", "is_causal", "position_ids", "output_attentions", "use_cache", "cache_position"}

Stretch = tuple[torch.Tensor, torch.Tensor]  # keys and values of a layer: (of whom, heads, n, dim)


class UnsupportedError(Exception):
    """A model's attention does more than this module knows."""


class Shared:
    """Keys and values of the rows of a batch, and attention to them.

    Args:
        start: of each layer, what all prompts begin with, (1, heads, columns, dim); empty if
            nothing, or if a layer slides.
        prompts: of each layer, the rests of the prompts, padded on the left.
        at: position in its prompt of each of their columns, (prompts, columns); -1 is padding.
        owner: of each row, its prompt's place among `prompts`; in order.
    """

    def __init__(
        self,
        start: list[Stretch],
        prompts: list[Stretch],
        at: torch.Tensor,
        owner: torch.Tensor,
    ) -> None:
        self._start, self._prompts, self._at = start, prompts, at
        self._own: list[Stretch] = []
        self._steps = -1
        self._biases: dict[int | None, tuple[torch.Tensor | None, torch.Tensor | None]] = {}
        self._place(owner)

    def step(self) -> None:
        """A token more: every layer is going to attend once."""
        self._steps += 1
        # Only a window moves.
        self._biases = {window: one for window, one in self._biases.items() if window is None}

    def keep(self, kept: torch.Tensor) -> None:
        """Let go of all rows but `kept`, and of the prompts that none of them has."""
        self._own = [(keys[kept], values[kept]) for keys, values in self._own]
        prompts, owner = torch.unique_consecutive(self._owner[kept], return_inverse=True)
        if len(prompts) < len(self._at):
            self._prompts = [(keys[prompts], values[prompts]) for keys, values in self._prompts]
            self._at = self._at[prompts]
        self._place(owner)

    def _place(self, owner: torch.Tensor) -> None:
        """Lay the rows out as (prompts, width), as wide as the prompt with most rows."""
        self._biases = {}
        first = torch.searchsorted(owner, owner)
        rank = torch.arange(len(owner), device=owner.device) - first
        self._owner, self._width = owner, int(rank.max()) + 1
        slots = owner * self._width + rank
        full = len(owner) == len(self._at) * self._width
        self._slots = None if full else slots

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
        """What the newest tokens see: (rows, query heads, dim) of a scaled `query` of that shape.

        `key` and `value` of the newest tokens, (rows, heads, 1, dim), are kept.
        """
        rows, heads = key.shape[:2]
        query = query.reshape(rows, heads, -1, query.shape[-1])
        prompt, own = self._bias(window)
        seen = [_seen(query, *self._append(layer, key, value), own, softcap)]
        found = _seen(self._by_prompt(query), *self._prompts[layer], prompt, softcap)
        seen.append((self._by_row(found[0], rows), self._by_row(found[1], rows)))
        if self._start:
            together = query.transpose(0, 1).reshape(1, heads, -1, query.shape[-1])
            found = _seen(together, *self._start[layer], None, softcap)
            seen.append(
                tuple(x[0].reshape(heads, rows, -1, x.shape[-1]).transpose(0, 1) for x in found)  # type: ignore[arg-type]
            )
        shares = torch.cat([total for _, total in seen], -1).softmax(-1)
        out = sum(shares[..., i : i + 1] * one for i, (one, _) in enumerate(seen))
        return out.reshape(rows, -1, out.shape[-1])  # type: ignore[union-attr]

    def _append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Stretch:
        if layer == len(self._own):
            self._own.append((key[:, :, :0], value[:, :, :0]))
        keys, values = self._own[layer]
        if self._steps >= keys.shape[2]:
            keys, values = (_widened(x, self._steps + SPARE) for x in (keys, values))
            self._own[layer] = keys, values
        keys[:, :, self._steps], values[:, :, self._steps] = key[:, :, 0], value[:, :, 0]
        return keys[:, :, : self._steps + 1], values[:, :, : self._steps + 1]

    def _by_prompt(self, query: torch.Tensor) -> torch.Tensor:
        """(rows, heads, group, dim) as (prompts, heads, width x group, dim)."""
        if self._slots is not None:
            wide = query.new_zeros(len(self._at) * self._width, *query.shape[1:])
            wide[self._slots] = query
            query = wide
        _, heads, group, dim = query.shape
        laid = query.view(-1, self._width, heads, group, dim).transpose(1, 2)
        return laid.reshape(-1, heads, self._width * group, dim)

    def _by_row(self, found: torch.Tensor, rows: int) -> torch.Tensor:
        """(prompts, heads, width x group, n) as (rows, heads, group, n)."""
        prompts, heads, _, n = found.shape
        laid = found.view(prompts, heads, self._width, -1, n).transpose(1, 2)
        laid = laid.reshape(prompts * self._width, heads, -1, n)
        return laid if self._slots is None else laid[self._slots]

    def _bias(self, window: int | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What to add to the scores of the prompts and of the own tokens at this step."""
        if window not in self._biases:
            unseen = self._at < 0
            own = None
            if window is not None:
                last = self._at[:, -1:] + 1 + self._steps - window  # the newest position unseen
                unseen = unseen | (self._at <= last)
                columns = torch.arange(self._steps + 1, device=self._at.device)
                own = _blinding(columns <= self._steps - window)
            prompts = _blinding(unseen)
            prompts = None if prompts is None else prompts[:, None, None]
            self._biases[window] = prompts, own
        return self._biases[window]


def _seen(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    softcap: float | None,
) -> Stretch:
    """Attention of `query` to one stretch, and the logarithm of the total of its weights."""
    scores = (query @ keys.transpose(-1, -2)).float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if bias is not None:
        scores += bias
    highest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(highest).exp_()
    total = weights.sum(-1, keepdim=True)
    return (weights.to(values.dtype) @ values).float() / total, highest + total.log()


def _blinding(unseen: torch.Tensor) -> torch.Tensor | None:
    return unseen * BLIND if unseen.any() else None


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
    shared: Shared,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Of `query`, (rows, heads, 1, dim): what each row sees, (rows, 1, heads, dim)."""
    if unknown := {name for name, given in more.items() if given is not None} - KNOWN:
        raise UnsupportedError(f"attention with {', '.join(sorted(unknown))}")
    query = query[:, :, 0] * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    out = shared.attend(module.layer_idx, query, key, value, window=sliding_window, softcap=softcap)
    return out.to(value.dtype)[:, None], None


AttentionInterface.register(NAME, _attention)


@contextlib.contextmanager
def attending(model: Any) -> Iterator[None]:
    """While `model` is called with `shared=`, the `Shared` of its rows."""
    own = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = own


def can_share(model: Any, device: torch.device) -> bool:
    """Whether `model` attends in every layer as this module does; it is asked for a token."""
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= {"full_attention", "sliding_attention"}:
        return False
    if not {type(layer) for layer in layers} <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return False
    probe = _Probe()
    one = torch.zeros(1, 1, dtype=torch.long, device=device)
    try:
        with attending(model), torch.inference_mode():
            model(input_ids=one, position_ids=one, use_cache=False, shared=probe)
    except (TypeError, UnsupportedError):
        return False
    return probe.slides == {i: type(x) is not DynamicLayer for i, x in enumerate(layers)}


def slides(model: Any) -> bool:
    """Whether a layer of `model` sees only the newest tokens."""
    layers = DynamicCache(config=model.config).layers
    return any(type(layer) is DynamicSlidingWindowLayer for layer in layers)


class _Probe:
    """Stands where a `Shared` does, and notes which layers ask it and whether they slide."""

    def __init__(self) -> None:
        self.slides: dict[int, bool] = {}

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
        self.slides[layer] = window is not None
        return query
