"""`transformers` as an engine: each prompt is read once, however many answers it gets.

A batch is prefilled prompt by prompt, its cache rows are repeated for the samples of each prompt,
and rows leave as they finish. Of a model's generation_config only the end-of-sequence tokens
count: decoding is what `Sampling` says and nothing else.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers.cache_utils import DynamicCache

from harness import memory
from harness.engines import Completion, Sampling
from harness.engines.rows import choose, draws, new_cache
from harness.errors import UserError
from harness.models import ADAPTER_CONFIG, check, check_weights, find, loaded_digest, model_digest
from harness.progress import say
from harness.schema import FinishReason, Message, digest

__all__ = ["HFEngine", "model_digest"]

T = TypeVar("T")
Row = tuple[int, int]  # (prompt, sample): one answer to be made
Answer = tuple[list[int], FinishReason]
Pair = tuple[list[int], list[int]]  # context and continuation, as token ids

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEFAULT_CONTEXT = 2048
LEAVE = 8  # finished rows leave the batch when they are this part of it


class HFEngine:
    """A causal language model, loaded once for sampling and evaluation.

    Args:
        model: a folder, the name of a hub model, or a loaded model (then `tokenizer` too).
        tokenizer: another tokenizer than the model's own: its folder, or loaded.
        device: "auto" is CUDA where there is one.
        dtype: "auto" is the dtype of the weights.
        max_batch: answers generated at a time; halved as often as memory demands.
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
        max_batch: int = 256,
        adapter: Path | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"There is no dtype '{dtype}'; choose one of {', '.join(DTYPES)}.")
        if max_batch < 1:
            raise UserError(f"max_batch is {max_batch}; at least 1 is needed.")
        self.max_batch = max_batch
        self.device = _device(device)
        if isinstance(model, str | Path):
            folder = find(model)
            check(folder)
            self.model_id = str(model)
            self.model_digest: str | None = model_digest(folder)
            self.tokenizer = _load_tokenizer(folder if tokenizer is None else tokenizer)
            lacking = f"{model} does not fit in the memory of {self.device}."
            with memory.told(f"{lacking} Use a smaller model or dtype bfloat16."):
                self.model = _load_model(folder, self.device, dtype)
        else:
            if tokenizer is None:
                raise UserError("A model in memory needs its tokenizer: pass tokenizer=.")
            self.tokenizer = _load_tokenizer(tokenizer)
            self.model = model.to(self.device)
            self.model_id = str(model.name_or_path or type(model).__name__)
            self.model_digest = loaded_digest(model, self.tokenizer)
        rows = self.model.get_input_embeddings().weight.shape[0]
        if len(self.tokenizer) > rows:
            raise UserError(
                f"The tokenizer has {len(self.tokenizer)} tokens and the model of {self.model_id} "
                f"only {rows}: it is another model's tokenizer. Use the one it was trained with."
            )
        if adapter is not None:
            self.model = _merge_adapter(self.model, adapter)
            self.model_digest = digest([self.model_digest, model_digest(adapter)])
        self.model.eval()
        self.context = _context(self.model.config, self.tokenizer)
        self._takes = set(inspect.signature(self.model.forward).parameters)
        self._ends = torch.tensor(_ends(self.model, self.tokenizer), device=self.device)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt text of a conversation, ready for the assistant's turn.

        A model without a chat template sees the messages' contents, a blank line between them. A
        template that knows no system role gets the system's words at the head of the first turn.
        """
        import jinja2

        if self.tokenizer.chat_template is None:
            return "\n\n".join(message.content for message in messages)
        turns = [message.model_dump() for message in messages]
        try:
            return self._apply_template(turns)
        except jinja2.TemplateError:
            if len(turns) < 2 or turns[0]["role"] != "system":
                raise
            told, first, *rest = turns
            first = first | {"content": f"{told['content']}\n\n{first['content']}"}
            return self._apply_template([first, *rest])

    def _apply_template(self, turns: list[dict[str, str]]) -> str:
        return str(
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, as lm-eval's `hf` model has them.

        Special tokens are the tokenizer's own affair, but a text that starts with the BOS token
        does not get another.
        """
        bos = self.tokenizer.bos_token
        if bos and text.startswith(bos):
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        return list(self.tokenizer.encode(text))

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
        _check_sampling(sampling, self.context)
        each = 1 if sampling.temperature == 0 else sampling.n
        copies = sampling.n // each
        ids = self._encode_all(prompts, self.context - sampling.max_tokens)
        answers: dict[Row, Answer] = {}

        def finish(row: Row, answer: Answer) -> None:
            answers[row] = answer
            if on_done is not None:
                on_done(copies)

        rows = [(p, j) for p in range(len(prompts)) for j in range(each)]
        rows.sort(key=lambda row: -len(ids[row[0]]))
        self._in_batches(
            rows,
            lambda batch: self._decode(batch, prompts, ids, sampling, finish),
            lambda row: row in answers,
        )
        texts = [
            [self._completion(answers[p, j], len(ids[p]), sampling.stop) for j in range(each)]
            for p in range(len(prompts))
        ]
        return [made * copies for made in texts]

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether greedy gives it.

        A pair longer than the model's context loses the beginning of its context.

        Raises:
            UserError: one pair does not fit in memory.
        """
        found: dict[int, tuple[float, bool]] = {}
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))

        def run(batch: list[int]) -> None:
            scored = self._loglikelihood([pairs[i] for i in batch])
            found.update(zip(batch, scored, strict=True))

        self._in_batches(order, run, found.__contains__)
        return [found[i] for i in range(len(pairs))]

    def _encode_all(self, prompts: Sequence[str], room: int) -> list[list[int]]:
        """Token ids of each prompt, at most `room`, at least one."""
        known: dict[str, list[int]] = {}
        for prompt in prompts:
            if prompt not in known:
                known[prompt] = self.encode(prompt) or [self._start]
        cut = sum(len(ids) > room for ids in known.values())
        if cut:
            say(
                f"{cut} of {len(known)} prompts were longer than the {room} tokens that the "
                "context leaves them: their beginning was cut off."
            )
        return [known[prompt][-room:] for prompt in prompts]

    @property
    def _start(self) -> int:
        """What stands before an empty prompt."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return int(bos if bos is not None else eos if eos is not None else 0)

    def _in_batches(
        self, rows: Sequence[T], run: Callable[[list[T]], None], is_done: Callable[[T], bool]
    ) -> None:
        """Run `rows` in batches, which are halved while memory does not suffice."""
        size, waiting = self.max_batch, list(rows)
        while waiting:
            batch = waiting[:size]
            try:
                run(batch)
            except (MemoryError, RuntimeError) as error:
                if not memory.is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise memory.OutOfMemoryError(
                        f"{self.model_id} does not fit in the memory of {self.device}, not even "
                        "with one answer at a time. Use a smaller model, a shorter max_tokens or "
                        "dtype bfloat16."
                    ) from None
                size = len(batch) // 2
                say(f"Out of memory: going on with batches of {size}.")
            if self.device.type == "cuda" and size < self.max_batch:
                torch.cuda.empty_cache()
            waiting = [row for row in waiting if not is_done(row)]

    @torch.inference_mode()
    def _decode(
        self,
        rows: list[Row],
        prompts: Sequence[str],
        ids: Sequence[list[int]],
        sampling: Sampling,
        finish: Callable[[Row, Answer], None],
    ) -> None:
        """Answer the rows of one batch; `finish(row, answer)` as each is done."""
        asked = list(dict.fromkeys(p for p, _ in rows))
        cache, logits, mask = self._prefill([ids[p] for p in asked], sampling.max_tokens)
        place = {p: i for i, p in enumerate(asked)}
        which = torch.tensor([place[p] for p, _ in rows], device=self.device)
        if len(rows) > len(asked):
            cache.batch_select_indices(which)
        drawn = draws([(prompts[p], j) for p, j in rows], sampling).to(self.device)
        batch = _Batch(
            rows=list(rows),
            cache=cache,
            mask=mask[which],
            position=mask[which].sum(-1) - sampling.max_tokens,
            tokens=torch.empty_like(drawn, dtype=torch.long),
            drawn=drawn,
        )
        logits = logits[which]
        columns = mask.shape[1] - sampling.max_tokens
        done: set[int] = set()
        for step in range(sampling.max_tokens):
            token = choose(logits, sampling, batch.drawn[:, step])
            batch.tokens[:, step] = token
            last = step + 1 == sampling.max_tokens
            for r, reason in self._ended(batch.tokens[:, : step + 1], sampling.stop, last):
                if r not in done:
                    done.add(r)
                    finish(batch.rows[r], (batch.tokens[r, : step + 1].tolist(), reason))
            if len(done) == len(batch.rows):
                return
            if len(done) * LEAVE >= len(batch.rows):
                kept = [r for r in range(len(batch.rows)) if r not in done]
                batch.keep(kept)
                token = token[kept]
                done.clear()
            logits = self._forward(
                token[:, None],
                batch.mask[:, : columns + step + 1],
                (batch.position + step)[:, None],
                batch.cache,
            )

    def _ended(
        self, tokens: torch.Tensor, stop: tuple[str, ...], last: bool
    ) -> list[tuple[int, FinishReason]]:
        """The rows that end with the newest column of `tokens`, and why."""
        rows = torch.isin(tokens[:, -1], self._ends).nonzero()[:, 0].tolist()
        ended: dict[int, FinishReason] = dict.fromkeys(rows, "stop")
        if stop:
            # Every token has at least a byte of the stop string, but for special ones and those
            # that only complete a character: hence the margin, and the look at the whole text.
            reach = max(len(s.encode()) for s in stop) + 4
            for r, tail in enumerate(tokens[:, -reach:].tolist()):
                if _has(self._text(tail), stop) and _has(self._text(tokens[r].tolist()), stop):
                    ended.setdefault(r, "stop")
        if last:
            for r in range(len(tokens)):
                ended.setdefault(r, "length")
        return list(ended.items())

    def _prefill(
        self, ids: Sequence[list[int]], more: int
    ) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
        """Read prompts: their cache, next-token logits and mask, with `more` columns to come.

        Prompts are padded on the left; logits are (prompts, vocabulary), the mask is (prompts,
        longest + more), 1 where there is or will be a token.
        """
        width = max(map(len, ids))
        tokens = torch.zeros(len(ids), width, dtype=torch.long)
        mask = torch.ones(len(ids), width + more, dtype=torch.long)
        for i, prompt in enumerate(ids):
            tokens[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, : width - len(prompt)] = 0
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        cache = new_cache(self.model.config)
        position = (mask[:, :width].cumsum(-1) - 1).clamp(min=0)
        logits = self._forward(tokens, mask[:, :width], position, cache)
        if logits.isnan().any():
            raise UserError(
                f"{self.model_id} gives NaN: its weights are damaged, or too large for "
                f"{self.model.dtype}. Try dtype float32."
            )
        return cache, logits, mask

    def _forward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        position: torch.Tensor,
        cache: DynamicCache,
    ) -> torch.Tensor:
        """Logits (rows, vocabulary) after the last column of `tokens`."""
        takes = {"position_ids": position, "logits_to_keep": 1}
        out = self.model(
            input_ids=tokens,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **{name: value for name, value in takes.items() if name in self._takes},
        )
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
        text = self._text(ids)
        places = [at for s in stop if (at := text.find(s)) >= 0]
        if places:
            text, reason = text[: min(places)], "stop"
        return Completion(text, reason, prompt_tokens, len(ids))


