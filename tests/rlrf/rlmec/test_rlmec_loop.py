"""The loop with RLMEC, on a tiny model and a toy task that can put answers right."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from helpers import tiny, toy
from test_loop import contents

import tasks
from harness.board import Board
from harness.core.errors import UserError
from harness.core.files import read_json, read_records
from harness.core.schema import Score
from rlrf.config import Config, load
from rlrf.feedback import Judged
from rlrf.loop import train
from rlrf.objectives.rlmec import RewriteExample
from rlrf.result import markdown
from rlrf.rlmec.rewriter import Agreement
from rlrf.rlmec.teacher import Correction
from rlrf.rlmec.tokens import TokenRewards

GOLD = 0.6


def letters_only(item, sample, score):
    """The first signs as they are as far as they are letters, and then letters."""
    begun = next(
        (i for i, c in enumerate(sample.response) if not (c.isascii() and c.isalpha())), None
    )
    return sample.response[:begun][:4] + "abcdefgh"


@pytest.fixture(scope="module", autouse=True)
def task(tmp_path_factory):
    """`toy_letters`, which can put an answer right."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tasks")
        (folder / "toy.yaml").write_text(toy.YAML)
        taught = dataclasses.replace(toy.LETTERS, rewrite=letters_only)
        patch.setattr(tasks, "FOLDER", folder)
        patch.setattr(tasks, "_all", lambda: {"toy_letters": taught})
        yield taught


def config(model, **changes) -> Config:
    rlmec = {
        "gold": GOLD,
        "held_out": 0.25,
        "train": {"learning_rate": 1e-2, "epochs": 8, "batch_size": 8, "gradient_accumulation": 1,
                  "max_length": 250},
    }  # fmt: skip
    settings = {
        "method": "rlmec",
        "model": str(model),
        "iterations": 1,
        "tasks": [{"name": "toy_letters", "prompts": 12}],
        "explore": {"n": 3},
        "train": {"learning_rate": 1e-2, "batch_size": 8, "max_length": 200, "epochs": 8},
        "gate": {"slice": 20, "sealed": 10},
        "engine": {"device": "cpu"},
    }
    return Config.model_validate(settings | changes | {"rlmec": rlmec | changes.get("rlmec", {})})


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    """A run of one iteration, for the tests that only look."""
    out = tmp_path_factory.mktemp("rlmec") / "run"
    return train(config(tiny_model), out), out


@pytest.mark.slow
def test_an_iteration_learns_from_tokens_and_edits(finished):
    result, out = finished
    (iteration,) = result.iterations
    assert iteration.outcome == "promoted"
    assert iteration.lessons.kind == "rewrites" and iteration.lessons.lessons > 5
    before, after = (model.metrics["toy_letters letters"].mean for model in result.sealed)
    assert after > before + 0.1
    assert "rewrites" in markdown(result)
    assert Board(out / "board").verify() == []
    steps = [json.loads(line) for line in (out / "iter_1/train/metrics.jsonl").open()]
    assert steps[0]["ratio"] == pytest.approx(1, abs=1e-4)
    assert steps[-1]["logp_rewrite"] > steps[0]["logp_rewrite"]


def test_every_step_is_on_disk_for_a_person_to_look_at(finished, task):
    _, out = finished
    place = out / "iter_1"
    judged = read_records(place / "feedback/records.jsonl", Judged)
    rewards = read_records(place / "token_rewards/records.jsonl", TokenRewards)
    rewritten = read_records(place / "reflect_feedback/records.jsonl", Judged)
    lessons = read_records(place / "rewrites/rewrites.jsonl", RewriteExample)
    corrections = read_records(place / "corrections/records.jsonl", Correction)
    assert len(judged) == len(rewritten) == len(rewards) == 36  # every response is rewritten
    wrong = {(j.sample.item, j.sample.response) for j in judged if j.score.values["letters"] < GOLD}
    assert len(corrections) == len(wrong) > 0
    for one, found in zip(judged, rewards, strict=True):
        assert found.right == (one.score.values["letters"] >= GOLD)
        for probability, reward in zip(found.probabilities, found.rewards, strict=True):
            wanted = min(max(probability - 0.5, 0), 0.5)
            if not found.right:
                wanted = min(max(probability - 0.5, -0.1), 0)
            assert reward == pytest.approx(wanted, abs=2e-6)
    for lesson in lessons:
        assert toy._letters(lesson.rewrite) >= GOLD
        assert lesson.right or lesson.rewrite != lesson.response
        assert any(lesson.edited) or lesson.rewrite == lesson.response or lesson.right


