"""Define what an engine is: prompts and `Sampling` in, `Completion`s out.

`harness.engines.open` opens an engine. Each engine has its own module, so that its libraries are
loaded only where it is used.
"""

from __future__ import annotations

import abc
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from harness.core.errors import UserError
from harness.engines.prompts import encode, render

if TYPE_CHECKING:
    from harness.core.schema import FinishReason, Message

Kind = Literal["hf", "vllm", "openai"]  # of engines
KINDS = get_args(Kind)
SEEDS = 2**31  # vLLM and servers take smaller seeds only
MAX_UNANSWERED = 0.5  # default share of responses that may be missing
MAX_UNANSWERED_AT_FIRST = 20  # refusals before the first answer

OnDone = Callable[[int], None]  # called with the number of further responses that are done
Part = Sequence[str]  # prompts that are generated together
Pair = tuple[list[int], list[int]]  # context and continuation, as token ids
Likelihood = tuple[float, bool]  # log-probability, and whether greedy decoding gives the same


@dataclass(frozen=True)
class Sampling:
    """How to decode. `temperature=0` is greedy; `n` is the number of samples per prompt.

    The seed of sample j of a prompt is derived from (`seed`, prompt, j), so neither the order of
    the prompts nor the batch changes a sample.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0

    @property
    def distinct(self) -> int:
        """Samples to generate per prompt: greedy ones are copies of one."""
        return 1 if self.temperature == 0 else self.n

    @property
    def copies(self) -> int:
        """Samples that each generated one stands for."""
        return self.n // self.distinct

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"stop": list(self.stop)}

    def check(self, context: int | None = None) -> None:
        """Check the values, against a context of that many tokens where it is known.

        Raises:
            UserError: a value is out of its range, or leaves no room for a prompt.
        """
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}: at least 1 is needed.")
        if context is not None and self.max_tokens >= context:
            raise UserError(
                f"max_tokens is {self.max_tokens}, and the model's context of {context} tokens "
                f"must hold the prompt too: choose 1 to {context - 1}."
            )
        if self.n < 1 or not 0 < self.top_p <= 1 or not 0 <= self.temperature < math.inf:
            raise UserError(
                f"n is {self.n}, top_p {self.top_p}, temperature {self.temperature}: n must be at "
                "least 1, top_p above 0 and at most 1, temperature at least 0."
            )


def seed_of(sampling: Sampling, prompt: str, sample: int) -> int:
    """Derive the 128-bit seed of one sample."""
    named = f"{sampling.seed}/{sample}/{prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(named).digest()[:16], "little")


@dataclass(frozen=True)
class Completion:
    """One generated text, cut before the stop string that ended it.

    Token counts and the finish reason are None where a server does not tell them. `unanswered` says
    why there is no text, such as a server's content filter; it is '' for every generated text, an
    empty one included.
    """

    text: str
    finish_reason: FinishReason | None
    prompt_tokens: int | None
    completion_tokens: int | None
    unanswered: str = ""

    @classmethod
    def missing(cls, reason: str) -> Completion:
        """Make the completion of a prompt that was not answered."""
        return cls("", None, None, None, reason)


def cut_at_stop(text: str, reason: FinishReason, stop: Sequence[str]) -> tuple[str, FinishReason]:
    """Cut `text` before its first stop string; return it with its finish reason."""
    places = [at for s in stop if (at := text.find(s)) >= 0]
    return (text[: min(places)], "stop") if places else (text, reason)


def by_prompt(
    made: Mapping[tuple[int, int], Completion], prompts: int, sampling: Sampling
) -> list[list[Completion]]:
    """Arrange completions by (prompt, sample) into `sampling.n` completions per prompt."""
    each, copies = sampling.distinct, sampling.copies
    return [[made[p, j] for j in range(each)] * copies for p in range(prompts)]


class Engine(abc.ABC):
    """A model that generates text. `model_digest` covers weights, configuration and tokenizer.

    `model_digest` is None where the weights are unknown, and `tokenizer` where a server has it.
    """

    name: str
    model_id: str
    model_digest: str | None
    tokenizer: Any
    parts_at_once = 1  # parts of prompts that `stream` works on together

    def render(self, messages: Sequence[Message]) -> str:
        """Render a conversation as the prompt of the assistant's reply."""
        return render(self.tokenizer, messages)

    @abc.abstractmethod
    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[list[Completion]]:
        """Generate `sampling.n` completions per prompt, in the order of the prompts."""

    def stream(
        self, parts: Sequence[Part], sampling: Sampling, on_done: OnDone | None = None
    ) -> Iterator[tuple[int, list[list[Completion]]]]:
        """Yield the number of each part of `parts` and its completions, as they are ready."""
        for number, prompts in enumerate(parts):
            yield number, self.generate(prompts, sampling, on_done)


