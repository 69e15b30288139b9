"""What a benchmark lacks for training is said by `rlrf train` and `rlrf doctor` beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.plugins import write_plugin

from rlrf.cli import run
from rlrf.config import load
from rlrf.loop import train

M0 = Path(__file__).parents[2] / "rlrf" / "quickstart" / "m0"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a plugin in the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_plugin(tmp_path / "mine" / "letters")


def configuration(model: Path, **changes: object) -> Path:
    """Write the configuration of a run on the plugin's benchmark, in one small iteration."""
    task = {"name": "letters", "prompts": 4} | changes.pop("task", {})  # type: ignore[operator]
    settings = {
        "model": str(model),
        "include_path": "mine",
        "iterations": 1,
        "tasks": [task],
        "explore": {"n": 4},
        "reflect": {"m": 1},
        "pairs": {"threshold": 0.05},
        "train": {"learning_rate": 1e-5, "batch_size": 4, "max_length": 200},
        "gate": {"slice": 4, "sealed": 3},
        "engine": {"device": "cpu"},
    }
    path = Path("configs") / "run.yaml"
    path.parent.mkdir(exist_ok=True)
    (path.parent / "mine").unlink(missing_ok=True)
    (path.parent / "mine").symlink_to(Path("mine").resolve())
    path.write_text(json.dumps(settings | changes))
    return path


def edit(plugin: Path, old: str, new: str, file: str = "__init__.py") -> None:
    text = (plugin / file).read_text()
    assert old in text
    (plugin / file).write_text(text.replace(old, new))


SPLITS = 'splits=("train", "gate", "sealed")'


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (SPLITS, 'splits=("gate", "sealed")', "that needs a train split to explore"),
        (SPLITS, 'splits=("train", "sealed")', "needs a gate split to decide on candidates"),
        (SPLITS, 'splits=("train", "gate")', "needs a sealed split to measure the models once"),
        ('"rose tulip daisy iris lily".split()', "[]", "The sealed split of letters is empty"),
        ("index=index", "index=0", "The train split of letters cannot be used: 12 items have"),
        ('task="letters"', 'task="words"', "says task 'words'"),
        ("split=split,", 'split="train",', "The gate split of letters cannot be used"),
        ('"max_tokens": 12', '"max_tokens": 4096', "set it under tasks: - name: letters, max_tok"),
    ],
)
def test_a_missing_part_is_said_before_anything_is_generated(
    plugin, tiny_model, capsys, old, new, said
):
    edit(plugin, old, new)
    config = configuration(tiny_model)
    assert run(["train", str(config), "--out", "run"]) == 3
    assert said in capsys.readouterr().err
    assert not Path("run").exists()
    assert run(["doctor", str(config), "--out", "run"]) == 3
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("text", [None, "task: [", "task: other\n"])
def test_a_benchmark_without_yaml_for_lm_eval_is_refused(plugin, tiny_model, capsys, text):
    (plugin / "letters.yaml").unlink()
    if text is not None:
        (plugin / "letters.yaml").write_text(text)
    config = configuration(tiny_model)
    evaluate = ["eval", "--model", str(tiny_model), "--tasks", "letters"]
    for command in (["train", str(config)], [*evaluate, "--include-path", "mine"]):
        assert run([*command, "--out", "run"]) == 3
        said = capsys.readouterr().err
        assert f"lm-eval finds no task 'letters' in {plugin}" in said
    assert not Path("run").exists()


def test_a_primary_metric_without_a_range_cannot_be_trained_on(plugin, tiny_model, capsys):
    edit(plugin, 'kind="binary"', 'kind="continuous", low=None', "scoring.py")
    config = configuration(tiny_model)
    assert run(["train", str(config), "--out", "run"]) == 3
    assert "The range of 'right'" in capsys.readouterr().err
    assert run(["doctor", str(config), "--out", "run"]) == 3
    assert "The range of 'right'" in capsys.readouterr().out


def test_a_limit_of_the_configuration_that_exceeds_the_context_is_named(plugin, tiny_model, capsys):
    for changes, said in (
        ({"explore": {"max_tokens": 4096}}, "explore.max_tokens is 4096, and the model's context"),
        ({"reflect": {"max_tokens": 4096}}, "reflect.max_tokens is 4096, and the model's context"),
        ({"task": {"max_tokens": 4096}}, "max_tokens 4096 of letters exceeds the model's context"),
    ):
        assert run(["train", str(configuration(tiny_model, **changes)), "--out", "run"]) == 3
        assert said in capsys.readouterr().err


def test_doctor_lists_the_benchmarks_that_it_includes_and_names_a_broken_plugin(
    plugin, tiny_model, capsys
):
    config = configuration(tiny_model)
    run(["doctor", str(config), "--json"])
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["include path"]["found"].startswith("letters in ")
    assert findings["task letters"]["ok"]
    edited = configuration(tiny_model, include_path="nowhere")
    assert run(["doctor", str(edited), "--json"]) == 3
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert "nowhere is not a folder" in findings["include path"]["advice"]


@pytest.mark.slow
def test_a_run_learns_from_a_benchmark_of_ones_own_and_keeps_to_its_limit(plugin, capsys):
    # Whether a response has an odd length is as good as chance: some are better than others.
    edit(
        plugin,
        'item.reference["answer"] in sample.response.split()',
        "len(sample.response) % 2",
        "scoring.py",
    )
    config = configuration(M0, task={"max_tokens": 80})
    result = train(load(config), Path("run"))
    assert [one.name for one in result.sealed] == ["M0", "M1"]
    folder = Path("run") / "iter_1"
    samples = [json.loads(row) for row in (folder / "explore/records.jsonl").open()]
    assert {sample["task"] for sample in samples} == {"letters"}
    assert max(sample["completion_tokens"] for sample in samples) <= 80
    feedback = (folder / "feedback" / "records.jsonl").read_text()
    assert "letters." in feedback
    for place in ("iter_1/evaluate_M0", "sealed/M0"):
        made = json.loads((Path("run") / place / "letters" / "evaluation.json").read_text())
        assert made["decoding"]["max_tokens"] == 80
    assert run(["board", "verify", "run/board", "--rescore", "--include-path", "mine"]) == 0
    assert run(["report", "run", "--include-path", "mine"]) == 0
