"""Compute how likely continuations are, and read what their texts have in common only once.

The texts of a call form a tree: all may begin with the same worked examples, the choices of a
question with its context, some choices with the same words. Each token of the tree is read once:
a forward pass reads a piece of the tree as one row of columns, in which a column attends to those
before it on its own path (as in SpecInfer, arXiv:2305.09781). What many pieces begin with, their
stem, is read before them, and its keys and values are kept while they are read.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from harness.core.errors import is_out_of_memory
from harness.engines import Likelihood, Pair, check_continuation
from harness.engines.onednn_linear import torch_head
from harness.engines.reader import MIN_COMMON_TOKENS, Reader
from harness.engines.shared_prefix import KeysValues, shared_attention

MAX_COLUMNS = {"cpu": 256}  # of a forward pass; more gain nothing there
MAX_COLUMNS_ELSEWHERE = 8192
MAX_BLOCK = 512  # columns that attend to each other
MAX_ATTENDED = 1 << 23  # columns x those that they attend to: bounds the mask's memory
LOGITS_AT_ONCE = 1 << 22  # numbers, while logits are summed up
# Relative difference between two ways to read a text, by the precision of the weights
MAX_DIFFERENCE = {torch.float32: 1e-3, torch.float64: 1e-3}
MAX_DIFFERENCE_HALF = 0.1

Ints = NDArray[np.int64]


class Texts:
    """The distinct texts to read for `pairs`, sorted, and what is asked of them.

    A text is the context and all of the continuation but its last token, cut at its beginning to
    `context` tokens.

    Raises:
        UserError: a continuation is longer than the model's context.
    """

    def __init__(self, pairs: Sequence[Pair], context: int) -> None:
        whole: list[bytes] = []
        for before, after in pairs:
            if after and not before:
                raise ValueError("A continuation needs a context of at least one token.")
            check_continuation(after, context)
            ids = (before + after)[-(context + 1) : -1] if after else []
            whole.append(np.asarray(ids, dtype=">i4").tobytes())  # bytes sort as the tokens do
        # 1. Sort the texts, and compare each with the one before it.
        distinct = sorted({text for text in whole if text})
        self.tokens = [np.frombuffer(text, dtype=">i4").astype(np.int64) for text in distinct]
        self.lengths = np.array([len(text) for text in self.tokens], dtype=np.int64)
        self.common = np.zeros(len(distinct), dtype=np.int64)
        for i in range(1, len(distinct)):
            self.common[i] = _common(self.tokens[i - 1], self.tokens[i])
        self._length_before = np.concatenate([[0], self.lengths.cumsum()])
        self._common_before = np.concatenate([[0], self.common.cumsum()])
        # 2. Lay out what is asked: a place for each token of each continuation.
        number = {text: i for i, text in enumerate(distinct)}
        self.targets = np.array([t for _, after in pairs for t in after], dtype=np.int64)
        self.places = np.concatenate([[0], np.cumsum([len(after) for _, after in pairs])])
        self.places = self.places.astype(np.int64)
        self._pairs_of: list[list[int]] = [[] for _ in distinct]
        for pair, text in enumerate(whole):
            if text:
                self._pairs_of[number[text]].append(pair)

    def __len__(self) -> int:
        return len(self.tokens)

    def size(self, first: int, last: int, depth: int) -> int:
        """Count the distinct tokens after `depth` of the texts from `first` to before `last`."""
        own = self._length_before[last] - self._length_before[first]
        shared = self._common_before[last] - self._common_before[first + 1]
        return int(own - shared) - depth

    def asked(self, text: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield what is asked of the tokens of `text` from `start` to before `end`.

        Each is the first token, the place of its target, and how many targets follow.
        """
        length = int(self.lengths[text])
        for pair in self._pairs_of[text]:
            place, after = int(self.places[pair]), int(self.places[pair + 1])
            depth = length - (after - place)  # of the token that is followed by the continuation
            begin = max(depth, start)
            if begin < min(end, length):
                yield begin, place + begin - depth, min(end, length) - begin