class ScoringEngine(Engine):
    """An engine that can say how likely a text is."""

    context: int  # tokens of prompt and response together

    def encode(self, text: str) -> list[int]:
        """Encode a prompt as token ids."""
        return encode(self.tokenizer, text)

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """Score each continuation after its context; a pair too long loses its beginning.

        Raises:
            UserError: the engine only generates.
        """
        raise cannot_score(self)


class LocalEngine(ScoringEngine):
    """An engine that runs in this process or on our cluster, so that its context is known.

    `completion_tokens` counts the end-of-sequence token. A prompt that leaves no room for
    `max_tokens` loses its beginning, with a warning.
    """

    def loglikelihoods(self, groups: Sequence[Sequence[Pair]]) -> Iterable[list[Likelihood]]:
        """Score each group of pairs on its own, so that other groups change no rounding."""
        return map(self.loglikelihood, groups)


class RemoteEngine(Engine):
    """An engine behind a server, which gets each prompt on its own."""

    @abc.abstractmethod
    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        on_done: OnDone | None = None,
        *,
        on_prompt: Callable[[int, list[Completion]], None] | None = None,
        known: int = 0,
    ) -> list[list[Completion]]:
        """Generate, and call `on_prompt(place, completions)` when a prompt has all its samples.

        `known` completions of the same generation were answered before.
        """


def cannot_score(engine: Engine, reason: str = "") -> UserError:
    """Make the error of an engine that cannot compute log-likelihoods, with the reason if known."""
    reason = reason or f"the engine '{engine.name}' only generates text"
    return UserError(
        f"{engine.model_id} cannot say how likely a text is, which this task asks for: {reason}. "
        "Use the engine hf or vllm, or a server of vLLM with its tokenizer."
    )


def check_continuation(after: Sequence[int], room: int) -> None:
    """Refuse a continuation of more tokens than the `room` that the model's context has for it.

    Raises:
        UserError: how long it is.
    """
    if len(after) > room:
        raise UserError(
            f"A continuation has {len(after):,} tokens and the model's context only {room:,}: "
            "shorten it, or use a model with a longer context."
        )


class Unanswered:
    """Count missing responses of one generation, and stop when there are too many.

    Args:
        total: responses of the generation.
        share: of `total` that may be missing.
        at_once: requests under way together, whose refusals may all come before any answer.
    """

    def __init__(self, total: int, share: float, at_once: int = 1) -> None:
        self._total = total
        self._share = share
        self._most_at_first = max(MAX_UNANSWERED_AT_FIRST, at_once)
        self._missing = self._answered = 0
        self._first = ""

    def count_answered(self) -> None:
        self._answered += 1

    def count(self, what: str, who: str) -> None:
        """Count a response that `who` does not give; `what` names the prompt and the reason.

        Raises:
            UserError: too many are missing.
        """
        self._missing += 1
        self._first = self._first or what
        if self._missing > self._share * self._total:
            told = (
                f"left {self._missing} of {self._total} responses unanswered, and at most "
                f"{self._share:.0%} may be (max_unanswered)"
            )
        elif not self._answered and self._missing >= self._most_at_first:
            told = f"answered none of the first {self._missing} of {self._total} prompts"
        else:
            return
        raise UserError(
            f"{who} {told}. The first: {self._first}. Correct what the server objects to, or allow "
            "more with max_unanswered; then run the same command again."
        )
