"""Generate with `transformers`: each prompt is read once, however many responses it gets.

Of a model's generation_config only the end-of-sequence tokens count: decoding is what `Sampling`
says and nothing else.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import torch

from harness.core.errors import OutOfMemoryError, UserError, explain_out_of_memory, is_out_of_memory
from harness.core.log import say
from harness.core.progress import Advance
from harness.core.schema import FinishReason, digest
from harness.engines import (
    Completion,
    Likelihood,
    LocalEngine,
    OnDone,
    Pair,
    Sampling,
    by_prompt,
    cut_at_stop,
    loading,
    seed_of,
)
from harness.engines.likelihood import (
    MAX_COLUMNS,
    MAX_COLUMNS_ELSEWHERE,
    LikelihoodReader,
    Results,
    Texts,
)
from harness.engines.model_folder import check, find, loaded_digest, model_digest
from harness.engines.onednn_linear import use_onednn
from harness.engines.prompts import check_template, encode_all
from harness.engines.reader import Columns, Reader, RepeatedCache
from harness.engines.shared_prefix import SharedCache

T = TypeVar("T")
Row = tuple[int, int]  # (prompt, sample): one response to generate

MAX_ROWS = 512  # of a batch; with more, a row was no cheaper
MEMORY_SHARE = 0.5  # of the free memory for keys, values and logits; the rest is for a forward pass
LOGITS_COPIES = 6  # float32 copies of a row's logits while its token is chosen
FINISHED_PER_BATCH = 1 / 8  # share of finished rows at which they are removed from their batch


class HFEngine(LocalEngine):
    """A causal language model under `transformers`, loaded once for sampling and evaluation.

    Args:
        model: a folder, the name of a hub model, or a loaded model (then `tokenizer` too).
        tokenizer: another tokenizer than the model's own: its folder, or loaded.
        device: "auto" is CUDA if there is one.
        dtype: "auto" is the dtype of the weights, or float32 on a CPU that has no instructions
            for theirs.
        max_batch: responses generated together; None: as many as fit in the free memory. Halved as
            often as memory demands.
        adapter: a LoRA folder, merged into the weights.

    Raises:
        UserError: what cannot be loaded, and what to do about it.
    """

    name = "hf"

    def __init__(
        self,
        model: str | Path | Any,
        *,
        tokenizer: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        max_batch: int | None = None,
        adapter: Path | None = None,
    ) -> None:
        loading.check_dtype(dtype)
        if max_batch is not None and max_batch < 1:
            raise UserError(f"max_batch is {max_batch}; at least 1 is needed.")
        self.max_batch = max_batch
        self.device = loading.find_device(device)
        # 1. Load model and tokenizer.
        if isinstance(model, str | Path):
            folder = find(model)
            check(folder)
            self.model_id = str(model)
            self.model_digest = model_digest(folder)
            self.tokenizer = loading.load_tokenizer(folder if tokenizer is None else tokenizer)
            too_large = f"{model} does not fit in the memory of {self.device}."
            with explain_out_of_memory(f"{too_large} Use a smaller model or dtype bfloat16."):
                dtype = loading.choose_dtype(folder, self.device, dtype)
                self.model = loading.load_model(folder, self.device, dtype)
        else:
            if tokenizer is None:
                raise UserError("A model in memory needs its tokenizer: pass tokenizer=.")
            self.tokenizer = loading.load_tokenizer(tokenizer)
            self.model = model.to(self.device)
            self.model_id = str(model.name_or_path or type(model).__name__)
            self.model_digest = loaded_digest(model, self.tokenizer)
        # 2. Check that they belong together.
        check_template(self.tokenizer)
        rows = self.model.get_input_embeddings().weight.shape[0]
        loading.check_vocabulary(len(self.tokenizer), rows, self.model_id)
        # 3. Prepare the weights for generation.
        if adapter is not None:
            self.model = loading.merge_adapter(self.model, adapter)
            self.model_digest = digest([self.model_digest, model_digest(adapter)])
        self.model.eval()
        if isinstance(model, str | Path):
            use_onednn(self.model)  # a loaded model may still be trained by its owner
        self.context = loading.context_of(self.model.config, self.tokenizer)
        self.ends = torch.tensor(loading.ends_of(self.model, self.tokenizer), device=self.device)
        self.reader = Reader(self.model, self.device)
        self.likelihoods = LikelihoodReader(self.reader)

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[list[Completion]]:
        """Generate `sampling.n` completions per prompt; see `LocalEngine.generate`.

        Raises:
            UserError: `max_tokens` is more than the model's context, or one row does not fit in
                memory, or the model gives NaN.
        """
        # 1. Encode the prompts. Rows with the longest come first: if these fit, all do.
        sampling.check(self.context)
        ids = encode_all(self.tokenizer, prompts, self.context - sampling.max_tokens)
        rows = [(p, j) for p in range(len(prompts)) for j in range(sampling.distinct)]
        rows.sort(key=lambda row: -len(ids[row[0]]))
        # 2. Decode them in batches.
        completions: dict[Row, Completion] = {}

        def finish(row: Row, made: list[int], reason: FinishReason) -> None:
            # Text at once: token ids as Python's integers take many times its memory.
            text, reason = cut_at_stop(self.decode(made), reason, sampling.stop)
            completions[row] = Completion(text, reason, len(ids[row[0]]), len(made))
            if on_done is not None:
                on_done(sampling.copies)

        decoding = _Decoding(self, prompts, ids, sampling, finish)
        if isinstance(on_done, Advance):
            on_done.generating(sampling.max_tokens, sampling.copies)
            decoding.progress = on_done
        columns = max(map(len, ids), default=0) + sampling.max_tokens
        size = self.max_batch or rows_that_fit(self.model, self.device, columns)
        size = min(size, len(rows))
        self._in_batches(rows, decoding.run, completions.__contains__, size)
        # 3. Arrange the completions by prompt.
        return by_prompt(completions, len(prompts), sampling)

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """Score each continuation after its context; a pair too long loses its beginning.

        Raises:
            UserError: a continuation is longer than the model's context, or one text does not fit
                in memory, or the model gives NaN.
        """
        scores: dict[int, Likelihood] = {}
        reader, longest = self.likelihoods, min(self.likelihoods.longest_in_tree, self.context)
        lengths = [min(len(before) + len(after) - 1, self.context) for before, after in pairs]
        for in_tree in (True, False):

            def run(waiting: Sequence[int], size: int, in_tree: bool = in_tree) -> None:
                results = Results(Texts([pairs[i] for i in waiting], self.context))
                try:
                    (reader.read_tree if in_tree else reader.read_rows)(results, size)
                finally:
                    scores.update((waiting[i], score) for i, score in results.likelihoods())

            chosen = [i for i, length in enumerate(lengths) if (length <= longest) == in_tree]
            if in_tree:
                most = MAX_COLUMNS.get(self.device.type, MAX_COLUMNS_ELSEWHERE)
                size = rows_that_fit(self.model, self.device, 1, most=most)
            else:
                columns = max((lengths[i] for i in chosen), default=1)
                size = self.max_batch or rows_that_fit(self.model, self.device, columns, columns)
                size = min(size, len(chosen))
            self._in_batches(chosen, run, scores.__contains__, size)
        if any(math.isnan(value) for value, _ in scores.values()):
            raise self.nan_error()
        return [scores[i] for i in range(len(pairs))]

    def _in_batches(
        self,
        waiting: Sequence[T],
        run: Callable[[Sequence[T], int], None],
        is_done: Callable[[T], bool],
        size: int,
    ) -> None:
        """Call `run(waiting, size)`, and halve `size` while memory does not suffice."""
        while waiting:
            try:
                run(waiting, size)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise OutOfMemoryError(
                        f"{self.model_id} does not fit in the memory of {self.device}, not even "
                        "with one answer at a time. Use a smaller model, a shorter max_tokens or "
                        "dtype bfloat16."
                    ) from None
                size //= 2
                say(f"Out of memory: continuing with batches of {size}.")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            waiting = [row for row in waiting if not is_done(row)]

    def nan_error(self) -> UserError:
        """Make the error of a model whose logits are not numbers."""
        return UserError(
            f"{self.model_id} gives NaN: its weights are damaged, or too large for "
            f"{self.model.dtype}. Try dtype float32."
        )

    def decode(self, ids: list[int]) -> str:
        """Decode token ids as text without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


