"""Ask a language model as a judge, with a cache and a budget around any backend.

The usual backend is an OpenAI-compatible chat server; nothing that it sends is trusted.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.core.errors import UserError
from harness.core.log import say
from harness.core.progress import track
from harness.core.run_status import count_spend
from harness.core.schema import Call, Reply, digest
from harness.judges.budget import Meter, Spend, Tokens, tokens_of
from harness.judges.cache import Cache
from harness.judges.settings import JudgeSettings
from harness.serving.server import Batch, CallFailedError, Server
from harness.serving.wire import (
    MAX_TOKENS,
    Option,
    TransientError,
    first_choice,
    read_content,
    token_limit,
)


class LLMJudge:
    """A `tasks.task.Judge`: a backend with a cache and a budget.

    Args:
        cache: None: every call is asked again, and no reply is kept.
    """

    def __init__(self, backend: Backend, cache: Cache | None, meter: Meter) -> None:
        self.id = backend.id
        self.digest: str | None = backend.digest
        self._backend = backend
        self._cache = cache
        self._meter = meter
        self._calls = self._cached = 0
        self._failures: Counter[str] = Counter()
        self._told: dict[str, float] = {}

    @property
    def description(self) -> str:
        """The model, where it is, and what it refused, for people to read."""
        return self._backend.description

    @property
    def spend(self) -> Spend:
        """The calls so far, and the tokens and money that they took."""
        failures = dict(sorted(self._failures.items()))
        return self._meter.spend(self._calls, self._cached, failures)

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        """Return one reply per call, in order; equal calls are asked once.

        An estimate of the cost is logged first. Every reply is cached at once; failures are not
        cached.

        Raises:
            UserError: no call can be answered (no server, key or model), or the cache cannot be
                used. Earlier replies are in the cache.
        """
        judge = [self.id, self.digest, *([self._backend.place] if self._backend.place else [])]
        keys = [digest({"judge": judge, "call": call.model_dump()}) for call in calls]
        replies = self._cache.get(list(dict.fromkeys(keys))) if self._cache else {}
        cached = sum(key in replies for key in keys)
        todo = {key: call for key, call in zip(keys, calls, strict=True) if key not in replies}
        order = list(todo)
        if todo:
            say(
                f"judge {self.id}: {len(calls):,} calls, {cached:,} cached, {len(todo):,} to ask: "
                f"{self._meter.estimate(todo.values())}"
            )

            def done(place: int, reply: Reply) -> None:
                key = order[place]
                if self._cache is not None and not reply.failure:
                    reply = self._cache.put(key, reply)
                replies[key] = reply
                self._tell()
                advance(1)

            try:
                with track(f"judging by {self.id}", len(todo), "calls") as advance:
                    advance.at_once(min(len(todo), self._backend.at_once))
                    self._backend.answer(list(todo.values()), self._meter, done)
            finally:
                self._tell()
        answers = [replies[key] for key in keys]
        self._calls += len(calls)
        self._cached += cached
        self._failures.update(reply.failure for reply in answers if reply.failure)
        self._tell()
        return answers

    def _tell(self) -> None:
        """Report what was used since the last report to the run status."""
        now = self.spend.amounts()
        count_spend(self.id, {name: now[name] - self._told.get(name, 0) for name in now})
        self._told = now


Done = Callable[[int, Reply], None]


@dataclass(frozen=True)
class Answer:
    """A reply, and the tokens it took."""

    reply: Reply
    used: Tokens


class Backend(Protocol):
    """Answer the calls of a judge: implement this to add a judge protocol.

    Attributes:
        digest: covers everything but the call that decides a reply, wherever the model runs.
        place: the server's address if nothing identifies the weights, so that two servers that
            call different models by one name share no cached replies; "" if the weights are known.
        at_once: calls in progress at the same time.
    """

    id: str
    digest: str
    place: str
    at_once: int

    @property
    def description(self) -> str:
        """The model, where it is, and what it refused, for people to read."""
        ...

    def answer(self, calls: Sequence[Call], meter: Meter, done: Done) -> None:
        """Ask every call once, and call `done(i, reply)` when call i has its reply or failed.

        Reserve and settle every request with `meter`.

        Raises:
            UserError: none of the calls can be answered.
        """
        ...


def failure_of(text: str, is_cut: bool) -> str:
    """Return why a reply that came cannot count; "" if it can."""
    if is_cut:
        return "the reply was cut short at its limit of tokens"
    return "" if text.strip() else "the reply is empty"


class ChatServer:
    """The backend of a judge that is a chat server."""

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
        # A revision identifies the weights, on trust; without one only the address does.
        self.place = settings.address if settings.revision is None else ""
        self.at_once = settings.max_concurrency
        self._settings = settings
        self._server = Server(settings, "/chat/completions", key)

    @property
    def description(self) -> str:
        return self._server.description

    def answer(self, calls: Sequence[Call], meter: Meter, done: Done) -> None:
        """Ask every call; see `Backend.answer` and `Server.run`."""
        budget_freed = asyncio.Event()

        async def work(batch: Batch, numbered: tuple[int, Call]) -> None:
            i, call = numbered

            async def attempt(options: Collection[Option]) -> Answer:
                content = request(self._settings, call, options)
                return await self._send(batch, call, content, meter, budget_freed)

            try:
                answer = await self._server.answer(batch, optional(call, self._settings), attempt)
            except CallFailedError as error:
                done(i, Reply(failure=str(error)))
            else:
                done(i, answer.reply)

        self._server.run(list(enumerate(calls)), work)

    async def _send(
        self,
        batch: Batch,
        call: Call,
        content: bytes,
        meter: Meter,
        budget_freed: asyncio.Event,
    ) -> Answer:
        """Send one request: reserve its budget, wait for its turn, read the answer."""
        need = meter.need(call)
        while reason := meter.reserve(need):
            if not meter.under_way:
                raise CallFailedError(reason)
            budget_freed.clear()
            await budget_freed.wait()
        used: Tokens | None = None
        server = self._server
        try:
            await server.wait_turn(need.total)
            used = need  # an interrupted request may have been processed in full
            response = await server.post(batch, content)
            used = need if response.status == 200 else Tokens()
            answer = read(server.accept(response), call.choices, need)
            used = answer.used
        except UserError:
            used = None
            raise
        except TransientError as error:
            used = None if error.unreachable else used
            raise
        finally:
            meter.settle(need, used)
            server.give_back(need.total - (used.total if used else 0))
            budget_freed.set()
        clean = answer.reply.model_copy(update={"text": server.clean(answer.reply.text)})
        return Answer(clean, used)


SCHEMA, LOGPROBS = "a JSON schema", "log-probabilities"

TOP_LOGPROBS = 20  # the most that servers return
# Spaces and line breaks, as servers write them that do not decode tokens.
SPACE_MARKS = "\u2581\u0120\u010a"


def optional(call: Call, settings: JudgeSettings) -> list[Option]:
    """Return the parameters of `call` that a server may refuse."""
    options = []
    if call.reply_schema is not None:
        options.append(Option(SCHEMA, digest(call.reply_schema)))
    if call.choices:
        options.append(Option(LOGPROBS))
    if settings.max_tokens_name == "max_tokens":
        options.append(MAX_TOKENS)
    return options


def request(settings: JudgeSettings, call: Call, options: Collection[Option]) -> bytes:
    """Return the body of a request for `call`, with the optional parameters in `options`."""
    system = [{"role": "system", "content": call.system}] if call.system else []
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [*system, {"role": "user", "content": call.prompt}],
        **token_limit(call.max_tokens + settings.thinking_tokens, options),
    }
    for name in ("temperature", "top_p", "seed"):
        if (value := getattr(settings, name)) is not None:
            body[name] = value
    kinds = {option.kind for option in options}
    if SCHEMA in kinds:
        schema = {"name": "reply", "schema": call.reply_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if LOGPROBS in kinds:
        body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    # ASCII, because a lone surrogate that a model wrote cannot be encoded as UTF-8.
    return json.dumps(body | settings.extra_body).encode()


def read(body: bytes, choices: Sequence[str], need: Tokens) -> Answer:
    """Read the answer in a chat completion. Without a `usage`, tokens are estimated.

    Raises:
        TransientError: not JSON, no `choices`, no message.
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
    """Return the log-probability of each choice as the first word; None if the server has none.

    A token stands for the choice that it spells, in any case and after any mark of a space, or else
    for the only choice that begins with it ("Supp" for "Supported"). Choices that are not among the
    server's top tokens are left out.
    """
    if not choices:
        return None
    try:
        positions = choice["logprobs"]["content"]
        first = next(p for p in positions if _word(p["token"]))
        tops = [(_word(t["token"]), float(t["logprob"])) for t in first["top_logprobs"]]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, StopIteration):
        return None
    shares_of: dict[str, list[float]] = {}
    for token, logprob in tops:
        meant = [c for c in choices if c.casefold() == token] or [
            c for c in choices if token and c.casefold().startswith(token)
        ]
        if len(meant) == 1 and logprob < 0.01:  # rounding may carry it above 0
            shares_of.setdefault(meant[0], []).append(math.exp(logprob))
    return {
        c: math.log(min(1.0, sum(shares))) for c, shares in shares_of.items() if sum(shares) > 0
    }


def _word(token: str) -> str:
    """Return a token without spaces, or the marks that tokenizers write for them."""
    return token.strip().lstrip(SPACE_MARKS).strip().casefold()
