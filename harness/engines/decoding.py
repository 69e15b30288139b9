"""Decoding in batches: prompts are read, rows get a token a step and leave as they finish.

The next batch begins when the last row has left. To let new rows in among the old gained nothing
on a CPU, where a step costs what its rows cost.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from harness.core.errors import UserError
from harness.core.schema import FinishReason
from harness.engines import Sampling
from harness.engines.attention import Shared
from harness.engines.reading import Columns, Reader, Repeated
from harness.engines.sampling import choose, draws

if TYPE_CHECKING:
    from harness.core.progress import Advance
    from harness.engines.hf import HFEngine

Row = tuple[int, int]  # (prompt, sample): one answer to be made
Answer = tuple[list[int], FinishReason]

LEAVE = 8  # finished rows leave their batch when they are this part of it


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
    """Answers to `prompts`, whose token ids are `ids`; `finish(row, answer)` as each is done.

    `progress` is told of each step.
    """

    def __init__(
        self,
        engine: HFEngine,
        prompts: Sequence[str],
        ids: Sequence[array[int]],
        sampling: Sampling,
        finish: Callable[[Row, Answer], None],
        *,
        progress: Advance | None = None,
    ) -> None:
        self.engine, self.prompts, self.ids = engine, prompts, ids
        self.sampling, self.finish, self.progress = sampling, finish, progress
        self.reader = Reader(engine)

    @torch.inference_mode()
    def run(self, waiting: Sequence[Row], size: int) -> None:
        """Answer the rows `waiting`, `size` at a time."""
        start = self.reader.start([self.ids[p] for p in {p for p, _ in waiting}])
        for first in range(0, len(waiting), size):
            since = time.monotonic()
            batch = self._begin(waiting[first : first + size], start)
            if self.progress is not None:
                self.progress.begin_batch(len(batch.rows), since)
            while len(token := self._choose(batch)):
                self._step(batch, token)

    def _begin(self, rows: Sequence[Row], start: Columns) -> Batch:
        """The batch of `rows`, whose prompts are read."""
        asked = list(dict.fromkeys(p for p, _ in rows))
        place = {p: i for i, p in enumerate(asked)}
        owner = torch.tensor([place[p] for p, _ in rows], device=self.engine.device)
        past: Shared | Repeated
        prompts = [self.ids[p] for p in asked]
        if self.engine.shares:
            past, logits = self.reader.shared(prompts, start, owner)
        else:
            past, logits = self.reader.repeated(prompts, owner)
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
        if self.progress is not None:
            self.progress.step(len(ended))
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


def _has(text: str, stop: tuple[str, ...]) -> bool:
    return any(s in text for s in stop)
