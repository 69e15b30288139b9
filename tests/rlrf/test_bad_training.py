"""What goes wrong in training: memory, likelihoods that explode, nothing to learn, reward models
that are none. A sentence says what to change, nothing half done is kept, and the run goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import toy
from test_loop import config, contents

import tasks
from harness.board import Board
from harness.core.errors import UserError
from rlrf.cli import run
from rlrf.loop import train
from rlrf.report import report
from rlrf.result import markdown

EXPLODES = {"learning_rate": 1e30, "max_grad_norm": 1e30, "batch_size": 4, "max_length": 200}


def written(path: Path, model: Path, **changes) -> Path:
    """A configuration as a file."""
    path.write_text(config(model, **changes).model_dump_json(exclude_defaults=True))
    return path


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Memory -----------------------------------------------------------------------------------------


def lacking_on_a_gpu(*_, **__):
    """A fake: no machine of ours lacks memory when a test asks."""
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def lacking_on_a_cpu(*_, **__):
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..")


@pytest.fixture(scope="module")
def letters_reward(tmp_path_factory, tiny_model):
    """A random reward model."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("reward") / "model"
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [lacking_on_a_gpu, lacking_on_a_cpu])
@pytest.mark.parametrize(
    ("where", "stage", "remedy"),
    [
        (
            "harness.engines.reader.Reader.forward",
            "iter_1/explore",
            "a shorter max_tokens or dtype",
        ),
        ("transformers.AutoModelForCausalLM.from_pretrained", "iter_1/explore", "smaller model or"),
        ("transformers.Trainer.training_step", "iter_1/train", "Lower train.batch_size, and raise"),
        ("rlrf.models.reward.model.batches", "iter_1/reward", "bfloat16 (engine.dtype)"),
    ],
)
def test_too_little_memory_is_said_with_the_stage_and_a_remedy(
    tiny_model, letters_reward, tmp_path, toy_letters, capsys, *, lacking, where, stage, remedy
):
    file = written(
        tmp_path / "run.yaml",
        tiny_model,
        tasks=[{"name": "toy_letters", "prompts": 4}],
        explore={"n": 4, "keep": 3},
        reward={"models": [str(letters_reward)]},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, lacking)
        assert run(["train", str(file), "--out", str(tmp_path / "run")]) == 3
    out, err = capsys.readouterr()
    said = err.strip().splitlines()[-1]
    assert out == "" and said.startswith(f"rlrf: {stage}: ") and remedy in said
    assert said.endswith("Finished stages are kept.")
    assert not (tmp_path / "run" / stage).exists()
    assert not list((tmp_path / "run").rglob(".*.*"))  # nothing half done


