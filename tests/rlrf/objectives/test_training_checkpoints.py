"""A training that is killed goes on from what it had saved, and ends with the same bytes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from string import Template

import pytest
import soak
import test_loop
from helpers.jobs import job
from test_training_dpo import PAIRS
from test_training_rrhf import RANKINGS
from test_training_sft import EXAMPLES

from harness.engines.model_folder import Checkpoint
from rlrf import loop
from rlrf.objectives import base
from rlrf.objectives.checkpoints import WEIGHTS, TrainingState
from rlrf.objectives.dpo import dpo
from rlrf.objectives.job import DivergedError
from rlrf.objectives.rlmec import RewriteExample, rlmec
from rlrf.objectives.rrhf import rrhf
from rlrf.objectives.sft import sft
from rlrf.rlmec.tokens import edited, pieces
from rlrf.training_config import Adapter, Launch, Training

ROOT = Path(__file__).parents[3]

AT_EVERY_STEP = 1e-9  # minutes
ADAPTERS = [None, Adapter(r=4, dropout=0.2)]
# Two passes a step and a smaller last step, over more than one epoch.
SETTINGS = {
    "learning_rate": 1e-3,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "epochs": 2.5,
    "max_length": 120,
    "scheduler": "cosine",
}


def rewrite(index, tokenizer):
    response, better = "The answer is 7.", f"The answer is {index + 4}."
    ids = base.encode_response(response, tokenizer)
    return RewriteExample(
        task="toy",
        item=str(index),
        index=index,
        prompt=f"<|user|>What is {index} plus 4?<|end|><|assistant|>",
        response=response,
        cut=False,
        right=False,
        tokens=pieces(response, tokenizer),
        rewards=[-0.1] * len(ids),
        rewrite=better,
        rewrite_tokens=pieces(better, tokenizer),
        edited=edited(ids, base.encode_response(better, tokenizer)),
    )


def fit(name, start, out, state=None, adapter=None, **settings):
    """Every file that the objective `name` makes."""
    objective, lessons = {
        "dpo": (dpo, PAIRS),
        "sft": (sft, EXAMPLES),
        "rrhf": (rrhf, RANKINGS),
        "rlmec": (rlmec, range(13)),
    }[name]
    if name == "rlmec":
        tokenizer = base.load_policy_tokenizer(start)
        lessons = [rewrite(index, tokenizer) for index in lessons]
    config = Training(**SETTINGS | settings)
    objective(lessons, job(start, out, config, adapter=adapter, state=state))
    return contents(out)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def passes(monkeypatch):
    """Forward passes of a training: as many as are asked for, then the process is as if killed."""
    import transformers

    class Passes:
        done, most = 0, None

    found, step = Passes(), transformers.Trainer.training_step

    def counted(*args, **more):
        if found.done == found.most:
            raise KeyboardInterrupt
        found.done += 1
        return step(*args, **more)

    monkeypatch.setattr(transformers.Trainer, "training_step", counted)
    return found


def killed_after(most, passes, *args, **more):
    passes.done, passes.most = 0, most
    with pytest.raises(KeyboardInterrupt):
        fit(*args, **more)
    passes.done, passes.most = 0, None


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS, ids=["full", "lora"])
@pytest.mark.parametrize("name", ["dpo", "sft", "rrhf", "rlmec"])
def test_killed_at_any_pass_it_ends_with_the_same_bytes(name, adapter, start, tmp_path, passes):
    alone = fit(name, start, tmp_path / "alone", adapter=adapter)
    steps = [json.loads(row)["step"] for row in alone["metrics.jsonl"].splitlines()]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 4
    total, an_epoch = passes.done, 5 if name == "dpo" else 4
    for kill in range(total):
        state = TrainingState(tmp_path / str(kill) / "saves", AT_EVERY_STEP)
        killed_after(kill, passes, name, start, tmp_path / "killed", state, adapter)
        again = TrainingState(state.folder, AT_EVERY_STEP)
        assert (again.last is None) == (kill < 2)
        found = fit(name, start, tmp_path / str(kill) / "out", again, adapter)
        assert found == alone, f"killed after {kill} passes of {total}"
        whole, of_epoch = divmod(kill, an_epoch)  # a step is two passes, dpo's third of them one
        assert passes.done == total - whole * an_epoch - of_epoch // 2 * 2
        shutil.rmtree(tmp_path / str(kill))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "rlmec"])
def test_the_reference_is_the_policy_that_training_started_from(name, start, tmp_path, passes):
    """With steps that long, a reference with the weights after one of them would be told."""
    settings = {"learning_rate": 0.05, "scheduler": "constant", "epochs": 1}
    alone = fit(name, start, tmp_path / "alone", **settings)
    state = TrainingState(tmp_path / "saves", AT_EVERY_STEP)
    killed_after(3, passes, name, start, tmp_path / "killed", state, **settings)
    state = TrainingState(state.folder, AT_EVERY_STEP)
    assert fit(name, start, tmp_path / "out", state, **settings) == alone
    row = json.loads(alone["metrics.jsonl"].splitlines()[1])
    assert abs(row["margin"] if name == "dpo" else row["ratio"] - 1) > 0.05


@pytest.mark.slow
def test_killed_again_and_again(start, tmp_path, passes):
    alone = fit("dpo", start, tmp_path / "alone")
    total = passes.done
    for _ in range(total // 2):
        state = TrainingState(tmp_path / "saves", AT_EVERY_STEP)
        passes.done, passes.most = 0, 3  # a step and a half
        try:
            found = fit("dpo", start, tmp_path / "out", state)
        except KeyboardInterrupt:
            continue
        break
    assert found == alone


@pytest.mark.slow
def test_an_adapter_that_goes_on_from_an_adapter(start, tmp_path, passes):
    fit("sft", start, tmp_path / "first", adapter=ADAPTERS[1])
    second = Checkpoint("M1", start.model, tmp_path / "first" / "adapter")
    alone = fit("dpo", second, tmp_path / "alone", adapter=ADAPTERS[1])
    state = TrainingState(tmp_path / "saves", AT_EVERY_STEP)
    killed_after(5, passes, "dpo", second, tmp_path / "killed", state, ADAPTERS[1])
    state = TrainingState(state.folder, AT_EVERY_STEP)
    assert fit("dpo", second, tmp_path / "out", state, ADAPTERS[1]) == alone


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, Adapter(r=4)], ids=["full", "lora"])
def test_weights_that_transformers_saves_under_other_names(adapter, start, tmp_path, passes):
    """Experts are one tensor in memory, and many in `save_pretrained`'s files."""
    import transformers
    from safetensors.torch import load_file

    config = transformers.MixtralConfig(
        vocab_size=320, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=4,
        max_position_embeddings=256,
    )  # fmt: skip
    shutil.copytree(start.model, tmp_path / "experts")
    (tmp_path / "experts" / "model.safetensors").unlink()
    model = transformers.MixtralForCausalLM(config)
    model.save_pretrained(tmp_path / "experts")
    named = load_file(tmp_path / "experts" / "model.safetensors").keys()
    assert not named >= {name for name, _ in model.named_parameters()}
    experts = Checkpoint("M0", tmp_path / "experts")
    alone = fit("sft", experts, tmp_path / "alone", adapter=adapter)
    state = TrainingState(tmp_path / "saves", AT_EVERY_STEP)
    killed_after(3, passes, "sft", experts, tmp_path / "killed", state, adapter)
    total = len(alone["metrics.jsonl"].splitlines())
    state = TrainingState(state.folder, AT_EVERY_STEP)
    assert fit("sft", experts, tmp_path / "out", state, adapter) == alone
    assert total > 2 and passes.done < 2 * total - 1


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FILES = (WEIGHTS, "optimizer.pt", "rng_state.pth", "trainer_state.json", "manifest.json")
DAMAGES = {"a bit": flip, "half": halve, "gone": Path.unlink}


