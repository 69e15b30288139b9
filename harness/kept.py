"""An engine whose answers are kept, part by part, so that a generation that is killed goes on.

A sample depends on nothing but its prompt, its number and the seed, and a part is always made of
the same prompts: what is found and what is generated anew are the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.engines import Completion, Engine, Sampling
from harness.schema import digest
from harness.store import read_jsonl, write_jsonl

PARTS = ".parts"  # the folder's usual name
AT_A_TIME = 1024  # responses in a part


class Kept:
    """The engine, with a file in `folder` for each part that it has answered.

    Weights that are not known by their digest may have changed: of them nothing is kept.
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
        on_done: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """As the engine's, the longest prompts first."""
        size = max(1, AT_A_TIME // sampling.n)
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        made: dict[int, list[Completion]] = {}
        for start in range(0, len(order), size):
            part = order[start : start + size]
            answers = self._part([prompts[place] for place in part], sampling, on_done)
            made |= zip(part, answers, strict=True)
        return [made[place] for place in range(len(prompts))]

    def _part(
        self, prompts: Sequence[str], sampling: Sampling, on_done: Callable[[int], None] | None
    ) -> list[list[Completion]]:
        if self.model_digest is None:
            return self._engine.generate(prompts, sampling, on_done)
        made_from = [self.name, self.model_digest, list(prompts), sampling.to_dict()]
        path = self._folder / f"{digest(made_from)}.jsonl"
        if path.exists():
            rows = [Completion(**row) for _, row in read_jsonl(path)]
            if on_done is not None:
                on_done(len(rows))
            return [rows[at : at + sampling.n] for at in range(0, len(rows), sampling.n)]
        answers = self._engine.generate(prompts, sampling, on_done)
        write_jsonl(path, [asdict(one) for completions in answers for one in completions])
        return answers
