from __future__ import annotations

import math

import pytest
from helpers.jobs import job, rows

from harness.core.errors import UserError
from harness.engines import Sampling
from harness.engines.open import EngineLoader
from rlrf.config import EngineConfig
from rlrf.objectives.job import DivergedError, checkpoint
from rlrf.objectives.sft import Example, sft, tokenize
from rlrf.training_config import Adapter, Optimisation, RewriterTraining

CPU = EngineConfig(device="cpu")


def example(index: int, **changes) -> Example:
    fields = {
        "task": "toy",
        "item": str(index),
        "index": index,
        "prompt": f"<|user|>What is {index} plus 4?<|end|><|assistant|>",
        "response": f"The answer is {index + 4}.",
    }
    return Example(**(fields | changes))


# Of unlike lengths, so that a mean over tokens is no mean of means.
EXAMPLES = [example(i, response="The answer is " + str(i) * (1 + i % 5)) for i in range(16)]


def fit(start, out, *, examples=EXAMPLES, adapter=None, **settings):
    settings = {"learning_rate": 1e-3, "batch_size": 8, "max_length": 100} | settings
    sft(examples, job(start, out, Optimisation(**settings), adapter=adapter))
    return checkpoint(out, "M1", start)


@pytest.fixture
def tokenizer(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_labels_leave_the_prompt_out_and_the_end_is_learned_unless_cut(tokenizer):
    whole, cut = tokenize([example(3), example(3, cut=True)], tokenizer, 100)
    assert tokenizer.decode(whole["input_ids"]) == example(3).prompt + "The answer is 7.<|end|>"
    learned = [label for label in whole["labels"] if label != -100]
    assert tokenizer.decode(learned) == "The answer is 7.<|end|>"
    assert whole["labels"][-len(learned) :] == learned
    assert tokenizer.decode([label for label in cut["labels"] if label != -100]) == (
        "The answer is 7."
    )


@pytest.mark.slow
def test_the_loss_is_the_mean_over_the_tokens_of_responses(start, tmp_path, tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    fit(start, tmp_path / "a", batch_size=16)
    fit(start, tmp_path / "b", batch_size=4, gradient_accumulation=4)
    model = AutoModelForCausalLM.from_pretrained(start.model).eval()
    told = []
    for row in tokenize(EXAMPLES, tokenizer, 100):
        logps = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        told += [
            logps[at - 1, label].item() for at, label in enumerate(row["labels"]) if label != -100
        ]
    by_hand = -math.fsum(told) / len(told)
    for out in ("a", "b"):
        (step,) = rows(tmp_path / out)
        assert step["loss"] == pytest.approx(by_hand, abs=1e-4)
        assert step["grad_norm"] == pytest.approx(rows(tmp_path / "a")[0]["grad_norm"], rel=1e-3)


@pytest.mark.slow
def test_the_loss_is_that_of_trl_on_conversations(start, tmp_path):
    import datasets
    from trl import SFTConfig, SFTTrainer

    class Losses(SFTTrainer):
        def log(self, logs, *args):
            found.extend([logs["loss"]] if "loss" in logs else [])
            super().log(logs, *args)

    found = []
    turns = [{"prompt": one.prompt, "completion": one.response + "<|end|>"} for one in EXAMPLES]
    Losses(
        model=str(start.model),
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            per_device_train_batch_size=16,
            num_train_epochs=1,
            max_length=None,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(turns),
    ).train()
    fit(start, tmp_path / "ours", batch_size=16)
    assert rows(tmp_path / "ours")[0]["loss"] == pytest.approx(found[0], abs=1e-4)


@pytest.mark.slow
def test_training_learns_the_responses_and_is_repeatable(start, tmp_path):
    first = fit(start, tmp_path / "a", epochs=6, learning_rate=1e-2)
    steps = rows(tmp_path / "a")
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.1
    assert steps[-1]["token_accuracy"] > steps[0]["token_accuracy"]
    second = fit(start, tmp_path / "b", epochs=6, learning_rate=1e-2)
    assert first.digest == second.digest != start.digest


@pytest.mark.slow
def test_an_adapter_goes_on_from_itself_and_is_what_generation_loads(start, tmp_path):
    first = fit(start, tmp_path / "a", adapter=Adapter(r=4), learning_rate=1e-2, epochs=3)
    second = fit(first, tmp_path / "b", adapter=Adapter(r=4))
    assert first.model == second.model == start.model
    assert rows(tmp_path / "b")[0]["loss"] < rows(tmp_path / "a")[0]["loss"] - 0.1
    assert len({start.digest, first.digest, second.digest}) == 3
    engine = EngineLoader(CPU.spec()).load(second)
    assert engine.model_digest == second.digest
    assert engine.generate(["What"], Sampling(max_tokens=3))


def test_what_is_saved_is_a_plain_folder_that_generates_with_a_cache(start, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained = fit(start, tmp_path / "a")
    assert AutoModelForCausalLM.from_pretrained(trained.model).config.use_cache
    assert AutoTokenizer.from_pretrained(trained.model).chat_template
    assert EngineLoader(CPU.spec()).load(trained).generate(["What"], Sampling(max_tokens=3))


def test_responses_that_do_not_fit_are_left_out(start, tmp_path):
    with pytest.raises(UserError, match=r"None of the 16 responses.*raise train\.max_length"):
        fit(start, tmp_path / "a", max_length=10)
    long = example(99, response="word " * 100)
    fit(start, tmp_path / "b", examples=[*EXAMPLES, long])
    assert len(rows(tmp_path / "b")) == 2


def test_what_to_raise_is_named_where_it_is_written(start, tmp_path):
    config = RewriterTraining(max_length=10)
    with pytest.raises(UserError, match=r"raise rlmec\.train\.max_length"):
        sft(EXAMPLES, job(start, tmp_path / "a", config))


def test_a_loss_that_is_no_number_stops_with_a_sentence(start, tmp_path):
    with pytest.raises(DivergedError, match=r"diverged at step.*learning_rate"):
        fit(start, tmp_path / "a", learning_rate=1e30, epochs=3, max_grad_norm=1e30)
    assert not (tmp_path / "a" / "model").exists()
