"""A faulty server, and judges that ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from helpers.faulty import FaultyServer, Script, echo

from harness.judges.config import open_judge
from harness.judges.llm import LLMJudge
from harness.judges.settings import JudgeSettings

Serve = Callable[..., FaultyServer]
Open = Callable[..., LLMJudge]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(script)`: a server that plays `script` until the test ends."""
    with ExitStack() as stack:

        def start(script: Script = echo) -> FaultyServer:
            return stack.enter_context(FaultyServer(script).running())

        yield start


@pytest.fixture
def judge_of(tmp_path: Path) -> Iterator[Open]:
    """`judge_of(server, **settings)`: a judge that asks `server`, impatiently."""
    with ExitStack() as stack:

        def opened(server: FaultyServer, fresh: bool = False, **settings: Any) -> LLMJudge:
            given = {
                "base_url": server.base_url,
                "model": "m",
                "cache": tmp_path / "judge.sqlite",
                "backoff": 0.01,
                "max_attempts": 3,
                "timeout": 5.0,
            }
            wanted = JudgeSettings.model_validate(given | settings)
            return stack.enter_context(open_judge(wanted, fresh=fresh))

        yield opened