@dataclass
class _Batch:
    """Answers in the making, a row each."""

    rows: list[Row]
    cache: DynamicCache
    mask: torch.Tensor  # (rows, prompt + max_tokens), 1 where there is or will be a token
    position: torch.Tensor  # (rows,), of the first generated token
    tokens: torch.Tensor  # (rows, max_tokens)
    drawn: torch.Tensor  # (rows, max_tokens)

    def keep(self, kept: list[int]) -> None:
        """Let go of all rows but `kept`."""
        which = torch.tensor(kept, device=self.tokens.device)
        self.rows = [self.rows[r] for r in kept]
        self.cache.batch_select_indices(which)
        self.mask, self.position = self.mask[which], self.position[which]
        self.tokens, self.drawn = self.tokens[which], self.drawn[which]


def _has(text: str, stop: tuple[str, ...]) -> bool:
    return any(s in text for s in stop)


def _check_sampling(sampling: Sampling, context: int) -> None:
    if not 1 <= sampling.max_tokens < context:
        raise UserError(
            f"max_tokens is {sampling.max_tokens}, and the model's context of {context} tokens "
            f"must hold the prompt too: choose 1 to {context - 1}."
        )
    if sampling.n < 1 or not 0 < sampling.top_p <= 1 or not 0 <= sampling.temperature < math.inf:
        raise UserError(
            f"n is {sampling.n}, top_p {sampling.top_p}, temperature {sampling.temperature}: n is "
            "at least 1, top_p above 0 and at most 1, temperature at least 0."
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"There is no device '{name}' here; leave it at auto, or say cpu or cuda."
        ) from error
    return device


