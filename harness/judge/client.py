"""A judge behind an OpenAI-compatible chat server: hosted, vLLM, llama.cpp, `transformers serve`.

Calls go out side by side, within the limits set; what may pass is tried again, what cannot be
helped is the call's failure. The very first call goes alone: it finds out whether anybody is
there, takes the key and knows the model, and what the server can do.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx2
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from harness.errors import UserError
from harness.judge.backend import Answer, Done
from harness.judge.budget import Meter, Tokens
from harness.judge.pace import Pace, retry_after
from harness.judge.settings import JudgeSettings
from harness.judge.wire import (
    NotACompletionError,
    Wish,
    error_message,
    read,
    request,
    wishes,
)
from harness.schema import Call, Reply, digest

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
LONGEST_WAIT = 120.0  # seconds between two tries, whoever asks for it
MAX_BODY = 8 * 1024 * 1024  # bytes
HOPELESS = 20  # calls in a row that all tries could not get answered
SECRET = 8  # characters; a shorter key is a placeholder, and may well be a word of a reply

PASSING = {408, 409, 425, 429}  # and all from 500 on
UNKNOWN = {404, 405}
BAD_REQUEST = {400, 422}


class _PassingError(Exception):
    """The next try may well succeed."""


class _AbsentError(_PassingError):
    """Nobody answers at the address."""


class _GoneError(Exception):
    """No call can be answered for now."""


class _FailedError(Exception):
    """This call cannot be answered."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class _Batch:
    """The calls that are asked in one go."""

    http: httpx2.AsyncClient
    meter: Meter
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    answered: int = 0
    failed_in_a_row: int = 0
    gone: str = ""  # why the calls that remain are not even tried


