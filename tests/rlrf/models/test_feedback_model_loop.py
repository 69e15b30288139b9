"""The loop with a trained feedback model: one that works, one that talks nonsense, and none."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers import judged

from harness.core.errors import UserError
from harness.core.files import read_records
from rlrf.config import Config, load
from rlrf.feedback import Judged
from rlrf.loop import train
from rlrf.result import markdown


@pytest.fixture(scope="module")
def models(roomy_model, critic, tmp_path_factory):
    """The policy, a feedback model that learned to judge, and one that learned nothing."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "policy").symlink_to(roomy_model)
    (folder / "critic").symlink_to(critic[0])
    untaught = {"learning_rate": 1e-12, "epochs": 0.1}
    judged.fit(roomy_model, folder / "nonsense", changes=untaught)
    return folder


def config(models, critic, **changes):
    settings = {
        "model": str(models / "policy"),
        "feedback_model": str(models / critic),
        "iterations": 1,
        "tasks": [{"name": "toy_letters", "prompts": 8, "feedback": "model"}],
        "explore": {"n": 3},
        "reflect": {"m": 1},
        "train": {"learning_rate": 1e-3, "batch_size": 8, "max_length": 300},
        "gate": {"slice": 10, "sealed": 10},
        "engine": {"device": "cpu"},
    }
    return Config.model_validate(settings | changes)


@pytest.mark.slow
def test_a_feedback_model_criticises_the_responses_and_their_rewrites(
    models, tmp_path, toy_letters
):
    result = train(config(models, "critic"), tmp_path / "run")
    for stage in ("feedback", "reflect_feedback"):
        found = read_records(tmp_path / "run" / "iter_1" / stage / "records.jsonl", Judged)
        aspects = {said.aspect for one in found for said in one.feedback.aspects}
        assert aspects and aspects <= {"sum", "tone"}
    lessons = result.iterations[0].lessons
    assert lessons.refinements > 0 and lessons.skipped.get("unscored", 0) < 8
    with pytest.raises(UserError, match="--fresh"):
        train(config(models, "nonsense"), tmp_path / "run")


def test_a_feedback_model_that_talks_nonsense_ends_the_run_with_the_cause(
    models, tmp_path, toy_letters, capsys
):
    result = train(config(models, "nonsense"), tmp_path / "run")
    (iteration,) = result.iterations
    assert iteration.lessons.skipped == {"unscored": 8} and iteration.outcome == "no pairs"
    assert result.incumbent == "M0" and "unscored 8" in markdown(result)
    said = capsys.readouterr().err
    assert "of 24 responses have no critique (no line of the reply judges an aspect)" in said
    assert said.count("WARNING: most responses have no critique") == 1
    assert "0 pairs from 8 prompts; prompts without one: unscored 8" in said


def test_what_is_no_feedback_model_is_refused_at_once(models, tmp_path, toy_letters):
    with pytest.raises(UserError, match="is not a feedback model"):
        train(config(models, "policy"), tmp_path / "run")
    with pytest.raises(UserError, match="no model folder"):
        train(config(models, "nobody"), tmp_path / "run")
    spoiled = shutil.copytree(models / "critic", tmp_path / "spoiled")
    (spoiled / "config.json").write_text((spoiled / "config.json").read_text() + " ")
    with pytest.raises(UserError, match="not the file that training wrote"):
        train(config(models, "critic", feedback_model=str(spoiled)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_task_that_wants_a_feedback_model_needs_one_named(tmp_path):
    settings = {"model": "m", "tasks": [{"name": "toy", "feedback": "model"}]}
    with pytest.raises(ValueError, match="name its folder as 'feedback_model'"):
        Config.model_validate(settings)
    (tmp_path / "critic").mkdir()
    (tmp_path / "run.yaml").write_text(json.dumps(settings | {"feedback_model": "critic"}))
    found = load(tmp_path / "run.yaml")
    assert found.feedback_model == str((tmp_path / "critic").resolve())
    elsewhere = found.model_copy(update={"feedback_model": "someone/critic"})
    assert found.identity == elsewhere.identity
