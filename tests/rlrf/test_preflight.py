"""`rlrf doctor CONFIG`: what is sound passes, and whatever is broken on purpose is found."""

from __future__ import annotations

import fcntl
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import local_tasks
from helpers.faulty import Act, FaultyServer, completion
from safetensors.torch import load_file, save_file
from test_judged_loop import judged_config

from harness.core.folders import sole_user
from harness.engines import hf
from rlrf.cli import run
from rlrf.config import load
from rlrf.doctor import Finding
from rlrf.loop import train
from rlrf.preflight import look_ahead

pytestmark = pytest.mark.usefixtures("toy_letters")


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def write(tmp_path: Path, model: Path) -> Callable[..., Path]:
    """Writes a sound configuration with `changes`."""

    def written(**changes: Any) -> Path:
        settings = {
            "model": str(model),
            "iterations": 1,
            "tasks": [{"name": "toy_letters", "prompts": 8}],
            "explore": {"n": 2, "max_tokens": 8},
            "reflect": {"m": 1, "max_tokens": 8},
            "train": {"max_length": 200},
            "gate": {"slice": 30, "sealed": 20},
            "engine": {"device": "cpu"},
        }
        (tmp_path / "config.yaml").write_text(json.dumps(settings | changes))
        return tmp_path / "config.yaml"

    return written


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    def looked(config: Path, **options: Any) -> dict[str, Finding]:
        found = look_ahead(config, tmp_path / "run", **options)
        assert len({finding.name for finding in found}) == len(found)
        return {finding.name: finding for finding in found}

    return looked


def wrong(found: dict[str, Finding]) -> dict[str, str]:
    """Failed checks -> why."""
    return {name: one.advice for name, one in found.items() if not one.ok}


def test_a_sound_configuration_passes_and_leaves_nothing_behind(tmp_path, write, look):
    config = write(adapter={"r": 2})
    before = sorted(tmp_path.rglob("*"))
    found = look(config)
    assert wrong(found) == {}
    assert sorted(tmp_path.rglob("*")) == before
    assert {"model", "tokenizer", "adapter", "memory", "disk", "gate", "board"} <= found.keys()
    assert "weights" in found["model"].found
    assert found["run folder"].found.endswith("is new")


def test_a_folder_of_other_things_is_refused_as_the_run_would(tmp_path, write, look):
    (tmp_path / "run").mkdir()
    assert look(write())["run folder"].found.endswith("is empty")
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert "holds other things than a run" in wrong(look(write()))["run folder"]


@pytest.mark.slow
def test_what_passes_runs_and_is_then_resumed(tmp_path, write, look):
    config = write()
    assert wrong(look(config)) == {}
    train(load(config), tmp_path / "run")
    found = look(config)
    assert wrong(found) == {}
    assert "is resumed" in found["run folder"].found
    assert "rows" in found["board"].found
    assert "another configuration" in wrong(look(write(seed=3)))["run folder"]
    write()
    (tmp_path / "run" / "board" / "ledger.jsonl").write_text("{}\n")
    assert "ledger" in wrong(look(config))["board"]
    identity = tmp_path / "run" / "run.json"
    identity.write_text(identity.read_text().replace('"code": "', '"code": "0.0.'))
    assert "another version of this program" in wrong(look(config))["run folder"]


