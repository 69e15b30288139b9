"""Read the completions and errors of OpenAI-compatible servers, which are untrusted.

Judges and engines share these functions.

A key is removed from what a server says: whole, encoded, or in part.
"""

from __future__ import annotations

import base64
import json
import math
import re
import urllib.parse
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal, NamedTuple

from harness.core.text import one_line

MAX_MESSAGE = 200  # characters
MAX_LOGPROB = 1e-3  # rounding
MAX_COUNT = 10**8  # tokens; a larger count is nonsense

# Error codes about what one prompt says, and about every call.
PROMPT_CODES = {
    *("content_filter", "content_policy_violation", "responsibleaipolicyviolation"),
    *("moderation_blocked", "flagged_input", "content_moderation", "data_inspection_failed"),
    *("context_length_exceeded", "string_above_max_length", "exceed_context_size_error"),
}
ACCOUNT_CODES = {
    *("model_not_found", "invalid_model", "deploymentnotfound", "invalid_api_key"),
    *("invalid_authentication", "authentication_error", "permission_denied", "permission_error"),
    *("insufficient_quota", "billing_hard_limit_reached", "account_deactivated"),
}
ACCOUNT_MESSAGE = re.compile(
    r"(the )?model ['\"`]?[\w./:@-]+['\"`]? "
    r"(does not exist|was not found|not found|is not (available|loaded|supported|served))"
    r"|(unknown|unsupported|invalid) model\b"
    r"|(the )?server is pinned to .{1,300} requested "
    r"|(invalid|incorrect) api key|api key not valid",
    re.IGNORECASE,
)


NO_TEXT = "the reply is empty: none of its parts is text"
TEXT_PARTS = ("text", "output_text")  # a list's other parts are thoughts, tools, pictures