@pytest.mark.slow
@pytest.mark.parametrize("damage", itertools.product(FILES, DAMAGES), ids=" ".join)
def test_what_is_damaged_is_not_used(start, tmp_path, passes, capsys, damage):
    file, what = damage
    alone = fit("sft", start, tmp_path / "alone", epochs=1)
    state = TrainingState(tmp_path / "saves", AT_EVERY_STEP)
    total = passes.done
    killed_after(3, passes, "sft", start, tmp_path / "killed", state, epochs=1)
    (path,) = state.folder.rglob(file)
    DAMAGES[what](path)
    state = TrainingState(state.folder, AT_EVERY_STEP)
    assert fit("sft", start, tmp_path / "out", state, epochs=1) == alone
    assert passes.done == total
    assert "damaged" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("at", ["save_model", "_save_rng_state"])
def test_killed_while_it_saves_it_goes_on_from_the_one_before(
    start, tmp_path, passes, monkeypatch, at
):
    import transformers

    from rlrf.objectives.checkpoints import Resumable

    alone = fit("sft", start, tmp_path / "alone")
    total, state = passes.done, TrainingState(tmp_path / "saves", AT_EVERY_STEP)
    owner = Resumable if at == "save_model" else transformers.Trainer
    save, calls = getattr(owner, at), []

    def killed(self, *args, **more):
        save(self, *args, **more)
        calls.append(at)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, at, killed)
        with pytest.raises(KeyboardInterrupt):
            fit("sft", start, tmp_path / "killed", state)
    again = TrainingState(state.folder, AT_EVERY_STEP)
    assert again.last is not None and again.last.name == "checkpoint-1"
    passes.done = 0
    assert fit("sft", start, tmp_path / "out", again) == alone
    assert passes.done == total - 2
    assert [path.name for path in tmp_path.glob(".saves*")] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("file write failed")]
)
def test_a_state_that_cannot_be_saved_ends_no_training(start, tmp_path, monkeypatch, capsys, error):
    """A fake of a disk that is full."""
    alone = fit("dpo", start, tmp_path / "alone", epochs=1)

    def full(*_, **__):
        raise error

    monkeypatch.setattr("torch.save", full)
    state = TrainingState(tmp_path / "parts" / "saves", AT_EVERY_STEP)
    assert fit("dpo", start, tmp_path / "out", state, epochs=1) == alone
    assert "continues without" in capsys.readouterr().err
    assert list((tmp_path / "parts").iterdir()) == []


