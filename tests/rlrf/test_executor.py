"""A run whose engines are on a Ray cluster ends with the bytes of one in this process."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import tiny, toy

import tasks
from harness.core.schema import Call, Score
from harness.engines import resume
from harness.engines.hf import HFEngine
from harness.judges import in_process
from rlrf.config import Config
from rlrf.loop import train
from tasks.task import Answered, Judge

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else engines starve where tests share cores
pytest.importorskip("ray", reason="Ray is not installed")

TESTS = Path(__file__).parents[1]  # where actors find `helpers`
IN_FLIGHT = 2
TRIES = 5  # to start a node
PART = 8  # responses, in place of `resume.RESPONSES_PER_PART`
SIZES = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


def config(model: Path, **executor: Any) -> Config:
    """More exploring than it takes to notice that it has begun."""
    return Config.model_validate(
        {
            "model": str(model),
            "iterations": 1,
            "tasks": [{"name": "toy_letters", "prompts": 40}],
            "explore": {"n": 8},
            "reflect": {"m": 1},
            "pairs": {"threshold": 0.05},
            "train": {"learning_rate": 2e-2, "batch_size": 8, "max_length": 200, "epochs": 1},
            "gate": {"slice": 30, "sealed": 20},
            "engine": {"device": "cpu"},
            "executor": executor,
        }
    )


def train_toy(options: str) -> None:
    """In a process of its own: a run of the toy task (model, out, executor: JSON)."""
    asked = json.loads(options)
    folder = Path(asked["out"]).parent / "tasks"
    folder.mkdir(exist_ok=True)
    (folder / "toy.yaml").write_text(toy.YAML)
    tasks.FOLDER, tasks._all = folder, lambda: {"toy_letters": toy.LETTERS}
    resume.RESPONSES_PER_PART = PART
    from rlrf.cli import stopping

    stopping.listen()
    try:
        train(config(Path(asked["model"]), **asked["executor"]), Path(asked["out"]))
    except stopping.Stopped as stop:
        sys.exit(stopping.exit_code(stop))


def start(model: Path, out: Path, executor: dict[str, Any]) -> subprocess.Popen[str]:
    asked = json.dumps({"model": str(model), "out": str(out), "executor": executor})
    code = f"import test_executor; test_executor.train_toy({asked!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS}:{TESTS / 'rlrf'}"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but what holds a clock or a lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "result.json", ".lock")
    }


def parts(out: Path) -> list[Path]:
    """What the stage in progress has kept."""
    return list(out.glob(f"{resume.PARTS}/*/*.jsonl"))


def until(happened: Callable[[], Any]) -> None:
    """Wait for it; where it does not come, the test runs into its time limit."""
    while not happened():
        time.sleep(0.02)


@pytest.fixture
def local(tiny_model: Path, tmp_path: Path, toy_letters: None) -> dict[str, bytes]:
    """What the run makes in this process."""
    train(config(tiny_model), tmp_path / "local")
    return contents(tmp_path / "local")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster whose head has no CPU for engines; a test adds nodes that have."""
    from ray.cluster_utils import Cluster

    found = Cluster()
    add_node(found, num_cpus=0)
    yield found
    found.shutdown()


def add_node(nodes: Any, num_cpus: int = 1) -> Any:
    """A node more; Ray gives up on one that is not there in 30 seconds, as on a busy machine."""
    for _ in range(TRIES):
        with contextlib.suppress(Exception):
            return nodes.add_node(num_cpus=num_cpus, **SIZES)
    return nodes.add_node(num_cpus=num_cpus, **SIZES)