def _load_model(folder: Path, device: torch.device, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    with _quiet():
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:
            if memory.is_out_of_memory(error):
                raise
            raise UserError(f"Cannot load the model in {folder}: {_sentence(error)}") from error
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        raise UserError(
            f"The weights in {folder} lack {len(names)} of the model's tensors ({names[0]}, ...): "
            "they are another architecture's, or the folder is incomplete."
        )
    return model.to(device)


def _load_tokenizer(source: Any) -> Any:
    from transformers import AutoTokenizer

    if not isinstance(source, str | Path):
        return source
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise UserError(f"Cannot load the tokenizer in {source}: {_sentence(error)}") from error


def _merge_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    if not (adapter / ADAPTER_CONFIG).exists():
        raise UserError(f"{adapter} is no LoRA adapter: it has no {ADAPTER_CONFIG}.")
    check_weights(adapter)
    with _quiet():
        try:
            return PeftModel.from_pretrained(model, adapter).merge_and_unload()
        except Exception as error:
            raise UserError(
                f"The adapter {adapter} does not fit the model: {_sentence(error)}"
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the loading bars of `transformers`."""
    from transformers.utils import logging as said

    shown = said.is_progress_bar_enabled()
    said.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            said.enable_progress_bar()


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _context(config: Any, tokenizer: Any) -> int:
    """The model's context in tokens, where lm-eval looks for it."""
    text = getattr(config, "text_config", None) or config
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(text, name, None) is not None:
            return int(getattr(text, name))
    limit = tokenizer.model_max_length
    return int(limit) if limit < 1e9 else DEFAULT_CONTEXT


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the tokenizer's, and those of the generation_config."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    found = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return sorted(found - {None})
