"""Chat completions on the wire: a call as a request's body, a response's body as an answer.

Nothing that a server sends is trusted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, TypeGuard

from harness.judge.backend import Answer, failure_of
from harness.judge.budget import Tokens, tokens_of
from harness.judge.settings import JudgeSettings
from harness.schema import Call, Reply, digest

SCHEMA, LOGPROBS = "a JSON schema", "log-probabilities"

TOP_LOGPROBS = 20  # the most that servers give
MAX_MESSAGE = 200  # characters
MOST_TOKENS = 10**8  # a count beyond is nonsense


class NotACompletionError(Exception):
    """The body is no chat completion; the message says what is wrong with it."""


class Wish(NamedTuple):
    """What a call would like, and a server may be unable to give."""

    kind: str
    what: str = ""  # which schema: a server may take one and not another


def wishes(call: Call) -> list[Wish]:
    found = []
    if call.reply_schema is not None:
        found.append(Wish(SCHEMA, digest(call.reply_schema)))
    if call.choices:
        found.append(Wish(LOGPROBS))
    return found


def request(settings: JudgeSettings, call: Call, granted: Collection[Wish]) -> bytes:
    """The body that asks `call`, with those of its wishes that are `granted`."""
    system = [{"role": "system", "content": call.system}] if call.system else []
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [*system, {"role": "user", "content": call.prompt}],
        settings.max_tokens_name: call.max_tokens + settings.thinking_tokens,
    }
    for name in ("temperature", "top_p", "seed"):
        if (value := getattr(settings, name)) is not None:
            body[name] = value
    kinds = {wish.kind for wish in granted}
    if SCHEMA in kinds:
        schema = {"name": "reply", "schema": call.reply_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if LOGPROBS in kinds:
        body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    # ASCII, since a lone surrogate in what a model wrote has no UTF-8.
    return json.dumps(body | settings.extra_body).encode()


def read(body: bytes, choices: Sequence[str], need: Tokens) -> Answer:
    """The answer in a chat completion; without a `usage`, `need` and the text's length count.

    Raises:
        NotACompletionError: not JSON, no `choices`, no message.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise NotACompletionError("the server's reply is not JSON") from None
    try:
        choice = value["choices"][0]
        message = choice["message"]
        content = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        said = _message(value)
        raise NotACompletionError(
            f"the server's reply has no choices{': ' if said else ''}{said}"
        ) from None
    text = content if isinstance(content, str) else ""
    used = _used(value.get("usage"), need, text)
    finish = choice.get("finish_reason")
    if finish == "content_filter":
        failure = "the server's content filter stopped the reply"
    elif message.get("refusal"):
        failure = "the judge refused to answer"
    else:
        failure = failure_of(text, is_cut=finish == "length")
    return Answer(Reply(text=text, failure=failure, logprobs=_logprobs(choice, choices)), used)


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


def _used(usage: Any, need: Tokens, text: str) -> Tokens:
    told = usage if isinstance(usage, dict) else {}
    prompt, completion = told.get("prompt_tokens"), told.get("completion_tokens")
    return Tokens(
        prompt if _is_count(prompt) else need.prompt,
        completion if _is_count(completion) else tokens_of(text),
    )


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MOST_TOKENS


def _logprobs(choice: dict[str, Any], choices: Sequence[str]) -> dict[str, float] | None:
    """Each choice's log-probability as the first word; None where the server does not say.

    A token stands for the choice that it is, or else for the only one that it begins ("Supp" for
    "Supported"). A choice that is not among the server's top tokens is not there.
    """
    if not choices:
        return None
    try:
        positions = choice["logprobs"]["content"]
        first = next(p for p in positions if p["token"].strip())
        tops = [(t["token"].strip(), float(t["logprob"])) for t in first["top_logprobs"]]
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
        return None
    found: dict[str, list[float]] = {}
    for token, logprob in tops:
        meant = [c for c in choices if c == token] or [
            c for c in choices if token and c.startswith(token)
        ]
        if len(meant) == 1 and logprob < 0.01:  # rounding may carry it above 0
            found.setdefault(meant[0], []).append(math.exp(logprob))
    return {c: math.log(min(1.0, sum(shares))) for c, shares in found.items() if sum(shares) > 0}
