"""Wrap an engine so that interrupted generation resumes from disk.

A sample depends on nothing but its prompt, its number and the seed, and a part is made anew whole,
of the same prompts: what is found and what is generated anew are the same bytes. Answers are kept
by prompt, so that they are found again by an engine that cuts other parts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from harness.core.errors import UserError
from harness.core.files import read_records, write_jsonl
from harness.core.progress import Advance, already
from harness.core.schema import FinishReason, Record, digest
from harness.engines import Completion, Engine, Sampling

PARTS = ".parts"  # the folder's usual name
AT_A_TIME = 1024  # responses in a part, at most
PROMPTS_IN_A_FILE = 32  # of an engine that tells when each prompt is answered

OnDone = Callable[[int], None]
Answers = Iterator[tuple[int, list[list[Completion]]]]  # a part's place among those asked, and it


class _Answer(Record):
    """A `Completion` as it is kept."""

    text: str
    finish_reason: FinishReason | None
    prompt_tokens: int | None
    completion_tokens: int | None


class _Row(Record):
    """The completions of the prompt at a place."""

    place: int = Field(ge=0)
    answers: list[_Answer]


class Streaming(Engine, Protocol):
    """An engine that answers several parts at once."""

    at_once: int  # parts that it has under way or waiting, at most

    def stream(
        self,
        parts: Sequence[Sequence[str]],
        sampling: Sampling,
        on_done: OnDone | None = None,
    ) -> Answers:
        """The completions of each part of prompts, as they are ready."""
        ...


class ResumableEngine:
    """The engine, with a file in `folder` for each part that it has answered.

    Weights that are not known by their digest may have changed: of them nothing is kept. A prompt
    that was left unanswered is not kept, and is asked again.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.name, self.model_id = engine.name, engine.model_id
        self.model_digest = engine.model_digest
        self.render = engine.render
        self._engine = engine
        self._folder = folder

    def __getattr__(self, name: str) -> Any:
        """What this engine has beside `Engine`."""
        return getattr(self._engine, name)

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        on_done: OnDone | None = None,
    ) -> list[list[Completion]]:
        """As the engine's, the longest prompts first; each part is kept when it comes."""
        if self.model_digest is None:
            return self._engine.generate(prompts, sampling, on_done)
        made_from = [self.name, self.model_digest, list(prompts), sampling.to_dict()]
        folder = self._folder / digest(made_from)
        made = _read(folder, len(prompts), sampling.n)
        if getattr(self._engine, "tells_prompts", False):
            return self._by_prompt(folder, made, prompts, sampling, on_done)
        parts = cut(prompts, sampling.n, getattr(self._engine, "at_once", 1))
        missing = [part for part in parts if not made.keys() >= set(part)]
        if on_done is not None and len(missing) < len(parts):
            already(on_done, sampling.n * (len(prompts) - sum(map(len, missing))))
        asked = [[prompts[place] for place in part] for part in missing]
        if isinstance(on_done, Advance) and hasattr(self._engine, "at_once"):
            on_done.at_once(self._engine.at_once * sampling.n * max(map(len, parts), default=1))
        stream = getattr(self._engine, "stream", None) or self._one_by_one
        for number, answers in stream(asked, sampling, on_done):
            found = dict(zip(missing[number], answers, strict=True))
            _write(folder, found)
            made |= found
        return [made[place] for place in range(len(prompts))]

    def _by_prompt(
        self,
        folder: Path,
        made: dict[int, list[Completion]],
        prompts: Sequence[str],
        sampling: Sampling,
        on_done: OnDone | None,
    ) -> list[list[Completion]]:
        """Ask for all that is missing at once; what came is kept however the generation ends."""
        missing = [place for place in range(len(prompts)) if place not in made]
        missing.sort(key=lambda place: -len(prompts[place]))
        if on_done is not None and made:
            already(on_done, sampling.n * len(made))
        waiting: dict[int, list[Completion]] = {}

        def keep(number: int, completions: list[Completion]) -> None:
            waiting[missing[number]] = completions
            if len(waiting) == PROMPTS_IN_A_FILE:
                _write(folder, waiting)
                waiting.clear()

        try:
            asked = [prompts[place] for place in missing]
            known = sampling.n * len(made)
            engine: Any = self._engine  # takes more than an `Engine` has to
            found = engine.generate(asked, sampling, on_done, on_prompt=keep, known=known)
        finally:
            _write(folder, waiting)
        made |= dict(zip(missing, found, strict=True))
        return [made[place] for place in range(len(prompts))]

    def _one_by_one(
        self, parts: Sequence[Sequence[str]], sampling: Sampling, on_done: OnDone | None
    ) -> Answers:
        for number, prompts in enumerate(parts):
            yield number, self._engine.generate(prompts, sampling, on_done)


def cut(prompts: Sequence[str], n: int, at_once: int = 1) -> list[list[int]]:
    """The places of `prompts` in parts of at most `AT_A_TIME` responses, `n` a prompt.

    The longest prompts come first. There are at least `at_once` parts, where there are so many
    prompts. Which they are does not depend on what is finished or how fast.
    """
    size = max(1, min(AT_A_TIME // n, -(-len(prompts) // at_once)))
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _write(folder: Path, found: Mapping[int, Sequence[Completion]]) -> None:
    """Keep the completions by the prompt's place, but for prompts that were left unanswered."""
    rows = [
        {"place": place, "answers": [_row(completion) for completion in completions]}
        for place, completions in found.items()
        if not any(completion.unanswered for completion in completions)
    ]
    if rows:
        write_jsonl(folder / f"{digest(sorted(found))}.jsonl", rows)


def _row(completion: Completion) -> dict[str, Any]:
    return {name: getattr(completion, name) for name in _Answer.model_fields}


def _read(folder: Path, prompts: int, n: int) -> dict[int, list[Completion]]:
    """What is kept in `folder`, by the prompt's place; a part that is damaged is not there."""
    found: dict[int, list[Completion]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        with contextlib.suppress(UserError):
            rows = read_records(path, _Row)
            if all(row.place < prompts and len(row.answers) == n for row in rows):
                found |= {r.place: [Completion(**vars(one)) for one in r.answers] for r in rows}
    return found
