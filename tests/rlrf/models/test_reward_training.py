from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.engines.model_folder import model_digest
from rlrf.config import Device
from rlrf.models.reward import model as reward_model
from rlrf.models.reward.measure import measure
from rlrf.models.reward.model import LORA, RewardModel, RewardTraining, margins, train
from rlrf.models.reward.preferences import Preference
from rlrf.training_config import Adapter

CPU = Device(device="cpu")
PAIRS = [
    Preference(
        prompt=f"<|user|>What is {i} plus 4?<|end|><|assistant|>",
        chosen=f"The answer is {i + 4}.",
        rejected="What is that?",
        domain="even" if i % 2 == 0 else "odd",
    )
    for i in range(32)
]
SETTINGS = RewardTraining(adapter=None, learning_rate=1e-3, batch_size=8, max_length=100)


def fit(base, out, *, pairs=PAIRS, seed=0, **changes):
    settings = SETTINGS.model_copy(update=changes)
    return train(pairs, base, settings, device=CPU, seed=seed, out=out)


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("reward") / "model"
    fit(tiny_model, out)
    return out


@pytest.mark.slow
def test_a_reward_model_learns_to_prefer_the_chosen(trained):
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps] == list(range(1, 9))
    assert steps[-1]["loss"] < steps[0]["loss"]
    found = margins(RewardModel(trained, device=CPU), PAIRS)
    assert measure(found, [one.domain for one in PAIRS]).by_domain["odd"].mean == 1.0


@pytest.mark.slow
def test_equal_inputs_give_equal_weights_and_another_seed_others(tiny_model, trained, tmp_path):
    again, other = fit(tiny_model, tmp_path / "a"), fit(tiny_model, tmp_path / "b", seed=1)
    assert model_digest(tmp_path / "a") == model_digest(trained) != model_digest(tmp_path / "b")
    assert again.files["model.safetensors"] != other.files["model.safetensors"]
    assert again.preferences == other.preferences


@pytest.mark.slow
def test_the_published_adapter_is_merged_into_a_plain_folder(tiny_model, tmp_path):
    assert RewardTraining().adapter == LORA == Adapter(r=8, alpha=32, dropout=0.1)
    fit(tiny_model, tmp_path / "lora", adapter=LORA, epochs=6, learning_rate=3e-3)
    assert not (tmp_path / "lora" / "adapter_config.json").exists()
    found = margins(RewardModel(tmp_path / "lora", device=CPU), PAIRS)
    assert (found > 0).all()


@pytest.mark.slow
def test_centred_rewards_have_zero_between_good_and_bad(tiny_model, tmp_path):
    fit(tiny_model, tmp_path / "a", center=0.1, epochs=8)
    model = RewardModel(tmp_path / "a", device=CPU)
    prompts = [one.prompt for one in PAIRS]
    assert (model.score(prompts, [one.chosen for one in PAIRS]) > 0).all()
    assert (model.score(prompts, [one.rejected for one in PAIRS]) < 0).all()


def test_a_reward_does_not_depend_on_its_batch_and_long_texts_are_bounded(trained):
    model = RewardModel(trained, device=CPU)
    prompts = [one.prompt for one in PAIRS[:6]] + ["word " * 5000]
    responses = ["short", "x" * 40, "The answer is 7.", "", "7", "8" * 90, "The \ud800 end."]
    together = model.score(prompts, responses)
    alone = [model.score([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    assert together == pytest.approx(np.array(alone), abs=1e-5)
    assert model.score([], []).shape == (0,)


@pytest.mark.slow
def test_a_loss_that_is_no_number_keeps_what_was_there(tiny_model, trained, tmp_path):
    kept = shutil.copytree(trained, tmp_path / "kept")
    with pytest.raises(UserError, match=r"diverged.*lower learning_rate"):
        fit(tiny_model, kept, learning_rate=1e30, max_grad_norm=1e30, epochs=3)
    assert model_digest(kept) == model_digest(trained)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.slow
def test_pairs_too_long_are_left_out_and_counted(tiny_model, tmp_path):
    long = PAIRS[0].model_copy(update={"chosen": "word " * 200})
    manifest = fit(tiny_model, tmp_path / "a", pairs=[*PAIRS[:8], long], epochs=1)
    assert (manifest.pairs, manifest.left_out) == (8, 1)
    with pytest.raises(UserError, match="raise max_length"):
        fit(tiny_model, tmp_path / "b", max_length=3)


def test_a_language_model_is_no_reward_model(tiny_model):
    with pytest.raises(UserError, match="is not a reward model"):
        RewardModel(tiny_model, device=CPU)


def test_a_head_of_several_numbers_is_refused(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="gives 2 numbers"):
        reward_model.load_model(folder, "float32", new_head=False)


def test_files_that_training_did_not_write_are_noticed(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "a")
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(UserError, match=r"config\.json is not the file that training wrote"):
        RewardModel(folder, device=CPU)


def test_another_models_tokenizer_is_refused(trained, tmp_path):
    from transformers import AutoTokenizer

    folder = shutil.copytree(trained, tmp_path / "a")
    (folder / "reward_model.json").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra {i}>" for i in range(50)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="another model's tokenizer"):
        RewardModel(folder, device=CPU)
