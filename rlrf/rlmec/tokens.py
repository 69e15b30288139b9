"""The texts of a response's tokens."""

from __future__ import annotations

import itertools
from typing import Any

from harness.engines.prompts import without_surrogates


def pieces(text: str, tokenizer: Any, *, cut: bool = False) -> list[str]:
    """What each token of `encode_response(text, ...)` spells; together they are the text.

    The end token is in its own spelling. A character of several tokens belongs to the first.
    """
    text = without_surrogates(text)
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
