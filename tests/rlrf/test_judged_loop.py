"""The loop with a judge: who criticises, what is remembered, what is refused."""

from __future__ import annotations

import json
import re

import pytest

from harness.errors import UserError
from harness.store import read_records
from rlrf.config import Config, load
from rlrf.feedback import Judged
from rlrf.loop import train
from tests.harness.judge.faulty import Act, FaultyServer, completion


def critic(number, asked):
    """Chooses three aspects; grades an answer by its length, and one in five unreadably."""
    if "The three aspects:" in asked.prompt:
        places = {"first": "readability", "second": "completeness", "third": "factuality"}
        return Act(body=completion(json.dumps({"reason": "r"} | places)))
    answer = re.search(r"\[answered (\w+)\]\n(.*)\n\[end", asked.prompt, re.DOTALL)[2]
    if len(answer) % 5 == 0:
        return Act(body=completion("I would rather not."))
    grade = "good" if len(answer) > 12 else "poor"
    said = {"sentence": "", "justification": "Say more.", "grade": grade}
    return Act(body=completion(json.dumps(dict.fromkeys(
        ("readability", "completeness", "factuality"), said
    ))))  # fmt: skip


@pytest.fixture
def server():
    with FaultyServer(critic).running() as running:
        yield running


def judged_config(tmp_path, tiny_model, server, **changes):
    judge = {"base_url": server.base_url, "model": "critic", "cache": "judge.sqlite"}
    (tmp_path / "judge.yaml").write_text(json.dumps({"judge": judge}))
    settings = {
        "model": str(tiny_model),
        "judge": "judge.yaml",
        "iterations": 1,
        "tasks": [{"name": "toy_letters", "prompts": 8, "feedback": "critique"}],
        "explore": {"n": 3},
        "reflect": {"m": 1},
        "train": {"learning_rate": 1e-3, "batch_size": 8, "max_length": 200},
        "gate": {"slice": 10, "sealed": 10},
        "engine": {"device": "cpu"},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(settings | changes))
    return load(tmp_path / "config.yaml")


def test_a_language_model_criticises_the_responses(tmp_path, tiny_model, server, toy_letters):
    config = judged_config(tmp_path, tiny_model, server)
    result = train(config, tmp_path / "run")
    judged = read_records(tmp_path / "run" / "iter_1" / "feedback" / "records.jsonl", Judged)
    aspects = [{a.aspect for a in one.feedback.aspects} for one in judged]
    assert {"readability", "completeness", "factuality"} in aspects
    for one in judged:
        assert bool(one.feedback.aspects) == (len(one.sample.response) % 5 != 0)
    assert result.iterations[0].lessons.prompts == 8
    asked = len(server.asked)
    assert train(config, tmp_path / "run") == result
    assert len(server.asked) == asked
    train(config, tmp_path / "again")  # readable replies are remembered by every run
    again = server.asked[asked:]
    assert all("The three aspects:" not in one.prompt for one in again)


def test_a_run_belongs_to_its_judge(tmp_path, tiny_model, server, toy_letters):
    config = judged_config(tmp_path, tiny_model, server)
    train(config, tmp_path / "run")
    file = tmp_path / "judge.yaml"
    file.write_text(file.read_text().replace('"critic"', '"another"'))
    with pytest.raises(UserError, match="--fresh"):
        train(config, tmp_path / "run")


def test_a_critique_needs_a_judge():
    with pytest.raises(ValueError, match="needs a judge"):
        Config.model_validate(
            {"model": "m", "tasks": [{"name": "toy_letters", "feedback": "critique"}]}
        )
