"""The file that says how answers are judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import toy

import tasks
from harness.core.errors import UserError
from harness.core.schema import Call, Record
from harness.judges.config import load_judging, open_judge
from harness.judges.settings import JudgeSettings
from tasks.task import Task

SERVER = "base_url: http://localhost:1/v1, model: m"


def write(folder: Path, text: str) -> Path:
    path = folder / "judge.yaml"
    path.write_text(text)
    return path


def test_a_few_lines_are_enough(tmp_path):
    judging = load_judging(write(tmp_path, f"judge: {{{SERVER}}}"))
    assert judging.judge == JudgeSettings(base_url="http://localhost:1/v1", model="m")
    assert judging.just_eval is judging.factscore is None


def test_without_a_file_or_a_judge_there_is_no_judge(tmp_path):
    for path in (None, write(tmp_path, "just_eval: {}")):
        with load_judging(path).open() as judge:
            assert judge is None


def test_paths_are_relative_to_the_file_or_to_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    judging = load_judging(
        write(
            tmp_path,
            f"judge: {{{SERVER}, cache: replies.sqlite}}\n"
            "just_eval: {prompt: ~/official.yaml}\n"
            "factscore: {knowledge: /data/wiki.db}\n",
        )
    )
    assert judging.judge.cache == tmp_path / "replies.sqlite"
    assert judging.just_eval.prompt == Path("/home/me/official.yaml")
    assert judging.factscore.knowledge == Path("/data/wiki.db")


def test_tasks_are_those_of_the_blocks(tmp_path):
    plain = load_judging(None)
    assert (
        plain.task("just_eval").judge_prompt
        == load_judging(write(tmp_path, "just_eval: {}")).task("just_eval").judge_prompt
    )
    with pytest.raises(UserError, match=r"official\.yaml"):
        load_judging(write(tmp_path, "just_eval: {prompt: official.yaml}")).task("just_eval")
    with pytest.raises(UserError, match="no task"):
        plain.task("nothing")


class Strictness(Record):
    at_least: int
    examples: Path | None = None


def strict_toy(settings: Strictness) -> Task:
    return replace(toy.TASK, estimator=f"{settings.at_least} of {settings.examples}")


def test_a_task_brings_the_settings_of_its_own_block(tmp_path, monkeypatch):
    judged = replace(toy.TASK, settings=Strictness, configure=strict_toy)
    monkeypatch.setattr(tasks, "_all", lambda: {"toy": judged})
    plain = load_judging(write(tmp_path, f"judge: {{{SERVER}}}"))
    assert plain.task("toy") is judged
    set_up = load_judging(write(tmp_path, "toy: {at_least: 3, examples: mine.json}"))
    assert set_up.task("toy").estimator == f"3 of {tmp_path / 'mine.json'}"
    with pytest.raises(UserError, match=r"no key 'toy\.at_leest'. Did you mean 'at_least'"):
        load_judging(write(tmp_path, "toy: {at_leest: 3}"))
    with pytest.raises(UserError, match=r"no key 'factscore'"):
        load_judging(write(tmp_path, "factscore: {knowledge: wiki.db}"))


def test_opening_gives_a_judge_that_keeps_its_replies_in_the_named_file(tmp_path, serve):
    server = serve()
    path = write(
        tmp_path, f"judge: {{base_url: '{server.base_url}', model: m, cache: sub/replies.sqlite}}"
    )
    for _ in range(2):
        with load_judging(path).open() as judge:
            assert judge.ask([Call(prompt="p")])[0].text == "reply to p"
    assert len(server.asked) == 1
    assert (tmp_path / "sub" / "replies.sqlite").exists()
    with load_judging(path).open(fresh=True) as judge:
        judge.ask([Call(prompt="p")])
    assert len(server.asked) == 2


def test_the_address_may_be_that_of_the_chat_completions_themselves(tmp_path, serve):
    server = serve()
    for end in ("/", "/chat/completions"):
        settings = JudgeSettings(base_url=server.base_url + end, model="m")
        with open_judge(settings, fresh=True) as judge:
            assert not judge.ask([Call(prompt="p")])[0].failure


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("model: m", "either base_url"),
        (f"{SERVER}, engine: hf", "either base_url"),
        ("base_url: http://localhost:1/v1", "'judge.model' is missing"),
        ("base_url: localhost:8000, model: m", "http://"),
        ("base_url: 'http://', model: m", "names a host"),
        ("base_url: 'http://h:x/v1', model: m", "not an address"),
        (f"{SERVER}, max_concurency: 3", "Did you mean 'max_concurrency'"),
        (f"{SERVER}, max_concurrency: 0", "max_concurrency"),
        (f"{SERVER}, extra_body: {{temperature: 1}}", "temperature"),
        (f"{SERVER}, budget: {{dollars: 3}}", "needs a price"),
        ("engine: hf, model: m, temperature: 1", "greedy"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_word_on_what_does(tmp_path, block, says):
    with pytest.raises(UserError, match=says):
        load_judging(write(tmp_path, f"judge: {{{block}}}"))


def test_an_unknown_model_folder_is_a_sentence(tmp_path):
    judging = load_judging(write(tmp_path, "judge: {engine: hf, model: ./nowhere}"))
    with pytest.raises(UserError, match="no model folder"), judging.open():
        pass


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "schlüssel", "a\nb"])
def test_a_key_that_is_missing_or_odd_is_said_before_anything_is_asked(monkeypatch, value):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    settings = JudgeSettings(base_url="http://localhost:1/v1", model="m", api_key_env="JUDGE_KEY")
    with pytest.raises(UserError, match="JUDGE_KEY"), open_judge(settings, fresh=True):
        pass
