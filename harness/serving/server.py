"""Ask an OpenAI-compatible server many calls at once: hosted, vLLM, llama.cpp, transformers serve.

Calls go out within the limits set. A transient error is retried; a permanent one fails the call.
The first call of all goes alone: it shows whether the server answers, takes the key, knows the
model, and which optional parameters it accepts.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar

import httpx2
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from harness.core.errors import UserError
from harness.serving.settings import ServerSettings
from harness.serving.wire import (
    MAX_TOKENS,
    Option,
    TransientError,
    error_message,
    redaction,
    subject_of_error,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

CONNECT_SECONDS = 10.0
MAX_WAIT_SECONDS = 120.0  # between two attempts, also if the server asks for longer
MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_CONSECUTIVE_FAILURES = 20  # calls that failed after all attempts

TRANSIENT = {408, 409, 425, 429}  # statuses, besides those from 500 on
NOT_FOUND = {404, 405}
BAD_REQUEST = {400, 422}
FORBIDDEN = {402, 403}  # about the account, unless the server answers other calls


class CallFailedError(Exception):
    """This call cannot be answered.

    `about_prompt`: the server refuses what this prompt or its answer says, so it may well answer
    other prompts.
    """

    def __init__(self, reason: str, status: int = 0, *, about_prompt: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.about_prompt = about_prompt


class ServerDownError(CallFailedError):
    """The server is gone or fails every call, so the rest of the batch is not asked."""


class Response(NamedTuple):
    """A server's response, whatever it is."""

    status: int
    wait: str | None  # the Retry-After header
    body: bytes


@dataclass
class Batch:
    """The state of the calls that are asked together."""

    http: httpx2.AsyncClient
    answered: int = 0
    failed_in_a_row: int = 0
    down: str = ""  # why the remaining calls are not asked


