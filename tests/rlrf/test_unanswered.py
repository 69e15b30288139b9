"""A prompt that the engine did not answer is not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import tasks as benchmarks
from harness.core.schema import Message
from harness.engines import Completion, Engine, Sampling
from rlrf.config import Explore
from rlrf.sampling import explore


class Refusing(Engine):
    """An engine that leaves the second sample of each prompt unanswered: a fake, for that fault."""

    name, model_id, model_digest = "hf", "m", "d"

    def render(self, messages: Sequence[Message]) -> str:
        return messages[-1].content

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_done: Any = None
    ) -> list[list[Completion]]:
        made = [Completion("#### 7", "stop", 1, 1)] * sampling.n
        made[1] = Completion.missing("the prompt is refused")
        return [made for _ in prompts]


def test_responses_that_are_missing_are_left_out_with_their_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = benchmarks.load("mini_gsm8k")
    items = task.items("train")[:4]
    asked = {"mini_gsm8k": items}
    found = explore(Refusing(), asked, {"mini_gsm8k": task}, Explore(n=3), seed=0)
    assert len(found) == 8 and {sample.repeat for sample in found} == {0, 2}
    assert "4 of 12 responses are missing and left out (the prompt is refused)" in (
        capsys.readouterr().err
    )
