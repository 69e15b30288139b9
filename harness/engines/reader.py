"""Read prompts with a `transformers` model, and what they have in common only once.

All prompts of a call may begin alike (instructions, worked examples), and some continue alike:
drafts of answers to one question, claims about one page.
"""

from __future__ import annotations

import functools
import inspect
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from harness.engines.shared_prefix import (
    KeysValues,
    SharedCache,
    shared_attention,
    supports_sharing,
)

T = TypeVar("T")

MAX_READ_COLUMNS = 1024  # rows x columns in one forward pass; more gain nothing, and are padding
MAX_HELD_COLUMNS = 8192  # the same with the columns before them; bounds their memory
MIN_COMMON_TOKENS = 16  # for a common beginning to be read once

Prompt: TypeAlias = "array[int]"  # token ids


class RepeatedCache:
    """The cache of a model with an attention of its own: each row has all of its past."""

    def __init__(self, cache: DynamicCache, mask: torch.Tensor, owner: torch.Tensor) -> None:
        self.cache, self.mask = cache, mask
        self.keep(owner)

    def step(self) -> None:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], -1)

    def keep(self, rows: torch.Tensor) -> None:
        self.cache.reorder_cache(rows)
        self.mask = self.mask[rows]


@dataclass(frozen=True)
class Columns:
    """Keys and values of the columns that rows have read.

    `tensors` are the keys of the first layer, its values, the keys of the second, and so on; none
    if there are no columns. `mask`, (rows, columns), is 0 where a column is padding.
    """

    tensors: list[torch.Tensor]
    mask: torch.Tensor

    @property
    def count(self) -> int:
        return self.mask.shape[1]

    @property
    def layers(self) -> list[KeysValues]:
        return list(zip(self.tensors[::2], self.tensors[1::2], strict=True))

    def rows(self, which: torch.Tensor) -> Columns:
        return Columns([x[which] for x in self.tensors], self.mask[which])

    def since(self, column: int) -> Columns:
        return Columns([x[:, :, column:] for x in self.tensors], self.mask[:, column:])

    def before(self, more: Columns) -> Columns:
        """Put these columns, one row that stands for all, before those of `more`."""
        rows = len(more.mask)
        mask = torch.cat([self.mask.expand(rows, -1), more.mask], 1)
        if not self.tensors:
            return Columns(more.tensors, mask)
        pairs = zip(self.tensors, more.tensors, strict=True)
        return Columns([torch.cat([x.expand(rows, -1, -1, -1), y], 2) for x, y in pairs], mask)

    def packed(self, width: int) -> Columns:
        """Move all padding to the left, and return the last `width` columns."""
        order = self.mask.argsort(dim=1, stable=True)[:, -width:]
        index = order[:, None, :, None]
        tensors = [x.gather(2, index.expand(-1, x.shape[1], -1, x.shape[3])) for x in self.tensors]
        return Columns(tensors, self.mask.gather(1, order))


ReadPart = tuple[list[int], Columns, torch.Tensor]  # indices of prompts, columns, next logits