class Pace:
    """Spread an amount evenly over time, at most `per_minute`; None: no limit.

    Evenly, because a server with a limit per minute may count per second.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    def delay(self, amount: float = 1) -> float:
        """Reserve `amount` and return the seconds until it may start."""
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + amount * self._seconds_each
        return start - now

    def give_back(self, amount: float) -> None:
        """Return an amount that was reserved and not used."""
        self._next -= amount * self._seconds_each


def retry_after(value: str | None) -> float | None:
    """Read the seconds of a Retry-After header, a number or an HTTP date (RFC 9110, 10.2.3).

    None where the header is missing or cannot be read.
    """
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value := value.strip()):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    seconds = (until - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


class Server:
    """One endpoint of a server.

    Args:
        path: of the endpoint, below the base_url.
        key: sent to `settings.base_url` as the bearer token, and shown nowhere.
    """

    def __init__(self, settings: ServerSettings, path: str, key: str | None) -> None:
        if settings.base_url is None:
            raise ValueError("a server has a base_url")
        self.base = settings.base_url.rstrip("/").removesuffix(path)
        self._path = path
        self._settings = settings
        self._key = key
        self.clean = redaction(key)  # a server may send the key back in some form
        self._requests = Pace(settings.requests_per_minute)
        self._tokens = Pace(settings.tokens_per_minute)
        self._resume = 0.0  # no request before this time of the monotonic clock
        self._was_reached = False
        self._accepted: set[Option] = set()
        self._refused: set[Option] = set()

    @property
    def description(self) -> str:
        """The model, its address, and the optional parameters that the server refused."""
        refused = sorted({option.kind for option in self._refused})
        text = f"{self._settings.model} at {self.base}"
        return f"{text}, which refuses {' and '.join(refused)}" if refused else text

    def run(
        self, calls: Sequence[T], work: Callable[[Batch, T], Coroutine[Any, Any, None]]
    ) -> None:
        """Run `work` on every call, `max_concurrency` at a time.

        Raises:
            UserError: the server does not answer, or refuses the key, the address or the model.
        """
        _run(self._run(calls, work))

    async def _run(
        self, calls: Sequence[T], work: Callable[[Batch, T], Coroutine[Any, Any, None]]
    ) -> None:
        concurrency = self._settings.max_concurrency
        waiting = iter(calls)
        async with httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),  # `post` limits the whole
            limits=httpx2.Limits(
                max_connections=concurrency, max_keepalive_connections=concurrency
            ),
            follow_redirects=False,
        ) as http:
            batch = Batch(http)

            async def work_off(calls: Iterator[T]) -> None:
                for call in calls:
                    await work(batch, call)

            if not self._was_reached:
                await work_off(itertools.islice(waiting, 1))
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(concurrency, len(calls))):
                        workers.create_task(work_off(waiting))
            except* UserError as errors:
                raise errors.exceptions[0] from None

    async def answer(
        self,
        batch: Batch,
        options: Sequence[Option],
        attempt: Callable[[Collection[Option]], Awaitable[T]],
    ) -> T:
        """Return what `attempt` returns, called with those of `options` that the server accepts.

        A server that answers "bad request" is asked again without the options that it never
        accepted, as few of them left out as possible.

        Raises:
            ServerDownError: the server is down; neither this nor a later call is asked.
            CallFailedError: this call cannot be answered.
            UserError: no call can be answered.
        """
        if batch.down:
            raise ServerDownError(batch.down)
        wanted = [option for option in options if not self._refuses(option)]
        untried = [option for option in wanted if option not in self._accepted]
        failure = CallFailedError("")
        for dropped in _smallest_first(untried):
            sent = [option for option in wanted if option not in dropped]
            try:
                answer = await self._retry(batch, attempt, sent)
            except ServerDownError as error:
                self._give_up(batch, str(error))
                raise ServerDownError(batch.down) from None
            except TransientError as error:
                reason = f"{self.clean(str(error))}; given up after {self._settings.max_attempts}"
                self._count_failure(batch, reason)
                down = batch.down
                raise (ServerDownError(down) if down else CallFailedError(reason)) from None
            except CallFailedError as error:
                if error.status in FORBIDDEN and not (batch.answered or error.about_prompt):
                    raise UserError(
                        f"{self.base} does not let this key ask the model "
                        f"'{self._settings.model}': {error}. Check the account, or use another key."
                    ) from None
                failure = error
                if error.status not in BAD_REQUEST or error.about_prompt:
                    break
            else:
                self._remember(sent, dropped)
                return answer
        raise failure

    def _count_failure(self, batch: Batch, reason: str) -> None:
        """Give up after many failures in a row: each costs all the attempts of a call."""
        batch.failed_in_a_row += 1
        if batch.failed_in_a_row >= max(MAX_CONSECUTIVE_FAILURES, self._settings.max_concurrency):
            self._give_up(
                batch, f"the server failed {batch.failed_in_a_row} calls in a row ({reason})"
            )

    def _give_up(self, batch: Batch, why: str) -> None:
        batch.down = batch.down or why
        if not batch.answered:
            raise UserError(
                f"No call can be answered by {self.base}: {why}. Start again when the server is "
                "well; earlier answers are kept."
            )

    def _refuses(self, option: Option) -> bool:
        """Whether `option`, or every other option of its kind, was refused before."""
        if option in self._refused:
            return True
        same = {known for known in self._accepted | self._refused if known.kind == option.kind}
        return bool(same) and same <= self._refused

    def _remember(self, accepted: Sequence[Option], refused: Sequence[Option]) -> None:
        self._accepted |= set(accepted)
        for option in refused:
            if option not in self._refused:
                self._refused.add(option)
                now = "max_completion_tokens" if option == MAX_TOKENS else "nothing"
                log.warning("%s refuses %s: %s is sent instead.", self.base, option.kind, now)

    async def _retry(
        self,
        batch: Batch,
        attempt: Callable[[Collection[Option]], Awaitable[T]],
        options: Collection[Option],
    ) -> T:
        """Retry transient errors, with random pauses besides those that the server asks for.

        Pauses grow up to a power of two (M. Brooker, "Exponential backoff and jitter", AWS, 2015).
        """

        async def unless_down() -> T:
            if batch.down:
                raise ServerDownError(batch.down)
            return await attempt(options)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(self._settings.max_attempts),
            wait=wait_random_exponential(self._settings.backoff, max=MAX_WAIT_SECONDS),
            reraise=True,
        )
        try:
            answer: T = await retrying(unless_down)
        except TransientError as error:
            if error.unreachable:
                raise ServerDownError(f"the server is gone ({error})") from None
            raise
        batch.answered += 1
        batch.failed_in_a_row = 0
        return answer

    async def wait_turn(self, tokens: float) -> None:
        """Wait until the limits, and the server, allow a request of so many tokens."""
        await asyncio.sleep(max(self._requests.delay(), self._tokens.delay(tokens)))
        while (left := self._resume - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def give_back(self, tokens: float) -> None:
        """Return tokens that were reserved by `wait_turn` and not used."""
        self._tokens.give_back(tokens)

    async def post(self, batch: Batch, content: bytes) -> Response:
        """Send one request.

        Raises:
            TransientError: no whole response came.
            CallFailedError: the response is too long.
            UserError: the server cannot be reached and never was.
        """
        url = f"{self.base}{self._path}"
        headers = {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(self._settings.timeout),
                batch.http.stream("POST", url, content=content, headers=headers) as response,
            ):
                self._was_reached = True
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > MAX_BODY_BYTES:
                        raise CallFailedError(
                            f"the server's reply is longer than {MAX_BODY_BYTES:,} bytes"
                        )
                wait = response.headers.get("Retry-After")
                return Response(response.status_code, wait, bytes(body))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if self._was_reached:
                raise TransientError(type(error).__name__, unreachable=True) from None
            why = "its certificate is not trusted" if "CERTIFICATE" in str(error) else "no answer"
            raise UserError(
                f"The server {self.base} cannot be reached ({why}). "
                "Start it, or correct base_url; nothing was asked."
            ) from None
        except TimeoutError:
            limit = self._settings.timeout
            raise TransientError(f"the server gave no whole reply within {limit:g} s") from None
        except (httpx2.RequestError, httpx2.StreamError) as error:
            # Its text may quote a header, and with it the key.
            raise TransientError(f"the connection broke off ({type(error).__name__})") from None

    def accept(self, response: Response) -> bytes:
        """Return the body of a successful response.

        Raises:
            TransientError: the next attempt may well succeed.
            CallFailedError: the call is refused.
            UserError: every call would be refused.
        """
        status, message = response.status, self.clean(error_message(response.body))
        if status == 200:
            return response.body
        shown = f"{status}: {message}" if message else str(status)
        if status in TRANSIENT or status >= 500:
            wait = retry_after(response.wait)
            if wait is not None and wait > MAX_WAIT_SECONDS:
                raise ServerDownError(
                    f"the server asks to be left alone for {wait:,.0f} s ({shown})"
                )
            self._resume = max(self._resume, time.monotonic() + (wait or 0.0))
            raise TransientError(f"the server answered {shown}")
        if status == 401:
            name = self._settings.api_key_env
            todo = f"put a valid one into {name}" if name else "name its variable in api_key_env"
            raise UserError(f"The server {self.base} wants another key ({shown}): {todo}.")
        if status in NOT_FOUND:
            raise UserError(
                f"The server does not know {self.base}{self._path}, or not the model "
                f"'{self._settings.model}' ({shown}). Check base_url, which often ends in /v1, and "
                "model."
            )
        if 300 <= status < 400:
            raise UserError(
                f"{self.base} redirects to another address ({status}), where the key must not go. "
                "Set base_url to that address."
            )
        about = subject_of_error(response.body)
        if about == "account":
            raise UserError(
                f"{self.base} cannot answer any call to the model '{self._settings.model}' "
                f"({shown}). Check the model's name and the key."
            )
        raise CallFailedError(
            f"the server refuses the call ({shown})", status, about_prompt=about == "prompt"
        )


def _smallest_first(options: Sequence[Option]) -> Iterator[tuple[Option, ...]]:
    """Yield every selection of `options` (three at most), from none to all."""
    for count in range(len(options) + 1):
        yield from itertools.combinations(options, count)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, also from inside a running event loop, as in a notebook."""
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
