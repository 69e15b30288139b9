"""The file that says how answers are judged, and the judge that it describes.

Every block may be absent:

    judge:
      base_url: http://localhost:8000/v1
      model: Qwen/Qwen3-8B
      budget: {requests: 2000}
    just_eval: {prompt: official.yaml}
    factscore: {knowledge: wiki.db, verifier: judge}
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tasks
import tasks.factscore
import tasks.just_eval
from harness.core import yaml
from harness.core.log import say
from harness.core.schema import Record
from harness.judges.budget import Meter
from harness.judges.cache import Cache, default_path
from harness.judges.llm import Backend, LLMJudge
from harness.judges.settings import JudgeSettings
from tasks.factscore import FactScoreSettings
from tasks.just_eval import JustEvalSettings
from tasks.task import Task

if TYPE_CHECKING:
    from harness.engines.open import OpenLocal

R = TypeVar("R", bound=Record)


class Judging(Record):
    """How answers are judged; without `judge`, what needs one is left unscored."""

    judge: JudgeSettings | None = None
    just_eval: JustEvalSettings | None = None
    factscore: FactScoreSettings | None = None

    def task(self, name: str) -> Task:
        """The task called `name`, scored as its block says.

        Raises:
            UserError: there is no such task, or a file that its block names cannot be used.
        """
        if name == "just_eval" and self.just_eval is not None:
            return tasks.just_eval.configure(self.just_eval)
        if name == "factscore" and self.factscore is not None:
            return tasks.factscore.configure(self.factscore)
        return tasks.load(name)

    @contextlib.contextmanager
    def open(
        self, *, fresh: bool = False, open_engine: OpenLocal | None = None
    ) -> Iterator[LLMJudge | None]:
        """The judge, if there is one, for as long as the block runs; see `open_judge`."""
        if self.judge is None:
            yield None
            return
        with open_judge(self.judge, fresh=fresh, open_engine=open_engine) as judge:
            try:
                yield judge
            finally:
                if judge.spend.calls:
                    say(f"judge {judge.description}: {judge.spend.sentence()}")


def load_judging(path: Path | None) -> Judging:
    """Read a judging file; the paths in it are relative to its folder. None: nothing is judged.

    Raises:
        UserError: as `harness.core.yaml.load`.
    """
    if path is None:
        return Judging()
    judging = _rooted(yaml.load(path, Judging), path.parent)
    judge = judging.judge
    if judge is not None and judge.engine and os.path.isdir(path.parent / judge.model):
        judge = judge.model_copy(update={"model": str(path.parent / judge.model)})
    return judging.model_copy(update={"judge": judge})


def _rooted(record: R, folder: Path) -> R:
    """`record` with its relative paths, and those of the records in it, made from `folder`."""
    found: dict[str, Any] = {}
    for name in type(record).model_fields:
        value = getattr(record, name)
        if isinstance(value, Path):
            found[name] = folder / value.expanduser()
        elif isinstance(value, Record):
            found[name] = _rooted(value, folder)
    return record.model_copy(update=found)


@contextlib.contextmanager
def open_judge(
    settings: JudgeSettings, *, fresh: bool = False, open_engine: OpenLocal | None = None
) -> Iterator[LLMJudge]:
    """The judge of `settings`, with its cache open for as long as the block runs.

    Args:
        fresh: ask everything anew, past the cache: how a judge is watched for drift.
        open_engine: where a judge that is a model runs; None: in this process.

    Raises:
        UserError: there is no key or no such model, or the cache cannot be used.
    """
    meter = Meter(settings.budget, settings.price, settings.thinking_tokens)
    backend = _backend(settings, open_engine)
    with contextlib.ExitStack() as stack:
        cache = None
        if not fresh:
            cache = stack.enter_context(contextlib.closing(Cache(settings.cache or default_path())))
        yield LLMJudge(backend, cache, meter)


def _backend(settings: JudgeSettings, open_engine: OpenLocal | None) -> Backend:
    if settings.engine is not None:
        from harness.judges.in_process import InProcess

        return InProcess(settings, open_engine)
    from harness.judges.client import ChatServer

    return ChatServer(settings, settings.key())
