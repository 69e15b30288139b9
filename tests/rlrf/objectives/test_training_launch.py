"""Two processes that train together come to what one comes to, in the same files."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
from helpers import architectures, tiny
from helpers.jobs import job
from helpers.processes import started_by_tests
from test_training_dpo import pair

from harness.engines.model_folder import Checkpoint
from rlrf.config import Device
from rlrf.objectives import base, launch
from rlrf.objectives.dpo import dpo
from rlrf.objectives.job import checkpoint
from rlrf.objectives.rlmec import RewriteExample, rlmec
from rlrf.objectives.rrhf import Ranking, rrhf
from rlrf.objectives.sft import Example, sft
from rlrf.rlmec.tokens import edited, pieces
from rlrf.training_config import Adapter, Launch, Training

CPU = Device(device="cpu")
RATE = 1e-3
# Of 17 the last batch of 8 is a single one, so that a process has nothing to read of it; of 19 it
# is three, which two processes cannot share evenly.
PAIRS = [
    pair(
        i,
        prompt="<|user|>" + "What is it? " * (1 + i % 3) + "<|end|><|assistant|>",
        chosen="The answer. " * (1 + i % 4),
        rejected="No " * (7 * i % 5),  # one of them the end alone
    )
    for i in range(19)
]
EXAMPLES = [
    Example(task="toy", item=str(i), index=i, prompt=one.prompt, response=one.chosen)
    for i, one in enumerate(PAIRS)
]
RANKINGS = [
    Ranking(
        task="toy", item=str(i), index=i, prompt=one.prompt, cut=[False] * (2 + i % 2),
        responses=[one.chosen, one.rejected, "What"][: 2 + i % 2], ranks=[0, 1, 2][: 2 + i % 2],
    )
    for i, one in enumerate(PAIRS)
]  # fmt: skip


def rewrites(model: Path) -> list[RewriteExample]:
    tokenizer = base.load_policy_tokenizer(Checkpoint("M0", model))

    def rewrite(index: int) -> RewriteExample:
        right = index % 3 == 0
        response, better = f"The answer is {index if right else 7}.", f"The answer is {index}."
        ids = base.encode_response(response, tokenizer)
        after = base.encode_response(better, tokenizer)
        return RewriteExample(
            task="toy", item=str(index), index=index, cut=False, right=right, response=response,
            prompt="<|user|>What?<|end|><|assistant|>", tokens=pieces(response, tokenizer),
            rewards=[0.5 if right else -0.1] * len(ids), rewrite=better,
            rewrite_tokens=pieces(better, tokenizer), edited=edited(ids, after),
        )  # fmt: skip

    return [rewrite(index) for index in range(17)]


CASES = {
    "dpo": (dpo, PAIRS[:17], {}),
    "dpo weighted": (dpo, PAIRS, {"loss": {"sigmoid": 1.0, "sft": 0.3}, "epochs": 2,
                                  "gradient_accumulation": 2}),
    "dpo adapter": (dpo, PAIRS, {"adapter": Adapter(r=4)}),
    "dpo adapter again": (dpo, PAIRS, {"adapter": Adapter(r=4)}),
    "dpo by TRL": (dpo, PAIRS, {}),
    "sft": (sft, EXAMPLES[:17], {"gradient_accumulation": 2}),
    "sft adapter": (sft, EXAMPLES, {"adapter": Adapter(r=4)}),
    "rrhf": (rrhf, RANKINGS, {"gradient_accumulation": 2}),
    "rlmec": (rlmec, None, {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """The policies that training starts from: plain, with an adapter, with sliding windows."""
    folder = tmp_path_factory.mktemp("starts")
    plain = Checkpoint("M0", tiny.save(folder / "tiny"))
    config = Training(learning_rate=RATE, batch_size=8, max_length=100)
    dpo(PAIRS, job(plain, folder / "first", config, adapter=Adapter(r=4), seed=1))
    windows = Checkpoint("M0", architectures.save(folder / "gemma", "gemma2"))
    return plain, checkpoint(folder / "first", "M1", plain), windows


def asked(case, starts, out, **launch):
    """What a case gives to `launch.launch`: objective, examples and job."""
    objective, lessons, settings = CASES[case]
    plain, adapted, windows = starts
    start = {"dpo adapter again": adapted, "dpo by TRL": windows}.get(case, plain)
    settings = {"learning_rate": RATE, "batch_size": 8, "max_length": 100} | settings
    adapter = settings.pop("adapter", None)
    config = Training(**settings, **launch)
    what = job(start, out, config, adapter=adapter, seed=3)
    return objective, lessons or rewrites(start.model), what


@pytest.fixture(scope="module")
def alone(starts, tmp_path_factory):
    """What one process comes to."""
    folder = tmp_path_factory.mktemp("alone")
    for case in CASES:
        objective, lessons, what = asked(case, starts, folder / case)
        objective(lessons, what)
    return folder


def train_together(strategy: str, starts, folder: Path) -> Path:
    """What two processes come to: all the cases, and the first one once more, in one launch."""
    two = {"processes": 2, "strategy": strategy}
    jobs = []
    for case in CASES:
        launch.write_job(*asked(case, starts, folder / case, launch=two))
        jobs.append(str(folder / case / launch.FOLDER))
    with started_by_tests(DO_ALSO=json.dumps(jobs), SHARDED=folder / "sharded.json"):
        launch.launch(*asked("dpo", starts, folder / "launched", launch=two))
    for written in jobs:
        shutil.rmtree(written)
    return folder


@pytest.fixture(scope="module")
def ddp(starts, tmp_path_factory):
    return train_together("ddp", starts, tmp_path_factory.mktemp("ddp"))


@pytest.fixture(scope="module")
def fsdp(starts, tmp_path_factory):
    return train_together("fsdp", starts, tmp_path_factory.mktemp("fsdp"))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_come_to_what_one_comes_to(strategy, case, alone, request):
    """Losses to 1e-5. Of weights: a step of Adam is at most `RATE`, whatever the gradient's size.

    Gradients are sums of which the order is another, equal to about 1e-6 of the largest of a
    tensor; a weight whose gradient is a thousandth of that moves by 1e-3 * RATE more or less.
    """
    from safetensors.torch import load_file

    together = request.getfixturevalue(strategy)
    one, two = contents(alone / case), contents(together / case)
    assert one.keys() == two.keys()
    ours, theirs = rows(together / case), rows(alone / case)
    assert len(ours) == len(theirs) >= 2
    for our, their in zip(ours, theirs, strict=True):
        assert our.keys() == their.keys()
        assert our["loss"] == pytest.approx(their["loss"], abs=1e-5)
        assert our == pytest.approx(their, rel=1e-4, abs=1e-5)
    for name in one:
        if name.endswith(".safetensors"):
            before, after = load_file(alone / case / name), load_file(together / case / name)
            assert before.keys() == after.keys()
            for key, weight in before.items():
                assert weight.dtype == after[key].dtype
                difference = (weight.float() - after[key].float()).abs().max().item()
                assert difference <= 1e-3 * RATE * len(ours), key
        elif name != "metrics.jsonl":
            assert one[name] == two[name]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_same_training_again_leaves_the_same_bytes(strategy, request):
    together = request.getfixturevalue(strategy)
    assert contents(together / "launched") == contents(together / "dpo")


@pytest.mark.slow
def test_fsdp_shares_the_weights_out(fsdp, ddp):
    counted = json.loads((fsdp / "sharded.json").read_text())
    assert len(counted) == len(CASES) + 1
    for here, of_all in counted:
        assert 0.4 * of_all < here < 0.6 * of_all
    assert not (ddp / "sharded.json").exists()


SRUN = """#!{python}
# A fake of srun: starts what accelerate starts on two machines, both of them this one.
import pathlib, subprocess, sys
words = sys.argv[1:]
at = words.index("--config_file") + 1
second = pathlib.Path(words[at]).with_name("second.json")
first = pathlib.Path(words[at]).read_text()
second.write_text(first.replace('"machine_rank": 0', '"machine_rank": 1'))
other = subprocess.Popen([*words[:at], second, *words[at + 1 :]])
sys.exit(subprocess.call(words) or other.wait())
"""


@pytest.mark.slow
def test_two_machines_leave_the_same_bytes(ddp, starts, tmp_path):
    """One process on each; the settings are a file of accelerate's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = {"num_machines": 2, "main_process_ip": "127.0.0.1", "main_process_port": port}
    settings = launch.accelerate_settings(Launch(processes=2)) | more
    (tmp_path / "first.json").write_text(json.dumps(settings))
    (tmp_path / "srun").write_text(SRUN.format(python=sys.executable))
    (tmp_path / "srun").chmod(0o755)
    asks = {"accelerate": str(tmp_path / "first.json"), "prefix": [str(tmp_path / "srun")]}
    launch.launch(*asked("dpo", starts, tmp_path / "out", launch=asks))
    assert contents(tmp_path / "out") == contents(ddp / "dpo")
