"""A server that is asked side by side: hosted, vLLM, llama.cpp, `transformers serve`.

Calls go out within the limits set; what may pass is tried again, what cannot be helped is the
call's failure. The very first call goes alone: it finds out whether anybody is there, takes the
key and knows the model, and what the server can do.
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
from harness.serving.redaction import redaction
from harness.serving.settings import ServerSettings
from harness.serving.wire import MAX_TOKENS, TransientError, Wish, error_message, subject_of_error

log = logging.getLogger(__name__)
T = TypeVar("T")

CONNECT_SECONDS = 10.0
LONGEST_WAIT = 120.0  # seconds between two tries, whoever asks for it
MAX_BODY = 8 * 1024 * 1024  # bytes
MAX_CONSECUTIVE_FAILURES = 20  # calls in a row that all tries could not get answered

PASSING = {408, 409, 425, 429}  # and all from 500 on
UNKNOWN = {404, 405}
BAD_REQUEST = {400, 422}
FORBIDDEN = {402, 403}  # about the account, unless the server answers other calls


class UnreachableError(TransientError):
    """Nobody answers at the address."""


class CallFailedError(Exception):
    """This call cannot be answered.

    `about_prompt`: the server says that it refuses what this prompt or its answer says, so that
    other prompts may well be answered.
    """

    def __init__(self, reason: str, status: int = 0, *, about_prompt: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.about_prompt = about_prompt


class ServerGoneError(CallFailedError):
    """No further call of this batch is asked: the server is gone, or fails every call."""


class _ServerDownError(Exception):
    """No call can be answered for now."""


class Response(NamedTuple):
    """What came back, whatever it is."""

    status: int
    wait: str | None  # the Retry-After header
    body: bytes


@dataclass
class Batch:
    """The calls that are asked in one go."""

    http: httpx2.AsyncClient
    answered: int = 0
    failed_in_a_row: int = 0
    gone: str = ""  # why the calls that remain are not even tried


class Server:
    """One door of a server.

    Args:
        path: of the door, below the base_url.
        key: sent to `settings.base_url` as the bearer token, and shown nowhere.
    """

    def __init__(self, settings: ServerSettings, path: str, key: str | None) -> None:
        if settings.base_url is None:
            raise ValueError("a server has a base_url")
        self.base = settings.base_url.rstrip("/").removesuffix(path)
        self._path = path
        self._settings = settings
        self._key = key
        self._redact = redaction(key)
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
        said = f"{self._settings.model} at {self.base}"
        return f"{said}, which refuses {' and '.join(refused)}" if refused else said

    def run(
        self, calls: Sequence[T], work: Callable[[Batch, T], Coroutine[Any, Any, None]]
    ) -> None:
        """`work` on every call, `max_concurrency` at a time.

        Raises:
            UserError: nobody is there, the key is refused, the address or the model is unknown.
        """
        _run(self._run(calls, work))

    async def _run(
        self, calls: Sequence[T], work: Callable[[Batch, T], Coroutine[Any, Any, None]]
    ) -> None:
        most = self._settings.max_concurrency
        waiting = iter(calls)
        async with httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),  # `post` has one for the whole
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
            follow_redirects=False,
        ) as http:
            batch = Batch(http)

            async def work_off(some: Iterator[T]) -> None:
                for call in some:
                    await work(batch, call)

            if not self._is_met:
                await work_off(itertools.islice(waiting, 1))
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(most, len(calls))):
                        workers.create_task(work_off(waiting))
            except* UserError as errors:
                raise errors.exceptions[0] from None

    async def answer(
        self,
        batch: Batch,
        wishes: Sequence[Wish],
        attempt: Callable[[Collection[Wish]], Awaitable[T]],
    ) -> T:
        """What `attempt(granted)` returns, with the `wishes` as far as the server grants them.

        Raises:
            ServerGoneError: the server is gone, and neither this nor a later call is asked.
            CallFailedError: this call cannot be answered.
            UserError: no call can be answered.
        """
        if batch.gone:
            raise ServerGoneError(batch.gone)
        wanted = [wish for wish in wishes if not self._is_vain(wish)]
        unsure = [wish for wish in wanted if wish not in self._served]
        failure = CallFailedError("")
        for dropped in _smallest_first(unsure):
            granted = [wish for wish in wanted if wish not in dropped]
            try:
                found = await self._persist(batch, attempt, granted)
            except CallFailedError as error:
                if error.status in FORBIDDEN and not (batch.answered or error.about_prompt):
                    raise UserError(
                        f"{self.base} does not let this key ask the model "
                        f"'{self._settings.model}': {error}. Check the account, or use another key."
                    ) from None
                failure = error
                if error.status not in BAD_REQUEST or error.about_prompt:
                    break
            except TransientError as error:
                said = f"{self.clean(str(error))}; given up after {self._settings.max_attempts}"
                self._count_failure(batch, said)
                failure = ServerGoneError(batch.gone) if batch.gone else CallFailedError(said)
                break
            except _ServerDownError as error:
                self._give_up(batch, str(error))
                failure = ServerGoneError(batch.gone)
                break
            else:
                self._learn(granted, dropped)
                return found
        raise failure

    def _count_failure(self, batch: Batch, failure: str) -> None:
        """A server that hangs would else cost all the tries of every call."""
        batch.failed_in_a_row += 1
        if batch.failed_in_a_row >= max(MAX_CONSECUTIVE_FAILURES, self._settings.max_concurrency):
            self._give_up(
                batch, f"the server failed {batch.failed_in_a_row} calls in a row ({failure})"
            )

    def _give_up(self, batch: Batch, why: str) -> None:
        batch.gone = batch.gone or why
        if not batch.answered:
            raise UserError(
                f"No call can be answered by {self.base}: {why}. Start again when the server is "
                "well; what was answered before is not lost by this."
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
                now = "max_completion_tokens" if wish == MAX_TOKENS else "nothing"
                log.warning("%s refuses %s: %s is sent instead.", self.base, wish.kind, now)

    async def _persist(
        self,
        batch: Batch,
        attempt: Callable[[Collection[Wish]], Awaitable[T]],
        granted: Collection[Wish],
    ) -> T:
        """Try until there is an answer, or no sense in trying again.

        The pauses are random, up to a power of two (M. Brooker, "Exponential backoff and jitter",
        AWS, 2015), beside what the server itself asks for.
        """

        async def tried() -> T:
            if batch.gone:
                raise _ServerDownError(batch.gone)
            return await attempt(granted)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(self._settings.max_attempts),
            wait=wait_random_exponential(self._settings.backoff, max=LONGEST_WAIT),
            reraise=True,
        )
        try:
            found: T = await retrying(tried)
        except UnreachableError as error:
            raise _ServerDownError(f"the server is gone ({error})") from None
        batch.answered += 1
        batch.failed_in_a_row = 0
        return found

    async def turn(self, tokens: float) -> None:
        """Wait until the limits, and the server, allow a request of so many tokens."""
        await asyncio.sleep(max(self._requests.delay(), self._tokens.delay(tokens)))
        while (left := self._resume - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def give_back(self, tokens: float) -> None:
        """What was reckoned with at a `turn`, and not used."""
        self._tokens.give_back(tokens)

    async def post(self, batch: Batch, content: bytes) -> Response:
        """One request.

        Raises:
            TransientError: no whole response came.
            CallFailedError: it is too long.
            UserError: nobody was ever there.
        """
        url = f"{self.base}{self._path}"
        headers = {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(self._settings.timeout),
                batch.http.stream("POST", url, content=content, headers=headers) as response,
            ):
                self._is_met = True
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > MAX_BODY:
                        raise CallFailedError(
                            f"the server's reply is longer than {MAX_BODY:,} bytes"
                        )
                wait = response.headers.get("Retry-After")
                return Response(response.status_code, wait, bytes(body))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if self._is_met:
                raise UnreachableError(type(error).__name__) from None
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
        """The body of a response that is one.

        Raises:
            TransientError: the next try may well succeed.
            CallFailedError: the call is refused.
            UserError: every call would be.
        """
        status, message = response.status, self.clean(error_message(response.body))
        if status == 200:
            return response.body
        said = f"{status}: {message}" if message else str(status)
        if status in PASSING or status >= 500:
            wait = retry_after(response.wait)
            if wait is not None and wait > LONGEST_WAIT:
                raise _ServerDownError(
                    f"the server asks to be left alone for {wait:,.0f} s ({said})"
                )
            self._resume = max(self._resume, time.monotonic() + (wait or 0.0))
            raise TransientError(f"the server answered {said}")
        if status == 401:
            name = self._settings.api_key_env
            todo = f"put a valid one into {name}" if name else "name its variable in api_key_env"
            raise UserError(f"The server {self.base} wants another key ({said}): {todo}.")
        if status in UNKNOWN:
            raise UserError(
                f"The server does not know {self.base}{self._path}, or not the model "
                f"'{self._settings.model}' ({said}). Check base_url, which often ends in /v1, and "
                "model."
            )
        if 300 <= status < 400:
            raise UserError(
                f"{self.base} sends its callers elsewhere ({status}), where the key must not go: "
                "set base_url to the address itself."
            )
        about = subject_of_error(response.body)
        if about == "account":
            raise UserError(
                f"{self.base} cannot answer any call to the model '{self._settings.model}' "
                f"({said}). Check the model's name and the key."
            )
        raise CallFailedError(
            f"the server refuses the call ({said})", status, about_prompt=about == "prompt"
        )

    def clean(self, text: str) -> str:
        """Replace the key, which a server may send back in some form; see `redaction`."""
        return self._redact(text)


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


class Pace:
    """Spreads an amount over time: in no minute more than `per_minute`, None: as it comes.

    Evenly, since a server with a limit a minute may count by the second.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    def delay(self, amount: float = 1) -> float:
        """Seconds until `amount` may start; its place in line is taken."""
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + amount * self._seconds_each
        return start - now

    def give_back(self, amount: float) -> None:
        """What was set aside and not used comes to those behind."""
        self._next -= amount * self._seconds_each


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or an HTTP date (RFC 9110, 10.2.3).

    None: there is none, or it says nothing that can be understood.
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
