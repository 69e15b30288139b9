"""The loop with a judge: who criticises, what is remembered, what is refused."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from helpers.faulty import Act, FaultyServer, completion

from harness.board import Board
from harness.core.errors import UserError
from harness.core.files import read_records
from harness.core.schema import Sample
from rlrf.config import Config, load
from rlrf.feedback import Judged
from rlrf.loop import train


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


@pytest.mark.slow
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


@pytest.mark.slow
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


def grader(number, asked):
    """Grades the six aspects of Just-Eval: what has many letters is good, what is long is deep."""
    answer = re.search(r"\[answered (\w+)\]\n(.*)\n\[end", asked.prompt, re.DOTALL)[2]
    letters = sum(c.isascii() and c.isalpha() for c in answer) / max(len(answer), 1)
    score = 1 + round(4 * letters)
    aspects = ("helpfulness", "clarity", "factuality", "depth", "engagement", "safety")
    said = {"reason": "Use more letters.", "score": str(score)}
    return Act(body=completion(json.dumps({a: said for a in aspects if a in asked.prompt.lower()})))


@pytest.mark.slow
def test_just_eval_learns_from_the_users_instructions_and_is_gated_on_its_own(tmp_path, tiny_model):
    # Just-Eval's answers may be longer than the tiny model's context.
    model = shutil.copytree(tiny_model, tmp_path / "long")
    known = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(known | {"max_position_embeddings": 2048}))
    data = tmp_path / "data"
    data.mkdir()
    official = [{"instruction": f"Question {i}?", "category": "regular"} for i in range(16)]
    official += [{"instruction": f"Harm {i}.", "category": "safety"} for i in range(4)]
    mine = [{"instruction": f"Tell me of {i}."} for i in range(6)]
    for name, rows in ("official", official), ("train", mine):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FaultyServer(grader).running() as server:
        settings = judged_config(
            tmp_path,
            model,
            server,
            tasks=[{"name": "just_eval", "prompts": 6, "data": "data"}],
            explore={"n": 3, "max_tokens": 24},
            reflect={"m": 1, "max_tokens": 24},
        )
        result = train(settings, tmp_path / "run")
    (iteration,) = result.iterations
    assert iteration.gate is not None and iteration.lessons.lessons > 0
    explored = read_records(tmp_path / "run" / "iter_1" / "explore" / "records.jsonl", Sample)
    assert len({sample.item for sample in explored}) == 6
    assert all("Tell me of" in sample.prompt for sample in explored)
    measured = {
        row.entry.evaluation.split: row.entry.evaluation.metrics["overall"].n
        for row in Board(tmp_path / "run" / "board").rows()
        if row.entry.kind == "evaluation"
    }
    assert measured == {"gate": 10, "sealed": 10}
    assert Board(tmp_path / "run" / "board").verify() == []
    asked = {
        split: {
            json.loads(line)["prompt"]
            for path in (tmp_path / "run").glob(f"{place}/just_eval/items.jsonl")
            for line in path.read_text().splitlines()
        }
        for split, place in (("gate", "iter_1/evaluate_M*"), ("sealed", "sealed/M*"))
    }
    assert len(asked["gate"]) == len(asked["sealed"]) == 10
    assert not asked["gate"] & asked["sealed"]