class Results:
    """The log-probability of each target of `texts`, and whether it is the likeliest token."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self._values = np.zeros(len(texts.targets))
        self._greedy = np.zeros(len(texts.targets), dtype=bool)
        self._known = np.zeros(len(texts.targets), dtype=bool)

    def add(self, logits: torch.Tensor, rows: Ints, places: Ints) -> None:
        """Note the targets at `places`; those of the first have the logits `logits[rows[0]]`."""
        at_once = max(1, LOGITS_AT_ONCE // logits.shape[1])
        for start in range(0, len(logits), at_once):
            # By log_softmax, as stock lm-eval: the logarithm of a sum rounds otherwise.
            shares = logits[start : start + at_once].float().log_softmax(-1)
            here = (rows >= start) & (rows < start + at_once)
            targets = self.texts.targets[places[here]]
            index = torch.from_numpy(rows[here] - start).to(logits.device)
            values = shares[index, torch.from_numpy(targets).to(logits.device)]
            self._values[places[here]] = values.cpu().numpy()
            self._greedy[places[here]] = shares.argmax(-1)[index].cpu().numpy() == targets
        self._known[places] = True

    def likelihoods(self) -> Iterator[tuple[int, Likelihood]]:
        """Yield each pair that was read to its end, by number, with its likelihood."""
        places = self.texts.places
        for pair, (start, end) in enumerate(itertools.pairwise(places)):
            if self._known[start:end].all():
                value = float(self._values[start:end].sum())
                yield pair, (value, bool(self._greedy[start:end].all()))


@dataclass(frozen=True)
class _Stem:
    """What has been read of a path: its `depth` in tokens, keys and values by part and layer."""

    depth: int = 0
    parts: tuple[list[KeysValues], ...] = ()


@dataclass
class _Columns:
    """Pieces of the tree that continue `stem`, one column per token.

    The columns of a block are a piece in the order of depth-first search, and attend to no other
    block.
    """

    stem: _Stem
    tokens: list[Ints] = field(default_factory=list)
    depths: list[Ints] = field(default_factory=list)
    paths: list[tuple[int, int, Ints]] = field(default_factory=list)  # columns, those before them
    blocks: list[int] = field(default_factory=list)  # the first column of each
    rows: list[Ints] = field(default_factory=list)  # columns whose logits are asked for
    places: list[Ints] = field(default_factory=list)  # of their targets
    count: int = 0
    _path: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def begin_block(self) -> None:
        if self.count > (self.blocks or [-1])[-1]:
            self.blocks.append(self.count)

    def append(self, tokens: Ints, start: int, end: int) -> None:
        """Append `tokens` from `start`, where they leave the path of the text before, to `end`."""
        more, before = max(end - start, 0), self._path[: start - self.stem.depth]
        own = np.arange(self.count, self.count + more)
        self.tokens.append(tokens[start:end])
        self.depths.append(np.arange(start, start + more))
        self.paths.append((self.count, self.count + more, before))
        self._path = np.concatenate([before, own])
        self.count += more

    def ask(self, first: int, place: int, count: int) -> None:
        """Ask for the logits of `count` tokens of the path, the first at the depth `first`."""
        start = first - self.stem.depth
        self.rows.append(self._path[start : start + count])
        self.places.append(np.arange(place, place + count))


class TreeAttention:
    """Attend from each column to the stem and to the columns before it on its path."""

    def __init__(self, columns: _Columns, device: torch.device, *, keep: bool) -> None:
        self._stem, self._device = columns.stem, device
        # 1. Lay the columns out as (blocks, width); padding repeats the first column.
        starts = np.array(columns.blocks)
        sizes = np.diff([*columns.blocks, columns.count])
        width = int(sizes.max())
        slots = np.arange(width)
        index = np.where(slots < sizes[:, None], starts[:, None] + slots, 0)
        block = np.repeat(np.arange(len(starts)), sizes)
        slot = np.arange(columns.count) - starts[block]
        self._index = self._on_device(index)
        self._place = self._on_device(block * width + slot)
        # 2. Note which columns each one attends to, the stem's first.
        depth = columns.stem.depth
        self._sees = np.zeros((*index.shape, depth + width), dtype=bool)
        self._sees[:, :, :depth] = True
        own = self._sees[:, :, depth:]
        own[:, :, 0] = ~(slots < sizes[:, None])  # padding must attend to something
        for start, end, before in columns.paths:
            if end > start:
                which, rows = block[start], slice(slot[start], slot[start] + end - start)
                own[which, rows, rows] = np.tri(end - start, dtype=bool)
                own[which, rows, slot[before]] = True
        stem_depths = np.broadcast_to(np.arange(depth), (len(starts), depth))
        self._own_depths = np.concatenate(columns.depths)[index]
        self._depths = np.concatenate([stem_depths, self._own_depths], 1)
        self._masks: dict[tuple[int | None, int, torch.dtype], torch.Tensor] = {}
        self.kept: list[KeysValues] | None = [] if keep else None

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
        """Attend with the scaled `query`, (1, query heads, columns, dim).

        `key` and `value` are (1, heads, columns, dim); the result is (1, columns, query heads,
        dim).
        """
        if self.kept is not None:
            self.kept.append((key, value))
        (blocks, width), (heads, query_heads) = self._index.shape, (key.shape[1], query.shape[1])
        queries, keys, values = (self._by_block(x) for x in (query, key, value))
        # Query heads that share keys and values are like columns more.
        queries = queries.reshape(blocks, heads, -1, query.shape[-1])
        keys = torch.cat([*self._of_stem(layer, 0), keys], 2)
        values = torch.cat([*self._of_stem(layer, 1), values], 2)
        mask = self._mask(window, query_heads // heads, query.dtype)
        if softcap is None:
            out = functional.scaled_dot_product_attention(queries, keys, values, mask, scale=1.0)
        else:
            scores = torch.tanh((queries @ keys.transpose(-1, -2)).float() / softcap) * softcap
            out = (scores + mask).softmax(-1).to(values.dtype) @ values
        out = out.reshape(blocks, query_heads, width, -1).transpose(1, 2).flatten(0, 1)
        return (out if blocks == 1 else out[self._place])[None]

    def _by_block(self, states: torch.Tensor) -> torch.Tensor:
        """(1, heads, columns, dim) as (blocks, heads, width, dim)."""
        if len(self._index) == 1:
            return states
        return states[0][:, self._index].transpose(0, 1)

    def _of_stem(self, layer: int, which: int) -> list[torch.Tensor]:
        blocks = len(self._index)
        return [part[layer][which].expand(blocks, -1, -1, -1) for part in self._stem.parts]

    def _mask(self, window: int | None, group: int, dtype: torch.dtype) -> torch.Tensor:
        """Make what is added to the scores: 0, or minus infinity for what a column does not see."""
        if (window, group, dtype) not in self._masks:
            sees = self._sees
            if window is not None:
                newest_hidden = self._own_depths[:, :, None] - window
                sees = sees & (self._depths[:, None] > newest_hidden)
            mask = torch.zeros(sees.shape, dtype=dtype)
            mask.masked_fill_(torch.from_numpy(~sees), -torch.inf)
            mask = mask.to(self._device).repeat(1, group, 1)
            self._masks[window, group, dtype] = mask[:, None]
        return self._masks[window, group, dtype]

    def _on_device(self, numbers: Ints) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self._device)


class LikelihoodReader:
    """Read texts with the model of `reader`, for the likelihood of their tokens."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._model, self._device = reader.model, reader.device

    @functools.cached_property
    def longest_in_tree(self) -> int:
        """Tokens up to which texts can be read as a tree; 0 if this model reads each alone."""
        if not (self._reader.shares and self._is_exact()):
            return 0
        config = self._model.config.get_text_config(decoder=True)
        settings = getattr(config, "rope_parameters", None) or {}
        for rope in (settings, *(x for x in settings.values() if isinstance(x, dict))):
            # A longer text changes what the positions of all texts of its batch mean.
            if rope.get("rope_type") == "longrope":
                return int(rope["original_max_position_embeddings"])
        return sys.maxsize

    @torch.inference_mode()
    def read_tree(self, results: Results, most: int) -> None:
        """Read the texts of `results` in passes of at most `most` columns."""
        texts = results.texts
        waiting = [(0, len(texts), _Stem())] if len(texts) else []
        while waiting:
            first, last, stem = waiting.pop()
            room, blocks = _room(stem.depth, most)
            if texts.size(first, last, stem.depth) <= room:
                self._read([range(first, last)], stem, results)
                continue
            common = int(texts.common[first + 1 : last].min(initial=texts.lengths[first]))
            if last - first == 1 or common - stem.depth >= MIN_COMMON_TOKENS:
                end = min(common, stem.depth + room)
                stem = self._read_stem(range(first, last), stem, end, results)
                waiting.append((first, last, stem))
                continue
            # Read small branches of the tree together, large ones on their own.
            pieces: list[list[int]] = [[]]
            size = 0
            forks = np.flatnonzero(texts.common[first + 1 : last] == common) + first + 1
            for start, end in zip([first, *forks], [*forks, last], strict=True):
                if (more := texts.size(start, end, stem.depth)) > room:
                    waiting.append((int(start), int(end), stem))
                    continue
                if size + more > room:
                    if len(pieces) == blocks:
                        self._read(pieces, stem, results)
                        pieces = []
                    pieces.append([])
                    size = 0
                pieces[-1] += range(start, end)
                size += more
            self._read(pieces, stem, results)

    def _read(self, pieces: Sequence[Sequence[int]], stem: _Stem, results: Results) -> None:
        """Read texts, all of which continue `stem`, to their ends; each piece is a block."""
        texts, columns = results.texts, _Columns(stem)
        for piece in pieces:
            columns.begin_block()
            before = None
            for i in piece:
                same = stem.depth
                if before is not None:
                    same = max(same, int(texts.common[before + 1 : i + 1].min()))
                columns.append(texts.tokens[i], same, int(texts.lengths[i]))
                for asked in texts.asked(i, stem.depth, int(texts.lengths[i])):
                    columns.ask(*asked)
                before = i
        self._forward(columns, results, keep=False)

    def _read_stem(self, which: range, stem: _Stem, end: int, results: Results) -> _Stem:
        """Read what the texts `which` have in common, from `stem` to the depth `end`."""
        texts, columns = results.texts, _Columns(stem)
        columns.begin_block()
        columns.append(texts.tokens[which[0]], stem.depth, end)
        for i in which:
            for asked in texts.asked(i, stem.depth, end):
                columns.ask(*asked)
        return _Stem(end, (*stem.parts, self._forward(columns, results, keep=True)))

    def _forward(self, columns: _Columns, results: Results, *, keep: bool) -> list[KeysValues]:
        """Read `columns`, and note what they tell in `results`; return keys and values to keep."""
        if not columns.count:
            return []
        rows = np.concatenate(columns.rows or [np.zeros(0, dtype=np.int64)])
        wanted, index = np.unique(rows, return_inverse=True)
        logits, kept = self._logits(columns, wanted, keep=keep)
        if len(wanted):
            results.add(logits, index.astype(np.int64), np.concatenate(columns.places))
        return kept

    def _logits(
        self, columns: _Columns, wanted: Ints, *, keep: bool
    ) -> tuple[torch.Tensor, list[KeysValues]]:
        """Compute the logits of the columns `wanted`."""
        attention = TreeAttention(columns, self._device, keep=keep)
        tokens, depths = (
            torch.from_numpy(np.concatenate(parts))[None].to(self._device)
            for parts in (columns.tokens, columns.depths)
        )
        # The head must have something to do.
        some = torch.from_numpy(wanted if len(wanted) else np.zeros(1, dtype=np.int64))
        options: dict[str, Any] = {"shared": attention, "position_ids": depths}
        if keeps := self._reader.accepts("logits_to_keep"):
            options["logits_to_keep"] = some.to(self._device)
        with shared_attention(self._model), torch_head(self._model):
            logits = self._model(input_ids=tokens, use_cache=False, **options).logits[0]
        return logits if keeps else logits[some.to(self._device)], attention.kept or []

    @torch.inference_mode()
    def read_rows(self, results: Results, most: int) -> None:
        """Read the texts of `results` as rows of batches of `most`, without a cache.

        A text that another one begins with is read with that one.
        """
        texts = results.texts
        is_begun = [*(texts.common[1:] == texts.lengths[:-1]), False]
        whole = [i for i in range(len(texts)) if not is_begun[i]]
        families = [
            range(before + 1, i + 1) for before, i in zip([-1, *whole], whole, strict=False)
        ]
        families.sort(key=lambda family: -int(texts.lengths[family[-1]]))
        for start in range(0, len(families), most):
            self._read_families(families[start : start + most], results)

    def _read_families(self, families: Sequence[range], results: Results) -> None:
        """Read a row per family: its last text, which begins with all others."""
        texts = results.texts
        width = max(int(texts.lengths[family[-1]]) for family in families)
        tokens, mask = torch.zeros(2, len(families), width, dtype=torch.long)
        asked: list[tuple[int, int, int, int]] = []
        for row, family in enumerate(families):
            ids = texts.tokens[family[-1]]
            tokens[row, : len(ids)] = torch.from_numpy(ids)
            mask[row, : len(ids)] = 1
            for text in family:
                asked += [(row, *one) for one in texts.asked(text, 0, width)]
        first = min(column for _, column, _, _ in asked)
        keeps = self._reader.accepts("logits_to_keep")
        with torch_head(self._model):
            logits = self._model(
                input_ids=tokens.to(self._device),
                attention_mask=mask.to(self._device),
                use_cache=False,
                **({"logits_to_keep": width - first} if keeps else {}),
            ).logits[:, first - width :]
        kept = width - first
        rows = [np.arange(count) + row * kept + column - first for row, column, _, count in asked]
        places = [np.arange(place, place + count) for _, _, place, count in asked]
        results.add(logits.flatten(0, 1), np.concatenate(rows), np.concatenate(places))

    @torch.inference_mode()
    def _is_exact(self) -> bool:
        """Check on a small tree that its tokens get the logits of texts that are read alone."""
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        ids = (np.arange(16, dtype=np.int64) * 7919 + 13) % vocabulary
        texts = [ids[:10], np.concatenate([ids[:6], ids[10:]])]
        stem, leaves = _Columns(_Stem()), [range(3, 10), range(6, 12)]
        stem.begin_block()
        stem.append(ids, 0, 3)
        try:
            _, kept = self._logits(stem, np.array([2]), keep=True)
            tree = _Columns(_Stem(3, (kept,)))
            tree.begin_block()
            for text, leaf in zip(texts, leaves, strict=True):
                tree.append(text, leaf.start, leaf.stop)
            found, _ = self._logits(tree, np.arange(tree.count), keep=False)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False
        expected = torch.cat([
            self._model(input_ids=torch.from_numpy(text)[None].to(self._device), use_cache=False)
            .logits[0, leaf.start :]
            for text, leaf in zip(texts, leaves, strict=True)
        ]).float()  # fmt: skip
        spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
        most = MAX_DIFFERENCE.get(self._model.dtype, MAX_DIFFERENCE_HALF)
        return bool(((found.float() - expected).norm(dim=-1) <= most * spread).all())


def _room(depth: int, most: int) -> tuple[int, int]:
    """Return the columns of a block, and the blocks of a pass, after a stem of `depth` tokens."""
    columns = min(most, MAX_BLOCK)
    columns = max(1, min(columns, MAX_ATTENDED // (depth + columns)))
    return columns, max(1, min(most // columns, MAX_ATTENDED // (columns * (depth + columns))))


def _common(one: Ints, other: Ints) -> int:
    """Count the tokens that both begin with."""
    most = min(len(one), len(other))
    differs = one[:most] != other[:most]
    return int(differs.argmax()) if differs.any() else most
