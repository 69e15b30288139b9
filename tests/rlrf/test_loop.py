from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from helpers import toy

import tasks
from harness.board import Board
from harness.core.errors import UserError
from harness.engines.model_folder import Checkpoint
from rlrf.config import Config
from rlrf.loop import train
from rlrf.result import markdown


def config(model: Path, **changes) -> Config:
    settings = {
        "model": str(model),
        "iterations": 1,
        "tasks": [{"name": "toy_letters", "prompts": 16}],
        "explore": {"n": 4},
        "reflect": {"m": 1},
        "pairs": {"threshold": 0.05},
        "train": {"learning_rate": 2e-2, "batch_size": 8, "max_length": 200, "epochs": 6},
        "gate": {"slice": 30, "sealed": 20},
        "engine": {"device": "cpu"},
    }
    return Config.model_validate(settings | changes)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but what holds a clock or a lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "result.json", ".lock")
    }


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    """A run of one iteration, for the tests that only look: its result and its folder."""
    out = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tasks")
        (folder / "toy.yaml").write_text(toy.YAML)
        patch.setattr(tasks, "FOLDER", folder)
        patch.setattr(tasks, "_all", lambda: {"toy_letters": toy.LETTERS})
        return train(config(tiny_model), out), out


@pytest.mark.slow
def test_a_run_improves_gates_and_records(finished):
    result, out = finished
    (iteration,) = result.iterations
    assert iteration.lessons.lessons > 0
    assert iteration.gate.vs_incumbent == iteration.gate.vs_anchor
    assert iteration.outcome == "promoted"
    assert result.incumbent == "M1"
    before, after = (model.metrics["toy_letters letters"].mean for model in result.sealed)
    assert after > before
    assert Board(out / "board").verify() == []
    kinds = [row.entry.kind for row in Board(out / "board").rows()]
    assert kinds.count("evaluation") == 4
    assert kinds.count("decision") == 3
    assert kinds.count("promotion") == 1


def test_the_result_is_told_in_a_table_with_the_optimism(finished):
    result, out = finished
    told = markdown(result)
    assert "**M1**" in told and "promoted" in told
    gap = result.optimism("M1")["toy_letters letters"]
    at_gate = result.iterations[0].gate.vs_anchor.checks[0].delta
    sealed = result.sealed[1].vs_anchor.checks[0].delta
    assert gap == pytest.approx(at_gate - sealed)
    assert result.optimism("M0") == {}
    assert json.loads((out / "result.json").read_text())["incumbent"] == "M1"


def test_the_trained_model_is_a_plain_transformers_folder(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result, _ = finished
    model = AutoModelForCausalLM.from_pretrained(result.weights)
    assert model.config.use_cache
    assert AutoTokenizer.from_pretrained(result.weights).chat_template


def test_a_finished_run_loads_no_model_again(finished, tiny_model, monkeypatch, toy_letters):
    result, out = finished
    monkeypatch.setattr("harness.engines.hf.HFEngine", lambda *a, **k: pytest.fail("loaded"))
    rows = len(Board(out / "board").rows())
    assert train(config(tiny_model), out) == result
    assert len(Board(out / "board").rows()) == rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", ["rlrf.feedback.give_feedback", "rlrf.methods.rlrf.dpo", "rlrf.loop.evaluate"]
)
def test_a_run_killed_in_any_stage_ends_with_the_same_artefacts(
    finished, tiny_model, tmp_path, toy_letters, stage
):
    _, whole = finished

    def killed(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, killed)
        with pytest.raises(KeyboardInterrupt):
            train(config(tiny_model), tmp_path / "run")
    train(config(tiny_model), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(whole)


@pytest.mark.slow
def test_a_rejected_candidate_is_rolled_back_and_other_prompts_are_explored(
    tiny_model, tmp_path, toy_letters
):
    harmless = {"learning_rate": 1e-12, "batch_size": 8, "max_length": 200}
    result = train(config(tiny_model, iterations=2, train=harmless), tmp_path / "run")
    assert [iteration.outcome for iteration in result.iterations] == ["rolled back"] * 2
    assert [iteration.explored_by for iteration in result.iterations] == ["M0", "M0"]
    assert result.incumbent == "M0"
    explored = [
        (tmp_path / "run" / f"iter_{k}" / "explore" / "records.jsonl").read_text().splitlines()
        for k in (1, 2)
    ]
    items = [{json.loads(line)["item"] for line in lines} for lines in explored]
    assert not items[0] & items[1]


@pytest.mark.slow
def test_an_iteration_without_pairs_is_skipped_with_its_causes(tiny_model, tmp_path, toy_letters):
    result = train(config(tiny_model, pairs={"threshold": 1.0}), tmp_path / "run")
    (iteration,) = result.iterations
    assert iteration.outcome == "no pairs"
    assert sum(iteration.lessons.skipped.values()) == 16
    assert [model.name for model in result.sealed] == ["M0"]
    assert "no pairs" in markdown(result)


def test_pairs_that_repeat_a_sealed_item_block_the_iteration(
    tiny_model, tmp_path, toy_letters, monkeypatch, capsys
):
    def leaky(split, data=None):
        items = toy.LETTERS.items("train", data)
        own = toy.LETTERS.items(split, data)
        return [*own[1:], items[3].model_copy(update={"split": split, "index": 99})]

    task = dataclasses.replace(
        toy.LETTERS, items=lambda s, d=None: (leaky if s == "sealed" else toy.LETTERS.items)(s, d)
    )
    monkeypatch.setattr(tasks, "_all", lambda: {"toy_letters": task})
    everything = [{"name": "toy_letters", "prompts": 40}]
    result = train(config(tiny_model, tasks=everything), tmp_path / "run")
    (iteration,) = result.iterations
    assert iteration.outcome == "stopped" and result.incumbent == "M0"
    assert (
        iteration.stopped == "training texts repeat 1 of the held-out items: toy_letters sealed 99"
    )
    assert iteration.stopped in capsys.readouterr().err
    assert not (tmp_path / "run" / "iter_1" / "train").exists()


@pytest.mark.slow
def test_lora_candidates_are_measured_as_what_they_are(tiny_model, tmp_path, toy_letters):
    result = train(config(tiny_model, adapter={"r": 4}), tmp_path / "run")
    evaluations = {
        row.entry.name: row.entry.evaluation.model.digest
        for row in Board(tmp_path / "run" / "board").rows()
        if row.entry.kind == "evaluation"
    }
    assert evaluations["M0"] != evaluations["M1"]
    adapter = tmp_path / "run" / "iter_1" / "train" / "adapter"
    assert evaluations["M1"] == Checkpoint("M1", tiny_model, adapter).digest
    assert result.weights == str(tiny_model)


def test_another_configuration_in_the_same_folder_is_refused(finished, tiny_model, toy_letters):
    _, out = finished
    with pytest.raises(UserError, match="--fresh"):
        train(config(tiny_model, seed=1), out)


def test_a_task_that_holds_no_training_split_is_refused(tiny_model, tmp_path):
    with pytest.raises(UserError, match="has no train split"):
        train(config(tiny_model, tasks=[{"name": "svamp"}]), tmp_path / "run")


def test_a_rule_on_a_metric_that_is_not_measured_is_refused_at_once(
    tiny_model, tmp_path, toy_letters
):
    policy = {"rules": [{"task": "toy_letters", "metric": "lettres", "margin": 0.1}]}
    with pytest.raises(UserError, match="Did you mean 'letters'"):
        train(config(tiny_model, gate={"policy": policy}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
