"""Ask a language model as a judge, with a cache and a budget around any backend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.core.log import say
from harness.core.progress import track
from harness.core.run_status import count_spend
from harness.core.schema import Call, Reply, digest
from harness.judges.budget import Meter, Spend, Tokens
from harness.judges.cache import Cache


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