def cut_short(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def pickled(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def without_a_shard(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    first, *others = tensors
    (model / "model.safetensors").unlink()
    save_file({first: tensors[first]}, model / "a.safetensors")
    named = {first: "a.safetensors"} | dict.fromkeys(others, "b.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))


def without_tokenizer(model: Path) -> None:
    for file in model.glob("tokenizer*"):
        file.unlink()


def changed(**settings: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        known = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(known | settings))

    return change


@pytest.mark.parametrize(
    "case",
    [
        (shutil.rmtree, "model", "There is no model folder"),
        (cut_short, "model", "damaged or cut short"),
        (pickled, "model", "are a pickle"),
        (without_a_shard, "model", "lacks b.safetensors"),
        (without_tokenizer, "model", "no tokenizer"),
        (changed(model_type="no such thing"), "model", "cannot be used"),
        (changed(vocab_size=5), "tokenizer", "another model's"),
    ],
)
def test_a_model_that_is_spoiled(model, write, look, case):
    spoil, name, said = case
    config = write()
    spoil(model)
    assert said in wrong(look(config))[name]


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"tusks": []}, "configuration", "Did you mean 'tasks'"),
        ({"tasks": [{"name": "no_such_task"}]}, "task no_such_task", "no_such_task"),
        ({"adapter": {"target_modules": ["q_prog"]}}, "adapter", "It has"),
        ({"explore": {"max_tokens": 100_000}}, "prompts of toy_letters", "max_tokens is 100000"),
        ({"train": {"max_length": 4}}, "prompts of toy_letters", "raise train.max_length"),
        ({"judge": "nowhere.yaml"}, "judge's file", "nowhere.yaml"),
        ({"reward": {"models": ["nowhere/at/all"]}}, "reward models", "nowhere"),
        (
            {
                "tasks": [{"name": "toy_letters", "feedback": "model"}],
                "feedback_model": "./nowhere",
            },
            "feedback model",
            "nowhere",
        ),
        ({"method": "rlmec"}, "rewriter", "corrects wrong answers"),
        ({"train": {"report_to": ["wandb"]}}, "training", "pip install wandb"),
        (
            {"train": {"launch": {"accelerate": "nowhere.yaml"}}},
            "training",
            "There is no file",
        ),
        (
            {"train": {"launch": {"processes": 2, "prefix": ["no-such-srun"]}}},
            "training",
            "no-such-srun",
        ),
        ({"artefacts": "nosuch://bucket"}, "artefacts", "nosuch"),
        (
            {
                "gate": {
                    "policy": {
                        "rules": [{"task": "toy_letters", "metric": "leters", "margin": 0.1}]
                    }
                }
            },
            "gate",
            "Did you mean 'letters'",
        ),
    ],
)
def test_a_configuration_that_would_fail(write, look, changes, name, said):
    assert said in wrong(look(write(**changes)))[name]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(write, look):
    assert "no device 'cuda'" in wrong(look(write(engine={"device": "cuda"})))["memory"]


