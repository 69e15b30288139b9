"""Render conversations by a model's chat template, and refuse templates that lose words.

Templates come with models: `transformers` runs them in a sandbox. What a template does to a
conversation is found out once per tokenizer and order of roles, with marked messages: whether it
takes messages as text or as lists of parts, whether it knows a system role, and whether every
message is in the prompt that it makes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import UserError
from harness.core.schema import Message

Turns = list[dict[str, Any]]
TOKENIZERS = 32  # whose templates are remembered, with their orders of roles


def render(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = True
) -> str:
    """Render a conversation as the text of a prompt, ready for the assistant's turn.

    Without a chat template, or a tokenizer, the prompt is the messages' contents, a blank line
    between them. A template that takes messages as lists of parts gets them so, and the words of
    the system stand at the head of the first turn for a template without a system role.

    Raises:
        UserError: the template refuses the messages, is broken, tried to leave the sandbox, or
            makes prompts without the words of a message.
    """
    if tokenizer is None or tokenizer.chat_template is None:
        return "\n\n".join(message.content for message in messages)
    roles = tuple(message.role for message in messages)
    form = _form(tokenizer, str(tokenizer.chat_template), roles)
    turns: Turns = [message.model_dump() for message in messages]
    return _apply(tokenizer, form.prepare(turns), add_generation_prompt)


def check_template(tokenizer: Any) -> None:
    """See that the tokenizer's chat template, if it has one, keeps the words of a user.

    Raises:
        UserError: it does not, or cannot be used.
    """
    render(tokenizer, [Message(role="user", content="Hello")])


@dataclass(frozen=True)
class _Form:
    """How a template wants a conversation."""

    parts: bool  # each content a list of parts
    merge_system: bool  # the system's words at the head of the first turn

    def prepare(self, turns: Turns) -> Turns:
        if self.merge_system:
            told, first, *rest = turns
            turns = [first | {"content": f"{told['content']}\n\n{first['content']}"}, *rest]
        if self.parts:
            turns = [
                turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in turns
            ]
        return turns


@functools.lru_cache(maxsize=TOKENIZERS)
def _form(tokenizer: Any, template: str, roles: tuple[str, ...]) -> _Form:
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