def test_the_rewriter_is_measured_on_items_that_it_did_not_learn_from(finished):
    _, out = finished
    found = Agreement.model_validate(read_json(out / "iter_1/agreement/agreement.json"))
    repaired = found.by_task["toy_letters"]["repaired"]
    assert repaired.n == 3  # a quarter of 12 items, each of which has a wrong response
    assert repaired.low <= repaired.mean <= repaired.high
    lines = (out / "iter_1/rewriter/examples.jsonl").read_text().splitlines()
    learned = {json.loads(line)["item"] for line in lines}
    scored = (out / "iter_1/agreement/scores.jsonl").read_text().splitlines()
    assert not learned & {json.loads(line)["item"] for line in scored}


def test_a_finished_run_loads_no_model_again(finished, tiny_model, monkeypatch):
    result, out = finished
    monkeypatch.setattr("harness.engines.hf.HFEngine", lambda *a, **k: pytest.fail("loaded"))
    assert train(config(tiny_model), out) == result


STEPS = (
    "rlmec.stages.teach", "rlmec.stages.sft", "rlmec.stages.rewrite", "rlmec.stages.locate",
    "rlmec.stages.token_rewards", "methods.rlmec.rlmec",
)  # fmt: skip


@pytest.mark.slow
def test_a_run_killed_in_every_step_ends_with_the_same_artefacts(finished, tiny_model, tmp_path):
    _, whole = finished

    def killed(*_, **__):
        raise KeyboardInterrupt

    for step in STEPS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"rlrf.{step}", killed)
            with pytest.raises(KeyboardInterrupt):
                train(config(tiny_model), tmp_path / "run")
    train(config(tiny_model), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(whole)


@pytest.mark.slow
def test_a_rewriter_that_is_killed_while_it_learns_goes_on(finished, tiny_model, tmp_path):
    import transformers

    _, whole = finished
    step, passes = transformers.Trainer.training_step, []
    training = {"learning_rate": 1e-2, "batch_size": 8, "max_length": 200, "epochs": 8}
    often = config(tiny_model, train=training | {"checkpoint_minutes": 1e-9})

    def killed(*args, **more):
        passes.append(1)
        if len(passes) == 6:
            raise KeyboardInterrupt
        return step(*args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.Trainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(often, tmp_path / "run")
        train(often, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(whole)
    made = (tmp_path / "run" / "iter_1").glob("*/metrics.jsonl")
    assert len(passes) == sum(len(path.read_text().splitlines()) for path in made) + 1


@pytest.mark.slow
def test_later_iterations_use_the_first_rewriter_unless_it_is_to_be_trained_anew(
    tiny_model, tmp_path
):
    brief = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8, "gradient_accumulation": 1}
    train(config(tiny_model, iterations=2, rlmec={"train": brief}), tmp_path / "run")
    place = tmp_path / "run" / "iter_2"
    assert not (place / "rewriter").exists()
    assert (place / "corrections/records.jsonl").read_text() == ""
    assert len((place / "rewritten/records.jsonl").read_text().splitlines()) == 36
    scores = read_records(place / "agreement/scores.jsonl", Score)
    assert len({score.item for score in scores}) == 12  # all of them are new to it
    assert all("located" not in score.values for score in scores)  # no teacher says where
    anew = {"train": brief, "refresh": True}
    train(config(tiny_model, iterations=2, rlmec=anew), tmp_path / "anew")
    models = [tmp_path / "anew" / f"iter_{k}" / "rewriter/model" for k in (1, 2)]
    assert all(model.is_dir() for model in models)


@pytest.mark.slow
def test_a_named_rewriter_is_used_and_the_run_is_its(finished, tiny_model, tmp_path):
    _, out = finished
    folder = tmp_path / "rewriter"
    shutil.copytree(out / "iter_1/rewriter/model", folder)
    named = config(tiny_model, rlmec={"rewriter": str(folder)})
    result = train(named, tmp_path / "run")
    assert result.iterations[0].lessons.lessons > 5
    assert not (tmp_path / "run/iter_1/rewriter").exists()
    moved = folder.rename(tmp_path / "moved")
    again = config(tiny_model, rlmec={"rewriter": str(moved)})
    assert train(again, tmp_path / "run") == result  # it is the same wherever it lies
    another = config(tiny_model, rlmec={"rewriter": str(tiny_model)})
    with pytest.raises(UserError, match="--fresh"):
        train(another, tmp_path / "run")


@pytest.mark.slow
def test_an_adapter_may_be_the_rewriter(tiny_model, tmp_path):
    result = train(config(tiny_model, adapter={"r": 4}), tmp_path / "run")
    adapter = tmp_path / "run/iter_1/rewriter/adapter"
    assert (adapter / "adapter_config.json").is_file()
    assert result.iterations[0].lessons.refinements == 36
    named = config(tiny_model, adapter={"r": 4}, rlmec={"rewriter": str(adapter)})
    train(named, tmp_path / "named")
    for made in ("rewritten", "token_rewards", "rewrites"):
        first, second = (
            sorted((tmp_path / run / "iter_1" / made).glob("*.jsonl")) for run in ("run", "named")
        )
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert not (tmp_path / "named/iter_1/rewriter").exists()


@pytest.mark.slow
def test_rewrites_that_are_all_wrong_teach_nothing_and_the_causes_are_told(tiny_model, tmp_path):
    settings = config(tiny_model, rlmec={"rewriter": str(tiny_model), "gold": 1.0})
    result = train(settings, tmp_path / "run")
    (iteration,) = result.iterations
    assert iteration.outcome == "no rewrites" and result.incumbent == "M0"
    assert iteration.lessons.skipped == {"no rewrite": 12}
    assert sum(iteration.lessons.unused.values()) > 12
    assert set(iteration.lessons.unused) <= {"the rewrite is wrong", "the rewrite is cut off"}
    assert "responses without one: the rewrite is" in iteration.lessons.sentence()


def test_a_task_that_nobody_teaches_leaves_no_rewriter(tiny_model, tmp_path, monkeypatch, capsys):
    mute = dataclasses.replace(toy.LETTERS, rewrite=lambda item, sample, score: None)
    monkeypatch.setattr(tasks, "_all", lambda: {"toy_letters": mute})
    result = train(config(tiny_model, rlmec={"gold": 1.0}), tmp_path / "run")
    (iteration,) = result.iterations
    assert iteration.outcome == "no rewrites"
    assert set(iteration.lessons.unused) == {"not rewritten"}
    assert "are not corrected: the benchmark has no rewrite" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rewriter_that_diverges_is_told_with_what_to_lower(tiny_model, tmp_path):
    wild = {"learning_rate": 1e30, "max_grad_norm": 1e30, "batch_size": 4, "epochs": 4,
            "gradient_accumulation": 1}  # fmt: skip
    with pytest.raises(UserError, match=r"The rewriter's training diverged.*rlmec\.train"):
        train(config(tiny_model, rlmec={"train": wild}), tmp_path / "run")
    assert not (tmp_path / "run/iter_1/rewriter").exists()


def test_models_are_looked_for_beside_the_configuration(tmp_path):
    (tmp_path / "small").mkdir()
    file = tmp_path / "run.yaml"
    named = {"rewriter": "small", "base": "elsewhere/model"}
    settings = {"model": "m", "method": "rlmec", "tasks": [{"name": "gsm8k"}], "rlmec": named}
    file.write_text(json.dumps(settings))
    found = load(file)
    assert found.rlmec.rewriter == str(tmp_path / "small")
    assert found.rlmec.base == "elsewhere/model"
    # Where they lie is no part of what a run is; what is learned from them is.
    moved = found.model_copy(update={"rlmec": found.rlmec.model_copy(update={"base": "b"})})
    assert found.identity == moved.identity
    other = found.model_copy(update={"rlmec": found.rlmec.model_copy(update={"clip": 0.2})})
    assert found.identity != other.identity


def test_what_cannot_be_a_rewriter_is_refused_at_once(tiny_model, tmp_path, monkeypatch):
    def refused(match, **rlmec):
        with pytest.raises(UserError, match=match):
            train(config(tiny_model, rlmec=rlmec), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    refused("no model folder", rewriter=str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    refused("has no config.json", rewriter=str(tmp_path / "empty"))
    other = tiny.save(tmp_path / "other", seed=1)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused("has other tokens", rewriter=str(other))
    refused("has other tokens", base=str(other))
    refused("no teacher that corrects wrong answers to toy_letters", teacher="judge")
    monkeypatch.setattr(tasks, "_all", lambda: {"toy_letters": toy.LETTERS})
    refused("no teacher that corrects wrong answers to toy_letters")
