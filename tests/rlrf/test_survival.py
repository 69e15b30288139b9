"""Killed or not, here or there: the same commands end with the same bytes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from string import Template

import pytest
import soak

from harness.core.errors import UserError
from harness.core.folders import sole_user
from harness.engines import Engine
from harness.evals.evaluate import EvalOptions, evaluate

ROOT = Path(__file__).parents[2]

ALONE = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RLRF_LOG": "json"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_commands_killed_at_random_moments_end_with_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "bench" / "soak.py", "--kills", "6", "--out", "soak.json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | ALONE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["kills"] == 6 and found["runs"].keys() == {"rlrf", "judged", "rewarded"}
    assert found["files compared"] > 120 and found["bytes compared"] > 2**20
    # What is done twice is what a kill found under way: of responses, a part.
    assert found["work repeated"].get("responses", 0) <= 6 * soak.PART
    assert found["work repeated"].get("calls to the judge", 0) <= 6 * soak.AT_ONCE


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_machines_alike_make_the_same_bytes(tmp_path: Path) -> None:
    """Other processes, hash seeds and folders; what holds clocks is named in `soak.TIMED`."""
    model = soak.seed_policy()
    config = Template(soak.CONFIG + "adapter: {r: 4}\n")
    made = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(config.substitute(model=model))
        subprocess.run(
            [Path(sys.executable).parent / "rlrf", *soak.STORIES["rlrf"].commands[0].split()],
            cwd=folder,
            env=os.environ | ALONE | {"PYTHONHASHSEED": str(len(made) + 1)},
            capture_output=True,
            check=True,
        )
        made.append(soak.contents(folder))
    soak.compare(*made)
    assert any(name.endswith("adapter_model.safetensors") for name in made[0])
    assert {"board/ledger.jsonl", "run/iter_1/pairs/pairs.jsonl"} <= made[0].keys()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_runs_out_of_memory_says_so_and_goes_on_when_there_is_some(
    tmp_path: Path,
) -> None:
    """The limit is the operating system's, set on a run when its first stage is done."""
    rlrf, *words = [Path(sys.executable).parent / "rlrf", *soak.STORIES["rlrf"].commands[0].split()]

    def start(folder: Path) -> subprocess.Popen[str]:
        folder.mkdir(exist_ok=True)
        config = Template(soak.CONFIG).substitute(model=soak.seed_policy())
        (folder / "config.yaml").write_text(config)
        return subprocess.Popen(
            [rlrf, *words],
            cwd=folder,
            env=os.environ | ALONE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    limited = start(tmp_path / "limited")
    while not (tmp_path / "limited" / "run" / "iter_1" / "explore").exists():
        assert limited.poll() is None, limited.communicate()
        time.sleep(0.01)
    used = int(Path(f"/proc/{limited.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(limited.pid, resource.RLIMIT_AS, (used + 2**20,) * 2)
    _, err = limited.communicate()
    assert limited.returncode == 3
    last = json.loads(err.splitlines()[-1])["message"]
    assert "memory" in last and ("to resume" in last or "is kept" in last)

    for name in ("limited", "whole"):
        done = start(tmp_path / name)
        _, err = done.communicate()
        assert done.returncode == 0, err
    soak.compare(soak.contents(tmp_path / "limited"), soak.contents(tmp_path / "whole"))


def test_a_second_evaluation_into_one_folder_is_told(tmp_path: Path, tiny_model: Path) -> None:
    from harness.engines.hf import HFEngine

    engine = HFEngine(tiny_model)
    with sole_user(tmp_path / "out"), pytest.raises(UserError, match="Another process works in"):
        evaluate(engine, ["mini_gsm8k"], EvalOptions(limit=1, max_tokens=2), out=tmp_path / "out")
    evaluate(engine, ["mini_gsm8k"], EvalOptions(limit=1, max_tokens=2), out=tmp_path / "out")


def test_a_killed_evaluation_goes_on(tmp_path: Path, tiny_model: Path) -> None:
    from harness.engines.hf import HFEngine

    engine = HFEngine(tiny_model)
    options = {"limit": 6, "max_tokens": 4, "temperature": 1.0, "repeats": 2}
    whole = evaluate(engine, ["mini_gsm8k"], EvalOptions(**options))
    generated: list[int] = []

    class Dying(Engine):
        """The engine of a process that dies when it has been asked twice: a fault's fake."""

        def __init__(self, parts: int) -> None:
            self.parts = parts

        def __getattr__(self, name: str) -> object:
            return getattr(engine, name)

        def generate(self, prompts: list[str], *rest: object) -> object:
            if not self.parts:
                raise KeyboardInterrupt
            self.parts -= 1
            generated.append(len(prompts))
            return engine.generate(prompts, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.engines.resume.RESPONSES_PER_PART", 4)
        with pytest.raises(KeyboardInterrupt):
            evaluate(Dying(2), ["mini_gsm8k"], EvalOptions(**options), out=tmp_path)
        found = evaluate(Dying(9), ["mini_gsm8k"], EvalOptions(**options), out=tmp_path)
    assert found == whole
    assert sum(generated) == 6
    assert not list(tmp_path.glob(".parts"))