# Decoding ---------------------------------------------------------------------------------------


@dataclass
class _Batch:
    """Responses that are being generated, one per row."""

    rows: list[Row]
    past: SharedCache | RepeatedCache
    position: torch.Tensor  # (rows,), of the first generated token
    logits: torch.Tensor  # (rows, vocabulary), of the next token
    tokens: torch.Tensor  # (rows, max_tokens)
    draws: torch.Tensor  # (rows, max_tokens)
    step: int = 0  # tokens generated so far
    finished: set[int] = field(default_factory=set)  # rows that are done and still in the batch

    def keep(self, kept: list[int]) -> None:
        """Remove all rows but `kept`."""
        which = torch.tensor(kept, dtype=torch.long, device=self.tokens.device)
        self.rows = [self.rows[r] for r in kept]
        if kept:
            self.past.keep(which)
        self.position = self.position[which]
        self.tokens, self.draws = self.tokens[which], self.draws[which]
        self.finished = set()


class _Decoding:
    """Generate responses to `prompts`; call `finish(row, tokens, reason)` as each is done.

    The next batch begins when the last row of a batch is done. To let new rows in among the old
    gained nothing on a CPU, where a step costs what its rows cost.
    """

    def __init__(
        self,
        engine: HFEngine,
        prompts: Sequence[str],
        ids: Sequence[array[int]],
        sampling: Sampling,
        finish: Callable[[Row, list[int], FinishReason], None],
    ) -> None:
        self.engine, self.prompts, self.ids = engine, prompts, ids
        self.sampling, self.finish = sampling, finish
        self.progress: Advance | None = None

    @torch.inference_mode()
    def run(self, waiting: Sequence[Row], size: int) -> None:
        """Generate the rows `waiting`, in batches of `size`."""
        reader = self.engine.reader
        # 1. Read what all prompts begin with.
        beginning = reader.read_beginning([self.ids[p] for p in {p for p, _ in waiting}])
        for first in range(0, len(waiting), size):
            # 2. Read the rest of the prompts of a batch.
            since = time.monotonic()
            batch = self._begin(waiting[first : first + size], beginning)
            if self.progress is not None:
                self.progress.begin_batch(len(batch.rows), since)
            # 3. Append one token per row until all rows are done.
            while len(token := self._choose(batch)):
                position = batch.position + batch.step - 1
                batch.logits = reader.advance(batch.past, token, position)

    def _begin(self, rows: Sequence[Row], beginning: Columns) -> _Batch:
        """Read the prompts of `rows`, and draw their random numbers."""
        engine = self.engine
        prompts = list(dict.fromkeys(p for p, _ in rows))
        index = {p: i for i, p in enumerate(prompts)}
        owner = torch.tensor([index[p] for p, _ in rows], device=engine.device)
        past, logits = engine.reader.read([self.ids[p] for p in prompts], beginning, owner)
        if logits.isnan().any():
            raise engine.nan_error()
        lengths = torch.tensor([len(self.ids[p]) for p, _ in rows], device=engine.device)
        draws = draw([(self.prompts[p], j) for p, j in rows], self.sampling).to(engine.device)
        tokens = torch.empty_like(draws, dtype=torch.long)
        return _Batch(list(rows), past, lengths, logits[owner], tokens, draws)

    def _choose(self, batch: _Batch) -> torch.Tensor:
        """Choose the next token of each row, and remove finished rows once they are many."""
        at = batch.step
        token = choose(batch.logits, self.sampling, batch.draws[:, at])
        batch.tokens[:, at] = token
        batch.step = at + 1
        ended = {
            r: reason
            for r, reason in self._find_ended(batch.tokens[:, : at + 1]).items()
            if r not in batch.finished
        }
        if ended:
            ids = batch.tokens[list(ended), : at + 1].tolist()
            for (r, reason), made in zip(ended.items(), ids, strict=True):
                self.finish(batch.rows[r], made, reason)
            batch.finished.update(ended)
        if self.progress is not None:
            self.progress.step(len(ended))
        if len(batch.finished) < FINISHED_PER_BATCH * len(batch.rows):
            return token
        kept = [r for r in range(len(batch.rows)) if r not in batch.finished]
        batch.keep(kept)
        return token[kept]

    def _find_ended(self, tokens: torch.Tensor) -> dict[int, FinishReason]:
        """Find the rows that end with the newest column of `tokens`, and why."""
        rows = torch.isin(tokens[:, -1], self.engine.ends).nonzero()[:, 0].tolist()
        ended: dict[int, FinishReason] = dict.fromkeys(rows, "stop")
        if stop := self.sampling.stop:
            # Every token has at least a byte of the stop string, but for special ones and those
            # that only complete a character: hence the margin, and the look at the whole text.
            reach = max(len(s.encode()) for s in stop) + 4
            decode = self.engine.decode
            for r, tail in enumerate(tokens[:, -reach:].tolist()):
                if _has(decode(tail), stop) and _has(decode(tokens[r].tolist()), stop):
                    ended.setdefault(r, "stop")
        if tokens.shape[1] == self.sampling.max_tokens:
            for r in range(len(tokens)):
                ended.setdefault(r, "length")
        return ended