@pytest.mark.slow
def test_a_run_that_lacked_memory_ends_as_one_that_did_not(tiny_model, tmp_path, toy_letters):
    few = {"tasks": [{"name": "toy_letters", "prompts": 8}]}
    train(config(tiny_model, **few), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.Trainer.training_step", lacking_on_a_gpu)
        with pytest.raises(UserError, match="iter_1/train"):
            train(config(tiny_model, **few), tmp_path / "run")
    train(config(tiny_model, **few), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


# A loss that is no number ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_that_diverges_is_rolled_back_and_the_run_goes_on(
    tiny_model, tmp_path, toy_letters, capsys
):
    asked = config(tiny_model, iterations=2, train=EXPLODES)
    result = train(asked, tmp_path / "run")
    assert [iteration.outcome for iteration in result.iterations] == ["stopped", "stopped"]
    assert [iteration.explored_by for iteration in result.iterations] == ["M0", "M0"]
    assert result.incumbent == "M0"
    for iteration in result.iterations:
        assert (
            "training diverged at step" in iteration.stopped
            and "lower learning_rate" in iteration.stopped
        )
        folder = tmp_path / "run" / f"iter_{iteration.number}" / "train"
        assert sorted(p.name for p in folder.iterdir()) == [
            "diverged.json", "manifest.json", "metrics.jsonl"
        ]  # fmt: skip
        assert all(row["step"] >= 1 for row in rows(folder / "metrics.jsonl"))
    table = markdown(result)
    assert table.count("| stopped") == 2 and "diverged at step" in table
    page = report(tmp_path / "run")
    assert "diverged at step" in page and "M0 stays the incumbent" in page
    assert [row["outcome"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == ["stopped"] * 2

    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlrf.methods.rlrf.dpo", lambda *_, **__: pytest.fail("trained again"))
        assert train(asked, tmp_path / "run") == result
    assert "iteration 1 is rolled back, M0 stays" in capsys.readouterr().err


# Nothing to learn --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"pairs": {"threshold": 1.0}}, "below threshold 4: lower pairs.threshold"),
        ({"explore": {"n": 1}, "reflect": {"m": 0}}, "one response 4: raise explore.n"),
        (
            {"explore": {"n": 3, "temperature": 0}, "reflect": {"m": 0}},
            "one response 4: raise explore.temperature above 0",
        ),
        ({"pairs": {"min_chosen": 1.0}}, "none choosable 4: lower pairs.min_chosen"),
    ],
)
def test_a_run_without_pairs_says_what_to_change_and_ends_well(
    tiny_model, tmp_path, toy_letters, capsys, *, changes, remedy
):
    few = {"tasks": [{"name": "toy_letters", "prompts": 4}], "gate": {"slice": 5, "sealed": 5}}
    file = written(tmp_path / "run.yaml", tiny_model, iterations=2, **few, **changes)
    assert run(["train", str(file), "--out", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    assert f"iteration 1 has nothing to train on; {remedy}" in err
    assert out.strip().splitlines()[-1].startswith("No iteration made a candidate, so M0 stays")
    assert "M1 was not promoted: 0 pairs from 4 prompts" in out and f"What helps: {remedy}" in out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["incumbent"] == "M0"
    assert [row["lessons"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == [0, 0]


def test_equal_rewards_ask_for_more_or_warmer_responses(
    tiny_model, tmp_path, toy_letters, monkeypatch
):
    import dataclasses

    def even(answered, judge=None):
        found = toy.LETTERS.score(answered, judge)
        return [one.model_copy(update={"values": {"letters": 0.5}}) for one in found]

    task = dataclasses.replace(toy.LETTERS, score=even)
    monkeypatch.setattr(tasks, "_all", lambda: {"toy_letters": task})
    few = {"tasks": [{"name": "toy_letters", "prompts": 4}], "gate": {"slice": 5, "sealed": 5}}
    result = train(config(tiny_model, **few), tmp_path / "run")
    (iteration,) = result.iterations
    assert "equal rewards 4: raise explore.n or explore.temperature" in iteration.reasons[0]


# Lengths -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_does_not_fit_is_counted_for_the_user(tiny_model, tmp_path, toy_letters, capsys):
    few = {"tasks": [{"name": "toy_letters", "prompts": 8}], "gate": {"slice": 5, "sealed": 5}}
    settings = {"learning_rate": 1e-3, "batch_size": 8, "max_length": 43}
    result = train(config(tiny_model, train=settings, **few), tmp_path / "run")
    made = result.iterations[0].lessons.lessons
    err = capsys.readouterr().err
    assert f"of {made} pairs do not fit into 43 tokens and are left out" in err


def test_prompts_that_leave_no_room_are_cut_and_counted_once_a_stage(
    tiny_model, tmp_path, toy_letters, capsys
):
    room = {"n": 2, "max_tokens": 250}  # of a context of 256
    file = written(
        tmp_path / "run.yaml", tiny_model, tasks=[{"name": "toy_letters", "prompts": 4}],
        explore=room,
    )  # fmt: skip
    assert run(["explore", str(file), "--out", str(tmp_path / "samples.jsonl")]) == 0
    err = capsys.readouterr().err
    assert err.count("4 of 4 prompts were longer than the 6 tokens") == 1
    assert all(row["prompt_tokens"] == 6 for row in rows(tmp_path / "samples.jsonl"))


# Reward models -----------------------------------------------------------------------------------


def test_reward_models_that_are_none_are_refused_before_anything_is_generated(
    tiny_model, letters_reward, tmp_path, toy_letters, capsys
):
    from transformers import AutoTokenizer

    other = tmp_path / "other"
    shutil.copytree(letters_reward, other)
    tokenizer = AutoTokenizer.from_pretrained(letters_reward)
    tokenizer.add_tokens(["<|more|>", "<|still more|>"])
    tokenizer.save_pretrained(other)
    several = tmp_path / "several"
    shutil.copytree(letters_reward, several)
    settings = json.loads((several / "config.json").read_text())
    labels = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    (several / "config.json").write_text(json.dumps(settings | labels))
    for model, said in (
        (tiny_model, "is not a reward model: its head gives words, not a number"),
        (other, "it is another model's tokenizer"),
        (several, "gives 2 numbers per text, but a reward is one"),
        (tmp_path / "none", "There is no model folder"),
        ("nobody/has-it", "neither a folder here nor a model that the Hugging Face hub gives out"),
    ):
        file = written(
            tmp_path / "run.yaml", tiny_model, method="reward_only", reward={"models": [str(model)]}
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("harness.engines.hf.HFEngine", lambda *_, **__: pytest.fail("generated"))
            assert run(["train", str(file), "--out", str(tmp_path / "run")]) == 3
        out, err = capsys.readouterr()
        assert out == "" and said in err and "Traceback" not in err
        assert not (tmp_path / "run").exists()


def test_a_configuration_that_lies_about_the_head_is_found_out(
    tiny_model, letters_reward, tmp_path
):
    from rlrf.config import Device
    from rlrf.models.reward.model import RewardModel

    lying = tmp_path / "lying"
    shutil.copytree(tiny_model, lying)
    shutil.copy(letters_reward / "config.json", lying / "config.json")
    with pytest.raises(UserError, match=r"lack score\.weight: they are not a reward model's"):
        RewardModel(lying, device=Device(device="cpu"))


# Reward that rises while the benchmark falls -----------------------------------------------------


@pytest.mark.slow
def test_reward_that_rises_while_the_benchmark_falls_raises_an_alarm(
    tiny_model, letters_reward, tmp_path, toy_letters, monkeypatch
):
    """The reward is a fake that likes everything but letters, so that learning it loses them."""
    import numpy as np

    from rlrf.models.reward.rewarder import Rewarder

    def hates_letters(self, samples, items):
        return np.array([1 - toy._letters(sample.response) for sample in samples])

    monkeypatch.setattr(Rewarder, "score", hates_letters)
    asked = config(
        tiny_model,
        method="reward_only",
        pairs={"threshold": 0.01},
        reward={"models": [str(letters_reward)]},
    )
    result = train(asked, tmp_path / "run")
    (iteration,) = result.iterations
    (check,) = iteration.gate.vs_incumbent.checks
    assert check.delta < -check.stderr
    (alarm,) = [alarm for alarm in iteration.gate.vs_incumbent.alarms if alarm.kind == "reward"]
    assert "letters fell" in alarm.message
    assert iteration.gate.vs_anchor == iteration.gate.vs_incumbent
    (row,) = rows(tmp_path / "run" / "metrics.jsonl")
    assert row["gate_model_reward"]["toy_letters"] == pytest.approx(
        1 - row["gate"]["toy_letters letters"]
    )
    assert row["gate_model_reward"]["toy_letters"] > row["explored_model_reward"]["toy_letters"]
    assert Board(tmp_path / "run" / "board").verify() == []


# Numbers -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_iteration_leaves_a_row_of_numbers(tiny_model, tmp_path, toy_letters):
    result = train(config(tiny_model), tmp_path / "run")
    (row,) = rows(tmp_path / "run" / "metrics.jsonl")
    (iteration,) = result.iterations
    steps = rows(tmp_path / "run" / "iter_1" / "train" / "metrics.jsonl")
    for name in ("logp_chosen", "logp_rejected", "loss"):
        assert row["training"][name] == [steps[0][name], steps[-1][name]]
    assert row["refinements_improved"] == pytest.approx(
        iteration.lessons.refinements_better / iteration.lessons.refinements
    )
    gate = iteration.gate.vs_incumbent.checks[0]
    assert row["gate"]["toy_letters letters"] == pytest.approx(gate.candidate_mean)
    samples = rows(tmp_path / "run" / "iter_1" / "evaluate_M1" / "toy_letters" / "samples.jsonl")
    assert row["gate_tokens"]["toy_letters"] == pytest.approx(
        sum(sample["completion_tokens"] for sample in samples) / len(samples)
    )
    assert row["explored_tokens"] == iteration.lessons.mean_tokens
    assert row["explored_model_reward"] == row["gate_model_reward"] == {}


@pytest.mark.slow
def test_metrics_go_to_tensorboard_beside_the_stages(tiny_model, tmp_path, toy_letters):
    few = {"tasks": [{"name": "toy_letters", "prompts": 8}], "gate": {"slice": 5, "sealed": 5}}
    settings = {"learning_rate": 1e-3, "batch_size": 8, "max_length": 200}
    told = settings | {"report_to": ["tensorboard"]}
    train(config(tiny_model, train=told, **few), tmp_path / "told")
    train(config(tiny_model, train=settings, **few), tmp_path / "plain")
    (events,) = (tmp_path / "told" / "logs" / "iter_1").glob("events.out.tfevents.*")
    assert b"train/logps/chosen" in events.read_bytes()
    assert not (tmp_path / "plain" / "logs").exists()
    stage = [contents(tmp_path / run / "iter_1" / "train") for run in ("told", "plain")]
    assert stage[0] == stage[1]


def test_a_reporter_that_is_not_installed_is_said_before_anything_is_generated(
    tiny_model, tmp_path, toy_letters, monkeypatch
):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    asked = config(tiny_model, train={"report_to": ["wandb"]})
    with pytest.raises(UserError, match="names wandb, which is not installed: pip install wandb"):
        train(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()
