"""Ask a judge that is a model folder or hub model, in this process or on the run's cluster.

On a cluster, several engines answer parts of the calls at once. Decoding is greedy, and replies are
not constrained to a schema.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.schema import Call, Message, Reply, digest
from harness.engines import Completion, Likelihood, LocalEngine, Pair, Sampling
from harness.engines.model_folder import find, model_digest
from harness.engines.open import EngineSpec, OpenLocal, open_local_engine
from harness.judges.budget import Meter, Tokens
from harness.judges.llm import Done, failure_of
from harness.judges.settings import JudgeSettings

TOO_LONG = "the prompt and its reply are longer than the judge's context"
AT_ONCE = 64  # calls per part of an engine, whose replies an interruption may lose


class InProcess:
    """The backend of a judge that is a local model; the first call loads it.

    Args:
        open_engine: opens the model on a cluster; None: in this process.

    Raises:
        UserError: the model cannot be found.
    """

    def __init__(self, settings: JudgeSettings, open_engine: OpenLocal | None = None) -> None:
        self._settings = settings
        self._open_engine = open_engine
        self._folder = find(settings.model, settings.revision)
        # The weights identify a model, its path does not.
        self.id = self._folder.name if Path(settings.model).is_dir() else settings.model
        self.digest = digest(
            {
                "protocol": "hf",
                "model": model_digest(self._folder),
                "dtype": settings.dtype,
                "thinking_tokens": settings.thinking_tokens,
            }
        )
        self.place, self.at_once = "", AT_ONCE
        self._engine: LocalEngine | None = None

    @property
    def description(self) -> str:
        return f"{self.id} {'in this process' if self._open_engine is None else 'on the cluster'}"

    def answer(self, calls: Sequence[Call], meter: Meter, done: Done) -> None:
        """Ask every call, `AT_ONCE` at a time per part of an engine; see `Backend.answer`.

        Raises:
            UserError: the model cannot be loaded, or does not fit into memory.
        """
        engine = self._load()
        size = AT_ONCE * engine.parts_at_once
        waiting = deque(sorted(enumerate(calls), key=lambda numbered: numbered[1].max_tokens))
        while waiting:
            batch: list[_Asked] = []
            while waiting and len(batch) < size:
                asked = self._read(engine, *waiting[0])
                if batch and asked.need.completion != batch[0].need.completion:
                    break
                reason = meter.reserve(asked.need) if asked.fits(engine) else TOO_LONG
                if reason and batch and reason != TOO_LONG:
                    break  # earlier calls may need less than they reserved
                waiting.popleft()
                if reason:
                    done(asked.place, Reply(failure=reason))
                else:
                    batch.append(asked)
            self._generate(engine, batch, meter, done)

    def _read(self, engine: LocalEngine, place: int, call: Call) -> _Asked:
        system = [Message(role="system", content=call.system)] if call.system else []
        prompt = engine.render([*system, Message(role="user", content=call.prompt)])
        length = len(engine.encode(prompt))
        need = Tokens(length, call.max_tokens + self._settings.thinking_tokens)
        return _Asked(place, call, prompt, need)

    def _generate(
        self, engine: LocalEngine, batch: Sequence[_Asked], meter: Meter, done: Done
    ) -> None:
        if not batch:
            return
        try:
            made = engine.generate(
                [asked.prompt for asked in batch], Sampling(max_tokens=batch[0].need.completion)
            )
        except BaseException:
            for asked in batch:
                meter.settle(asked.need, None)
            raise
        for asked, (completion,) in zip(batch, made, strict=True):
            meter.settle(asked.need, Tokens(asked.need.prompt, completion.completion_tokens or 0))
        logprobs = _logprobs(engine, batch)
        for asked, (completion,), found in zip(batch, made, logprobs, strict=True):
            done(asked.place, _reply(completion, found))

    def _load(self) -> LocalEngine:
        if self._engine is None:
            settings = self._settings
            spec = EngineSpec(self._folder, device=settings.device, dtype=settings.dtype)
            self._engine = (self._open_engine or open_local_engine)(spec)
        return self._engine


@dataclass(frozen=True)
class _Asked:
    """A call as the model reads it."""

    place: int
    call: Call
    prompt: str
    need: Tokens

    def fits(self, engine: LocalEngine) -> bool:
        return self.need.total <= engine.context


def _reply(completion: Completion, logprobs: dict[str, float] | None) -> Reply:
    if completion.unanswered:
        return Reply(failure=completion.unanswered)
    is_cut = completion.finish_reason == "length"
    failure = failure_of(completion.text, is_cut)
    return Reply(text=completion.text, failure=failure, logprobs=logprobs)


def _logprobs(engine: LocalEngine, batch: Sequence[_Asked]) -> Iterator[dict[str, float] | None]:
    """Each choice's log-probability as the beginning of the reply, call by call.

    The choices of a call are scored by themselves: what else is asked does not change a sum.
    """
    groups = [_pairs(engine, asked) for asked in batch if asked.call.choices]
    scored: Iterator[list[Likelihood]] = iter(engine.loglikelihoods(groups))
    for asked in batch:
        if not asked.call.choices:
            yield None
            continue
        yield {
            choice: min(0.0, value)
            for choice, (value, _) in zip(asked.call.choices, next(scored), strict=True)
            if math.isfinite(value)
        }


def _pairs(engine: LocalEngine, asked: _Asked) -> list[Pair]:
    """The prompt with each choice, as token ids."""
    before = engine.encode(asked.prompt)
    encode = engine.tokenizer.encode
    return [(before, list(encode(one, add_special_tokens=False))) for one in asked.call.choices]
