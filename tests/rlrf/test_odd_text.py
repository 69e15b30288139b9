"""Odd text in the files of an iteration is read, or refused with file and line."""

from __future__ import annotations

import json

import pytest

from rlrf.cli import run

LONE = "\ud800 half"
SETTINGS = {
    "iterations": 1,
    "tasks": [{"name": "toy_letters", "prompts": 8}],
    "explore": {"n": 4},
    "reflect": {"m": 1},
    "pairs": {"threshold": 0.05},
    "train": {"learning_rate": 2e-2, "batch_size": 8, "max_length": 200},
    "gate": {"slice": 10, "sealed": 5, "enforce": False},
    "engine": {"device": "cpu"},
}


@pytest.fixture
def made(tmp_path, tiny_model, toy_letters):
    """The files of an iteration, stage by stage."""
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(SETTINGS | {"model": str(tiny_model)}))
    files = {name: tmp_path / f"{name}.jsonl" for name in ("samples", "judged", "pairs")}
    assert run(["explore", str(config), "--limit", "4", "--out", str(files["samples"])]) == 0
    assert run(["feedback", str(config), str(files["samples"]), "--out", str(files["judged"])]) == 0
    assert run(["pairs", str(config), str(files["judged"]), "--out", str(files["pairs"])]) == 0
    return {"config": config, **files}


def odd(path, place, text):
    """The file with `text` in one field of every line."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        part = row
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = text
    other = path.with_name(f"odd_{path.name}")
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return other


COMMANDS = {
    "samples": ("feedback", ("response",)),
    "judged": ("reflect", ("sample", "response")),
    "pairs": ("train-step", ("chosen",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("text", [LONE, "nul \0 nul", "", "\ufeffmark"], ids=ascii)
@pytest.mark.parametrize("read", COMMANDS)
def test_odd_text_is_carried_through_every_stage(made, tmp_path, capsys, read, text):
    command, place = COMMANDS[read]
    file = odd(made[read], place, text)
    assert run([command, str(made["config"]), str(file), "--out", str(tmp_path / "out")]) == 0
    if read == "pairs" and text == LONE:
        assert "hold half of a surrogate pair, which is read as '?'" in capsys.readouterr().err
    if read == "samples":
        rows = (tmp_path / "out").read_text().splitlines()
        assert {json.loads(row)["sample"]["response"] for row in rows} == {text}


@pytest.mark.parametrize(
    "line", ["null", "[]", "{", '{"prompt": 1}', '"text"', "\udcff", '{"a": ' + "[" * 100_000]
)  # fmt: skip
@pytest.mark.parametrize("command", ["feedback", "reflect", "pairs", "train-step"])
def test_a_line_that_cannot_be_read_is_named(made, tmp_path, capsys, command, line):
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(line.encode("utf-8", "surrogateescape") + b"\n")
    capsys.readouterr()
    assert run([command, str(made["config"]), str(bad), "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert "bad.jsonl, line 1" in said and "unexpected" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_preferences_with_half_a_surrogate_pair_are_learned_from(made, tmp_path, tiny_model):
    rows = [{"prompt": "p", "chosen": f"{LONE} {i}", "rejected": "no"} for i in range(4)]
    pairs = tmp_path / "preferences.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "reward"
    command = ["reward-model", "train", str(pairs), "--base", str(tiny_model), "--out", str(out)]
    assert run(command) == 0
    assert run(["reward-model", "evaluate", str(out), "--pairs", str(pairs)]) == 0


def test_responses_with_half_a_surrogate_pair_are_scored_and_kept(tmp_path):
    from tasks.mini import world

    lines = [
        json.dumps({"id": item.index, "response": f"{LONE} {item.reference['answer']}"})
        for item in world.items("mini_gsm8k", "gate")
    ]
    answers, out = tmp_path / "answers.jsonl", tmp_path / "out"
    answers.write_text("\n".join(lines))
    assert run(["score", "mini_gsm8k", str(answers), "--out", str(out)]) == 0
    kept = (out / "mini_gsm8k" / "samples.jsonl").read_text().splitlines()
    assert all(json.loads(line)["response"].startswith(LONE) for line in kept)
    assert run(["gate", str(out), str(out)]) == 0
