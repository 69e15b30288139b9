"""What judges and engines read alike in a server's reply, none of which is trusted."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

MAX_MESSAGE = 200  # characters
MOST_TOKENS = 10**8  # a count beyond is nonsense


class PassingError(Exception):
    """The next try may well succeed."""


class NotACompletionError(PassingError):
    """The body is no completion; the message says what is wrong with it."""


class Wish(NamedTuple):
    """What a call would like, and a server may be unable to give."""

    kind: str
    what: str = ""  # which schema: a server may take one and not another


class Usage(NamedTuple):
    """Tokens by the server's own count; None where it does not say."""

    prompt: int | None
    completion: int | None


def first_choice(body: bytes) -> tuple[dict[str, Any], Usage]:
    """The first choice of a completion, and the tokens that it took.

    Raises:
        NotACompletionError: not JSON, or no `choices`.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise NotACompletionError("the server's reply is not JSON") from None
    try:
        choice = value["choices"][0]
    except (KeyError, IndexError, TypeError):
        choice = None
    if not isinstance(choice, dict):
        said = _message(value)
        raise NotACompletionError(
            f"the server's reply has no choices{': ' if said else ''}{said}"
        ) from None
    told = value["usage"] if isinstance(value.get("usage"), dict) else {}
    return choice, Usage(_count(told.get("prompt_tokens")), _count(told.get("completion_tokens")))


def error_message(body: bytes) -> str:
    """What an error's body says, as one short printable line; '' if it says nothing."""
    try:
        return _message(json.loads(body))
    except (ValueError, RecursionError):
        return ""


def _message(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    said = next((value[k] for k in ("error", "detail", "message") if value.get(k)), "")
    if isinstance(said, dict):
        said = said.get("message", "")
    if not isinstance(said, str):
        return ""
    # Control characters could write anywhere on a terminal.
    plain = "".join(c if c.isprintable() else " " for c in said[: 4 * MAX_MESSAGE])
    return " ".join(plain.split())[:MAX_MESSAGE]


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None
