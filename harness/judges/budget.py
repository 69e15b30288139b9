"""What judging uses up: estimated before, counted during, never more than was allowed.

A request is reserved at the most that it should cost (its prompt, reckoned from its length, and a
reply of full length) and settled at what it did cost, so that requests under way do not overdraw
the budget together. A server that counts far more tokens than its prompts are long can overdraw
it by the requests that are then under way, not by more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import Field

from harness.core.schema import Call, Record
from harness.judges.settings import Budget, Price

BYTES_PER_TOKEN = 4  # of English, under the usual tokenizers
LEAST_BYTES_PER_TOKEN = 2  # code, rare scripts: what a reservation reckons with
FRAME_TOKENS = 16  # a chat template's own
COUNTED = ("calls", "cached", "requests", "prompt_tokens", "completion_tokens")
FAILED = "failed: "


class Spend(Record):
    """What a judge was asked, and what that came to."""

    calls: int = 0
    cached: int = Field(default=0, description="calls answered from the cache")
    requests: int = Field(default=0, description="sent, retries included")
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float | None = Field(default=None, description="None: no price is known")
    failures: dict[str, int] = Field(default_factory=dict, description="reason -> calls")

    def amounts(self) -> dict[str, float]:
        """The same as plain numbers, which add up; dollars only where a price is known."""
        known = self.model_dump(exclude={"failures"}, exclude_none=True)
        return known | {FAILED + reason: calls for reason, calls in self.failures.items()}

    @classmethod
    def of(cls, amounts: Mapping[str, float]) -> Spend:
        """What `amounts` add up to."""
        dollars = amounts.get("dollars")
        return cls(
            **{name: int(amounts.get(name, 0)) for name in COUNTED},
            dollars=dollars,
            failures={
                name.removeprefix(FAILED): int(calls)
                for name, calls in amounts.items()
                if name.startswith(FAILED)
            },
        )

    def sentence(self) -> str:
        """What a person wants to know, in one line."""
        said = (
            f"{self.calls:,} calls, {self.cached:,} cached, {self.requests:,} requests; "
            f"{self.prompt_tokens:,} tokens read, {self.completion_tokens:,} written"
        )
        if self.dollars is not None:
            said += f", ${self.dollars:,.2f}"
        if self.failures:
            reason, most = max(self.failures.items(), key=lambda item: item[1])
            said += f"; {sum(self.failures.values()):,} calls failed, {most:,} as {reason}"
        return said


@dataclass(frozen=True)
class Tokens:
    """Tokens that a model reads and writes."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


def tokens_of(text: str) -> int:
    """About how many tokens a text has, whatever the tokenizer."""
    return -(-_bytes(text) // BYTES_PER_TOKEN)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


class Meter:
    """Counts requests, tokens and dollars against a budget.

    Args:
        thinking_tokens: what a reply may have beyond its call's `max_tokens`.
    """

    def __init__(
        self, budget: Budget | None = None, price: Price | None = None, thinking_tokens: int = 0
    ) -> None:
        self._budget = budget or Budget()
        self._price = price
        self._thinking = thinking_tokens
        self._spent = Tokens()
        self._requests = 0
        self._reserved: list[Tokens] = []

    def need(self, call: Call) -> Tokens:
        """The most that one request of `call` is expected to take."""
        return self._tokens(call, LEAST_BYTES_PER_TOKEN)

    def _tokens(self, call: Call, bytes_per_token: int) -> Tokens:
        read = (_bytes(call.system) + _bytes(call.prompt)) // bytes_per_token + FRAME_TOKENS
        return Tokens(read, call.max_tokens + self._thinking)

    @property
    def under_way(self) -> int:
        """Requests reserved and not settled; at 0, what does not fit now will never fit."""
        return len(self._reserved)

    def reserve(self, need: Tokens) -> str:
        """Set `need` aside for one request; returns the reason if the budget does not allow it."""
        budget = self._budget
        after = self._sum([self._spent, *self._reserved, need])
        if budget.requests is not None and (
            self._requests + len(self._reserved) + 1 > budget.requests
        ):
            return f"the budget of {budget.requests:,} requests is spent"
        if budget.tokens is not None and after.total > budget.tokens:
            return f"the budget of {budget.tokens:,} tokens is spent"
        if budget.dollars is not None and self._dollars(after) > budget.dollars:
            return f"the budget of ${budget.dollars:,.2f} is spent"
        self._reserved.append(need)
        return ""

    def settle(self, need: Tokens, used: Tokens | None) -> None:
        """Replace the reservation of `need` by what was used; None: no request was sent."""
        self._reserved.remove(need)
        if used is None:
            return
        self._requests += 1
        self._spent = self._sum([self._spent, used])

    def estimate(self, calls: Iterable[Call]) -> str:
        """What asking `calls` once will take, in words."""
        total = self._sum([self._tokens(call, BYTES_PER_TOKEN) for call in calls])
        said = f"about {total.prompt:,} tokens to read, at most {total.completion:,} to write"
        if self._price is not None:
            cents = math.ceil(100 * self._dollars(total))
            said += f", at most about ${cents / 100:,.2f}"
        return said

    def spend(self, calls: int, cached: int, failures: dict[str, int]) -> Spend:
        """All that was counted, beside what the judge counts itself."""
        return Spend(
            calls=calls,
            cached=cached,
            requests=self._requests,
            prompt_tokens=self._spent.prompt,
            completion_tokens=self._spent.completion,
            dollars=None if self._price is None else self._dollars(self._spent),
            failures=failures,
        )

    def _dollars(self, tokens: Tokens) -> float:
        price = self._price or Price(input=0, output=0)
        return (tokens.prompt * price.input + tokens.completion * price.output) / 1e6

    @staticmethod
    def _sum(parts: list[Tokens]) -> Tokens:
        return Tokens(sum(p.prompt for p in parts), sum(p.completion for p in parts))
