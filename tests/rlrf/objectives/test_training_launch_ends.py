"""A training in several processes, as a run sees it: its candidate, its failures, its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from helpers.jobs import job
from helpers.processes import started_by_tests
from test_bad_training import EXPLODES
from test_loop import config, contents
from test_training_dpo import PAIRS

from harness.board import Board
from harness.core.errors import OutOfMemoryError, UserError
from harness.core.files import write_jsonl
from rlrf import config as configuration
from rlrf.loop import train
from rlrf.objectives import launch
from rlrf.objectives.dpo import dpo
from rlrf.training_config import Launch, Training

TWO = {"launch": {"processes": 2}}
FEW = {"tasks": [{"name": "toy_letters", "prompts": 8}], "gate": {"slice": 5, "sealed": 5}}


def fit(start, out, **settings):
    config = Training(**({"batch_size": 8, "max_length": 100} | TWO | settings))
    launch.launch(dpo, PAIRS, job(start, out, config))


def taking_part(folder: Path) -> list[psutil.Process]:
    """The processes that work for a run in `folder`."""
    found = []
    for one in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in one.info["cmdline"] or []):
            found.append(one)
    return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]


# What a configuration may say ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "launch needs either processes or accelerate"),
        ({"processes": 2, "accelerate": "a.yaml"}, "launch needs either processes or accelerate"),
        ({"strategy": "fsdp"}, "launch needs either processes or accelerate"),
        ({"accelerate": "a.yaml", "strategy": "fsdp"}, "leave strategy out"),
        ({"processes": 1}, "greater than or equal to 2"),
        ({"processes": 17}, "17 processes share a batch of 16; raise batch_size"),
        ({"processes": 2, "strategy": "deepspeed"}, "'ddp' or 'fsdp'"),
        ({"processes": 2, "machines": 2}, "machines"),
    ],
)
def test_what_cannot_be_launched_is_said_when_the_configuration_is_read(tmp_path, asked, said):
    file = tmp_path / "run.yaml"
    asked = {"model": "m", "tasks": [{"name": "gsm8k"}], "train": {"launch": asked}}
    file.write_text(json.dumps(asked))
    with pytest.raises(UserError, match=said):
        configuration.load(file)


def test_the_settings_lie_beside_the_configuration_and_their_place_makes_no_other_run(tmp_path):
    identities = set()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cluster.yaml").touch()
        asked = {"model": "m", "tasks": [{"name": "gsm8k"}]}
        asked["train"] = {"launch": {"accelerate": "cluster.yaml"}}
        (tmp_path / name / "run.yaml").write_text(json.dumps(asked))
        read = configuration.load(tmp_path / name / "run.yaml")
        assert read.train.launch.accelerate == str(tmp_path / name / "cluster.yaml")
        identities.add(read.identity)
    assert len(identities) == 1
    assert "launch" not in Training().model_dump()  # runs of before stay what they were


def test_an_objective_that_is_not_listed_is_refused_before_anything_starts(start, tmp_path):
    def unlisted(examples, job):
        pass

    config = Training(launch=Launch(processes=2))
    with pytest.raises(ValueError, match="OBJECTIVES does not list 'unlisted'"):
        launch.launch(unlisted, [], job(start, tmp_path, config))
    assert list(tmp_path.iterdir()) == []


def test_what_is_started(tmp_path):
    ours = launch.command(Launch(processes=8, strategy="fsdp"), tmp_path)
    assert ours[0] == sys.executable and ours[-2:] == [launch.PROCESS, str(tmp_path)]
    settings = json.loads(Path(ours[ours.index("--config_file") + 1]).read_text())
    assert (settings["num_processes"], settings["distributed_type"]) == (8, "FSDP")
    assert settings["fsdp_config"]["fsdp_version"] == 2
    asked = Launch(accelerate="cluster.yaml", prefix=["srun", "--ntasks-per-node=1"])
    theirs = launch.command(asked, tmp_path)
    assert theirs[:3] == ["srun", "--ntasks-per-node=1", sys.executable]
    assert theirs[theirs.index("--config_file") + 1] == "cluster.yaml"


@pytest.mark.parametrize(
    ("asked", "gpus", "said"),
    [
        ({"accelerate": "none.yaml"}, 0, "There is no file none.yaml; train.launch.accelerate"),
        (
            {"processes": 2, "prefix": ["no-such-srun"]},
            0,
            "no-such-srun, which is not installed",
        ),
        ({"processes": 8}, 4, "asks for 8 processes, one per GPU, but this machine has 4 GPUs"),
    ],
)
def test_what_is_not_here_is_said_before_anything_is_generated(
    tiny_model, tmp_path, toy_letters, monkeypatch, *, asked, gpus, said
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    settings = {"batch_size": 8, "launch": asked}
    whole = config(tiny_model, train=settings, engine={"device": "auto"})
    with pytest.raises(UserError, match=said):
        train(whole, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# The loop -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_candidate_of_two_processes_goes_through_the_gate(
    tiny_model, tmp_path, toy_letters, capsys
):
    settings = {"learning_rate": 1e-3, "batch_size": 8, "max_length": 43}
    one = train(config(tiny_model, train=settings, **FEW), tmp_path / "one")
    said = capsys.readouterr().err.splitlines()
    two = train(config(tiny_model, train=settings | TWO, **FEW), tmp_path / "two")
    told = capsys.readouterr().err.splitlines()
    assert [iteration.outcome for iteration in one.iterations] == [
        iteration.outcome for iteration in two.iterations
    ]
    assert one.iterations[0].gate.vs_incumbent.checks == two.iterations[0].gate.vs_incumbent.checks
    assert (
        contents(tmp_path / "one" / "iter_1").keys() == contents(tmp_path / "two" / "iter_1").keys()
    )
    assert Board(tmp_path / "two" / "board").verify() == []
    # What the processes say is said once.
    for words in ("do not fit into 43 tokens", " steps in "):
        lines = [[line for line in of if words in line] for of in (said, told)]
        assert [len(line) for line in lines] == [1, 1]
        assert lines[0][0].split(" in ")[0] == lines[1][0].split(" in ")[0]
    assert not list((tmp_path / "two").rglob(".launch"))
    train(config(tiny_model, train=settings | TWO, **FEW), tmp_path / "two")
    assert "iter_1/train: done before" in capsys.readouterr().err


@pytest.mark.slow
def test_a_loss_that_is_no_number_rolls_back_and_keeps_the_steps(tiny_model, tmp_path, toy_letters):
    result = train(config(tiny_model, train=EXPLODES | TWO, **FEW), tmp_path / "two")
    (iteration,) = result.iterations
    assert iteration.outcome == "stopped" and result.incumbent == "M0"
    assert (
        "training diverged at step" in iteration.stopped
        and "lower learning_rate" in iteration.stopped
    )
    folder = tmp_path / "two" / "iter_1" / "train"
    assert {"diverged.json", "metrics.jsonl"} < {path.name for path in folder.iterdir()}
    alone = train(config(tiny_model, train=EXPLODES, **FEW), tmp_path / "one")
    assert alone.iterations[0].stopped.split(":")[0] == iteration.stopped.split(":")[0]
    steps = [
        [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (folder, tmp_path / "one" / "iter_1" / "train")
    ]
    assert steps[0] == steps[1]


# Failures -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "settings", "error", "said"),
    [
        ({}, {"max_length": 10}, UserError, r"^None of the 20 pairs fits into 10 tokens; raise"),
        ({"LACK_MEMORY": 1}, {}, OutOfMemoryError, r"^Training does not fit in memory\. Lower"),
        ({"FAIL": 1}, {}, RuntimeError, r"^ValueError: a fault of ours$"),
    ],
    ids=["user", "memory", "one of them"],
)
def test_what_a_process_cannot_go_on_for_is_said_as_in_one(
    start, tmp_path, *, environment, settings, error, said
):
    with started_by_tests(**environment), pytest.raises(error, match=said) as raised:
        fit(start, tmp_path / "out", **settings)
    assert type(raised.value) is error
    assert contents(tmp_path / "out") == {}
    assert taking_part(tmp_path) == []


@pytest.mark.slow
def test_accelerate_settings_that_ask_for_something_else_are_refused(start, tmp_path):
    settings = launch.accelerate_settings(Launch(processes=2, strategy="fsdp"))
    settings["fsdp_config"]["fsdp_version"] = 1
    (tmp_path / "old.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"asks for the first FSDP; training works with DDP and"):
        fit(start, tmp_path / "out", launch={"accelerate": str(tmp_path / "old.json")})


@pytest.mark.slow
def test_a_process_that_is_killed_ends_them_all_with_a_sentence(start, tmp_path):
    def kill() -> None:
        while not (tmp_path / "out" / launch.FOLDER / launch.PROGRESS).exists():
            time.sleep(0.05)
        of_job = (one for one in taking_part(tmp_path) if launch.PROCESS in one.cmdline())
        next(one for one in of_job if "accelerate.commands.launch" not in one.cmdline()).kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(UserError, match="without a reason: a process was killed"):
        fit(start, tmp_path / "out", epochs=10_000)
    killer.join()
    assert contents(tmp_path / "out") == {}
    assert taking_part(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGKILL, signal.SIGINT])
def test_nobody_is_left_behind(tiny_model, tmp_path, asked):
    settings = {"batch_size": 8, "max_length": 100, "epochs": 10_000} | TWO
    whole = {"model": str(tiny_model), "tasks": [{"name": "mini_gsm8k"}], "train": settings}
    (tmp_path / "run.yaml").write_text(json.dumps(whole | {"engine": {"device": "cpu"}}))
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    words = ["train-step", "run.yaml", "pairs.jsonl", "--out", "out"]
    process = subprocess.Popen(
        [Path(sys.executable).parent / "rlrf", *words],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list(tmp_path.glob(f".out.*/{launch.FOLDER}/{launch.PROGRESS}")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    there = taking_part(tmp_path)
    assert len(there) >= 3  # the launcher and two processes
    process.send_signal(asked)
    process.communicate(timeout=60)
    if asked != signal.SIGKILL:
        assert process.returncode == 130
        assert taking_part(tmp_path) == [] and not list(tmp_path.glob(".out.*"))
    else:
        psutil.wait_procs(there, timeout=60)
        assert taking_part(tmp_path) == []
