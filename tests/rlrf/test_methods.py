"""The loop with each method: what it learns from, what it keeps, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import tiny, toy
from test_loop import contents

import tasks
from harness.board import Board
from harness.core.errors import UserError
from harness.core.files import read_records
from harness.core.schema import Sample
from rlrf.config import Config, Device
from rlrf.feedback import Judged
from rlrf.loop import train
from rlrf.models.reward.model import RewardTraining
from rlrf.models.reward.model import train as train_reward_model
from rlrf.models.reward.preferences import Preference
from rlrf.objectives.rrhf import Ranking
from rlrf.objectives.sft import Example
from rlrf.pairs import Pair
from rlrf.report import report
from rlrf.result import markdown
from rlrf.stages import ModelReward

N = 4


def config(model: Path, **changes) -> Config:
    settings = {
        "model": str(model),
        "iterations": 1,
        "tasks": [{"name": "toy_letters", "prompts": 8}],
        "explore": {"n": N},
        "reflect": {"m": 1},
        "pairs": {"threshold": 0.01},
        "train": {"learning_rate": 1e-2, "batch_size": 8, "max_length": 200, "epochs": 2},
        "gate": {"slice": 20, "sealed": 10},
        "engine": {"device": "cpu"},
    }
    return Config.model_validate(settings | changes)


@pytest.fixture(scope="session")
def letters_are_good(tiny_model, tmp_path_factory):
    """A reward model that was taught to prefer letters to signs."""
    pairs = [
        Preference(
            prompt=f"<|user|>What is {i} plus 4?<|end|><|assistant|>",
            chosen="abcdefgh"[i % 5 :] + " answer",
            rejected="%&/()=?!"[i % 5 :] + " $$",
        )
        for i in range(32)
    ]
    out = tmp_path_factory.mktemp("reward") / "model"
    settings = RewardTraining(
        adapter=None, learning_rate=3e-3, batch_size=8, max_length=100, epochs=3
    )
    train_reward_model(pairs, tiny_model, settings, device=Device(device="cpu"), seed=0, out=out)
    return out


@pytest.fixture
def reward(letters_are_good):
    return {"models": [str(letters_are_good)]}


def explored(run):
    return read_records(run / "iter_1" / "explore" / "records.jsonl", Sample)


def rewards(run):
    found = read_records(run / "iter_1" / "reward" / "records.jsonl", ModelReward)
    return {(one.item, one.repeat): one.reward for one in found}


def by_item(records):
    found = {}
    for one in records:
        found.setdefault(one.item, []).append(one)
    return found


def share(text):
    return sum(c.isascii() and c.isalpha() for c in text) / max(len(text), 1)


def stages(run):
    """What learning made; the gate's measurements have a model's name at the end."""
    folders = [path.name for path in (run / "iter_1").iterdir() if path.is_dir()]
    return sorted(name for name in folders if "_M" not in name)


@pytest.mark.slow
def test_rejection_sampling_learns_the_responses_with_the_best_score(
    tiny_model, tmp_path, toy_letters
):
    run = tmp_path / "run"
    result = train(config(tiny_model, method="rejection_sampling", pairs={"per_prompt": 1}), run)
    assert stages(run) == ["explore", "feedback", "responses", "train"]
    learned = read_records(run / "iter_1" / "responses" / "responses.jsonl", Example)
    assert len(learned) == result.iterations[0].lessons.lessons > 0
    answers = by_item(explored(run))
    for one in learned:
        whole = [s for s in answers[one.item] if s.finish_reason != "length"]
        assert share(one.response) == max(share(s.response) for s in whole)
    assert Board(run / "board").verify() == []
    assert "responses" in markdown(result)


@pytest.mark.slow
def test_rejection_sampling_asks_the_reward_model_where_there_is_one(
    tiny_model, tmp_path, toy_letters, reward
):
    run = tmp_path / "run"
    changes = {"method": "rejection_sampling", "pairs": {"per_prompt": 1}, "reward": reward}
    result = train(config(tiny_model, **changes), run)
    assert stages(run) == ["explore", "responses", "reward", "train"]
    learned = read_records(run / "iter_1" / "responses" / "responses.jsonl", Example)
    known, answers = rewards(run), by_item(explored(run))
    assert learned
    for one in learned:
        whole = [s for s in answers[one.item] if s.finish_reason != "length"]
        best = max(whole, key=lambda s: known[s.item, s.repeat])
        assert one.response == best.response
    shown = result.iterations[0].lessons.mean_reward["toy_letters"]
    assert shown == pytest.approx(sum(known.values()) / len(known))


@pytest.fixture(scope="module")
def reward_only(tiny_model, letters_are_good, tmp_path_factory):
    """A run that learned from rewards alone, for the tests that only look or compare."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tasks")
        (folder / "toy.yaml").write_text(toy.YAML)
        patch.setattr(tasks, "FOLDER", folder)
        patch.setattr(tasks, "_all", lambda: {"toy_letters": toy.LETTERS})
        source = {"models": [str(letters_are_good)]}
        settings = config(tiny_model, method="reward_only", reward=source)
        return settings, train(settings, out), out


