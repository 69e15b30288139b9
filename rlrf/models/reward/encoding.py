"""How a reward model reads a response: the same tokens in training and in scoring."""

from __future__ import annotations

from typing import Any

from harness.core.schema import Message
from harness.engines import prompts


def encode(prompt: str, response: str, tokenizer: Any) -> list[int]:
    """Token ids of a prompt and its response, encoded apart as they were when it was sampled.

    A response ends with the end token, also where a length limit cut it off: a reward is of a text.
    """
    prompt, response = prompts.without_surrogates(prompt), prompts.without_surrogates(response)
    asked = prompts.encode(tokenizer, prompt)
    if asked and asked[-1] == tokenizer.eos_token_id and not prompt.endswith(tokenizer.eos_token):
        asked = asked[:-1]  # encoders such as BERT's close what is not yet at its end
    answered = tokenizer.encode(response, add_special_tokens=False)
    return [*asked, *answered, tokenizer.eos_token_id]


def render(prompt: str, tokenizer: Any) -> str:
    """Render a user's turn by the chat template; the prompt as it is where there is none."""
    return prompts.render(tokenizer, [Message(role="user", content=prompt)])
