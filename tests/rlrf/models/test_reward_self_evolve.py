from __future__ import annotations

import json

import click
import pytest
from helpers import tiny

from harness.core.errors import UserError
from harness.core.files import write_jsonl
from rlrf.cli.reward_model import reward_model
from rlrf.models.reward import self_evolve as module
from rlrf.models.reward.preferences import Preference
from rlrf.models.reward.self_evolve import load, self_evolve
from rlrf.models.reward.self_evolve_report import markdown

YAML = """
model: model
pairs: pairs.jsonl
train: {{adapter: null, learning_rate: 1.0e-3, batch_size: 8, epochs: 3, center: 0.01}}
loops: 1
seed_fractions: [0.3]
seeds: [0, 1]
thresholds:
  own: {{minimum: {minimum}}}
  strict: {{minimum: 1000}}
engine: {{device: cpu}}
"""


def preference(i: int) -> Preference:
    return Preference(
        prompt=f"<|user|>What is {i} plus 4?<|end|><|assistant|>",
        chosen=f"The answer is {i + 4}.",
        rejected="What is that?" if i % 4 else f"The answer is {i}.",
        domain="form" if i % 4 else "sum",
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ser")
    tiny.save(folder / "model")
    write_jsonl(folder / "pairs.jsonl", [preference(i) for i in range(80)])
    (folder / "ser.yaml").write_text(YAML.format(minimum=5))
    return folder


@pytest.fixture(scope="module")
def result(place):
    return self_evolve(load(place / "ser.yaml"), place / "run")


@pytest.mark.slow
def test_every_seed_and_threshold_has_loops_beside_its_baselines(result, place):
    assert [(e.thresholds, e.seed) for e in result.evolutions] == [
        ("own", 0), ("own", 1), ("strict", 0), ("strict", 1),
    ]  # fmt: skip
    assert result.held_out + result.pairs == 80
    for one in result.evolutions:
        assert one.labelled + one.unlabelled == result.pairs
        assert one.plain.labels.pairs == one.unlabelled
        assert one.all_labels.labels is None
        assert one.loops[0].held_out.accuracy.n == result.held_out
        assert set(one.loops[0].held_out.by_domain) == {"form", "sum"}
    own, strict = result.evolutions[0], result.evolutions[2]
    assert own.loops[1].status in {1, 2}
    assert own.loops[1].labels == own.loops[1].added
    assert own.loops[1].added.pairs >= 5
    assert strict.loops[1:] == []
    assert strict.stopped == "loop 1 found fewer than 1000 pairs to be sure of"
    assert strict.loops[0] == own.loops[0]


def test_the_tables_are_over_seeds_and_gains_are_by_seed(result, place):
    by_name = {(row.thresholds, row.model): row for row in result.rows}
    bound, start = by_name["own", "all labels"], by_name["own", "loop 0"]
    assert start.gain is None
    assert bound.seeds == start.seeds == 2
    assert bound.gain.mean == pytest.approx(bound.accuracy.mean - start.accuracy.mean)
    assert by_name["strict", "last loop"].gain is None
    text = markdown(result)
    assert "plain pseudo-labels" in text
    assert (place / "run" / "result.md").read_text() == text + "\n"


@pytest.mark.slow
def test_a_run_is_resumed_and_only_what_is_missing_is_made_again(result, place, monkeypatch):
    import shutil

    made = []
    fit = module.train
    monkeypatch.setattr(module, "train", lambda *a, **k: made.append(k["out"]) or fit(*a, **k))
    shutil.rmtree(place / "run" / "seed_1" / "0.3_plain")
    again = self_evolve(load(place / "ser.yaml"), place / "run")
    assert len(made) == 1
    assert again.evolutions == result.evolutions


@pytest.mark.slow
def test_a_run_can_be_given_more_to_sweep_and_keeps_its_models(result, place, monkeypatch):
    import shutil

    made = []
    fit = module.train
    monkeypatch.setattr(module, "train", lambda *a, **k: made.append(k["out"]) or fit(*a, **k))
    shutil.copytree(place / "run", place / "more")
    config = load(place / "ser.yaml")
    fewer = {"seeds": [0], "thresholds": {"strict": config.thresholds["strict"]}}
    again = self_evolve(config.model_copy(update=fewer), place / "more")
    assert made == []
    assert again.evolutions == [result.evolutions[2]]
    self_evolve(config.model_copy(update=fewer | {"seeds": [0, 2]}), place / "more")
    assert {str(path.parent.parent.name) for path in made} == {"seed_2"}


def test_a_run_of_other_settings_is_refused(result, place):
    (place / "other.yaml").write_text(YAML.format(minimum=5).replace("epochs: 3", "epochs: 2"))
    with pytest.raises(UserError, match="holds a run of another"):
        self_evolve(load(place / "other.yaml"), place / "run")


def test_a_misspelt_key_is_told_with_the_one_that_was_meant(place):
    (place / "bad.yaml").write_text("model: m\npairs: p\nthreshold: {}\n")
    with pytest.raises(UserError, match="Did you mean 'thresholds'"):
        load(place / "bad.yaml")


def command(*arguments: object) -> None:
    with click.Context(reward_model) as parent:
        reward_model.main([str(a) for a in arguments], standalone_mode=False, parent=parent)


@pytest.mark.slow
def test_the_command_line_trains_and_measures_one_model_or_several(place, capsys):
    (place / "rm.yaml").write_text("{adapter: null, learning_rate: 1.0e-3, batch_size: 8}")
    for seed in (0, 1):
        command(
            "train", place / "pairs.jsonl", "--base", place / "model", "--seed", seed,
            "--settings", place / "rm.yaml", "--out", place / f"rm{seed}", "--json",
        )  # fmt: skip
    capsys.readouterr()
    command("evaluate", place / "rm0", "--pairs", place / "pairs.jsonl")
    told = capsys.readouterr().out
    assert "| form" in told
    assert "calibration error" in told
    command(
        "evaluate", place / "rm0", place / "rm1", "--beta", "1", "--json",
        "--pairs", place / "pairs.jsonl",
    )  # fmt: skip
    assert json.loads(capsys.readouterr().out)["accuracy"]["n"] == 80


def test_the_command_line_shows_the_tables_of_a_run(result, place, capsys):
    command("self-evolve", place / "ser.yaml", "--out", place / "run")
    shown = capsys.readouterr()
    assert "| last loop" in shown.out
    assert "loop_0: done before" in shown.err
