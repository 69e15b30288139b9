"""A judge behind an OpenAI-compatible chat server."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Collection, Sequence
from typing import Any

from harness.core.errors import UserError
from harness.core.schema import Call, Reply, digest
from harness.judges.budget import Meter, Tokens, tokens_of
from harness.judges.llm import Answer, Done, failure_of
from harness.judges.settings import JudgeSettings
from harness.serving.server import Batch, CallFailedError, Server, UnreachableError
from harness.serving.wire import MAX_TOKENS, Wish, first_choice, read_content, token_limit


class ChatServer:
    """A chat server as a judge's backend; see `Server`."""

    def __init__(self, settings: JudgeSettings, key: str | None = None) -> None:
        self.id = settings.model
        self.digest = digest(
            {
                "protocol": "chat completions",
                "model": settings.model,
                "revision": settings.revision,
                "decoding": settings.decoding(),
            }
        )
        # A revision names the weights, and is taken on trust; without one only the address can.
        self.place = settings.address if settings.revision is None else ""
        self.at_once = settings.max_concurrency
        self._settings = settings
        self._server = Server(settings, "/chat/completions", key)

    @property
    def description(self) -> str:
        return self._server.description

    def answer(self, calls: Sequence[Call], meter: Meter, done: Done) -> None:
        """Ask every call; see `Backend.answer` and `Server.run`."""
        settled = asyncio.Event()

        async def work(batch: Batch, numbered: tuple[int, Call]) -> None:
            i, call = numbered

            async def attempt(granted: Collection[Wish]) -> Answer:
                return await self._try(batch, call, granted, meter, settled)

            try:
                answer = await self._server.answer(batch, wishes(call, self._settings), attempt)
            except CallFailedError as error:
                done(i, Reply(failure=str(error)))
            else:
                done(i, answer.reply)

        self._server.run(list(enumerate(calls)), work)

    async def _try(
        self,
        batch: Batch,
        call: Call,
        granted: Collection[Wish],
        meter: Meter,
        settled: asyncio.Event,
    ) -> Answer:
        """One request, from budget to answer."""
        need = meter.need(call)
        while reason := meter.reserve(need):
            if not meter.under_way:
                raise CallFailedError(reason)
            settled.clear()
            await settled.wait()
        used: Tokens | None = None
        server = self._server
        try:
            await server.turn(need.total)
            used = need  # a request that breaks off may have been worked on in full
            response = await server.post(batch, request(self._settings, call, granted))
            used = need if response.status == 200 else Tokens()
            answer = read(server.accept(response), call.choices, need)
            used = answer.used
        except (UnreachableError, UserError):
            used = None
            raise
        finally:
            meter.settle(need, used)
            server.give_back(need.total - (used.total if used else 0))
            settled.set()
        clean = answer.reply.model_copy(update={"text": server.clean(answer.reply.text)})
        return Answer(clean, used)


SCHEMA, LOGPROBS = "a JSON schema", "log-probabilities"

TOP_LOGPROBS = 20  # the most that servers give
# How servers that do not decode tokens write a space or a line break.
SPACE_MARKS = "\u2581\u0120\u010a"


def wishes(call: Call, settings: JudgeSettings) -> list[Wish]:
    """What `call` would like of the server, and can do without."""
    found = []
    if call.reply_schema is not None:
        found.append(Wish(SCHEMA, digest(call.reply_schema)))
    if call.choices:
        found.append(Wish(LOGPROBS))
    if settings.max_tokens_name == "max_tokens":
        found.append(MAX_TOKENS)
    return found


def request(settings: JudgeSettings, call: Call, granted: Collection[Wish]) -> bytes:
    """The body that asks `call`, with those of its wishes that are `granted`."""
    system = [{"role": "system", "content": call.system}] if call.system else []
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [*system, {"role": "user", "content": call.prompt}],
        **token_limit(call.max_tokens + settings.thinking_tokens, granted),
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
    choice, usage = first_choice(body)
    content = read_content(choice)
    text = content.text
    used = Tokens(
        need.prompt if usage.prompt is None else usage.prompt,
        tokens_of(text) if usage.completion is None else usage.completion,
    )
    if content.problem:
        failure = content.problem
    elif content.refusal:
        failure = "the judge refused to answer"
    else:
        failure = failure_of(text, is_cut=choice.get("finish_reason") == "length")
    return Answer(Reply(text=text, failure=failure, logprobs=_logprobs(choice, choices)), used)


def _logprobs(choice: dict[str, Any], choices: Sequence[str]) -> dict[str, float] | None:
    """Each choice's log-probability as the first word; None where the server does not say.

    A token stands for the choice that it is, in any case and after any mark of a space, or else for
    the only one that it begins ("Supp" for "Supported"). A choice that is not among the server's
    top tokens is not there.
    """
    if not choices:
        return None
    try:
        positions = choice["logprobs"]["content"]
        first = next(p for p in positions if _word(p["token"]))
        tops = [(_word(t["token"]), float(t["logprob"])) for t in first["top_logprobs"]]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, StopIteration):
        return None
    found: dict[str, list[float]] = {}
    for token, logprob in tops:
        meant = [c for c in choices if c.casefold() == token] or [
            c for c in choices if token and c.casefold().startswith(token)
        ]
        if len(meant) == 1 and logprob < 0.01:  # rounding may carry it above 0
            found.setdefault(meant[0], []).append(math.exp(logprob))
    return {c: math.log(min(1.0, sum(shares))) for c, shares in found.items() if sum(shares) > 0}


def _word(token: str) -> str:
    """A token as the beginning of a word: without spaces, or what tokenizers write for them."""
    return token.strip().lstrip(SPACE_MARKS).strip().casefold()
