"""Every stage alone, from file to file: what a run makes, and what is said to wrong files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlrf.cli import run
from rlrf.config import load
from rlrf.loop import train

SETTINGS = {
    "iterations": 2,
    "tasks": [{"name": "toy_letters", "prompts": 8}],
    "explore": {"n": 4},
    "reflect": {"m": 1},
    "pairs": {"threshold": 0.05},
    "train": {"learning_rate": 2e-2, "batch_size": 8, "max_length": 200, "epochs": 3},
    "gate": {"slice": 10, "sealed": 5, "enforce": False},
    "engine": {"device": "cpu"},
}


@pytest.fixture
def config(tmp_path, tiny_model, toy_letters):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(SETTINGS | {"model": str(tiny_model)}))
    return path


def rlrf(*arguments: object) -> None:
    assert run([str(argument) for argument in arguments]) == 0


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 3
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, {"r": 4}], ids=["weights", "lora"])
def test_the_stages_make_what_a_run_makes(config, tmp_path, capsys, adapter):
    settings = json.loads(config.read_text()) | {"adapter": adapter}
    config.write_text(json.dumps(settings))
    train(load(config), tmp_path / "run")
    first = tmp_path / "run" / "iter_1" / "train" / ("model" if adapter is None else "adapter")
    for iteration, model in ((1, []), (2, ["--model", first])):
        made, kept = tmp_path / f"iteration_{iteration}", tmp_path / "run" / f"iter_{iteration}"
        made.mkdir()
        samples, judged, refined, rejudged, pairs = (
            made / f"{name}.jsonl" for name in ("samples", "judged", "refined", "rejudged", "pairs")
        )
        of_iteration = ["--turn", iteration]
        rlrf("explore", config, *of_iteration, *model, "--out", samples)
        rlrf("feedback", config, samples, *of_iteration, "--out", judged)
        rlrf("reflect", config, judged, *of_iteration, *model, "--out", refined)
        rlrf("feedback", config, refined, *of_iteration, "--out", rejudged)
        capsys.readouterr()
        rlrf("pairs", config, judged, rejudged, *of_iteration, "--out", pairs, "--json")
        report = json.loads(capsys.readouterr().out)
        rlrf("train-step", config, pairs, *of_iteration, *model, "--out", made / "step")
        assert "logp_chosen" in capsys.readouterr().out
        for path, stage in (
            (samples, "explore"), (judged, "feedback"), (refined, "reflect"),
            (rejudged, "reflect_feedback"),
        ):  # fmt: skip
            assert path.read_bytes() == (kept / stage / "records.jsonl").read_bytes(), stage
        assert pairs.read_bytes() == (kept / "pairs" / "pairs.jsonl").read_bytes()
        assert report == {
            "out": str(pairs), **json.loads((kept / "pairs" / "report.json").read_text())
        }  # fmt: skip
        assert report["lessons"] > 0
        assert files(made / "step") == files(kept / "train")
    explored = [
        (tmp_path / f"iteration_{iteration}" / "samples.jsonl").read_bytes() for iteration in (1, 2)
    ]
    assert explored[0] != explored[1]


def test_a_dry_run_explores_the_first_prompts_of_the_iteration(config, tmp_path, capsys):
    few, judged = tmp_path / "few.jsonl", tmp_path / "judged.jsonl"
    rlrf("explore", config, "--limit", 2, "--out", few, "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["prompts"], told["samples"]) == (2, 8)
    rlrf("explore", config, "--out", tmp_path / "all.jsonl")
    everything = (tmp_path / "all.jsonl").read_text()
    assert everything.startswith(few.read_text())
    rlrf("feedback", config, few, "--out", judged)
    assert len(judged.read_text().splitlines()) == 8


def test_files_of_another_kind_or_iteration_are_refused(config, tmp_path, capsys):
    samples, judged, out = (tmp_path / f"{name}.jsonl" for name in ("samples", "judged", "out"))
    rlrf("explore", config, "--limit", 2, "--out", samples)
    rlrf("feedback", config, samples, "--out", judged)
    said = refused(capsys, "feedback", config, judged, "--out", out)
    assert "judged.jsonl holds judged responses; expected samples or refinements." in said
    said = refused(capsys, "reflect", config, samples, "--out", out)
    assert "holds samples; expected judged responses." in said
    said = refused(capsys, "train-step", config, samples, "--out", tmp_path / "step")
    assert "holds samples; expected pairs." in said
    rows = [json.loads(line) for line in judged.read_text().splitlines()]
    for field, value, what in (
        ("draft", 0, "there are only refinements"),
        ("sample", rows[0]["sample"] | {"task": "other"}, "does not ask"),
    ):
        odd = tmp_path / "odd.jsonl"
        odd.write_text(json.dumps(rows[0] | {field: value}) + "\n")
        assert what in refused(capsys, "pairs", config, odd, "--out", out)
    said = refused(capsys, "pairs", config, judged, samples, "--out", out)
    assert "samples.jsonl holds samples" in said
    for stage, file in (("feedback", samples), ("reflect", judged), ("pairs", judged)):
        said = refused(capsys, stage, config, file, "--turn", 2, "--out", out)
        assert "answers 2 prompts that iteration 2 of the configuration does not ask" in said
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"sample": 1}\n')
    said = refused(capsys, "reflect", config, odd, "--out", out)
    assert "odd.jsonl, line 1" in said
    assert "There is no file" in refused(capsys, "pairs", config, tmp_path / "no", "--out", out)
    assert not out.exists() and not (tmp_path / "step").exists()


def test_a_step_keeps_what_is_there_and_needs_pairs(config, tmp_path, capsys):
    empty = tmp_path / "pairs.jsonl"
    empty.write_text("")
    said = refused(capsys, "train-step", config, empty, "--out", tmp_path / "step")
    assert "holds no pairs" in said
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    said = refused(capsys, "train-step", config, empty, "--out", tmp_path / "thesis")
    assert "is there already" in said
    assert (tmp_path / "thesis" / "thesis.tex").exists()


def test_scoring_and_pairing_need_no_model(config, tmp_path):
    samples, judged = tmp_path / "samples.jsonl", tmp_path / "judged.jsonl"
    rlrf("explore", config, "--limit", 2, "--out", samples)
    config.write_text(json.dumps(SETTINGS | {"model": "nobody/has-it"}))
    rlrf("feedback", config, samples, "--out", judged)
    rlrf("pairs", config, judged, "--out", tmp_path / "pairs.jsonl")
    assert (tmp_path / "pairs.jsonl").read_text()


@pytest.mark.slow
def test_a_dry_run_is_small_apart_and_decides_nothing(config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = json.loads(config.read_text()) | {"board": "everyones"}
    config.write_text(json.dumps(settings))
    rlrf("train", config, "--limit", 3, "--json")
    out, err = capsys.readouterr()
    assert "at most 3 prompts and items per task: its verdicts decide nothing" in err
    (iteration,) = json.loads(out)["iterations"]
    assert iteration["lessons"]["prompts"] == 3
    assert iteration["gate"]["vs_incumbent"]["checks"][0]["n"] == 3
    assert (tmp_path / "runs" / "run-limit" / "result.json").exists()
    assert not (tmp_path / "everyones").exists() and not (tmp_path / "runs" / "run").exists()
    assert "--fresh" in refused(capsys, "train", config, "--out", "runs/run-limit")
