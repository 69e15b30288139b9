"""Prompts as keys and values; what they begin with in common is read once.

All prompts of a call may begin alike (instructions, worked examples), and some of them go on alike:
drafts of answers to one question, claims about one page.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from harness.engines.attention import Shared, Stretch, slides

if TYPE_CHECKING:
    from harness.engines.hf import HFEngine

T = TypeVar("T")

READ = 1024  # columns of prompts in one forward pass; more gain nothing, and are padding in part
KEPT = 8192  # columns of those prompts and of what is read before them; bounds their memory
SHARED = 16  # tokens that prompts must begin with in common for them to be read once

Prompt: TypeAlias = "array[int]"  # token ids


class Repeated:
    """The cache of a model whose attention is its own affair: each row has all of its past."""

    def __init__(self, cache: DynamicCache, mask: torch.Tensor, which: torch.Tensor) -> None:
        self.cache, self.mask = cache, mask
        self.keep(which)

    def step(self) -> None:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], -1)

    def keep(self, kept: torch.Tensor) -> None:
        self.cache.reorder_cache(kept)
        self.mask = self.mask[kept]


@dataclass(frozen=True)
class Columns:
    """What rows have read: keys and values of each layer, (rows, heads, columns, dim); none at all
    if there are no columns. `seen`, (rows, columns), is 0 where a column is padding."""

    layers: list[Stretch]
    seen: torch.Tensor

    @property
    def count(self) -> int:
        return self.seen.shape[1]

    def rows(self, which: torch.Tensor) -> Columns:
        return Columns(
            [(keys[which], values[which]) for keys, values in self.layers], self.seen[which]
        )

    def since(self, column: int) -> Columns:
        cut = [(keys[:, :, column:], values[:, :, column:]) for keys, values in self.layers]
        return Columns(cut, self.seen[:, column:])

    def then(self, more: Columns) -> Columns:
        """These columns, of one row that stands for all, before those of `more`."""
        rows = len(more.seen)
        seen = torch.cat([self.seen.expand(rows, -1), more.seen], 1)
        layers = more.layers
        if self.layers:
            layers = [
                (_behind(keys, more_keys), _behind(values, more_values))
                for (keys, values), (more_keys, more_values) in zip(
                    self.layers, more.layers, strict=True
                )
            ]
        return Columns(layers, seen)

    def packed(self, width: int) -> Columns:
        """The last `width` columns when all padding is on the left."""
        order = self.seen.argsort(dim=1, stable=True)[:, -width:]
        at = order[:, None, :, None]

        def pack(x: torch.Tensor) -> torch.Tensor:
            return x.gather(2, at.expand(-1, x.shape[1], -1, x.shape[3]))

        layers = [(pack(keys), pack(values)) for keys, values in self.layers]
        return Columns(layers, self.seen.gather(1, order))


Part = tuple[list[int], Columns, torch.Tensor]  # places of prompts, their columns, next logits


class Reader:
    """Reads prompts with an engine's model."""

    def __init__(self, engine: HFEngine) -> None:
        self.engine = engine
        self.nothing = Columns([], torch.ones(1, 0, dtype=torch.long, device=engine.device))

    @property
    def _apart(self) -> bool:
        # With a sliding window columns count as positions, so that no padding may lie between.
        return self.engine.shares and not slides(self.engine.model)

    def start(self, prompts: Sequence[Prompt]) -> Columns:
        """What all `prompts` begin with, if that is enough to be read apart; else nothing."""
        if len(prompts) == 1 or not self._apart:
            return self.nothing
        known = common(min(prompts), max(prompts))  # what these two have in common, all have
        if known < SHARED:
            return self.nothing
        return self._read([prompts[0][:known]], self.nothing)[0]

    def repeated(
        self, prompts: Sequence[Prompt], owner: torch.Tensor
    ) -> tuple[Repeated, torch.Tensor]:
        """`prompts` repeated for the rows of `owner`, and the prompts' next logits."""
        cache = DynamicCache(config=self.engine.model.config)
        mask, logits = self._forward(prompts, cache, self.nothing.seen)
        return Repeated(cache, mask, owner), logits

    def shared(
        self, prompts: Sequence[Prompt], start: Columns, owner: torch.Tensor
    ) -> tuple[Shared, torch.Tensor]:
        """What the rows of `owner` share of `prompts`, and the prompts' next logits."""
        rests = [prompt[start.count :] for prompt in prompts]
        read, logits = _collected(self._parts(rests, start), len(rests), max(map(len, rests)))
        at = torch.where(read.seen > 0, start.count + read.seen.cumsum(1) - 1, -1)
        return Shared(start.layers, read.layers, at, owner), logits

    def _parts(self, rests: Sequence[Prompt], start: Columns) -> Iterator[Part]:
        """All of `rests` after `start`, part by part."""
        found = families(rests) if self._apart else [(0, [i]) for i in range(len(rests))]
        alone = [places[0] for _, places in found if len(places) == 1]
        yield from self._one_by_one(rests, alone, start)
        related = [(size, places) for size, places in found if len(places) > 1]
        if related:
            yield from self._together(rests, related, start)

    def _one_by_one(
        self, rests: Sequence[Prompt], places: Sequence[int], start: Columns
    ) -> Iterator[Part]:
        """Those of `rests` that have nothing in common after `start`."""
        for part in _cut(places, lambda place: len(rests[place]), start.count):
            read, logits = self._read([rests[place] for place in part], start)
            yield part, read.since(start.count), logits

    def _together(
        self, rests: Sequence[Prompt], related: Sequence[tuple[int, list[int]]], start: Columns
    ) -> Iterator[Part]:
        """Families of `rests`: first what their members have in common, then their own."""
        begun = [rests[places[0]][:size] for size, places in related]
        parts = self._one_by_one(begun, range(len(begun)), start)
        heads, _ = _collected(parts, len(begun), max(map(len, begun)))
        members = [
            (rests[place][size:], place, family)
            for family, (size, places) in enumerate(related)
            for place in places
        ]
        width = max(len(rests[place]) for _, place, _ in members)
        for part in _cut(members, lambda member: len(member[0]), start.count + heads.count):
            tails, places, which = map(list, zip(*part, strict=True))
            before = start.then(heads.rows(torch.tensor(which, device=self.engine.device)))
            both, logits = self._read(tails, before)
            yield places, both.since(start.count).packed(width), logits

    def _read(self, prompts: Sequence[Prompt], before: Columns) -> tuple[Columns, torch.Tensor]:
        """Read `prompts` after the columns `before` them: the columns of both, the next logits."""
        cache = full_cache(self.engine.model, before, len(prompts))
        mask, logits = self._forward(prompts, cache, before.seen)
        return Columns([(layer.keys, layer.values) for layer in cache.layers], mask), logits

    def _forward(
        self, prompts: Sequence[Prompt], cache: DynamicCache, seen: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read `prompts`, padded on the left, into `cache`, whose columns are `seen`: the mask of
        all columns, the next logits."""
        known, width = seen.shape[1], max(map(len, prompts))
        tokens = torch.zeros(len(prompts), width, dtype=torch.long)
        own = torch.ones(len(prompts), width, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            tokens[i, width - len(prompt) :] = torch.tensor(prompt)
            own[i, : width - len(prompt)] = 0
        mask = torch.cat([seen.expand(len(prompts), -1), own.to(self.engine.device)], 1)
        position = (mask.cumsum(-1) - 1).clamp(min=0)[:, known:]
        return mask, self.engine._forward(tokens.to(self.engine.device), mask, position, cache)


def common(one: Prompt, other: Prompt) -> int:
    """Tokens that both begin with; of each one is left."""
    most = min(len(one), len(other)) - 1
    return next((i for i in range(most) if one[i] != other[i]), most)


def families(prompts: Sequence[Prompt]) -> list[tuple[int, list[int]]]:
    """Of prompts that begin alike for at least half of their length: how many tokens they have in
    common, and their places. A prompt by itself has 0."""
    found: list[tuple[int, list[int]]] = []
    longest = 0
    for place in sorted(range(len(prompts)), key=prompts.__getitem__):
        if found:
            size, places = found[-1]
            both = max(longest, len(prompts[place]))
            same = common(prompts[places[0]], prompts[place])
            same = min(same, size) if size else same
            if same >= SHARED and 2 * same >= both:
                found[-1], longest = (same, [*places, place]), both
                continue
        found.append((0, [place]))
        longest = len(prompts[place])
    return found


def full_cache(model: torch.nn.Module, before: Columns, rows: int) -> DynamicCache:
    """A cache of `rows` that keeps all columns, sliding window or not, and begins with `before`."""
    layers = [DynamicLayer() for _ in DynamicCache(config=model.config).layers]
    for layer, (keys, values) in zip(layers, before.layers, strict=False):
        layer.lazy_initialization(keys, values)
        layer.keys = keys.expand(rows, -1, -1, -1)
        layer.values = values.expand(rows, -1, -1, -1)
    cache = DynamicCache()
    cache.layers = layers
    return cache


def _collected(parts: Iterable[Part], rows: int, width: int) -> tuple[Columns, torch.Tensor]:
    """What all `rows` have read, at the right of `width` columns, and their next logits."""
    whole = Columns([], torch.empty(0))
    logits = torch.empty(0)
    for places, read, found in parts:
        if not whole.layers:
            logits = found.new_empty(rows, found.shape[1])
            stores = [
                (_wide(keys, rows, width), _wide(values, rows, width))
                for keys, values in read.layers
            ]
            whole = Columns(stores, read.seen.new_zeros(rows, width))
        logits[places] = found
        whole.seen[places, width - read.count :] = read.seen
        for (keys, values), (some_keys, some_values) in zip(whole.layers, read.layers, strict=True):
            keys[places, :, width - read.count :] = some_keys
            values[places, :, width - read.count :] = some_values
    return whole, logits


def _wide(like: torch.Tensor, rows: int, width: int) -> torch.Tensor:
    return like.new_zeros(rows, like.shape[1], width, like.shape[3])


def _behind(first: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    return torch.cat([first.expand(len(more), -1, -1, -1), more], 2)


def _cut(what: Iterable[T], size: Callable[[T], int], before: int) -> Iterator[list[T]]:
    """Parts of `what`, of `size` columns each after `before` others, to be read at a time.

    The longest come first, so that those of a part are of like lengths and little is padding.
    """
    part: list[T] = []
    width = 0
    for one in sorted(what, key=size, reverse=True):
        width, rows = max(width, size(one)), len(part) + 1
        if part and (rows * width > READ or rows * (before + width) > KEPT):
            yield part
            part, width = [], size(one)
        part.append(one)
    if part:
        yield part
