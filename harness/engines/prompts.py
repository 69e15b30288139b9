"""Render conversations by a model's chat template, and encode prompts as token ids.

Templates come with models; `transformers` runs them in a sandbox. Some take a message as text,
some as a list of parts; some have no system role; some lose words. Which of these a template does
is tried once per tokenizer and order of roles, on messages with marked words.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.core.log import say

if TYPE_CHECKING:
    from harness.core.schema import Message

Turns = list[dict[str, Any]]
MAX_FORMS = 32  # remembered forms, one per tokenizer and order of roles


def render(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = True
) -> str:
    """Render a conversation as the prompt of the assistant's reply.

    Without a tokenizer or a chat template, the prompt is the messages' contents, separated by blank
    lines. For a template without a system role, the system message is put before the first turn.

    Raises:
        UserError: the template refuses the messages, is broken, tried to leave the sandbox, or
            makes prompts without the words of a message.
    """
    if tokenizer is None or tokenizer.chat_template is None:
        return "\n\n".join(message.content for message in messages)
    roles = tuple(message.role for message in messages)
    form = _find_form(tokenizer, str(tokenizer.chat_template), roles)
    turns: Turns = [message.model_dump() for message in messages]
    return _apply(tokenizer, form.prepare(turns), add_generation_prompt)


def check_template(tokenizer: Any) -> None:
    """Refuse a chat template that loses a user's words or cannot be used.

    Raises:
        UserError: what is wrong with the template.
    """
    from harness.core.schema import Message

    render(tokenizer, [Message(role="user", content="Hello")])


@dataclass(frozen=True)
class _Form:
    """How a template takes a conversation."""

    parts: bool  # each content is a list of parts
    merge_system: bool  # the system message goes before the first turn's words

    def prepare(self, turns: Turns) -> Turns:
        if self.merge_system:
            told, first, *rest = turns
            turns = [first | {"content": f"{told['content']}\n\n{first['content']}"}, *rest]
        if self.parts:
            turns = [
                turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in turns
            ]
        return turns


@functools.lru_cache(maxsize=MAX_FORMS)
def _find_form(tokenizer: Any, template: str, roles: tuple[str, ...]) -> _Form:
    """Find the form in which `template` keeps the words of a conversation of `roles`."""
    marked: Turns = [
        {"role": role, "content": f"marked words {place} of the {role}"}
        for place, role in enumerate(roles)
    ]
    has_system = len(roles) > 1 and roles[0] == "system"
    merging = (False, True) if has_system else (False,)
    forms = [_Form(parts, merge) for merge in merging for parts in (False, True)]
    lost: list[str] = []
    refused: UserError | None = None
    for form in forms:
        try:
            prompt = _apply(tokenizer, form.prepare(marked), True).casefold()
        except UserError as error:
            refused = refused or error
            continue
        missing = [turn["role"] for turn in marked if turn["content"].casefold() not in prompt]
        if form.parts and "'text':" in prompt:  # the list itself was printed, brackets and all
            missing = [turn["role"] for turn in marked]
        if not missing:
            return form
        lost = lost or missing
    if refused is not None and not lost:
        raise refused
    where = tokenizer.name_or_path or "the model"
    raise UserError(
        f"The chat template of {where} loses the {lost[0]}'s words: a prompt that it makes does "
        "not contain them, whether they are given as text or as a list of parts. Correct "
        "chat_template.jinja (or chat_template in tokenizer_config.json) in the tokenizer's "
        "folder, or name another tokenizer."
    )


def _apply(tokenizer: Any, turns: Turns, add_generation_prompt: bool) -> str:
    import jinja2

    try:
        return str(
            tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise UserError(
            f"The model's chat template cannot be used ({type(error).__name__}: "
            f"{str(error)[:300]}). Correct it in the tokenizer's folder."
        ) from error


def encode(tokenizer: Any, text: str) -> list[int]:
    """Encode a prompt as lm-eval's `hf` model does.

    The tokenizer adds its special tokens, but no second BOS to a text that starts with one.
    """
    text = without_surrogates(text)
    bos = tokenizer.bos_token
    if bos and text.startswith(bos):
        return list(tokenizer.encode(text, add_special_tokens=False))
    return list(tokenizer.encode(text))


def without_surrogates(text: str) -> str:
    """Replace lone surrogates by '?': models emit them, and no tokenizer reads them."""
    return text.encode("utf-8", "replace").decode()


def encode_all(tokenizer: Any, prompts: Sequence[str], limit: int) -> list[array[int]]:
    """Encode prompts, each as 1 to `limit` tokens.

    A longer prompt loses its beginning, with a warning; an empty one becomes its BOS token.
    """
    known: dict[str, array[int]] = {}  # four bytes per token: all prompts are held together
    for prompt in prompts:
        if prompt not in known:
            known[prompt] = array("i", encode(tokenizer, prompt) or [_first_token(tokenizer)])
    cut = sum(len(ids) > limit for ids in known.values())
    if cut:
        say(
            f"{cut} of {len(known)} prompts were longer than the {limit} tokens that the "
            "context leaves them: their beginning was cut off."
        )
    return [known[prompt][-limit:] for prompt in prompts]


def _first_token(tokenizer: Any) -> int:
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return int(bos if bos is not None else eos if eos is not None else 0)
