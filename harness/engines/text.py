"""What engines share about text: prompts rendered and encoded, answers cut, sampling checked."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

from harness.core.errors import UserError
from harness.core.log import say
from harness.core.schema import FinishReason, Message
from harness.engines import Sampling
from harness.engines.template import render


class Tokenized:
    """An engine that has its model's tokenizer."""

    tokenizer: Any

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt text of a conversation, ready for the assistant's turn."""
        return render(self.tokenizer, messages)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt."""
        return encode(self.tokenizer, text)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a prompt, as lm-eval's `hf` model has them.

    Special tokens are the tokenizer's own affair, but a text that starts with the BOS token does
    not get another.
    """
    text = without_surrogates(text)
    bos = tokenizer.bos_token
    if bos and text.startswith(bos):
        return list(tokenizer.encode(text, add_special_tokens=False))
    return list(tokenizer.encode(text))


def without_surrogates(text: str) -> str:
    """`text` with '?' for each lone surrogate, which models do emit and no tokenizer reads."""
    return text.encode("utf-8", "replace").decode()


def encode_all(tokenizer: Any, prompts: Sequence[str], room: int) -> list[array[int]]:
    """Token ids of each prompt, at most `room`, at least one; what is too long loses its beginning,
    with a warning."""
    known: dict[str, array[int]] = {}  # four bytes a token: all prompts are held at a time
    for prompt in prompts:
        if prompt not in known:
            known[prompt] = array("i", encode(tokenizer, prompt) or [_start(tokenizer)])
    cut = sum(len(ids) > room for ids in known.values())
    if cut:
        say(
            f"{cut} of {len(known)} prompts were longer than the {room} tokens that the "
            "context leaves them: their beginning was cut off."
        )
    return [known[prompt][-room:] for prompt in prompts]


def _start(tokenizer: Any) -> int:
    """What stands before an empty prompt."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return int(bos if bos is not None else eos if eos is not None else 0)


def cut(text: str, reason: FinishReason, stop: Sequence[str]) -> tuple[str, FinishReason]:
    """`text` before the first stop string in it, and why it ends there."""
    places = [at for s in stop if (at := text.find(s)) >= 0]
    return (text[: min(places)], "stop") if places else (text, reason)


def check_sampling(sampling: Sampling, context: int | None = None) -> None:
    """See that `sampling` can be done, within `context` tokens where that is known.

    Raises:
        UserError: it cannot.
    """
    if sampling.max_tokens < 1:
        raise UserError(f"max_tokens is {sampling.max_tokens}: at least 1 is needed.")
    if context is not None and sampling.max_tokens >= context:
        raise UserError(
            f"max_tokens is {sampling.max_tokens}, and the model's context of {context} tokens "
            f"must hold the prompt too: choose 1 to {context - 1}."
        )
    if sampling.n < 1 or not 0 < sampling.top_p <= 1 or not 0 <= sampling.temperature < math.inf:
        raise UserError(
            f"n is {sampling.n}, top_p {sampling.top_p}, temperature {sampling.temperature}: n is "
            "at least 1, top_p above 0 and at most 1, temperature at least 0."
        )
