from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import UserError
from harness.judges.config import load_judging
from rlrf.config import load

LEAST = "model: some/model\ntasks: [{name: toy}]\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_model_and_tasks_are_enough(tmp_path):
    config = load(write(tmp_path, LEAST))
    assert config.model == "some/model"
    assert config.iterations == 2
    assert config.train.loss == {"sigmoid": 1.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            LEAST + "pairs: {treshold: 1}",
            "there is no key 'pairs.treshold'. Did you mean 'threshold'?",
        ),
        (LEAST + "adapter: {rank: 2}", "there is no key 'adapter.rank'. Known are alpha,"),
        (LEAST + "train: {loss: {dpo: 1}}", "train.loss.dpo"),
        (LEAST + "train: {beta: -1}", "train.beta: Input should be greater than 0, not -1"),
        (LEAST + "seed: [1]", "seed: Input should be a valid integer."),
        (LEAST + "explore: {keep: 2}", "explore.keep needs reward.models"),
        (
            LEAST + "method: reward_only\nexplore: {keep: 2}\nreward: {models: [a]}",
            "explore.keep is only for method: rlrf",
        ),
        (LEAST + "reward: {models: [a], beta: 1}", "name several reward.models"),
        ("model: x", "'tasks' is missing"),
        ("model: x\ntasks: []", "tasks"),
        (
            "model: x\ntasks: [{nam: a}]",
            "there is no key 'tasks.0.nam'. Did you mean 'name'?",
        ),
        ("model: x\ntasks: [{name: a}, {name: a}]", "a is named twice"),
        (LEAST + "gate: {policy: {rules: [{task: b, metric: m, margin: 1}]}}", "rules for b"),
        (
            LEAST + "gate: {policy: {rules: [{task: toy, metrik: m, margin: 1}]}}",
            "there is no key 'gate.policy.rules.0.metrik'. Did you mean 'metric'?",
        ),
        ("just words", "keys and values are expected"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_fault_is_named_with_file_and_key(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        load(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        load(tmp_path / "none.yaml")


def test_folders_are_found_beside_the_file(tmp_path):
    (tmp_path / "m0").mkdir()
    config = load(write(tmp_path, "model: m0\ntasks: [{name: toy, data: m0}]\n"))
    assert config.model == str(tmp_path / "m0")
    assert config.tasks[0].data == str(tmp_path / "m0")


def test_identity_is_what_is_done_and_not_where(tmp_path):
    (tmp_path / "m0").mkdir()
    here = load(write(tmp_path, "model: m0\ntasks: [{name: toy}]\nboard: b\n"))
    there = load(write(tmp_path, LEAST))
    other = load(write(tmp_path, LEAST + "seed: 1\n"))
    assert here.identity == there.identity != other.identity


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_examples_are_valid(path):
    config = load(path)
    assert config.tasks
    assert load_judging(Path(config.judge) if config.judge else None)


def test_a_model_whose_name_is_too_long_for_a_file_is_a_hub_name(tmp_path):
    (tmp_path / "run.yaml").write_text(f"model: {'m' * 5000}\ntasks: [{{name: mini_gsm8k}}]\n")
    assert load(tmp_path / "run.yaml").model == "m" * 5000


@pytest.mark.parametrize("written", ["mine", "[mine, other]"])
def test_folders_of_benchmarks_are_looked_for_next_to_the_file_and_are_not_identity(
    tmp_path, written
):
    (tmp_path / "mine").mkdir()
    plain = load(write(tmp_path, LEAST))
    config = load(write(tmp_path, f"{LEAST}include_path: {written}\n"))
    assert config.include_path[0] == str((tmp_path / "mine").resolve())
    assert config.include_path[1:] == (["other"] if "other" in written else [])
    assert config.identity == plain.identity
    assert "include_path" not in plain.model_dump()


def test_the_longest_response_of_a_task_is_identity_only_where_it_is_set(tmp_path):
    plain = load(write(tmp_path, LEAST))
    shorter = load(write(tmp_path, LEAST.replace("name: toy", "name: toy, max_tokens: 64")))
    assert shorter.identity != plain.identity
    assert "max_tokens" not in plain.model_dump()["tasks"][0]