class Reader:
    """Read prompts and tokens with a causal language model of `transformers`."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device
        self._options = set(inspect.signature(model.forward).parameters)
        self._nothing = Columns([], torch.ones(1, 0, dtype=torch.long, device=device))

    def accepts(self, option: str) -> bool:
        """Tell whether the model's forward pass takes `option`."""
        return option in self._options

    @functools.cached_property
    def shares(self) -> bool:
        """Whether rows can share what their prompts have in common while they are decoded."""
        return self.accepts("position_ids") and supports_sharing(self.model, self.device)

    @functools.cached_property
    def _shares_beginnings(self) -> bool:
        # A sliding window counts columns as positions, so no padding may lie between tokens.
        layers = DynamicCache(config=self.model.config).layers
        slides = any(type(layer) is DynamicSlidingWindowLayer for layer in layers)
        return self.shares and not slides

    def read_beginning(self, prompts: Sequence[Prompt]) -> Columns:
        """Read what all `prompts` begin with, if that is long enough to be read on its own."""
        if len(prompts) == 1 or not self._shares_beginnings:
            return self._nothing
        common = _common(min(prompts), max(prompts))  # what these two have in common, all have
        if common < MIN_COMMON_TOKENS:
            return self._nothing
        return self._read_after(self._nothing, [prompts[0][:common]])[0]

    def read(
        self, prompts: Sequence[Prompt], beginning: Columns, owner: torch.Tensor
    ) -> tuple[SharedCache | RepeatedCache, torch.Tensor]:
        """Read `prompts`; return the cache of the rows of `owner`, and the prompts' next logits."""
        if not self.shares:
            cache = DynamicCache(config=self.model.config)
            mask, logits = self._read_into(cache, prompts, self._nothing.mask)
            return RepeatedCache(cache, mask, owner), logits
        rests = [prompt[beginning.count :] for prompt in prompts]
        parts = self._parts(rests, beginning)
        columns, logits = _collect(parts, len(rests), max(map(len, rests)))
        positions = torch.where(columns.mask > 0, beginning.count + columns.mask.cumsum(1) - 1, -1)
        return SharedCache(beginning.layers, columns.layers, positions, owner), logits

    def advance(
        self, past: SharedCache | RepeatedCache, tokens: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        """Read one more token per row at `position`; return the next logits (rows, vocabulary)."""
        past.step()
        if isinstance(past, RepeatedCache):
            return self.forward(tokens[:, None], past.mask, position[:, None], past.cache)
        return self.forward(tokens[:, None], None, position[:, None], past)

    def forward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor | None,
        position: torch.Tensor,
        past: DynamicCache | SharedCache,
    ) -> torch.Tensor:
        """Add `tokens` to `past`; return the logits (rows, vocabulary) after their last column."""
        wanted = {"position_ids": position, "logits_to_keep": 1}
        options = {name: value for name, value in wanted.items() if self.accepts(name)}
        if isinstance(past, DynamicCache):
            options |= {"attention_mask": mask, "past_key_values": past, "use_cache": True}
            out = self.model(input_ids=tokens, **options)
        else:
            with shared_attention(self.model):
                out = self.model(input_ids=tokens, use_cache=False, shared=past, **options)
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def _parts(self, rests: Sequence[Prompt], beginning: Columns) -> Iterator[ReadPart]:
        """Read all of `rests` after `beginning`, in parts that fit one forward pass."""
        alone, related = list(range(len(rests))), []
        if self._shares_beginnings:
            families = _families(rests)
            alone = [places[0] for _, places in families if len(places) == 1]
            related = [(size, places) for size, places in families if len(places) > 1]
        yield from self._read_alone(rests, alone, beginning)
        if related:
            yield from self._read_related(rests, related, beginning)

    def _read_alone(
        self, rests: Sequence[Prompt], places: Sequence[int], beginning: Columns
    ) -> Iterator[ReadPart]:
        """Read those of `rests` that have nothing in common after `beginning`."""
        for part in _cut(places, lambda place: len(rests[place]), beginning.count):
            columns, logits = self._read_after(beginning, [rests[place] for place in part])
            yield part, columns.since(beginning.count), logits

    def _read_related(
        self, rests: Sequence[Prompt], families: Sequence[tuple[int, list[int]]], beginning: Columns
    ) -> Iterator[ReadPart]:
        """Read families of `rests`: first what the members have in common, then the rest."""
        heads = [rests[places[0]][:size] for size, places in families]
        parts = self._read_alone(heads, range(len(heads)), beginning)
        common, _ = _collect(parts, len(heads), max(map(len, heads)))
        members = [
            (rests[place][size:], place, family)
            for family, (size, places) in enumerate(families)
            for place in places
        ]
        width = max(len(rests[place]) for _, place, _ in members)
        for part in _cut(members, lambda member: len(member[0]), beginning.count + common.count):
            tails, places, which = map(list, zip(*part, strict=True))
            before = beginning.before(common.rows(torch.tensor(which, device=self.device)))
            columns, logits = self._read_after(before, tails)
            yield places, columns.since(beginning.count).packed(width), logits

    def _read_after(
        self, before: Columns, prompts: Sequence[Prompt]
    ) -> tuple[Columns, torch.Tensor]:
        """Read `prompts` after the columns `before`; return all columns and the next logits."""
        # The cache keeps all columns, sliding window or not.
        cache = DynamicCache()
        cache.layers = [DynamicLayer() for _ in DynamicCache(config=self.model.config).layers]
        for layer, (keys, values) in zip(cache.layers, before.layers, strict=False):
            layer.lazy_initialization(keys, values)
            layer.keys = keys.expand(len(prompts), -1, -1, -1)
            layer.values = values.expand(len(prompts), -1, -1, -1)
        mask, logits = self._read_into(cache, prompts, before.mask)
        return Columns(
            [x for layer in cache.layers for x in (layer.keys, layer.values)], mask
        ), logits

    def _read_into(
        self, cache: DynamicCache, prompts: Sequence[Prompt], before: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read `prompts`, padded on the left, into `cache`, whose columns have the mask `before`.

        Returns the mask of all columns and the next logits.
        """
        known, width = before.shape[1], max(map(len, prompts))
        tokens = torch.zeros(len(prompts), width, dtype=torch.long)
        own = torch.ones(len(prompts), width, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            tokens[i, width - len(prompt) :] = torch.tensor(prompt)
            own[i, : width - len(prompt)] = 0
        mask = torch.cat([before.expand(len(prompts), -1), own.to(self.device)], 1)
        position = (mask.cumsum(-1) - 1).clamp(min=0)[:, known:]
        return mask, self.forward(tokens.to(self.device), mask, position, cache)


def _common(one: Prompt, other: Prompt) -> int:
    """Count the tokens that both begin with, and leave each at least one of its own."""
    most = min(len(one), len(other)) - 1
    return next((i for i in range(most) if one[i] != other[i]), most)


def _families(prompts: Sequence[Prompt]) -> list[tuple[int, list[int]]]:
    """Group prompts that begin alike for at least half of their length.

    Returns per group the number of common tokens and the prompts' indices; a prompt on its own has
    0 common tokens.
    """
    families: list[tuple[int, list[int]]] = []
    longest = 0
    for place in sorted(range(len(prompts)), key=prompts.__getitem__):
        if families:
            size, places = families[-1]
            both = max(longest, len(prompts[place]))
            same = _common(prompts[places[0]], prompts[place])
            same = min(same, size) if size else same
            if same >= MIN_COMMON_TOKENS and 2 * same >= both:
                families[-1], longest = (same, [*places, place]), both
                continue
        families.append((0, [place]))
        longest = len(prompts[place])
    return families


def _collect(parts: Iterable[ReadPart], rows: int, width: int) -> tuple[Columns, torch.Tensor]:
    """Put all parts into `rows` rows of `width` columns, padded on the left, with the logits."""
    whole, logits = Columns([], torch.empty(0)), torch.empty(0)
    for places, part, next_logits in parts:
        if not whole.tensors:
            logits = next_logits.new_empty(rows, next_logits.shape[1])
            stores = [x.new_zeros(rows, x.shape[1], width, x.shape[3]) for x in part.tensors]
            whole = Columns(stores, part.mask.new_zeros(rows, width))
        logits[places] = next_logits
        whole.mask[places, width - part.count :] = part.mask
        for store, columns in zip(whole.tensors, part.tensors, strict=True):
            store[places, :, width - part.count :] = columns
    return whole, logits


def _cut(items: Iterable[T], size: Callable[[T], int], before: int) -> Iterator[list[T]]:
    """Cut `items` of `size` columns each, after `before` others, into parts to read together.

    The longest come first, so that the lengths in a part are similar and little is padding.
    """
    part: list[T] = []
    width = 0
    for item in sorted(items, key=size, reverse=True):
        width, rows = max(width, size(item)), len(part) + 1
        too_wide = rows * width > MAX_READ_COLUMNS or rows * (before + width) > MAX_HELD_COLUMNS
        if part and too_wide:
            yield part
            part, width = [], size(item)
        part.append(item)
    if part:
        yield part
