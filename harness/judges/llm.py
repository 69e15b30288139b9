"""A language model as a judge: every call is asked once, and what was paid for is kept."""

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
    """The `tasks.task.Judge` around a backend, with a cache and a budget.

    Args:
        cache: None: every call is asked anew, and nothing is kept.
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
        """For people: the model, where it is, what it was found to refuse."""
        return self._backend.description

    @property
    def spend(self) -> Spend:
        """What has been asked so far, and what that came to."""
        failures = dict(sorted(self._failures.items()))
        return self._meter.spend(self._calls, self._cached, failures)

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        """One reply a call, in order; equal calls are asked once.

        What it will take is said on stderr before. A reply is in the cache before the next call
        is asked, failures are not kept.

        Raises:
            UserError: no call can be answered (no server, no key, no such model), or the cache
                cannot be used. Replies that came before are in the cache.
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
        asked = [replies[key] for key in keys]
        self._calls += len(calls)
        self._cached += cached
        self._failures.update(reply.failure for reply in asked if reply.failure)
        self._tell()
        return asked

    def _tell(self) -> None:
        """Report what was used up since the last report to whoever watches the run."""
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
    """What answers the calls of a judge.

    `digest` covers all that decides a reply beside the call, wherever the weights are served.
    `place` is where they are served, if nothing says which weights these are: two servers that
    call different models by one name share no kept replies. It is '' where the weights are known.
    """

    id: str
    digest: str
    place: str
    at_once: int  # calls that are under way together

    @property
    def description(self) -> str:
        """For people: the model, where it is, what it was found to be able to do."""
        ...

    def answer(self, calls: Sequence[Call], meter: Meter, done: Done) -> None:
        """Ask every call once; `done(i, reply)` as soon as call i has its reply or its failure.

        Every request is reserved and settled with `meter`.

        Raises:
            UserError: none of the calls can be answered, and what to do about it.
        """
        ...


def failure_of(text: str, is_cut: bool) -> str:
    """Why a reply cannot count although it came; '' if it can."""
    if is_cut:
        return "the reply was cut short at its limit of tokens"
    return "" if text.strip() else "the reply is empty"