@pytest.mark.slow
def test_reward_only_pairs_by_the_reward_model_without_feedback(reward_only):
    _, result, run = reward_only
    assert stages(run) == ["explore", "pairs", "reward", "train"]
    pairs = read_records(run / "iter_1" / "pairs" / "pairs.jsonl", Pair)
    known, answers = rewards(run), by_item(explored(run))
    assert len(known) == 8 * N and pairs
    for pair in pairs:
        said = {s.response: known[s.item, s.repeat] for s in answers[pair.item]}
        assert said[pair.chosen] > said[pair.rejected]
        assert pair.chosen_origin == pair.rejected_origin == "explored"
    iteration = result.iterations[0]
    assert (iteration.lessons.sampled, iteration.lessons.refinements) == (8 * N, 0)
    assert Board(run / "board").verify() == []
    assert "reward s" in report(run)


def test_the_reward_model_is_part_of_what_a_run_is(
    reward_only, tiny_model, letters_are_good, tmp_path, toy_letters
):
    _, result, run = reward_only
    assert json.loads((run / "run.json").read_text())["reward"]
    moved = shutil.copytree(letters_are_good, tmp_path / "moved")
    same = config(tiny_model, method="reward_only", reward={"models": [str(moved)]})
    assert train(same, run).incumbent == result.incumbent  # wherever it lies
    (moved / "reward_model.json").unlink()
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    with pytest.raises(UserError, match="--fresh"):
        train(same, run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        "rlrf.models.reward.rewarder.RewardModel",
        "rlrf.methods.reward_only.dpo",
        "rlrf.loop.evaluate",
    ],
)
def test_a_run_killed_in_any_stage_ends_with_the_same_artefacts(
    reward_only, tmp_path, toy_letters, stage
):
    settings, _, whole = reward_only

    def killed(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, killed)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "run")
    train(settings, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(whole)


@pytest.mark.slow
def test_an_ensemble_and_slic_are_settings_of_reward_only(
    tiny_model, tmp_path, toy_letters, letters_are_good
):
    both = {"models": [str(letters_are_good)] * 2, "beta": 1.0}
    slic = config(tiny_model).train.model_copy(update={"loss": {"hinge": 1.0, "sft": 0.1}})
    run = tmp_path / "run"
    changes = {"method": "reward_only", "reward": both, "train": slic.model_dump()}
    result = train(config(tiny_model, **changes), run)
    (first, *_) = [
        json.loads(line)
        for line in (run / "iter_1" / "train" / "metrics.jsonl").read_text().splitlines()
    ]
    assert first["loss"] > 1  # the hinge at the start, and some likelihood
    assert result.iterations[0].gate is not None


@pytest.mark.slow
def test_rewards_near_a_demonstration_are_a_setting_of_reward_only(
    tiny_model, tmp_path, toy_letters, letters_are_good
):
    path = tmp_path / "shown.jsonl"
    prompts = [item.prompt for item in toy.LETTERS.items("train")]
    path.write_text(
        "".join(json.dumps({"prompt": p, "response": "abc answer"}) + "\n" for p in prompts)
    )
    source = {"models": [str(letters_are_good)], "demonstrations": str(path)}
    run = tmp_path / "run"
    train(config(tiny_model, method="reward_only", reward=source), run)
    assert all(reward <= 0 for reward in rewards(run).values())
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="have no demonstration"):
        train(config(tiny_model, method="reward_only", reward=source), tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize("by", ["score", "model"])
def test_rrhf_learns_the_order_of_the_responses(tiny_model, tmp_path, toy_letters, reward, by):
    run = tmp_path / "run"
    source = reward if by == "model" else None
    result = train(config(tiny_model, method="rrhf", reward=source), run)
    rankings = read_records(run / "iter_1" / "rankings" / "rankings.jsonl", Ranking)
    assert len(rankings) == result.iterations[0].lessons.lessons > 0
    known = rewards(run) if by == "model" else {}
    for one in rankings:
        samples = {s.response: s for s in by_item(explored(run))[one.item]}
        worth = [
            known[one.item, samples[text].repeat] if known else share(text)
            for text in one.responses
        ]
        assert worth == sorted(worth, reverse=True)
    steps = (run / "iter_1" / "train" / "metrics.jsonl").read_text().splitlines()
    assert all("rank_loss" in json.loads(line) for line in steps)
    assert Board(run / "board").verify() == []
    assert "rankings" in markdown(result) and "rankings" in report(run)


@pytest.mark.slow
def test_a_run_of_rrhf_killed_while_it_trains_ends_the_same(tiny_model, tmp_path, toy_letters):
    def killed(*_, **__):
        raise KeyboardInterrupt

    rrhf = config(tiny_model, method="rrhf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlrf.methods.rrhf.rrhf", killed)
        with pytest.raises(KeyboardInterrupt):
            train(rrhf, tmp_path / "killed")
    train(rrhf, tmp_path / "killed")
    train(rrhf, tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_the_filter_keeps_the_best_by_reward_and_only_they_are_judged(
    tiny_model, tmp_path, toy_letters, reward
):
    run = tmp_path / "run"
    result = train(config(tiny_model, explore={"n": N, "keep": 2}, reward=reward), run)
    judged = read_records(run / "iter_1" / "feedback" / "records.jsonl", Judged)
    known, answers = rewards(run), by_item(explored(run))
    kept = by_item([one.sample for one in judged])
    assert len(judged) == 8 * 2
    for item, samples in answers.items():
        best = sorted((known[s.item, s.repeat] for s in samples), reverse=True)[:2]
        assert sorted((known[s.item, s.repeat] for s in kept[item]), reverse=True) == best
    lessons = result.iterations[0].lessons
    assert lessons.refinements > 0
    assert lessons.sampled == 8 * N + lessons.refinements  # what was filtered out was sampled too


@pytest.mark.slow
def test_without_a_word_on_what_is_wrong_only_the_score_is_known(tiny_model, tmp_path, toy_letters):
    run = tmp_path / "run"
    tasks = [{"name": "toy_letters", "prompts": 8, "feedback": "score"}]
    train(config(tiny_model, tasks=tasks), run)
    judged = read_records(run / "iter_1" / "feedback" / "records.jsonl", Judged)
    for one in judged:
        (aspect,) = one.feedback.aspects
        assert aspect.aspect == "letters"
        assert aspect.grade == round(2 * one.score.values["letters"])
    said = {aspect.justification for one in judged for aspect in one.feedback.aspects}
    assert len(said) <= 2 and not any("letter" in words for words in said)
    refined = (run / "iter_1" / "reflect" / "records.jsonl").read_text()
    assert "The answer can be better." in refined and "Use more letters." not in refined


@pytest.mark.slow
def test_where_the_gate_is_not_enforced_a_rejected_candidate_takes_over_and_it_is_said(
    tiny_model, tmp_path, toy_letters, capsys
):
    run = tmp_path / "run"
    harmless = {"learning_rate": 1e-12, "batch_size": 8, "max_length": 200}
    gate = {"slice": 20, "sealed": 10, "enforce": False}
    result = train(
        config(tiny_model, method="rejection_sampling", iterations=2, train=harmless, gate=gate),
        run,
    )
    assert [iteration.explored_by for iteration in result.iterations] == ["M0", "M1"]
    assert [iteration.outcome for iteration in result.iterations] == ["not enforced"] * 2
    assert not any(iteration.gate.promotion.promoted for iteration in result.iterations)
    assert result.incumbent == "M2"
    assert "M1 takes over although it did not pass" in capsys.readouterr().err
    # The record holds what the gate said, and it follows from the scores.
    assert Board(run / "board").verify() == []
    promotions = [
        row.entry.promotion.promoted
        for row in Board(run / "board").rows()
        if row.entry.kind == "promotion"
    ]
    assert promotions == [False, False]
    told = markdown(result)
    assert "not enforced" in told and "M1 was not promoted" in told and "**M2**" in told
    page = report(run)
    assert "not enforced" in page
    assert "M2 is the incumbent without having passed the gate" in page
    assert "passed the gate and is the incumbent" not in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "reward_only"}, "reward_only needs reward.models"),
        ({"explore": {"keep": 2}}, "explore.keep needs reward.models"),
        ({"reward": {"models": []}}, "reward.models"),
        ({"method": "ppo"}, "method"),
    ],
)
def test_a_method_without_what_it_needs_is_refused(tiny_model, changes, said):
    with pytest.raises(ValueError) as error:
        config(tiny_model, **changes)
    assert said.split(".")[-1] in str(error.value)


def test_a_language_model_that_is_to_reward_is_refused(tiny_model, tmp_path, toy_letters):
    words = tiny.save(tmp_path / "words", seed=3)
    with pytest.raises(UserError, match="is not a reward model"):
        train(
            config(tiny_model, method="reward_only", reward={"models": [str(words)]}),
            tmp_path / "run",
        )
