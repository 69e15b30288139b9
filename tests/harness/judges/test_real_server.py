"""A real judge, end to end: a model that writes verdicts, over HTTP and in this process."""

from __future__ import annotations

import pytest
from helpers import tiny_judge
from helpers.serving import transformers_serve

import tasks
from harness.judges.config import open_judge
from harness.judges.settings import JudgeSettings


@pytest.mark.slow
def test_just_eval_is_judged_alike_over_http_in_this_process_and_from_the_cache(tmp_path):
    folder = tiny_judge.save(tmp_path / "judge")
    answered = tiny_judge.answered(24)
    score = tasks.load("just_eval").score
    with transformers_serve(folder, tmp_path / "log") as base_url:
        settings = JudgeSettings(
            base_url=base_url, model=str(folder), cache=tmp_path / "judge.sqlite", max_concurrency=4
        )
        with open_judge(settings) as judge:
            served = score(answered, judge)
            assert judge.spend.requests == judge.spend.calls == 24
            assert judge.spend.prompt_tokens > judge.spend.completion_tokens > 24
            assert not judge.spend.failures
    assert not any(scored.unscored for scored in served)
    grades = [1 if sample.response == tiny_judge.SHRUG else 4 for _, sample in answered]
    assert [scored.values["overall"] for scored in served] == grades
    assert len(set(grades)) == 2

    with open_judge(settings) as judge:  # the server is gone
        assert score(answered, judge) == served
        assert judge.spend.requests == 0

    inside = JudgeSettings(engine="hf", model=str(folder), device="cpu", cache=settings.cache)
    calls = [tiny_judge.call(*one) for one in answered]
    with open_judge(settings) as one, open_judge(inside) as other:
        assert other.ask(calls) == one.ask(calls)
        assert (one.spend.requests, other.spend.requests) == (0, 24)