class ChatServer:
    """A chat server as a judge's backend.

    Args:
        key: sent to `settings.base_url` as the bearer token, and shown nowhere.
    """

    def __init__(self, settings: JudgeSettings, key: str | None = None) -> None:
        if settings.base_url is None:
            raise ValueError("a chat server has a base_url")
        self.id = settings.model
        self.digest = digest(
            {
                "protocol": "chat completions",
                "model": settings.model,
                "revision": settings.revision,
                "decoding": settings.decoding(),
            }
        )
        self._settings = settings
        self._base = settings.base_url.rstrip("/").removesuffix("/chat/completions")
        self._key = key
        self._requests = Pace(settings.requests_per_minute)
        self._tokens = Pace(settings.tokens_per_minute)
        self._resume = 0.0  # no request before, by the monotonic clock
        self._is_met = False  # has ever answered anything
        self._served: set[Wish] = set()
        self._refused: set[Wish] = set()

    @property
    def description(self) -> str:
        """The model, its address, and what the server was found to refuse."""
        refused = sorted({wish.kind for wish in self._refused})
        said = f"{self.id} at {self._base}"
        return f"{said}, which refuses {' and '.join(refused)}" if refused else said

    def answer(self, calls: Sequence[Call], meter: Meter, done: Done) -> None:
        """Ask every call, `max_concurrency` at a time; see `Backend.answer`.

        Raises:
            UserError: nobody is there, the key is refused, the address or the model is unknown.
        """
        _run(self._answer_all(calls, meter, done))

    async def _answer_all(self, calls: Sequence[Call], meter: Meter, done: Done) -> None:
        most = self._settings.max_concurrency
        waiting = iter(enumerate(calls))
        async with httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),  # `_post` has one for the whole
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
            follow_redirects=False,
        ) as http:
            batch = _Batch(http, meter)

            async def work(some: Iterator[tuple[int, Call]]) -> None:
                for i, call in some:
                    done(i, await self._reply(batch, call))

            if not self._is_met:
                await work(itertools.islice(waiting, 1))
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(most, len(calls))):
                        workers.create_task(work(waiting))
            except* UserError as errors:
                raise errors.exceptions[0] from None

    async def _reply(self, batch: _Batch, call: Call) -> Reply:
        """The reply to one call, with its wishes as far as the server grants them.

        Raises:
            UserError: no call can be answered.
        """
        if batch.gone:
            return Reply(failure=batch.gone)
        wanted = [wish for wish in wishes(call) if not self._is_vain(wish)]
        unsure = [wish for wish in wanted if wish not in self._served]
        failure = ""
        for dropped in _smallest_first(unsure):
            granted = [wish for wish in wanted if wish not in dropped]
            try:
                reply = await self._persist(batch, call, granted)
            except _FailedError as error:
                failure = str(error)
                if error.status not in BAD_REQUEST:
                    break
            except _PassingError as error:
                failure = f"{error}; given up after {self._settings.max_attempts}"
                self._count_failure(batch, failure)
                break
            except _GoneError as error:
                self._give_up(batch, str(error))
                return Reply(failure=batch.gone)
            else:
                self._learn(granted, dropped)
                return reply
        return Reply(failure=failure)

    def _count_failure(self, batch: _Batch, failure: str) -> None:
        """A server that hangs would else cost all the tries of every call."""
        batch.failed_in_a_row += 1
        if batch.failed_in_a_row >= max(HOPELESS, self._settings.max_concurrency):
            self._give_up(
                batch, f"the server failed {batch.failed_in_a_row} calls in a row ({failure})"
            )

    def _give_up(self, batch: _Batch, why: str) -> None:
        batch.gone = batch.gone or why
        if not batch.answered:
            raise UserError(
                f"No call can be judged by {self._base}: {why}. "
                "What was judged before is kept; start again when the server is well."
            )

    def _is_vain(self, wish: Wish) -> bool:
        """Refused before; a server that never granted one of the kind is not asked for another."""
        if wish in self._refused:
            return True
        kind = {known for known in self._served | self._refused if known.kind == wish.kind}
        return bool(kind) and kind <= self._refused

    def _learn(self, granted: Sequence[Wish], refused: Sequence[Wish]) -> None:
        self._served |= set(granted)
        for wish in refused:
            if wish not in self._refused:
                self._refused.add(wish)
                log.warning("%s refuses %s; it is no longer sent.", self._base, wish.kind)

    async def _persist(self, batch: _Batch, call: Call, granted: Sequence[Wish]) -> Reply:
        """Try until there is a reply, or no sense in trying again.

        The pauses are random, up to a power of two (M. Brooker, "Exponential backoff and jitter",
        AWS, 2015), beside what the server itself asks for.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_PassingError),
            stop=stop_after_attempt(self._settings.max_attempts),
            wait=wait_random_exponential(self._settings.backoff, max=LONGEST_WAIT),
            reraise=True,
        )
        try:
            answer: Answer = await retrying(self._try, batch, call, granted)
        except _AbsentError as error:
            raise _GoneError(f"the server is gone ({error})") from None
        batch.answered += 1
        batch.failed_in_a_row = 0
        return answer.reply

    async def _try(self, batch: _Batch, call: Call, granted: Sequence[Wish]) -> Answer:
        """One request, from budget to answer."""
        if batch.gone:
            raise _GoneError(batch.gone)
        need = batch.meter.need(call)
        while reason := batch.meter.reserve(need):
            if not batch.meter.under_way:
                raise _FailedError(reason)
            batch.settled.clear()
            await batch.settled.wait()
        used: Tokens | None = None
        try:
            await self._turn(need)
            used = need  # a request that breaks off may have been worked on in full
            status, wait, body = await self._post(
                batch.http, request(self._settings, call, granted)
            )
            if status != 200:
                used = Tokens()
                self._raise(status, retry_after(wait), self._clean(error_message(body)))
            answer = read(body, call.choices, need)
            used = answer.used
        except NotACompletionError as error:
            raise _PassingError(self._clean(str(error))) from None
        except (_AbsentError, UserError):
            used = None
            raise
        finally:
            batch.meter.settle(need, used)
            self._tokens.give_back(need.total - (used.total if used else 0))
            batch.settled.set()
        clean = answer.reply.model_copy(update={"text": self._clean(answer.reply.text)})
        return Answer(clean, used)

    async def _turn(self, need: Tokens) -> None:
        """Wait until the limits, and the server, allow a request."""
        await asyncio.sleep(max(self._requests.delay(), self._tokens.delay(need.total)))
        while (left := self._resume - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def _post(
        self, http: httpx2.AsyncClient, content: bytes
    ) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and body of one request."""
        url = f"{self._base}/chat/completions"
        headers = {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(self._settings.timeout),
                http.stream("POST", url, content=content, headers=headers) as response,
            ):
                self._is_met = True
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > MAX_BODY:
                        raise _FailedError(f"the server's reply is longer than {MAX_BODY:,} bytes")
                return response.status_code, response.headers.get("Retry-After"), bytes(body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if self._is_met:
                raise _AbsentError(type(error).__name__) from None
            why = "its certificate is not trusted" if "CERTIFICATE" in str(error) else "no answer"
            raise UserError(
                f"The judge's server {self._base} cannot be reached ({why}). "
                "Start it, or correct base_url; nothing was judged."
            ) from None
        except TimeoutError:
            limit = self._settings.timeout
            raise _PassingError(f"the server gave no whole reply within {limit:g} s") from None
        except (httpx2.RequestError, httpx2.StreamError) as error:
            # Its text may quote a header, and with it the key.
            raise _PassingError(f"the connection broke off ({type(error).__name__})") from None

    def _raise(self, status: int, wait: float | None, message: str) -> None:
        """What a status other than 200 means."""
        said = f"{status}: {message}" if message else str(status)
        if status in PASSING or status >= 500:
            if wait is not None and wait > LONGEST_WAIT:
                raise _GoneError(f"the server asks to be left alone for {wait:,.0f} s ({said})")
            self._resume = max(self._resume, time.monotonic() + (wait or 0.0))
            raise _PassingError(f"the server answered {said}")
        if status == 401:
            name = self._settings.api_key_env
            todo = f"put a valid one into {name}" if name else "name its variable in api_key_env"
            raise UserError(f"The judge's server {self._base} wants another key ({said}): {todo}.")
        if status in UNKNOWN:
            raise UserError(
                f"The judge's server does not know {self._base}/chat/completions, or not the model "
                f"'{self.id}' ({said}). Check base_url, which often ends in /v1, and model."
            )
        if 300 <= status < 400:
            raise UserError(
                f"{self._base} sends its callers elsewhere ({status}), where the key must not go: "
                "set base_url to the address itself."
            )
        raise _FailedError(f"the server refuses the call ({said})", status)

    def _clean(self, text: str) -> str:
        """Without the key, which a server may send back."""
        if self._key and len(self._key) >= SECRET:
            return text.replace(self._key, "[key]")
        return text


def _smallest_first(wishes: Sequence[Wish]) -> Iterator[tuple[Wish, ...]]:
    """Every selection of `wishes`, from none to all."""
    for count in range(len(wishes) + 1):
        yield from itertools.combinations(wishes, count)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, also from inside a running loop, as a notebook's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None] | None]] = []

    async def noted() -> None:
        started.append((asyncio.get_running_loop(), asyncio.current_task()))
        await work

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(asyncio.run, noted())
        try:
            running.result()
        except BaseException:
            for loop, task in started:
                if task is not None and not running.done():
                    loop.call_soon_threadsafe(task.cancel)
            raise
