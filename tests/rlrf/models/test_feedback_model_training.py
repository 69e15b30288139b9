"""A feedback model is trained, measured, saved, and read again; what is not one is refused."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers import judged, toy

from harness.core.errors import UserError
from harness.core.files import read_records, write_jsonl
from harness.core.schema import Sample
from harness.engines.model_folder import model_digest
from rlrf.cli import run
from rlrf.config import Device
from rlrf.models.feedback import cases as reading
from rlrf.models.feedback.measure import Comparison
from rlrf.models.feedback.model import FeedbackModel, read_manifest
from rlrf.models.feedback.training import evaluate
from rlrf.training_config import Adapter

CPU = Device(device="cpu")
CASES = judged.cases(40)
fit = judged.fit


@pytest.mark.slow
def test_a_feedback_model_learns_what_the_judge_says(critic):
    out, manifest, found = critic
    assert found.model.readable.mean == 1 and found.base.readable.mean == 0
    assert found.model.overall.exact.mean > found.usual.overall.exact.mean == 0.75
    assert found.model.aspects["sum"].same_words.mean > 0.9
    assert (found.model.answers, found.model.readable.n) == (16, 8)
    assert (manifest.answers, manifest.left_out, manifest.cut) == (64, 0, 0)
    assert manifest.usual == {"sum": 0, "tone": 1} and manifest.asks.aspects == ["sum", "tone"]
    assert Comparison.model_validate_json((out / "agreement.json").read_text()) == found
    steps = (out / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == 56 and json.loads(steps[-1])["loss"] < json.loads(steps[0])["loss"]


def test_a_feedback_model_criticises_answers(critic):
    from harness.engines.hf import HFEngine

    out, _, _ = critic
    model = FeedbackModel(out, lambda: HFEngine(out, device="cpu"))
    item = toy.items("train")[0]
    answers = [
        Sample(task="toy", item=item.digest, index=0, prompt="", response=text)
        for text in (*judged.ANSWERS, "No. " * 2_000)
    ]
    good, poor, long = model.critiques([(item, answer) for answer in answers], toy.TASK)
    assert good.feedback == judged.feedback(item.digest, 2)
    assert poor.feedback == judged.feedback(item.digest, 0)
    assert (long.feedback is None) == bool(long.reason)
    endless = item.model_copy(update={"prompt": "Why? " * 500})
    (unasked,) = model.critiques([(endless, answers[0])], toy.TASK)
    assert "too long" in unasked.reason


@pytest.mark.slow
def test_equal_inputs_give_equal_bytes_and_another_seed_other_prompts(roomy_model, tmp_path):
    brief = {"epochs": 1}
    a, b = (fit(roomy_model, tmp_path / name, changes=brief)[0] for name in "ab")
    assert a == b and model_digest(tmp_path / "a") == model_digest(tmp_path / "b")
    other, _ = fit(roomy_model, tmp_path / "c", changes=brief, seed=1)
    assert other.cases != a.cases and set(other.items) != set(a.items)


@pytest.mark.slow
def test_an_adapter_is_merged_into_a_plain_folder(roomy_model, tmp_path):
    brief = {"epochs": 1, "adapter": Adapter(r=4), "learning_rate": 1e-2}
    fit(roomy_model, tmp_path / "lora", changes=brief)
    assert not (tmp_path / "lora" / "adapter_config.json").exists()
    assert model_digest(tmp_path / "lora") != model_digest(roomy_model)
    assert read_manifest(tmp_path / "lora").training.adapter.r == 4


def test_what_shows_the_reference_is_another_model(critic, roomy_model, tmp_path):
    out, _, _ = critic
    blind = shutil.copytree(out, tmp_path / "blind")
    manifest = json.loads((blind / "feedback_model.json").read_text())
    manifest["asks"]["reference"] = False
    (blind / "feedback_model.json").write_text(json.dumps(manifest))
    seeing, unseeing = (FeedbackModel(f, lambda: None).digest for f in (out, blind))
    assert seeing != unseeing


@pytest.mark.slow
def test_feedback_that_is_too_long_is_left_out_and_counted(roomy_model, tmp_path):
    wordy = CASES[0].feedback.aspects[0].model_copy(update={"justification": "x" * 400})
    long = reading.Case(CASES[0].subject, CASES[0].feedback.model_copy(update={"aspects": [wordy]}))
    brief = {"epochs": 1}
    manifest, _ = fit(roomy_model, tmp_path / "a", cases=[*CASES[:40], long], changes=brief)
    assert (manifest.answers, manifest.left_out) in ((32, 1), (32, 0), (31, 1), (30, 1))
    with pytest.raises(UserError, match="Raise max_length"):
        fit(roomy_model, tmp_path / "b", changes={"max_reply": 3})
    assert not (tmp_path / "b").exists()


def test_one_prompt_is_too_little(roomy_model, tmp_path):
    with pytest.raises(UserError, match="more prompts"):
        fit(roomy_model, tmp_path / "a", cases=CASES[:2])


@pytest.mark.slow
def test_a_loss_that_is_no_number_keeps_what_was_there(roomy_model, critic, tmp_path):
    kept = shutil.copytree(critic[0], tmp_path / "kept")
    with pytest.raises(UserError, match="lower learning_rate"):
        fit(roomy_model, kept, changes={"learning_rate": 1e30, "max_grad_norm": 1e30})
    assert model_digest(kept) == model_digest(critic[0])


@pytest.mark.slow
def test_it_is_measured_on_items_that_it_has_not_learned(critic, roomy_model, capsys):
    out, _, before = critic
    found = evaluate(out, CASES, base=roomy_model, device=CPU)
    assert found == before
    assert "64 answers are left out: the model learned from their items" in capsys.readouterr().err
    learned = [c for c in CASES if c.subject.item.digest in read_manifest(out).items]
    with pytest.raises(UserError, match="measure it on others"):
        evaluate(out, learned, device=CPU)


def test_a_folder_that_training_did_not_write_is_refused(critic, roomy_model, tmp_path):
    with pytest.raises(UserError, match="is not a feedback model"):
        read_manifest(roomy_model)
    folder = shutil.copytree(critic[0], tmp_path / "a")
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(UserError, match=r"config\.json is not the file that training wrote"):
        read_manifest(folder)


# What is learned from -----------------------------------------------------------------------------


def load_toy(name):
    return toy.TASK


def kept(folder, records, name="feedback"):
    path = folder / "iter_1" / name / "records.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, records)
    return path


def test_runs_and_files_are_read_each_answer_once(tmp_path):
    records = judged.judged(3)
    path = kept(tmp_path, records[:4])
    kept(tmp_path, records[2:], "reflect_feedback")
    assert reading.read_cases([tmp_path], load_toy, {}) == judged.cases(3)
    assert reading.read_cases([path, path], load_toy, {}) == judged.cases(2)
    assert len(read_records(path, type(records[0]))) == 4


def test_answers_without_feedback_teach_nothing(tmp_path):
    silent = judged.judged(1)[0]
    silent = silent.model_copy(
        update={"feedback": silent.feedback.model_copy(update={"aspects": []})}
    )
    path = kept(tmp_path, [silent])
    with pytest.raises(UserError, match="holds no feedback"):
        reading.read_cases([path], load_toy, {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a run with feedback"):
        reading.read_cases([tmp_path / "empty"], load_toy, {})


def test_items_that_are_not_the_tasks_own_are_named(tmp_path):
    one = judged.judged(1)[0]
    stray = one.model_copy(update={"sample": one.sample.model_copy(update={"item": "0" * 64})})
    with pytest.raises(UserError, match="--data toy=FOLDER"):
        reading.read_cases([kept(tmp_path, [stray])], load_toy, {})


# The command line ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_commands_train_and_evaluate(roomy_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tasks._all", lambda: {"toy": toy.TASK})
    path = kept(tmp_path, judged.judged(20))
    (tmp_path / "how.yaml").write_text("{epochs: 1, learning_rate: 0.01, max_reply: 80}")
    out = str(tmp_path / "critic")
    common = [str(path), "--base", str(roomy_model), "--device", "cpu"]
    settings = ["--settings", str(tmp_path / "how.yaml"), "--no-reference"]
    assert run(["feedback-model", "train", *common, *settings, "--out", out]) == 0
    told = capsys.readouterr().out
    assert "a feedback model of 32 answers" in told and "| usual grade " in told
    assert not read_manifest(tmp_path / "critic").asks.reference
    assert run(["feedback-model", "evaluate", out, *common, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["base"]["readable"]["mean"] == 0
    assert run(["feedback-model", "evaluate", out, *common, "--data", "toy"]) == 3
    assert "TASK=FOLDER" in capsys.readouterr().err
    assert run(["feedback-model", "evaluate", str(roomy_model), *common]) == 3
    assert "rlrf feedback-model train" in capsys.readouterr().err
