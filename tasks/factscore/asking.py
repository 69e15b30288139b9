"""One batch of calls to a judge, each different call once."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.schema import Call, Reply, digest
from tasks.task import Judge

NO_JUDGE = "no judge was named"


def ask(judge: Judge | None, calls: Sequence[Call]) -> list[Reply]:
    """A reply per call, in order; equal calls share one. Without a judge every call fails."""
    if judge is None:
        return [Reply(failure=NO_JUDGE) for _ in calls]
    keys = [digest(call) for call in calls]
    different = dict(zip(keys, calls, strict=True))
    replies = dict(zip(different, judge.ask(list(different.values())), strict=True))
    return [replies[key] for key in keys]
