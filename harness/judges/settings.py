"""Settings of a judge: its model, its server or engine, its price and budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from harness.core.schema import Name, Record
from harness.serving.settings import ServerSettings

OURS = {"model", "messages", "stream", "n", "max_tokens", "max_completion_tokens"} | {
    *("temperature", "top_p", "seed", "response_format", "logprobs", "top_logprobs")
}


class Price(Record):
    """What a model costs, in dollars per million tokens."""

    input: float = Field(ge=0, description="read by the model")
    output: float = Field(ge=0, description="written by the model")


class Budget(Record):
    """Limits for a judge. Calls beyond a limit are left unscored, with the reason."""

    requests: int | None = Field(default=None, ge=0, description="retries included")
    tokens: int | None = Field(default=None, ge=0, description="read and written together")
    dollars: float | None = Field(default=None, ge=0, description="needs a price")


class JudgeSettings(ServerSettings):
    """A judge: a chat server by `base_url`, or a model in this process by `engine`."""

    engine: Literal["hf"] | None = Field(
        default=None, description="hf: transformers, in this process or on a run's cluster"
    )
    model: Name = Field(
        min_length=1, description="as the server calls it; engine: a model folder or hub name"
    )
    temperature: float | None = Field(
        default=0.0,
        ge=0,
        le=2,
        description="0 is greedy; null: not sent, for servers that refuse it",
    )
    top_p: float | None = Field(default=None, gt=0, le=1, description="null: not sent")
    seed: int | None = Field(default=0, description="null: not sent")
    thinking_tokens: int = Field(
        default=0,
        ge=0,
        description="extra tokens per reply, for a model that reasons before it answers",
    )
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", description="the server's name for the limit of a reply"
    )
    extra_body: dict[str, JsonValue] = Field(
        default_factory=dict, description="sent with every call; part of the judge's identity"
    )
    cache: Path | None = Field(
        default=None, description="file that keeps the replies; default ~/.cache/rlrf/judge.sqlite"
    )
    price: Price | None = None
    budget: Budget = Budget()
    device: str = Field(
        default="auto", description="engine: cpu or cuda; auto: CUDA if there is one"
    )
    dtype: str = Field(default="auto", description="engine: auto: as the weights are stored")

    @model_validator(mode="after")
    def _one_door(self) -> Self:
        if (self.base_url is None) == (self.engine is None):
            raise ValueError("give either base_url (a server) or engine (in this process)")
        if self.engine and (self.temperature or self.top_p or self.extra_body):
            raise ValueError("with engine, decoding is greedy: no temperature, top_p or extra_body")
        return self

    @model_validator(mode="after")
    def _no_overriding(self) -> Self:
        if taken := sorted(OURS & self.extra_body.keys()):
            raise ValueError(f"extra_body cannot set {', '.join(taken)}: these have their own keys")
        return self

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.budget.dollars is not None and self.price is None:
            raise ValueError("a budget in dollars needs a price, per million tokens")
        return self

    def decoding(self) -> dict[str, Any]:
        """Return what decides a reply besides the call and the weights."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "thinking_tokens": self.thinking_tokens,
            "extra_body": self.extra_body,
        }
