"""What the reference gives to pairs is computed once, and is what it would be."""

from __future__ import annotations

import gzip
import json
import shutil

import pytest
from helpers.jobs import job
from test_training_dpo import PAIRS, pair

from harness.engines.model_folder import Checkpoint
from rlrf.objectives.dpo import dpo
from rlrf.objectives.job import DivergedError, checkpoint
from rlrf.training_config import Adapter, Training

ADAPTERS = [None, Adapter(r=4)]


@pytest.fixture
def passes(monkeypatch):
    """Batches that the reference was asked about."""
    from trl import DPOTrainer

    asked, compute = [], DPOTrainer.compute_ref_log_probs

    def counted(self, model, inputs):
        asked.append(len(inputs["input_ids"]) // 2)
        return compute(self, model, inputs)

    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", counted)
    return asked


def fit(start, out, references, *, pairs=PAIRS, adapter=None, **settings):
    settings = {"learning_rate": 1e-3, "batch_size": 8, "max_length": 100} | settings
    config = Training(**settings)
    dpo(pairs, job(start, out, config, adapter=adapter, references=references))
    return checkpoint(out, "M1", start).digest, (out / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_unchanged_pairs_are_not_asked_about_again(start, tmp_path, passes, adapter):
    alone = fit(start, tmp_path / "alone", None, adapter=adapter)
    first = fit(start, tmp_path / "a", tmp_path / "kept", adapter=adapter)
    assert passes == [8, 8, 4] * 2
    again = fit(start, tmp_path / "b", tmp_path / "kept", adapter=adapter)
    assert passes == [8, 8, 4] * 2
    assert alone == first == again
    fit(start, tmp_path / "c", tmp_path / "kept", adapter=adapter, beta=0.5, learning_rate=1e-4)
    assert len(passes) == 6


@pytest.mark.slow
def test_one_pair_that_changes_is_asked_about_with_its_batch(start, tmp_path, passes):
    fit(start, tmp_path / "a", tmp_path / "kept")
    passes.clear()
    changed = [*PAIRS[:9], pair(99), *PAIRS[10:]]
    fit(start, tmp_path / "b", tmp_path / "kept", pairs=changed)
    assert passes == [8]
    fit(start, tmp_path / "c", tmp_path / "kept", pairs=PAIRS)  # nothing was forgotten
    assert passes == [8]


@pytest.mark.slow
def test_another_reference_is_asked(start, tmp_path, passes):
    fit(start, tmp_path / "a", tmp_path / "kept")
    passes.clear()
    moved = checkpoint(tmp_path / "a", "M1", start)
    fit(moved, tmp_path / "b", tmp_path / "kept")
    fit(start, tmp_path / "c", tmp_path / "kept", bf16=True)
    assert passes == [8, 8, 4] * 2
    assert len(list((tmp_path / "kept").iterdir())) == 3


@pytest.mark.slow
def test_an_adapter_that_goes_on_is_a_reference_of_its_own(start, tmp_path, passes):
    fit(start, tmp_path / "a", tmp_path / "kept", adapter=Adapter(r=4))
    passes.clear()
    moved = checkpoint(tmp_path / "a", "M1", start)
    fresh = fit(moved, tmp_path / "b", None, adapter=Adapter(r=4))
    kept = fit(moved, tmp_path / "c", tmp_path / "kept", adapter=Adapter(r=4))
    assert fresh == kept
    assert len(passes) == 6


def bits(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def other(line):
    return gzip.compress(json.dumps(line).encode())


@pytest.mark.slow
@pytest.mark.parametrize(
    "damaged",
    [
        lambda data: data[: len(data) // 2],
        bits,
        lambda _: b"",
        lambda _: b"\xff" * 50,
        lambda _: other({"key": "0" * 64, "logp": "much"}),
        lambda _: other({"key": "0" * 64, "logp": float("nan")}),
        lambda _: other({"key": "short", "logp": -1.0}),
    ],
    ids=["half", "a bit", "empty", "no gzip", "words", "nan", "key"],
)
def test_a_damaged_file_is_ignored_and_made_again(start, tmp_path, passes, damaged):
    right = fit(start, tmp_path / "a", tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damaged(whole))
    passes.clear()
    assert fit(start, tmp_path / "b", tmp_path / "kept") == right
    assert passes == [8, 8, 4]
    assert file.read_bytes() == whole


def test_a_training_that_is_cut_off_finds_what_it_had(start, tmp_path, passes, monkeypatch):
    whole = fit(start, tmp_path / "a", None)
    passes.clear()

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trl.DPOTrainer.training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(start, tmp_path / "b", tmp_path / "kept")
    assert fit(start, tmp_path / "b", tmp_path / "kept") == whole
    assert passes == [8, 8, 4]


def test_a_reference_that_gives_no_number_ends_as_divergence(start, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(start.model, tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    with pytest.raises(DivergedError, match="step 1"):
        fit(Checkpoint("M0", tmp_path / "broken"), tmp_path / "out", tmp_path / "kept")
