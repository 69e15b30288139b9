"""`transformers` as an engine: each prompt is read once, however many answers it gets.

Of a model's generation_config only the end-of-sequence tokens count: decoding (`decoding.py`) is
what `Sampling` says and nothing else.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers.cache_utils import DynamicCache

from harness.core.errors import OutOfMemoryError, UserError, explain_out_of_memory, is_out_of_memory
from harness.core.log import say
from harness.core.progress import Advance
from harness.core.schema import digest
from harness.engines import Completion, Sampling, loading
from harness.engines.attention import Shared, attending, can_share
from harness.engines.batch_size import rows_that_fit
from harness.engines.decoding import Answer, Decoding, Row
from harness.engines.dtype import DTYPES, choose_dtype
from harness.engines.model_folder import check, find, loaded_digest, model_digest
from harness.engines.onednn_linear import pack
from harness.engines.template import check_template
from harness.engines.text import Tokenized, check_sampling, cut, encode_all

__all__ = ["HFEngine", "model_digest"]

T = TypeVar("T")
Pair = tuple[list[int], list[int]]  # context and continuation, as token ids


class HFEngine(Tokenized):
    """A causal language model, loaded once for sampling and evaluation.

    Args:
        model: a folder, the name of a hub model, or a loaded model (then `tokenizer` too).
        tokenizer: another tokenizer than the model's own: its folder, or loaded.
        device: "auto" is CUDA where there is one.
        dtype: "auto" is the dtype of the weights, or float32 on a CPU that has no instructions
            for theirs.
        max_batch: answers generated at a time; None: as many as fit in the free memory. Halved as
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
        if dtype not in DTYPES:
            raise UserError(f"There is no dtype '{dtype}'; choose one of {', '.join(DTYPES)}.")
        if max_batch is not None and max_batch < 1:
            raise UserError(f"max_batch is {max_batch}; at least 1 is needed.")
        self.max_batch = max_batch
        self.device = loading.find_device(device)
        if isinstance(model, str | Path):
            folder = find(model)
            check(folder)
            self.model_id = str(model)
            self.model_digest: str | None = model_digest(folder)
            self.tokenizer = loading.load_tokenizer(folder if tokenizer is None else tokenizer)
            lacking = f"{model} does not fit in the memory of {self.device}."
            with explain_out_of_memory(f"{lacking} Use a smaller model or dtype bfloat16."):
                dtype = choose_dtype(folder, self.device, dtype)
                self.model = loading.load_model(folder, self.device, dtype)
        else:
            if tokenizer is None:
                raise UserError("A model in memory needs its tokenizer: pass tokenizer=.")
            self.tokenizer = loading.load_tokenizer(tokenizer)
            self.model = model.to(self.device)
            self.model_id = str(model.name_or_path or type(model).__name__)
            self.model_digest = loaded_digest(model, self.tokenizer)
        check_template(self.tokenizer)
        rows = self.model.get_input_embeddings().weight.shape[0]
        if len(self.tokenizer) > rows:
            raise UserError(
                f"The tokenizer has {len(self.tokenizer)} tokens and the model of {self.model_id} "
                f"only {rows}: it is another model's tokenizer. Use the one it was trained with."
            )
        if adapter is not None:
            self.model = loading.merge_adapter(self.model, adapter)
            self.model_digest = digest([self.model_digest, model_digest(adapter)])
        self.model.eval()
        if isinstance(model, str | Path):
            pack(self.model)  # a loaded model may be trained on by who handed it over
        self.context = loading.context(self.model.config, self.tokenizer)
        self._takes = set(inspect.signature(self.model.forward).parameters)
        self._ends = torch.tensor(loading.ends(self.model, self.tokenizer), device=self.device)

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        on_done: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order; `on_done(k)` after k more.

        `completion_tokens` counts the end-of-sequence token. A prompt that leaves no room for
        `max_tokens` loses its beginning, with a warning. At temperature 0 the samples of a prompt
        are one completion n times.

        Raises:
            UserError: `max_tokens` is more than the model's context, or one row does not fit in
                memory, or the model gives NaN.
        """
        check_sampling(sampling, self.context)
        each = 1 if sampling.temperature == 0 else sampling.n
        copies = sampling.n // each
        ids = encode_all(self.tokenizer, prompts, self.context - sampling.max_tokens)
        answers: dict[Row, Completion] = {}

        def finish(row: Row, answer: Answer) -> None:
            # Text at once: token ids as Python's integers take many times its memory.
            answers[row] = self._completion(answer, len(ids[row[0]]), sampling.stop)
            if on_done is not None:
                on_done(copies)

        rows = [(p, j) for p in range(len(prompts)) for j in range(each)]
        rows.sort(key=lambda row: -len(ids[row[0]]))
        progress = on_done if isinstance(on_done, Advance) else None
        if progress is not None:
            progress.generating(sampling.max_tokens, copies)
        decoding = Decoding(self, prompts, ids, sampling, finish, progress=progress)
        columns = max(map(len, ids), default=0) + sampling.max_tokens
        self._within_memory(rows, decoding.run, answers.__contains__, columns)
        return [[answers[p, j] for j in range(each)] * copies for p in range(len(prompts))]

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether greedy gives it.

        A pair longer than the model's context loses the beginning of its context.

        Raises:
            UserError: one pair does not fit in memory.
        """
        found: dict[int, tuple[float, bool]] = {}
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))

        def run(waiting: Sequence[int], size: int) -> None:
            for start in range(0, len(waiting), size):
                batch = waiting[start : start + size]
                scored = self._loglikelihood([pairs[i] for i in batch])
                found.update(zip(batch, scored, strict=True))

        columns = max((len(before) + len(after) for before, after in pairs), default=0)
        columns = min(columns, self.context)
        self._within_memory(order, run, found.__contains__, columns, scored=columns)
        return [found[i] for i in range(len(pairs))]

    def _within_memory(
        self,
        waiting: Sequence[T],
        run: Callable[[Sequence[T], int], None],
        is_done: Callable[[T], bool],
        columns: int,
        scored: int = 1,
    ) -> None:
        """`run(waiting, size)`, with a `size` that is halved while memory does not suffice.

        A row is up to `columns` tokens, of which `scored` get logits at once.
        """
        size = self.max_batch or rows_that_fit(self.model, self.device, columns, scored)
        while waiting:
            size = min(size, len(waiting))
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
                say(f"Out of memory: going on with batches of {size}.")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            waiting = [row for row in waiting if not is_done(row)]

    @functools.cached_property
    def shares(self) -> bool:
        """Whether rows can share what their prompts have in common while they are decoded."""
        return "position_ids" in self._takes and can_share(self.model, self.device)

    def _forward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor | None,
        position: torch.Tensor,
        past: DynamicCache | Shared,
    ) -> torch.Tensor:
        """Logits (rows, vocabulary) after the last column of `tokens`, which `past` takes in."""
        takes = {"position_ids": position, "logits_to_keep": 1}
        options = {name: value for name, value in takes.items() if name in self._takes}
        if isinstance(past, DynamicCache):
            options |= {"attention_mask": mask, "past_key_values": past, "use_cache": True}
            out = self.model(input_ids=tokens, **options)
        else:
            with attending(self.model):
                out = self.model(input_ids=tokens, use_cache=False, shared=past, **options)
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    @torch.inference_mode()
    def _loglikelihood(self, pairs: list[Pair]) -> list[tuple[float, bool]]:
        inputs = [(before + after)[-(self.context + 1) :] for before, after in pairs]
        width = max(map(len, inputs)) - 1
        tokens = torch.zeros(len(pairs), width, dtype=torch.long)
        mask = torch.zeros(len(pairs), width, dtype=torch.long)
        for i, ids in enumerate(inputs):
            tokens[i, : len(ids) - 1] = torch.tensor(ids[:-1])
            mask[i, : len(ids) - 1] = 1
        logits = self.model(
            input_ids=tokens.to(self.device), attention_mask=mask.to(self.device), use_cache=False
        ).logits
        scored = []
        for row, ids, (_, after) in zip(logits, inputs, pairs, strict=True):
            end = len(ids) - 1
            shares = row[end - len(after) : end].float().log_softmax(-1)
            target = torch.tensor(after, device=self.device)
            total = shares.gather(-1, target[:, None]).sum()
            scored.append((float(total), bool((shares.argmax(-1) == target).all())))
        return scored

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _completion(self, answer: Answer, prompt_tokens: int, stop: tuple[str, ...]) -> Completion:
        ids, reason = answer
        text, reason = cut(self._text(ids), reason, stop)
        return Completion(text, reason, prompt_tokens, len(ids))
