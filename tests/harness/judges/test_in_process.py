"""A judge in this process."""

from __future__ import annotations

import math
import shutil

import pytest

from harness.core.schema import Call, Message
from harness.engines import Sampling
from harness.judges import in_process
from harness.judges.config import load_judging, open_judge
from harness.judges.settings import JudgeSettings

CALLS = [Call(prompt=f"How many plums has she, {i}?", max_tokens=40) for i in range(6)]


@pytest.fixture
def settings(model_folder, tmp_path):
    return JudgeSettings(
        engine="hf", model=str(model_folder), device="cpu", cache=tmp_path / "judge.sqlite"
    )


def with_(settings: JudgeSettings, **options) -> JudgeSettings:
    return JudgeSettings.model_validate(settings.model_dump() | options)


def test_replies_are_the_engines_greedy_answers(settings, engine):
    calls = [
        Call(prompt=call.prompt, system="Judge." * (i % 2), max_tokens=10 + 40 * (i % 3))
        for i, call in enumerate(CALLS)
    ]
    with open_judge(settings) as judge:
        replies = judge.ask(calls)
        assert judge.spend.requests == 6
    ends = set()
    for call, reply in zip(calls, replies, strict=True):
        told = [Message(role="system", content=call.system)] if call.system else []
        prompt = engine.render([*told, Message(role="user", content=call.prompt)])
        [[made]] = engine.generate([prompt], Sampling(max_tokens=call.max_tokens))
        assert reply.text == made.text
        assert ("cut short" in reply.failure) == (made.finish_reason == "length")
        ends.add(made.finish_reason)
    assert ends == {"stop", "length"}


def test_what_is_cached_needs_no_model_in_memory(settings, monkeypatch):
    with open_judge(settings) as judge:
        replies = judge.ask(CALLS)
        kept = [call for call, reply in zip(CALLS, replies, strict=True) if not reply.failure]
    assert kept
    monkeypatch.setattr("harness.engines.hf.HFEngine", None)
    with open_judge(settings) as judge:
        assert [r.failure for r in judge.ask(kept)] == [""] * len(kept)


def test_a_prompt_that_does_not_fit_is_a_failure_not_a_judgement_of_half_of_it(settings):
    long = Call(prompt="plums and more " * 200, max_tokens=40)
    wordy = Call(prompt="plums", max_tokens=1000)
    with open_judge(settings) as judge:
        replies = judge.ask([CALLS[0], long, wordy, CALLS[1]])
        assert judge.spend.requests == 2
    assert [r.failure == in_process.TOO_LONG for r in replies] == [False, True, True, False]


def test_a_budget_is_kept_and_what_was_asked_is_kept(settings, monkeypatch):
    monkeypatch.setattr(in_process, "AT_ONCE", 2)
    with open_judge(with_(settings, budget={"requests": 3})) as judge:
        replies = judge.ask(CALLS)
        assert judge.spend.requests == 3
    spent = "the budget of 3 requests is spent"
    assert [r.failure == spent for r in replies] == [False] * 3 + [True] * 3


def test_tokens_that_a_reply_does_not_need_go_to_the_next(settings):
    with open_judge(settings) as judge:
        judge.ask(CALLS)
        whole = judge.spend
    total = whole.prompt_tokens + whole.completion_tokens
    budget = total + 40  # the last one's full length must fit, whatever it takes
    assert whole.prompt_tokens + 6 * 40 > budget
    with open_judge(with_(settings, budget={"tokens": budget}), fresh=True) as judge:
        judge.ask(CALLS)
        assert judge.spend == whole


def test_choices_have_the_models_own_probabilities(settings, engine):
    call = Call(prompt="Is it so?", max_tokens=1, choices=("yes", "no"))
    with open_judge(settings) as judge:
        [reply] = judge.ask([call])
    prompt = engine.encode(engine.render([Message(role="user", content=call.prompt)]))
    for choice in call.choices:
        word = engine.tokenizer.encode(choice, add_special_tokens=False)
        [(expected, _)] = engine.loglikelihood([(prompt, word)])
        assert reply.logprobs[choice] == pytest.approx(expected)
        assert math.exp(reply.logprobs[choice]) < 1


def test_identity_is_the_weights_not_the_path(settings, model_folder, tmp_path):
    moved = tmp_path / "elsewhere" / model_folder.name
    shutil.copytree(model_folder, moved)
    (tmp_path / "judge.yaml").write_text(f"judge: {{engine: hf, model: elsewhere/{moved.name}}}")
    here, there = open_judge(settings, fresh=True), load_judging(tmp_path / "judge.yaml").open()
    with here as one, there as two:
        assert (one.id, one.digest) == (two.id, two.digest)
    (moved / "generation_config.json").write_text('{"eos_token_id": 1}')
    with load_judging(tmp_path / "judge.yaml").open(fresh=True) as changed:
        assert changed.digest != one.digest
