"""Wrap an engine so that interrupted generation resumes from disk.

A sample depends only on its prompt, its number and the seed, and a part is always generated whole,
from the same prompts: completions that were kept and those generated again are the same bytes.
They are kept by prompt, so an engine that cuts the prompts into other parts finds them too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.core.errors import UserError
from harness.core.files import read_records, write_jsonl
from harness.core.progress import already
from harness.core.schema import FinishReason, Record, digest
from harness.engines import (
    Completion,
    Engine,
    OnDone,
    RemoteEngine,
    Sampling,
)

PARTS = ".parts"  # usual name of the folder
RESPONSES_PER_PART = 1024  # at most
PROMPTS_PER_FILE = 32  # of a remote engine, which reports prompts one by one

_Made = dict[int, list[Completion]]  # completions by the place of their prompt


class _Answer(Record):
    """A `Completion` on disk."""

    text: str
    finish_reason: FinishReason | None
    prompt_tokens: int | None
    completion_tokens: int | None


class _Row(Record):
    """The completions of the prompt at `place`."""

    place: int = Field(ge=0)
    answers: list[_Answer]


class ResumableEngine(Engine):
    """Generate with `engine`, and keep each finished part in a file of `folder`.

    Nothing is kept of an engine without a model digest, whose weights may have changed. A prompt
    left unanswered is not kept either, and is asked again.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.name, self.model_id = engine.name, engine.model_id
        self.model_digest, self.tokenizer = engine.model_digest, engine.tokenizer
        self._engine = engine
        self._folder = folder

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[list[Completion]]:
        """Generate as the engine does, the longest prompts first; keep each part when it comes."""
        engine = self._engine
        if self.model_digest is None:
            return engine.generate(prompts, sampling, on_done)
        made_from = [self.name, self.model_digest, list(prompts), sampling.to_dict()]
        folder = self._folder / digest(made_from)
        made = _read(folder, len(prompts), sampling.n)
        call = _Call(folder, prompts, sampling, on_done)
        if isinstance(engine, RemoteEngine):
            made |= _generate_each(engine, call, made)
        else:
            made |= _generate_parts(engine, call, made)
        return [made[place] for place in range(len(prompts))]


@dataclass(frozen=True)
class _Call:
    """One call of `ResumableEngine.generate`, whose completions are kept in `folder`."""

    folder: Path
    prompts: Sequence[str]
    sampling: Sampling
    on_done: OnDone | None

    def count_known(self, prompts: int) -> None:
        if self.on_done is not None and prompts:
            already(self.on_done, self.sampling.n * prompts)


def _generate_parts(engine: Engine, call: _Call, made: _Made) -> _Made:
    """Generate the parts of which a prompt is missing in `made`; keep each when it is ready."""
    parts = cut_into_parts(call.prompts, call.sampling.n, engine.parts_at_once)
    missing = [part for part in parts if not made.keys() >= set(part)]
    call.count_known(len(call.prompts) - sum(map(len, missing)))
    asked = [[call.prompts[place] for place in part] for part in missing]
    found: _Made = {}
    for number, completions in engine.stream(asked, call.sampling, call.on_done):
        part = dict(zip(missing[number], completions, strict=True))
        _write(call.folder, part)
        found |= part
    return found


def _generate_each(engine: RemoteEngine, call: _Call, made: _Made) -> _Made:
    """Ask for all that is missing in `made`; keep what came, however the generation ends."""
    missing = [place for place in range(len(call.prompts)) if place not in made]
    missing.sort(key=lambda place: -len(call.prompts[place]))
    call.count_known(len(made))
    waiting: _Made = {}

    def keep(number: int, completions: list[Completion]) -> None:
        waiting[missing[number]] = completions
        if len(waiting) == PROMPTS_PER_FILE:
            _write(call.folder, waiting)
            waiting.clear()

    try:
        found = engine.generate(
            [call.prompts[place] for place in missing],
            call.sampling,
            call.on_done,
            on_prompt=keep,
            known=call.sampling.n * len(made),
        )
    finally:
        _write(call.folder, waiting)
    return dict(zip(missing, found, strict=True))


def cut_into_parts(prompts: Sequence[str], n: int, at_once: int = 1) -> list[list[int]]:
    """Cut `prompts` into parts of at most `RESPONSES_PER_PART`, `n` per prompt; return indices.

    The longest prompts come first. There are at least `at_once` parts, if there are so many
    prompts. The parts do not depend on what is finished or how fast.
    """
    size = max(1, min(RESPONSES_PER_PART // n, -(-len(prompts) // at_once)))
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _write(folder: Path, made: _Made) -> None:
    """Keep the completions by the prompt's place, except of prompts left unanswered."""
    rows = [
        {"place": place, "answers": [_row(completion) for completion in completions]}
        for place, completions in made.items()
        if not any(completion.unanswered for completion in completions)
    ]
    if rows:
        write_jsonl(folder / f"{digest(sorted(made))}.jsonl", rows)


def _row(completion: Completion) -> dict[str, Any]:
    return {name: getattr(completion, name) for name in _Answer.model_fields}


def _read(folder: Path, prompts: int, n: int) -> _Made:
    """Read what is kept in `folder`, by the prompt's place; a damaged part counts as missing."""
    made: _Made = {}
    for path in sorted(folder.glob("*.jsonl")):
        with contextlib.suppress(UserError):
            rows = read_records(path, _Row)
            if all(row.place < prompts and len(row.answers) == n for row in rows):
                made |= {r.place: [Completion(**vars(one)) for one in r.answers] for r in rows}
    return made