def test_vllm_that_is_not_installed(write, look, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed" in wrong(look(write(engine={"kind": "vllm"})))["executor"]
    assert "pip install" in wrong(look(write(executor={"kind": "ray"})))["executor"]


def test_a_cluster_where_nobody_answers(write, look):
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as there:
        address = f"127.0.0.1:{there.getsockname()[1]}"
        executor = {"kind": "ray", "address": address}
        assert wrong(look(write(executor=executor))) == {}
    assert "Nothing answers" in wrong(look(write(executor=executor)))["executor"]


def test_what_there_is_too_little_of(write, look, monkeypatch):
    config = write()
    monkeypatch.setattr(hf, "free_memory", lambda device: 1000)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    found = wrong(look(config))
    assert found.keys() == {"memory", "disk"}
    assert "train an adapter" in found["memory"]
    assert "Free some" in found["disk"]
    assert "adapter" in look(write(adapter={"r": 1}))["memory"].advice


def test_estimates_are_the_sums_that_they_say(write, look, model):
    numbers = sum(t.numel() for t in load_file(model / "model.safetensors").values())
    found = look(write(iterations=3))
    assert f"{16 * numbers / 2**20:,.1f} MiB to train" in found["memory"].found
    size = (model / "model.safetensors").stat().st_size
    assert f"{3 * size / 2**20:,.1f} MiB for 3 candidates" in found["disk"].found


def test_advice_where_nothing_would_fail(write, look):
    found = look(
        write(
            iterations=3,
            tasks=[{"name": "toy_letters", "prompts": 10_000}],
            gate={"slice": 100, "sealed": 10_000},
            train={"max_length": 15},
        )
    )
    assert wrong(found) == {}
    assert "all are taken" in found["task toy_letters"].advice
    assert "do not fit in train.max_length" in found["prompts of toy_letters"].advice


def test_a_judge_is_asked_only_if_told_to(tmp_path, tiny_model, look, monkeypatch):
    def says(number, asked):
        return Act(body=completion("yes")) if number == 0 else Act(status=401)

    with FaultyServer(says).running() as server:
        judged_config(tmp_path, tiny_model, server)
        config = tmp_path / "config.yaml"
        found = look(config)
        assert wrong(found) == {}
        assert "--ask" in found["judge"].advice
        assert not server.asked
        assert look(config, ask=True)["judge"].found.endswith("it replied")
        assert len(server.asked) == 1
        assert wrong(look(config, ask=True)).keys() == {"judge"}

    judge = json.loads((tmp_path / "judge.yaml").read_text())
    judge["judge"] |= {"api_key_env": "MY_KEY"}
    (tmp_path / "judge.yaml").write_text(json.dumps(judge))
    monkeypatch.delenv("MY_KEY", raising=False)
    assert "MY_KEY is empty" in wrong(look(config))["judge"]
    monkeypatch.setenv("MY_KEY", "sk-secret-of-mine")
    found = look(config)
    assert wrong(found) == {}
    assert "secret" not in "".join(one.model_dump_json() for one in found.values())


def test_a_folder_where_another_process_works(tmp_path, write, look):
    with sole_user(tmp_path / "run"):
        assert "Another process works" in wrong(look(write()))["run folder"]


def test_a_file_system_whose_locks_have_no_effect(write, look, monkeypatch):
    config = write()
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    assert "have no effect" in wrong(look(config))["run folder"]


def test_a_port_for_metrics_that_is_taken(write, look, monkeypatch):
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("RLRF_METRICS", str(taken.getsockname()[1]))
        assert "name another port" in wrong(look(write()))["metrics"]
    monkeypatch.setenv("RLRF_METRICS", "0")
    assert "metrics" not in wrong(look(write()))


def test_the_command_exits_3_where_something_would_fail(tmp_path, write, capsys):
    out = str(tmp_path / "run")
    assert run(["doctor", str(write()), "--out", out]) == 0
    assert "Everything necessary is installed." in capsys.readouterr().out
    assert run(["doctor", str(write(model="./nowhere")), "--out", out, "--json"]) == 3
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert (found["model"]["ok"], found["python"]["ok"]) == (False, True)


def test_guards_say_how_many_items_they_have_and_which_loss_these_see(
    write: Callable[..., Path], look: Callable[..., dict[str, Finding]], tmp_path: Path
) -> None:
    folder = str(local_tasks.make(tmp_path / "local"))
    guards = [
        {"task": "colours_many", "include_path": folder, "items": 15},
        {"task": "name_it", "include_path": folder, "metric": "exact_match", "tier": "critical"},
        {"task": "colours_meny", "include_path": folder},
    ]
    found = look(write(guards=guards, iterations=3))
    many = found["guard colours_many"]
    assert many.ok
    assert many.found == (
        "acc (guardrail, margin 0.05); 15 of 20 gate items, others in each iteration; 20 sealed"
    )
    assert "its items are asked again after iteration 1" in many.advice
    assert "acc: on 15 items a loss of 0.48 or more fails" in many.advice
    named = found["guard name_it"]
    assert "9 items can decide, not 30: all are taken" in named.advice
    assert "8 items are sealed, not 20: all are taken" in named.advice
    assert "an unchanged model passes with a chance of" in named.advice
    wrong = found["guard colours_meny"]
    assert not wrong.ok and "Did you mean 'colours_many'" in wrong.advice
    assert "gate" not in found  # it is checked once all guards can be opened
