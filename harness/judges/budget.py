"""Estimate, count and limit what a judge uses: requests, tokens, dollars.

Each request reserves the most that it should cost (a prompt of its length, a reply of full length)
and settles at its real cost, so requests in progress cannot overdraw the budget together. A server
that counts far more tokens than expected can overdraw it only by the requests then in progress.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import Field

from harness.core.schema import Call, Record
from harness.judges.settings import Budget, Price

BYTES_PER_TOKEN = 4  # of English, under the usual tokenizers
MIN_BYTES_PER_TOKEN = 2  # of code and rare scripts: what a reservation assumes
TEMPLATE_TOKENS = 16  # added by a chat template
COUNTED = ("calls", "cached", "requests", "prompt_tokens", "completion_tokens")
FAILED = "failed: "


class Spend(Record):
    """The calls of a judge, and what they used."""

    calls: int = 0
    cached: int = Field(default=0, description="calls answered from the cache")
    requests: int = Field(default=0, description="sent, retries included")
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float | None = Field(default=None, description="None: no price is known")
    failures: dict[str, int] = Field(default_factory=dict, description="reason -> calls")

    def amounts(self) -> dict[str, float]:
        """Return the counts as plain numbers that add up; dollars only if a price is known."""
        known = self.model_dump(exclude={"failures"}, exclude_none=True)
        return known | {FAILED + reason: calls for reason, calls in self.failures.items()}

    @classmethod
    def of(cls, amounts: Mapping[str, float]) -> Spend:
        """Return the `Spend` of such numbers."""
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
        """Return one line for people."""
        text = (
            f"{self.calls:,} calls, {self.cached:,} cached, {self.requests:,} requests; "
            f"{self.prompt_tokens:,} tokens read, {self.completion_tokens:,} written"
        )
        if self.dollars is not None:
            text += f", ${self.dollars:,.2f}"
        if self.failures:
            reason, most = max(self.failures.items(), key=lambda item: item[1])
            text += f"; {sum(self.failures.values()):,} calls failed, {most:,} as {reason}"
        return text


@dataclass(frozen=True)
class Tokens:
    """Tokens that a model reads and writes."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


def tokens_of(text: str) -> int:
    """Estimate the number of tokens of a text, for any tokenizer."""
    return -(-_bytes(text) // BYTES_PER_TOKEN)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


class Meter:
    """Counts requests, tokens and dollars against a budget.

    Args:
        thinking_tokens: tokens that a reply may have beyond its call's `max_tokens`.
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
        """Return the most that one request of `call` should take."""
        return self._tokens(call, MIN_BYTES_PER_TOKEN)

    def _tokens(self, call: Call, bytes_per_token: int) -> Tokens:
        read = (_bytes(call.system) + _bytes(call.prompt)) // bytes_per_token + TEMPLATE_TOKENS
        return Tokens(read, call.max_tokens + self._thinking)

    @property
    def under_way(self) -> int:
        """Requests reserved and not settled. At 0, a request that does not fit never will."""
        return len(self._reserved)

    def reserve(self, need: Tokens) -> str:
        """Reserve `need` for one request, or return the reason why the budget forbids it."""
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
        """Replace the reservation of `need` by the tokens used; None: no request was sent."""
        self._reserved.remove(need)
        if used is None:
            return
        self._requests += 1
        self._spent = self._sum([self._spent, used])

    def estimate(self, calls: Iterable[Call]) -> str:
        """Describe what asking `calls` once will take."""
        total = self._sum([self._tokens(call, BYTES_PER_TOKEN) for call in calls])
        text = f"about {total.prompt:,} tokens to read, at most {total.completion:,} to write"
        if self._price is not None:
            cents = math.ceil(100 * self._dollars(total))
            text += f", at most about ${cents / 100:,.2f}"
        return text

    def spend(self, calls: int, cached: int, failures: dict[str, int]) -> Spend:
        """Return everything counted here, with the counts of the judge."""
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