def test_divergence_after_going_on_has_the_rows_of_all_steps(start, tmp_path, passes):
    settings = {"learning_rate": 1e18, "warmup_ratio": 0.5, "epochs": 4}
    with pytest.raises(DivergedError) as alone:
        fit("sft", start, tmp_path / "alone", **settings)
    state = TrainingState(tmp_path / "saves", AT_EVERY_STEP)
    killed_after(2, passes, "sft", start, tmp_path / "killed", state, **settings)
    with pytest.raises(DivergedError) as again:
        fit("sft", start, tmp_path / "out", TrainingState(state.folder, 1), **settings)
    assert len(alone.value.rows) > 1
    assert (again.value.step, again.value.rows) == (alone.value.step, alone.value.rows)


def test_a_short_training_saves_nothing(start, tmp_path):
    state = TrainingState(tmp_path / "saves", Training().checkpoint_minutes)
    fit("sft", start, tmp_path / "out", state, epochs=1)
    assert not state.folder.exists()


def test_what_was_reported_before_stays(start, tmp_path, passes):
    config = Training(**SETTINGS, report_to=["tensorboard"])
    logs = tmp_path / "run" / "logs" / "iter_1"

    def train(state):
        sft(EXAMPLES, job(start, tmp_path / "out", config, logs=logs, state=state))

    state = TrainingState(tmp_path / "saves", AT_EVERY_STEP)
    passes.most = 5
    with pytest.raises(KeyboardInterrupt):
        train(state)
    (events,) = logs.iterdir()
    events.rename(logs / "before")  # names hold the second, which may be the same here
    passes.most = None
    train(TrainingState(state.folder, 1))
    assert len(contents(logs)) == 2 and (logs / "before").stat().st_size > 0


