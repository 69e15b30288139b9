"""The real path with structured replies: vLLM's CPU build, with a judge that the test makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers import tiny_judge
from helpers.serving import VLLM, vllm_serve

import tasks
from harness.core.schema import Call
from harness.judges.config import open_judge
from harness.judges.settings import JudgeSettings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not VLLM.exists(), reason="there is no .venv-vllm; `make vllm` makes it"),
]


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("vllm")
    model = tiny_judge.save(folder / "judge")
    with vllm_serve(model, folder / "log", "tiny", tiny_judge.CONTEXT) as url:
        yield url


@pytest.fixture
def judge(base_url: str, tmp_path: Any) -> Iterator[Any]:
    settings = JudgeSettings(base_url=base_url, model="tiny", cache=tmp_path / "judge.sqlite")
    with open_judge(settings) as opened:
        yield opened


def test_a_server_that_keeps_to_the_schema_grades_every_answer(judge: Any) -> None:
    answered = tiny_judge.answered(16)
    scores = tasks.load("just_eval").score(answered, judge)
    assert not any(scored.unscored for scored in scores)
    grades = [1 if sample.response == tiny_judge.SHRUG else 4 for _, sample in answered]
    assert [scored.values["overall"] for scored in scores] == grades
    assert "refuses" not in judge.description
    assert judge.spend.requests == 16 and judge.spend.completion_tokens > 0
    assert tasks.load("just_eval").score(answered, judge) == scores
    assert judge.spend.requests == 16


def test_the_probabilities_of_choices_are_served(judge: Any) -> None:
    call = Call(prompt="Is it so?", max_tokens=1, choices=('{"', "No"))
    (reply,) = judge.ask([call])
    assert "refuses" not in judge.description
    assert reply.logprobs is None or set(reply.logprobs) <= set(call.choices)