class TransientError(Exception):
    """The next attempt may well succeed; `unreachable` if no request reached the server."""

    def __init__(self, reason: str, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.unreachable = unreachable


class Option(NamedTuple):
    """A parameter of a request that a server may refuse, and that the call can do without."""

    kind: str
    detail: str = ""  # which schema: a server may accept one and not another


MAX_TOKENS = Option("max_tokens")  # otherwise the limit is sent as max_completion_tokens


def token_limit(tokens: int, options: Collection[Option]) -> dict[str, int]:
    """Return the limit of a reply, under the name that the server accepts."""
    return {"max_tokens" if MAX_TOKENS in options else "max_completion_tokens": tokens}


class Usage(NamedTuple):
    """The tokens that a server counted; None where it does not say."""

    prompt: int | None
    completion: int | None


def first_choice(body: bytes) -> tuple[dict[str, Any], Usage]:
    """Return the first choice of a completion, and its token counts.

    Raises:
        TransientError: not JSON, or no `choices`.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise TransientError("the server's reply is not JSON") from None
    try:
        choice = value["choices"][0]
    except (KeyError, IndexError, TypeError):
        choice = None
    if not isinstance(choice, dict):
        message = _message(value)
        raise TransientError(
            f"the server's reply has no choices{': ' if message else ''}{message}"
        ) from None
    usage = value["usage"] if isinstance(value.get("usage"), dict) else {}
    return choice, Usage(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


class Content(NamedTuple):
    """The text of a reply, and as `problem` why it cannot count as the whole answer."""

    text: str
    problem: str = ""
    refusal: str = ""  # what the model wrote into the field for refusals


def read_content(choice: dict[str, Any]) -> Content:
    """Read the text of a completion's choice, of `/chat/completions` or of `/completions`.

    The content is a string, or a list whose text parts count. Reasoning is not part of the answer.

    Raises:
        TransientError: there is no message, or its content is of another kind.
    """
    if "message" not in choice and "text" in choice:
        message: Any = {"content": choice["text"]}
    else:
        message = choice.get("message")
    if not isinstance(message, dict):
        raise TransientError("the server's reply has no message")
    content = message.get("content")
    text = _text(content)
    refusal = message.get("refusal")
    refusal = refusal if isinstance(refusal, str) else ""
    if choice.get("finish_reason") == "content_filter":
        return Content(text, "the server's content filter stopped the reply", refusal)
    if text.strip() or refusal or choice.get("finish_reason") == "length":
        return Content(text, "", refusal)
    if any(message.get(name) for name in ("reasoning_content", "reasoning", "thinking")):
        return Content(text, "the reply is reasoning alone, without an answer after it")
    if message.get("tool_calls") or message.get("function_call"):
        return Content(text, "the reply calls a tool, and none was offered")
    return Content(text, NO_TEXT if isinstance(content, list) else "")


def read_echo(choice: dict[str, Any], tokens: int, last: int) -> list[tuple[float, bool]]:
    """Read the log-probabilities of the `last` tokens of a text of `tokens` that was echoed.

    Each comes with whether no token is likelier.

    Raises:
        ValueError: the reply does not have them.
    """
    told = choice.get("logprobs")
    values = told.get("token_logprobs") if isinstance(told, dict) else None
    best = told.get("top_logprobs") if isinstance(told, dict) else None
    if not isinstance(values, list) or not isinstance(best, list) or len(values) != len(best):
        raise ValueError("its replies lack the log-probabilities of the prompt (echo)")
    if not tokens <= len(values) <= tokens + 1:  # a server may leave out the one it generated
        raise ValueError(
            f"its reply has {len(values):,} log-probabilities for a prompt of {tokens:,} tokens"
        )
    found = []
    for value, top in list(zip(values, best, strict=True))[tokens - last : tokens]:
        numbers = [value, *(top.values() if isinstance(top, dict) else ())]
        if len(numbers) < 2 or not all(_is_logprob(number) for number in numbers):
            raise ValueError("its reply has a log-probability that is not one")
        found.append((float(value), value >= max(numbers)))
    return found


def _is_logprob(value: Any) -> bool:
    return type(value) in (int, float) and -math.inf < value <= MAX_LOGPROB


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise TransientError("the server's reply has no text")
    parts = [part for part in content if isinstance(part, dict)]
    texts = [part.get("text") for part in parts if part.get("type", "text") in TEXT_PARTS]
    return "".join(text for text in texts if isinstance(text, str))


def subject_of_error(body: bytes) -> Literal["prompt", "account", ""]:
    """Return what an error is about: this prompt; the model, key or account; "" if unknown."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    error = value.get("error", value) if isinstance(value, dict) else None
    if not isinstance(error, dict):
        error = {}
    codes = _codes(error)
    if codes & PROMPT_CODES:
        return "prompt"
    if codes & ACCOUNT_CODES or ACCOUNT_MESSAGE.match(_message(value)):
        return "account"
    return ""


def _codes(error: dict[str, Any]) -> set[str]:
    """Return the codes and types of an error and of the error inside it."""
    codes = {value for name in ("code", "type") if isinstance(value := error.get(name), str)}
    for name in ("innererror", "inner_error", "metadata"):
        if isinstance(inner := error.get(name), dict):
            codes |= {value for value in (inner.get("code"),) if isinstance(value, str)}
            codes |= {key for key in inner if isinstance(key, str)}
    return {name.lower() for name in codes}


def error_message(body: bytes) -> str:
    """Return the message in an error's body as one short printable line, or ""."""
    try:
        return _message(json.loads(body))
    except (ValueError, RecursionError):
        return ""


def _message(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    message = next((value[k] for k in ("error", "detail", "message") if value.get(k)), "")
    if isinstance(message, dict):
        message = message.get("message", "")
    if not isinstance(message, str):
        return ""
    return one_line(message[: 4 * MAX_MESSAGE])[:MAX_MESSAGE]


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None


MIN_KEY_CHARS = 8  # a shorter key is a placeholder, and may be a word of a reply
MIN_PART_CHARS = 8  # a shorter part of a key is not secret, and may be a word
MAX_WORD_CHARS = 12  # a longer run of letters is random, not a word
SHOWN = "[key]"


def redaction(key: str | None) -> Callable[[str], str]:
    """Return a function that replaces `key` in a text by "[key]", also where it is encoded.

    The encodings are base64 at any of its three alignments, hexadecimal, percent- and
    JSON-encoding. Every run of eight or more characters of any of these is replaced.
    """
    if key is None or len(key) < MIN_KEY_CHARS:
        return lambda text: text
    forms = list(dict.fromkeys(form for form in _forms(key) if len(form) >= MIN_PART_CHARS))
    parts = {
        form[start : start + MIN_PART_CHARS]
        for form in forms
        for start in range(len(form) - MIN_PART_CHARS + 1)
    }
    # A word in a made-up key ("anything-goes") would be replaced in every honest reply.
    words = [word for word in re.findall("[A-Za-z]+", key) if word != key and _is_word(word)]
    parts = {part for part in parts if not any(part in word for word in words)}

    def redact(text: str) -> str:
        hidden = [False] * len(text)
        for start in range(len(text) - MIN_PART_CHARS + 1):
            if text[start : start + MIN_PART_CHARS] in parts:
                hidden[start : start + MIN_PART_CHARS] = [True] * MIN_PART_CHARS
        return _replace(text, hidden) if any(hidden) else text

    return redact


def _is_word(letters: str) -> bool:
    return len(letters) <= MAX_WORD_CHARS and letters[1:].islower()


def _forms(key: str) -> Iterator[str]:
    """Yield the encodings of `key`."""
    for quoted in (key, urllib.parse.quote(key, safe=""), urllib.parse.quote_plus(key)):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda found: found.group().lower(), quoted)
    yield json.dumps(key)[1:-1]
    yield key.replace("/", "\\/")
    yield key.encode().hex()
    yield key.encode().hex().upper()
    for before in range(3):
        # Base64 differs by the alignment of a byte among three. The ends, which depend on the
        # neighbouring bytes, are left out.
        whole = b"\0" * before + key.encode()
        coded = base64.b64encode(whole).decode()
        inner = coded[-(-before * 8 // 6) : len(whole) * 8 // 6]
        yield inner
        yield inner.replace("+", "-").replace("/", "_")


def _replace(text: str, hidden: list[bool]) -> str:
    """Replace each run of `hidden` characters."""
    shown = []
    for place, char in enumerate(text):
        if not hidden[place]:
            shown.append(char)
        elif place == 0 or not hidden[place - 1]:
            shown.append(SHOWN)
    return "".join(shown)
