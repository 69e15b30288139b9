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
            batch: list[_PreparedCall] = []
            while waiting and len(batch) < size:
                prepared = self._read(engine, *waiting[0])
                if batch and prepared.need.completion != batch[0].need.completion:
                    break
                reason = meter.reserve(prepared.need) if prepared.fits(engine) else TOO_LONG
                if reason and batch and reason != TOO_LONG:
                    break  # earlier calls may need less than they reserved
                waiting.popleft()
                if reason:
                    done(prepared.place, Reply(failure=reason))
                else:
                    batch.append(prepared)
            self._generate(engine, batch, meter, done)

    def _read(self, engine: LocalEngine, place: int, call: Call) -> _PreparedCall:
        system = [Message(role="system", content=call.system)] if call.system else []
        prompt = engine.render([*system, Message(role="user", content=call.prompt)])
        length = len(engine.encode(prompt))
        need = Tokens(length, call.max_tokens + self._settings.thinking_tokens)
        return _PreparedCall(place, call, prompt, need)

    def _generate(
        self, engine: LocalEngine, batch: Sequence[_PreparedCall], meter: Meter, done: Done
    ) -> None:
        if not batch:
            return
        try:
            completions = engine.generate(
                [prepared.prompt for prepared in batch],
                Sampling(max_tokens=batch[0].need.completion),
            )
        except BaseException:
            for prepared in batch:
                meter.settle(prepared.need, None)
            raise
        for prepared, (completion,) in zip(batch, completions, strict=True):
            meter.settle(
                prepared.need, Tokens(prepared.need.prompt, completion.completion_tokens or 0)
            )
        logprobs = _logprobs(engine, batch)
        for prepared, (completion,), choice_logprobs in zip(
            batch, completions, logprobs, strict=True
        ):
            done(prepared.place, _reply(completion, choice_logprobs))

    def _load(self) -> LocalEngine:
        if self._engine is None:
            settings = self._settings
            spec = EngineSpec(self._folder, device=settings.device, dtype=settings.dtype)
            self._engine = (self._open_engine or open_local_engine)(spec)
        return self._engine


@dataclass(frozen=True)
class _PreparedCall:
    """A call with its rendered prompt, and the tokens that it needs."""

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


def _logprobs(
    engine: LocalEngine, batch: Sequence[_PreparedCall]
) -> Iterator[dict[str, float] | None]:
    """Yield per call the log-probability of each choice as the beginning of the reply.

    The choices of a call are scored as one group, so that other calls do not change them.
    """
    groups = [_pairs(engine, prepared) for prepared in batch if prepared.call.choices]
    scored: Iterator[list[Likelihood]] = iter(engine.loglikelihoods(groups))
    for prepared in batch:
        if not prepared.call.choices:
            yield None
            continue
        yield {
            choice: min(0.0, value)
            for choice, (value, _) in zip(prepared.call.choices, next(scored), strict=True)
            if math.isfinite(value)
        }


def _pairs(engine: LocalEngine, call: _PreparedCall) -> list[Pair]:
    """Return the prompt with each choice, as token ids."""
    before = engine.encode(call.prompt)
    encode = engine.tokenizer.encode
    return [(before, list(encode(text, add_special_tokens=False))) for text in call.call.choices]
