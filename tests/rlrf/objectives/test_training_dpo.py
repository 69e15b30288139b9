from __future__ import annotations

import math

import pytest
from helpers.jobs import job, rows

from harness.core.errors import UserError
from harness.engines import Sampling
from harness.engines.open import EngineLoader
from rlrf.config import EngineConfig
from rlrf.objectives.dpo import dpo, tokenize
from rlrf.objectives.job import DivergedError, checkpoint
from rlrf.pairs import Pair
from rlrf.training_config import Adapter, Training

CPU = EngineConfig(device="cpu")


def pair(index: int, **changes) -> Pair:
    fields = {
        "task": "toy",
        "item": str(index),
        "index": index,
        "prompt": f"<|user|>What is {index} plus 4?<|end|><|assistant|>",
        "chosen": f"The answer is {index + 4}.",
        "rejected": "No",
        "gap": 1.0,
        "similarity": 0.0,
        "chosen_origin": "explored",
        "rejected_origin": "explored",
        "rejected_cut": False,
    }
    return Pair(**(fields | changes))


PAIRS = [pair(i) for i in range(20)]


def fit(start, out, *, pairs=PAIRS, adapter=None, **settings):
    settings = {"learning_rate": 1e-3, "batch_size": 8, "max_length": 100} | settings
    dpo(pairs, job(start, out, Training(**settings), adapter=adapter))
    return checkpoint(out, "M1", start)


@pytest.mark.slow
def test_training_prefers_the_chosen_and_is_repeatable(start, tmp_path):
    first = fit(start, tmp_path / "a", epochs=2)
    steps = rows(tmp_path / "a")
    assert [row["step"] for row in steps] == list(range(1, 7))
    assert steps[0]["margin"] == pytest.approx(0, abs=1e-5)  # the start is its own reference
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert steps[-1]["margin"] > 0.1
    assert steps[-1]["logp_chosen"] < 0
    second = fit(start, tmp_path / "b", epochs=2)
    assert first.digest == second.digest != start.digest


@pytest.mark.slow
def test_an_adapter_goes_on_from_itself_and_is_what_generation_loads(start, tmp_path):
    first = fit(start, tmp_path / "a", adapter=Adapter(r=4))
    assert first.model == start.model
    second = fit(first, tmp_path / "b", adapter=Adapter(r=4))
    assert rows(tmp_path / "b")[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert len({start.digest, first.digest, second.digest}) == 3
    engines = EngineLoader(CPU.spec())
    engine = engines.load(second)
    assert engine.model_digest == second.digest
    assert engines.load(second) is engine
    assert engine.generate(["What"], Sampling(max_tokens=3))


@pytest.mark.slow
def test_losses_are_weighted_and_displacement_can_be_seen(start, tmp_path):
    fit(start, tmp_path / "plain", epochs=2)
    fit(start, tmp_path / "anchored", epochs=2, loss={"sigmoid": 1.0, "sft": 1.0})
    plain, anchored = rows(tmp_path / "plain"), rows(tmp_path / "anchored")
    assert anchored[0]["loss"] > plain[0]["loss"] + 1
    assert anchored[-1]["logp_chosen"] > plain[-1]["logp_chosen"]


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_with_a_sentence(start, tmp_path):
    with pytest.raises(DivergedError, match=r"diverged at step.*learning_rate"):
        fit(start, tmp_path / "a", learning_rate=1e30, epochs=3, max_grad_norm=1e30)
    assert not (tmp_path / "a" / "model").exists()


@pytest.mark.slow
def test_pairs_that_do_not_fit_are_left_out(start, tmp_path):
    with pytest.raises(UserError, match=r"raise train\.max_length"):
        fit(start, tmp_path / "a", max_length=10)
    long = pair(99, chosen="word " * 100)
    fit(start, tmp_path / "b", pairs=[*PAIRS, long], max_length=100)
    assert len(rows(tmp_path / "b")) == 3


def test_what_was_cut_off_learns_no_end(tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    whole, cut = tokenize([pair(0), pair(0, rejected_cut=True)], tokenizer, 100)
    end = tokenizer.eos_token_id
    assert whole["chosen_ids"][-1] == whole["rejected_ids"][-1] == end
    assert cut["chosen_ids"][-1] == end != cut["rejected_ids"][-1]
    assert tokenizer.decode(whole["prompt_ids"]) == pair(0).prompt


def test_slic_is_a_hinge_on_the_difference_with_the_likelihood_of_the_chosen(start, tmp_path):
    slic = {"hinge": 1.0, "sft": 0.1}
    fit(start, tmp_path / "a", loss=slic, batch_size=20, epochs=4, beta=0.5, learning_rate=1e-2)
    for row in rows(tmp_path / "a"):  # all the pairs are one batch
        # The implicit rewards are beta times what was gained on the reference.
        assert row["margin"] == pytest.approx(row["reward_chosen"] - row["reward_rejected"])
    first, *_, last = rows(tmp_path / "a")
    assert first["reward_chosen"] == pytest.approx(0, abs=1e-5)
    assert first["loss"] > 1 + 0.1  # the hinge of nothing gained, and a tenth of a likelihood
    assert last["margin"] > 0


@pytest.mark.slow
def test_the_hinge_is_what_its_formula_says(start, tmp_path, tiny_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The longer, the more there is to gain.
    pairs = [pair(i, rejected="No " * (1 + i % 8)) for i in range(20)]
    beta = 2.0
    settings = {"batch_size": 20, "beta": beta, "learning_rate": 3e-4, "scheduler": "constant"}
    first = fit(start, tmp_path / "a", pairs=pairs, loss={"hinge": 1.0}, warmup_ratio=0, **settings)
    fit(
        start,
        tmp_path / "b",
        pairs=pairs,
        loss={"hinge": 1.0},
        epochs=2,
        warmup_ratio=0,
        **settings,
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    before, after = (
        AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (start.model, first.model)
    )

    def logp(model, prompt, response):
        logps = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        places = range(len(prompt), len(prompt) + len(response))
        return sum(logps[at - 1, (prompt + response)[at]].item() for at in places)

    hinges = []
    for row in tokenize(pairs, tokenizer, 100):
        gained = [
            logp(after, row["prompt_ids"], row[f"{which}_ids"])
            - logp(before, row["prompt_ids"], row[f"{which}_ids"])
            for which in ("chosen", "rejected")
        ]
        hinges.append(max(0.0, 1 - beta * (gained[0] - gained[1])))
    assert min(hinges) == 0 < max(hinges)  # both sides of the corner
    one, two = rows(tmp_path / "b")
    assert one["loss"] == pytest.approx(1.0, abs=1e-4)  # nothing is gained on itself
    assert 0 < two["loss"] == pytest.approx(sum(hinges) / len(hinges), abs=1e-3)


@pytest.mark.slow
def test_a_loss_on_means_runs_and_logs(start, tmp_path):
    fit(start, tmp_path / "a", loss={"sigmoid_norm": 1.0}, epochs=2)
    steps = rows(tmp_path / "a")
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert steps[-1]["margin"] > steps[0]["margin"]
    assert all(math.isfinite(value) for row in steps for value in row.values())