# In a run


def config(model, minutes=AT_EVERY_STEP, **train):
    base = test_loop.config(model)
    training = base.train.model_dump() | {"checkpoint_minutes": minutes} | train
    return base.model_copy(update={"train": Training(**training)})


@pytest.mark.slow
def test_a_run_goes_on_and_leaves_nothing(tiny_model, tmp_path, toy_letters, passes):
    loop.train(config(tiny_model, None), tmp_path / "alone")
    total = passes.done
    passes.done, passes.most = 0, 4
    with pytest.raises(KeyboardInterrupt):
        loop.train(config(tiny_model), tmp_path / "run")
    shutil.copytree(tmp_path / "run" / ".parts", tmp_path / "parts")
    passes.done, passes.most = 0, None
    # How often it state is no part of what the run is.
    loop.train(config(tiny_model, 10), tmp_path / "run")
    assert passes.done == total - 4
    assert test_loop.contents(tmp_path / "run") == test_loop.contents(tmp_path / "alone")
    assert not (tmp_path / "run" / ".parts").exists()
    # Another configuration, and another run of it, do not find what is not theirs.
    other = config(tiny_model, learning_rate=1e-2)
    passes.done, passes.most = 0, 0
    with pytest.raises(KeyboardInterrupt):
        loop.train(other, tmp_path / "other")
    shutil.copytree(tmp_path / "parts", tmp_path / "other" / ".parts", dirs_exist_ok=True)
    passes.done, passes.most = 0, None
    loop.train(other, tmp_path / "other")
    assert passes.done == total


def test_it_is_no_part_of_what_a_run_is(tiny_model):
    assert len({config(tiny_model, minutes).identity for minutes in (None, 1, 30)}) == 1
    assert Training(checkpoint_minutes=1).model_dump() == Training().model_dump()


def test_several_processes_begin_anew_and_whoever_asks_otherwise_is_told():
    launch = Launch(processes=2)
    assert Training(launch=launch).launch == launch
    with pytest.raises(ValueError, match="checkpoint_minutes is for training in one process"):
        Training(launch=launch, checkpoint_minutes=10)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_is_killed_while_it_trains(tmp_path: Path) -> None:
    """By SIGKILL, when a step is saved; the other run state nothing."""

    def started(name: str, minutes: str) -> subprocess.Popen[str]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        text = Template(soak.CONFIG).substitute(model=soak.seed_policy())
        text = text.replace("epochs: 6", "epochs: 30").replace("1.0e-9", minutes)
        (folder / "config.yaml").write_text(text)
        return subprocess.Popen(
            [Path(sys.executable).parent / "rlrf", *soak.STORIES["rlrf"].commands[0].split()],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    killed = started("killed", "1.0e-9")
    while not list(tmp_path.glob("killed/run/.parts/[0-9a-f]*/checkpoint-*")):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    said = {}
    for name, minutes in (("killed", "1.0e-9"), ("whole", "null")):
        process = started(name, minutes)
        _, said[name] = process.communicate()
        assert process.returncode == 0, said[name]
        (tmp_path / name / "config.yaml").unlink()
    assert "training resumes after step" in said["killed"]
    assert "goes on after" not in said["whole"]
    soak.compare(soak.contents(tmp_path / "killed"), soak.contents(tmp_path / "whole"))
    assert not (tmp_path / "killed" / "run" / ".parts").exists()
