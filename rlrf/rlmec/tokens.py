"""Tokens of responses: their texts, and how likely a model finds them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def pieces(text: str, tokenizer: Any, *, cut: bool = False) -> list[str]:
    """What each token of `encode_response(text, ...)` spells; together they are the text.

    The end token is in its own spelling. A character of several tokens belongs to the first.
    """
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = [0]
        for _, end in encoded["offset_mapping"]:
            ends.append(max(end, ends[-1]))
        ends[-1] = len(text) if len(ends) > 1 else 0
        found = [text[a:b] for a, b in itertools.pairwise(ends)]
    else:
        ids = tokenizer.encode(text, add_special_tokens=False)
        found = [tokenizer.decode([token]) for token in ids]
    return found if cut else [*found, tokenizer.eos_token]


def token_logps(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, learned: torch.Tensor
) -> torch.Tensor:
    """Log-probability of each token where `learned` is true, in order, shape (learned,).

    The other three have shape (texts, longest), padded at the end. No first token is learned.
    """
    where = learned[:, 1:]
    output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    # A log-softmax over the prompts as well would be as large as the logits again.
    logits = output.logits[:, :-1][where].float()
    chosen = logits.gather(-1, input_ids[:, 1:][where][:, None])[:, 0]
    found: torch.Tensor = chosen - logits.logsumexp(-1)
    return found
