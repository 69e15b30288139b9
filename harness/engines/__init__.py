"""Engines turn prompts into text: one door, `generate(prompts, sampling) -> completions`.

Import an engine from its own module (`harness.engines.hf`), so that its libraries load only
where it is used; `harness.engines.open` opens one by its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from harness.core.schema import FinishReason, Message

KINDS = ("hf", "vllm", "openai")  # of engines
SEEDS = 2**31  # what other engines than ours take as a seed


@dataclass(frozen=True)
class Sampling:
    """How to decode. `temperature=0` is greedy; `n` samples a prompt.

    The seed of sample j of a prompt is derived from (`seed`, prompt, j), so that neither the
    order of the prompts nor the batch changes a sample.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"stop": list(self.stop)}


def seed_of(sampling: Sampling, prompt: str, sample: int) -> int:
    """The 128 bits that all randomness of one sample comes from."""
    named = f"{sampling.seed}/{sample}/{prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(named).digest()[:16], "little")


@dataclass(frozen=True)
class Completion:
    """One generated text, cut before the stop string that ended it; None: nobody counted.

    `unanswered` is the reason why there is no text, such as a server's content filter; it is ''
    for every text that was generated, an empty one included.
    """

    text: str
    finish_reason: FinishReason | None
    prompt_tokens: int | None
    completion_tokens: int | None
    unanswered: str = ""

    @classmethod
    def missing(cls, reason: str) -> Completion:
        """A completion that could not be generated, for `reason`."""
        return cls("", None, None, None, reason)


class Engine(Protocol):
    """A loaded model. `model_digest` covers weights, configuration and tokenizer.

    It is None where the weights are not known: a server's.
    """

    name: str
    model_id: str
    model_digest: str | None

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt text of a conversation, ready for the assistant's turn."""
        ...

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        on_done: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order; `on_done(k)` after k responses."""
        ...
