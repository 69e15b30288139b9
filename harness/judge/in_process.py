"""A judge in this process: a model folder or hub model under `transformers`.

Decoding is greedy. Nothing holds a reply to a schema; readers of replies are tolerant.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.engines import Completion, Sampling
from harness.judge.backend import Done, failure_of
from harness.judge.budget import Meter, Tokens
from harness.judge.settings import JudgeSettings
from harness.models import find, model_digest
from harness.schema import Call, Message, Reply, digest

if TYPE_CHECKING:
    from harness.engines.hf import HFEngine

TOO_LONG = "the prompt and its reply are longer than the judge's context"
AT_ONCE = 64  # calls whose replies may be lost when the process ends


class InProcess:
    """A model as a judge's backend; it is loaded when the first call needs it.

    Raises:
        UserError: there is no such model.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._folder = find(settings.model, settings.revision)
        # A path is not identity; the weights are.
        self.id = self._folder.name if Path(settings.model).is_dir() else settings.model
        self.digest = digest(
            {
                "protocol": "hf",
                "model": model_digest(self._folder),
                "dtype": settings.dtype,
                "thinking_tokens": settings.thinking_tokens,
            }
        )
        self._engine: HFEngine | None = None

    @property
    def description(self) -> str:
        return f"{self.id} in this process"

    def answer(self, calls: Sequence[Call], meter: Meter, done: Done) -> None:
        """Ask every call, `AT_ONCE` at a time; see `Backend.answer`.

        Raises:
            UserError: the model cannot be loaded, or does not fit into memory.
        """
        engine = self._load()
        waiting = deque(sorted(enumerate(calls), key=lambda numbered: numbered[1].max_tokens))
        while waiting:
            batch: list[_Asked] = []
            while waiting and len(batch) < AT_ONCE:
                asked = self._read(engine, *waiting[0])
                if batch and asked.need.completion != batch[0].need.completion:
                    break
                reason = meter.reserve(asked.need) if asked.fits(engine) else TOO_LONG
                if reason and batch and reason != TOO_LONG:
                    break  # those before may turn out to need less
                waiting.popleft()
                if reason:
                    done(asked.place, Reply(failure=reason))
                else:
                    batch.append(asked)
            self._generate(engine, batch, meter, done)

    def _read(self, engine: HFEngine, place: int, call: Call) -> _Asked:
        told = [Message(role="system", content=call.system)] if call.system else []
        prompt = engine.render([*told, Message(role="user", content=call.prompt)])
        length = len(engine.encode(prompt))
        need = Tokens(length, call.max_tokens + self._settings.thinking_tokens)
        return _Asked(place, call, prompt, need)

    def _generate(
        self, engine: HFEngine, batch: Sequence[_Asked], meter: Meter, done: Done
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
            done(asked.place, _reply(completion, _logprobs(engine, asked)))

    def _load(self) -> HFEngine:
        from harness.engines.hf import HFEngine

        if self._engine is None:
            settings = self._settings
            self._engine = HFEngine(self._folder, device=settings.device, dtype=settings.dtype)
        return self._engine


@dataclass(frozen=True)
class _Asked:
    """A call as the model reads it."""

    place: int
    call: Call
    prompt: str
    need: Tokens

    def fits(self, engine: HFEngine) -> bool:
        return self.need.total <= engine.context


def _reply(completion: Completion, logprobs: dict[str, float] | None) -> Reply:
    is_cut = completion.finish_reason == "length"
    failure = failure_of(completion.text, is_cut)
    return Reply(text=completion.text, failure=failure, logprobs=logprobs)


def _logprobs(engine: HFEngine, asked: _Asked) -> dict[str, float] | None:
    """Each choice's log-probability as the beginning of the reply."""
    choices = asked.call.choices
    if not choices:
        return None
    before = engine.encode(asked.prompt)
    words = [list(engine.tokenizer.encode(c, add_special_tokens=False)) for c in choices]
    scored = engine.loglikelihood([(before, word) for word in words])
    return {
        choice: min(0.0, value)
        for choice, (value, _) in zip(choices, scored, strict=True)
        if math.isfinite(value)
    }