def engines_on(node: Any) -> list[psutil.Process]:
    """The actors of a node."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    running = raylet.children(recursive=True)
    return [one for one in running if one.name().startswith("ray::Actor")]


def is_answering(node: Any) -> bool:
    return any(one.name().startswith("ray::Actor.call") for one in engines_on(node))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_on_nodes_of_which_one_is_killed_is_a_run_in_this_process(
    local: dict[str, bytes],
    nodes: Any,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "cluster"
    there = [add_node(nodes) for _ in range(2)]

    def kill() -> None:
        until(lambda: parts(out) and any(map(is_answering, there)))
        doomed = next((node for node in there if is_answering(node)), there[0])
        there.remove(doomed)
        nodes.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    executor = {"kind": "ray", "address": nodes.address, "engines": 2, "in_flight": IN_FLIGHT}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "RESPONSES_PER_PART", PART)
        train(config(tiny_model, **executor), out)
    killer.join()
    assert contents(out) == local
    said = capsys.readouterr().err
    assert said.count(" responses that it had under way are repeated") == 1
    repeated = int(said.split(" responses that it had under way are repeated")[0].split()[-1])
    assert 0 < repeated <= IN_FLIGHT * PART
    assert "explore toy_letters: 320 responses in" in said
    (left,) = there
    until(lambda: not engines_on(left))
    nodes.remove_node(left)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_and_a_stopped_one_leaves_no_engine(
    local: dict[str, bytes], nodes: Any, tiny_model: Path, tmp_path: Path
) -> None:
    added = [add_node(nodes) for _ in range(2)]
    out = tmp_path / "cluster"
    executor = {"kind": "ray", "address": nodes.address, "engines": 2, "in_flight": IN_FLIGHT}

    first = start(tiny_model, out, executor)
    until(lambda: len(parts(out)) > 2 or first.poll() is not None)
    first.kill()
    assert first.wait() == -signal.SIGKILL, first.communicate()
    there = {path: path.read_bytes() for path in parts(out)}
    assert len(there) > 2

    second = start(tiny_model, out, executor)
    until(lambda: len(parts(out)) > len(there) or second.poll() is not None)
    second.terminate()
    stdout, err = second.communicate(timeout=300)
    assert second.returncode == 143, err
    assert stdout == ""  # Ray's words neither
    assert err.splitlines()[-1].startswith("Terminated. Nothing half done was kept")
    assert {path: path.read_bytes() for path in there} == there
    until(lambda: not any(engines_on(node) for node in added))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "RESPONSES_PER_PART", PART)
        train(config(tiny_model, **executor), out)
    assert contents(out) == local
    until(lambda: not any(engines_on(node) for node in added))
    for node in added:
        nodes.remove_node(node)


def by_judge(answered: list[Answered], judge: Judge | None = None) -> list[Score]:
    """Scores that depend on each letter of a judge's replies and each bit of its logprobs."""
    scores = toy.LETTERS.score(answered)
    if judge is None:
        return [s.model_copy(update={"values": {}, "unscored": {"letters": "x"}}) for s in scores]
    calls = [
        Call(prompt=sample.response, max_tokens=16 + sample.index % 2, choices=("yes", "no"))
        for _, sample in answered
    ]
    found = []
    for score, reply in zip(scores, judge.ask(calls), strict=True):
        assert reply.logprobs is not None
        said = sum(map(ord, reply.text)) % 97 / 97
        value = (score.values["letters"] + said + math.exp(reply.logprobs["yes"])) / 3
        found.append(score.model_copy(update={"values": {"letters": value}}))
    return found


def replies(cache: Path) -> list[Any]:
    """What a judge's cache holds."""
    with contextlib.closing(sqlite3.connect(cache)) as opened:
        return sorted(opened.execute("SELECT * FROM replies"))


@pytest.fixture
def judge(tmp_path: Path, toy_letters: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A judge of the toy task that is a model, not the policy's; judge.yaml beside it names it."""
    judged = replace(toy.LETTERS, score=by_judge)
    monkeypatch.setattr(tasks, "_all", lambda: {"toy_letters": judged})
    monkeypatch.setattr(in_process, "AT_ONCE", 5)
    (tmp_path / "judge.yaml").write_text("judge: {engine: hf, model: judge, cache: judge.sqlite}")
    folder = tiny.save(tmp_path / "judge", seed=1, initializer_range=0.3)  # it has opinions
    # So that most replies end before they are cut short, and are kept.
    ends = {"eos_token_id": [1, *range(20, 60)]}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    return folder


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models that are loaded in this process."""
    found: list[Path] = []
    load = HFEngine.__init__

    def loading(self: HFEngine, model: Any, **options: Any) -> None:
        found.append(model)
        load(self, model, **options)

    monkeypatch.setattr(HFEngine, "__init__", loading)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_judge_that_is_a_model_takes_turns_with_the_policy_and_says_the_same(
    nodes: Any, tiny_model: Path, tmp_path: Path, judge: Path, loaded: list[Path]
) -> None:
    def run(out: str, **executor: Any) -> tuple[dict[str, bytes], list[Any]]:
        changes = {
            "judge": str(tmp_path / "judge.yaml"),
            "tasks": [{"name": "toy_letters", "prompts": 8}],
            "explore": {"n": 4},
            "gate": {"slice": 10, "sealed": 6},
        }
        dumped = config(tiny_model, **executor).model_dump()
        train(Config.model_validate(dumped | changes), tmp_path / out)
        kept_replies = replies(tmp_path / "judge.sqlite")
        (tmp_path / "judge.sqlite").unlink()
        return contents(tmp_path / out), kept_replies

    here = run("here")
    assert len({reply for _, reply, _ in here[1]}) > 20 and loaded.count(judge) == 1
    loaded.clear()
    there = [add_node(nodes) for _ in range(2)]
    found = run("there", kind="ray", address=nodes.address, engines=2)
    assert found == here
    assert judge not in loaded
    for node in there:
        nodes.remove_node(node)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"executor": {"engines": 4}}, "engines is for a cluster; set kind: ray"),
        ({"executor": {"kind": "ray", "address": "ray://h:10001"}}, "ray job submit"),
        ({"executor": {"kind": "ray", "gpus": 2}}, "less than or equal to 1"),
        (
            {"executor": {"kind": "ray"}, "engine": {"device": "cuda"}},
            "set executor.gpus, the GPUs per engine",
        ),
        (
            {"executor": {"kind": "ray", "gpus": 0.5}, "engine": {"kind": "vllm"}},
            "vllm needs a whole GPU",
        ),
    ],
)
def test_executors_that_cannot_be_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Config.model_validate({"model": "m", "tasks": [{"name": "gsm8k"}]} | changes)


def test_where_engines_run_is_no_part_of_what_a_run_is() -> None:
    here, there = config(Path("m")), config(Path("m"), kind="ray", engines=8, gpus=1)
    assert here.identity == there.identity
    assert Config.model_validate(here.model_dump()) == here
    assert Config.model_validate(there.model_dump()) == there
