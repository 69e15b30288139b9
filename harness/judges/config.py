"""Read the file that says how answers are judged, and open the judge that it describes.

Every block may be absent. Besides `judge` there is one block per task that takes settings
(`tasks.task.Task.settings`):

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

from pydantic import create_model

import tasks
from harness.core import yaml
from harness.core.log import say
from harness.core.schema import Record
from harness.judges.budget import Meter
from harness.judges.cache import Cache, default_path
from harness.judges.llm import Backend, LLMJudge
from harness.judges.settings import JudgeSettings
from tasks.task import Task

if TYPE_CHECKING:
    from harness.engines.open import OpenLocal

R = TypeVar("R", bound=Record)


class Judging(Record):
    """How answers are judged. Without `judge`, metrics that need one stay unscored.

    `load_judging` returns a subclass with a field per task that takes settings.
    """

    judge: JudgeSettings | None = None

    def task(self, name: str) -> Task:
        """Return the task called `name`, scored as its block says.

        Raises:
            UserError: there is no such task, or a file that its block names cannot be used.
        """
        task = tasks.load(name)
        settings = getattr(self, name, None) if task.settings is not None else None
        return task if settings is None or task.configure is None else task.configure(settings)

    @contextlib.contextmanager
    def open(
        self, *, fresh: bool = False, open_engine: OpenLocal | None = None
    ) -> Iterator[LLMJudge | None]:
        """Open the judge, if the file names one, for the duration of the block (`open_judge`)."""
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
    judging = _rooted(yaml.load(path, judging_model()), path.parent)
    judge = judging.judge
    if judge is not None and judge.engine and os.path.isdir(path.parent / judge.model):
        judge = judge.model_copy(update={"model": str(path.parent / judge.model)})
    return judging.model_copy(update={"judge": judge})


def judging_model() -> type[Judging]:
    """Return `Judging` with an optional field per task that takes settings."""
    known = [tasks.load(name) for name in tasks.names()]
    blocks: dict[str, Any] = {
        task.name: (task.settings | None, None) for task in known if task.settings is not None
    }
    return create_model("Judging", __base__=Judging, **blocks)


def _rooted(record: R, folder: Path) -> R:
    """Resolve the relative paths of `record`, and of the records in it, from `folder`."""
    resolved: dict[str, Any] = {}
    for name in type(record).model_fields:
        value = getattr(record, name)
        if isinstance(value, Path):
            resolved[name] = folder / value.expanduser()
        elif isinstance(value, Record):
            resolved[name] = _rooted(value, folder)
    return record.model_copy(update=resolved)


@contextlib.contextmanager
def open_judge(
    settings: JudgeSettings, *, fresh: bool = False, open_engine: OpenLocal | None = None
) -> Iterator[LLMJudge]:
    """Open the judge of `settings`, with its cache, for the duration of the block.

    Args:
        fresh: ask every call again and ignore the cache, to watch a judge for drift.
        open_engine: opens the model of a judge with `engine` elsewhere; None: in this process.

    Raises:
        UserError: the key or the model is missing, or the cache cannot be used.
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
    from harness.judges.llm import ChatServer

    return ChatServer(settings, settings.key())
