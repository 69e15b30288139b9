"""Decoding in batches: prompts are read, rows get a token a step and leave as they finish.

The next batch begins when the last row has left. To let new rows in among the old gained nothing
on a CPU, where a step costs what its rows cost.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from harness.engines import Sampling
from harness.engines.attention import Shared, Stretch, slides
from harness.engines.rows import choose, draws
from harness.errors import UserError
from harness.schema import FinishReason

if TYPE_CHECKING:
    from harness.engines.hf import HFEngine

Row = tuple[int, int]  # (prompt, sample): one answer to be made
Answer = tuple[list[int], FinishReason]

LEAVE = 8  # finished rows leave their batch when they are this part of it
READ = 2048  # tokens of prompts that are read in one forward pass; more gained nothing
SHARED = 16  # tokens that prompts must begin with in common for them to be read once


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


@dataclass
class Batch:
    """Answers in the making, a row each."""

    rows: list[Row]
    past: Shared | Repeated
    position: torch.Tensor  # (rows,), of the first generated token
    logits: torch.Tensor  # (rows, vocabulary), of the next token
    tokens: torch.Tensor  # (rows, max_tokens)
    drawn: torch.Tensor  # (rows, max_tokens)
    step: int = 0  # tokens so far
    done: set[int] = field(default_factory=set)  # finished rows that have not left

    def keep(self, kept: list[int]) -> None:
        """Let go of all rows but `kept`."""
        which = torch.tensor(kept, dtype=torch.long, device=self.tokens.device)
        self.rows = [self.rows[r] for r in kept]
        if kept:
            self.past.keep(which)
        self.position = self.position[which]
        self.tokens, self.drawn = self.tokens[which], self.drawn[which]
        self.done = set()


class Decoding:
    """Answers to `prompts`, whose token ids are `ids`; `finish(row, answer)` as each is done."""

    def __init__(
        self,
        engine: HFEngine,
        prompts: Sequence[str],
        ids: Sequence[array[int]],
        sampling: Sampling,
        finish: Callable[[Row, Answer], None],
    ) -> None:
        self.engine, self.prompts, self.ids = engine, prompts, ids
        self.sampling, self.finish = sampling, finish

    @torch.inference_mode()
    def run(self, waiting: Sequence[Row], size: int) -> None:
        """Answer the rows `waiting`, `size` at a time."""
        start = self._read_start(waiting)
        for first in range(0, len(waiting), size):
            batch = self._begin(waiting[first : first + size], start)
            while len(token := self._choose(batch)):
                self._step(batch, token)

    def _read_start(self, waiting: Sequence[Row]) -> list[Stretch]:
        """Of each layer, what all prompts begin with, if that is enough to be read apart."""
        # With a sliding window columns count as positions, so that no padding may lie between.
        if not self.engine.shares or slides(self.engine.model):
            return []
        asked = [self.ids[p] for p in {p for p, _ in waiting}]
        first, last = min(asked), max(asked)  # what these two have in common, all have
        most = min(map(len, asked)) - 1
        common = next((i for i in range(most) if first[i] != last[i]), most)
        if len(asked) == 1 or common < SHARED:
            return []
        return self._read([first[:common]], full_cache(self.engine.model), 0)[0]

    def _begin(self, rows: Sequence[Row], start: list[Stretch]) -> Batch:
        """The batch of `rows`, whose prompts are read."""
        asked = list(dict.fromkeys(p for p, _ in rows))
        place = {p: i for i, p in enumerate(asked)}
        owner = torch.tensor([place[p] for p, _ in rows], device=self.engine.device)
        past: Shared | Repeated
        if self.engine.shares:
            past, logits = self._shared(asked, start, owner)
        else:
            past, logits = self._repeated(asked, owner)
        if logits.isnan().any():
            raise UserError(
                f"{self.engine.model_id} gives NaN: its weights are damaged, or too large for "
                f"{self.engine.model.dtype}. Try dtype float32."
            )
        lengths = torch.tensor([len(self.ids[p]) for p, _ in rows], device=self.engine.device)
        drawn = draws([(self.prompts[p], j) for p, j in rows], self.sampling)
        drawn = drawn.to(self.engine.device)
        tokens = torch.empty_like(drawn, dtype=torch.long)
        return Batch(list(rows), past, lengths, logits[owner], tokens, drawn)

    def _shared(
        self, asked: list[int], start: list[Stretch], owner: torch.Tensor
    ) -> tuple[Shared, torch.Tensor]:
        """What the rows of `owner` share of the prompts `asked`, and the prompts' next logits."""
        known = start[0][0].shape[2] if start else 0
        rests = [self.ids[p][known:] for p in asked]
        width = max(map(len, rests))
        at = torch.full((len(rests), width), -1)
        for i, rest in enumerate(rests):
            at[i, width - len(rest) :] = torch.arange(known, known + len(rest))
        prompts: list[Stretch] = []
        logits = []
        some = max(READ // (known + width), 1)
        for first in range(0, len(rests), some):
            part = rests[first : first + some]
            read, found = self._read(part, full_cache(self.engine.model, start, len(part)), known)
            logits.append(found)
            if not prompts:
                prompts = [
                    tuple(x.new_zeros(len(rests), x.shape[1], width, x.shape[3]) for x in layer)  # type: ignore[misc]
                    for layer in read
                ]
            for whole, layer in zip(prompts, read, strict=True):
                for to, of in zip(whole, layer, strict=True):
                    to[first : first + some, :, width - of.shape[2] :] = of
        shared = Shared(start, prompts, at.to(self.engine.device), owner)
        return shared, torch.cat(logits)

    def _read(
        self, ids: Sequence[array[int]], cache: DynamicCache, known: int
    ) -> tuple[list[Stretch], torch.Tensor]:
        """Read `ids` after the `known` columns of `cache`: their columns, their next logits."""
        _, logits = self._forward(ids, cache, known)
        read = [(layer.keys[:, :, known:], layer.values[:, :, known:]) for layer in cache.layers]
        return read, logits

    def _repeated(self, asked: list[int], owner: torch.Tensor) -> tuple[Repeated, torch.Tensor]:
        """The prompts `asked`, repeated for the rows of `owner`, and the prompts' next logits."""
        cache = DynamicCache(config=self.engine.model.config)
        mask, logits = self._forward([self.ids[p] for p in asked], cache, 0)
        return Repeated(cache, mask, owner), logits

    def _forward(
        self, ids: Sequence[array[int]], cache: DynamicCache, known: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read `ids`, padded on the left, into `cache`: its columns' mask, the next logits."""
        width = max(map(len, ids))
        tokens = torch.zeros(len(ids), width, dtype=torch.long)
        mask = torch.ones(len(ids), known + width, dtype=torch.long)
        for i, prompt in enumerate(ids):
            tokens[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, known : known + width - len(prompt)] = 0
        mask = mask.to(self.engine.device)
        position = (mask.cumsum(-1) - 1).clamp(min=0)[:, known:]
        return mask, self.engine._forward(tokens.to(self.engine.device), mask, position, cache)

    def _choose(self, batch: Batch) -> torch.Tensor:
        """The next token of each row; rows that are finished leave when they are enough."""
        at = batch.step
        token = choose(batch.logits, self.sampling, batch.drawn[:, at])
        batch.tokens[:, at] = token
        batch.step = at + 1
        ended = {
            r: reason for r, reason in self._ended(batch.tokens[:, : at + 1]) if r not in batch.done
        }
        if ended:
            ids = batch.tokens[list(ended), : at + 1].tolist()
            for (r, reason), made in zip(ended.items(), ids, strict=True):
                self.finish(batch.rows[r], (made, reason))
            batch.done.update(ended)
        if len(batch.done) * LEAVE < len(batch.rows):
            return token
        kept = [r for r in range(len(batch.rows)) if r not in batch.done]
        batch.keep(kept)
        return token[kept]

    def _ended(self, tokens: torch.Tensor) -> list[tuple[int, FinishReason]]:
        """The rows that end with the newest column of `tokens`, and why."""
        rows = torch.isin(tokens[:, -1], self.engine._ends).nonzero()[:, 0].tolist()
        ended: dict[int, FinishReason] = dict.fromkeys(rows, "stop")
        if stop := self.sampling.stop:
            # Every token has at least a byte of the stop string, but for special ones and those
            # that only complete a character: hence the margin, and the look at the whole text.
            reach = max(len(s.encode()) for s in stop) + 4
            text = self.engine._text
            for r, tail in enumerate(tokens[:, -reach:].tolist()):
                if _has(text(tail), stop) and _has(text(tokens[r].tolist()), stop):
                    ended.setdefault(r, "stop")
        if tokens.shape[1] == self.sampling.max_tokens:
            for r in range(len(tokens)):
                ended.setdefault(r, "length")
        return list(ended.items())

    def _step(self, batch: Batch, token: torch.Tensor) -> None:
        """Read `token`, one for each row of the batch, and get the next logits."""
        past, position = batch.past, batch.position + batch.step - 1
        past.step()
        if isinstance(past, Repeated):
            batch.logits = self.engine._forward(
                token[:, None], past.mask, position[:, None], past.cache
            )
        else:
            batch.logits = self.engine._forward(token[:, None], None, position[:, None], past)


def full_cache(model: Any, start: Sequence[Stretch] = (), rows: int = 1) -> DynamicCache:
    """A cache that keeps all columns, sliding window or not; it has `start` in `rows` rows."""
    layers = [DynamicLayer() for _ in DynamicCache(config=model.config).layers]
    for layer, (keys, values) in zip(layers, start, strict=False):
        layer.lazy_initialization(keys, values)
        layer.keys = keys.expand(rows, -1, -1, -1)
        layer.values = values.expand(rows, -1, -1, -1)
    cache = DynamicCache()
    cache.layers = layers
    return cache


def _has(text: str, stop: tuple[str, ...]) -> bool:
    return any(s in text for s in stop)