def _has(text: str, stop: tuple[str, ...]) -> bool:
    return any(s in text for s in stop)


# Sampling ---------------------------------------------------------------------------------------


def draw(keys: Sequence[tuple[str, int]], sampling: Sampling) -> torch.Tensor:
    """Draw uniform numbers in [0, 1) for each (prompt, sample), shape (rows, max_tokens).

    They come from Philox with a key of (seed, prompt, sample) alone, so neither the order of the
    prompts nor the batch changes a response.
    """
    draws = np.empty((len(keys), sampling.max_tokens), dtype=np.float32)
    for row, (prompt, sample) in zip(draws, keys, strict=True):
        generator = np.random.Generator(np.random.Philox(key=seed_of(sampling, prompt, sample)))
        generator.random(out=row, dtype=np.float32)
    return torch.from_numpy(draws)


def choose(logits: torch.Tensor, sampling: Sampling, draws: torch.Tensor) -> torch.Tensor:
    """Choose the next token of each row, from logits (rows, vocabulary) and draws (rows,).

    At temperature 0 the likeliest token; else the inverse of the distribution function at the draw,
    within the fewest likeliest tokens that together have `top_p`.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    shares = torch.softmax(logits.float() / sampling.temperature, -1)
    if sampling.top_p == 1:
        return _inverse(shares, draws)
    shares, tokens = shares.sort(dim=-1, descending=True, stable=True)
    before = shares.cumsum(-1) - shares
    place = _inverse(shares.masked_fill(before >= sampling.top_p, 0.0), draws)
    return tokens.gather(-1, place[:, None])[:, 0]


def _inverse(shares: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    # A draw is at most 1 - 2^-24, so that its product with the total rounds to less than it, and
    # the first place above it always exists and has a share.
    cumulative = shares.cumsum(-1)
    place = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    return place[:, 0]


# Batch size -------------------------------------------------------------------------------------


def rows_that_fit(
    model: Any, device: torch.device, columns: int, scored: int = 1, most: int = MAX_ROWS
) -> int:
    """Estimate how many rows of `columns` tokens, `scored` with logits, fit: at most `most`.

    A power of two: sums are rounded by the number of rows, and small changes in free memory must
    not change samples.
    """
    config = model.config.get_text_config(decoder=True)
    past = numbers_kept(config) * model.dtype.itemsize * columns
    logits = LOGITS_COPIES * torch.float32.itemsize * config.vocab_size * scored
    rows = max(1, min(most, int(MEMORY_SHARE * free_memory(device) / (past + logits))))
    return 1 << (rows.bit_length() - 1)


def numbers_kept(config: Any) -> int:
    """Count the numbers in a token's keys and values, by the `config` of a language model."""
    if not (queries := getattr(config, "num_attention_heads", 0)):
        return 0  # a recurrent model
    heads = getattr(config, "num_key_value_heads", None) or queries
    dim = getattr(config, "head_dim", None) or config.hidden_size // queries
    return int(2 * config.num_hidden_layers * heads * dim)


def free_memory(device: torch.device) -> int:
    """Read how many bytes can still be allocated on `device`."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return int(psutil.virtual_memory().available)
