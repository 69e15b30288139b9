from __future__ import annotations

import math

import pytest
from helpers.jobs import job, rows

from harness.core.errors import UserError
from harness.engines import Sampling
from harness.engines.open import EngineLoader
from rlrf.config import EngineConfig
from rlrf.objectives.job import checkpoint
from rlrf.objectives.rrhf import Ranking, loss_terms, response_logps, rrhf, tokenize
from rlrf.training_config import Adapter, Training

CPU = EngineConfig(device="cpu")


def ranking(index: int, **changes) -> Ranking:
    fields = {
        "task": "toy",
        "item": str(index),
        "index": index,
        "prompt": f"<|user|>What is {index} plus 4?<|end|><|assistant|>",
        "responses": [f"The answer is {index + 4}.", "What is 3?", "No"],
        "ranks": [0, 1, 2],
        "cut": [False, False, False],
    }
    return Ranking(**(fields | changes))


RANKINGS = [ranking(i) for i in range(16)]


def fit(start, out, *, rankings=RANKINGS, adapter=None, **settings):
    settings = {"learning_rate": 1e-3, "batch_size": 8, "max_length": 100} | settings
    rrhf(rankings, job(start, out, Training(**settings), adapter=adapter))
    return checkpoint(out, "M1", start)


@pytest.mark.slow
def test_an_adapter_is_drawn_by_the_seed_alone(start, tmp_path):
    import torch

    made = []
    for before in (1, 2):  # of the numbers that a process drew for other things
        torch.manual_seed(before)
        made.append(fit(start, tmp_path / str(before), adapter=Adapter(r=4)).digest)
    assert made[0] == made[1]


def terms(logps, sizes, ranks, groups):
    import torch

    told = (torch.tensor(values) for values in (logps, sizes, ranks, groups))
    ranked, best = loss_terms(*told)
    return ranked.item(), best.item()


def by_hand(logps, sizes, ranks, groups):
    """The formula as it is written, prompt by prompt and pair by pair."""
    ranked, best = [], []
    for group in sorted(set(groups)):
        of_prompt = [
            (total / size, rank, total)
            for total, size, rank, g in zip(logps, sizes, ranks, groups, strict=True)
            if g == group
        ]
        ranked.append(
            sum(max(0.0, p - q) for p, r, _ in of_prompt for q, s, _ in of_prompt if r > s)
        )
        best.append(-of_prompt[0][2])
    return sum(ranked) / len(ranked), sum(best) / len(best)


def test_the_loss_is_that_of_the_paper():
    # A token, worse ones are likelier by 1 (third over second), 2 (third over first), and 1; of the
    # best one all tokens count.
    assert terms([-6.0, -8.0, -1.0], [2, 4, 1], [0, 1, 2], [0, 0, 0]) == (4.0, 6.0)
    assert terms([-2.0, -8.0, -3.0], [2, 4, 1], [0, 1, 2], [0, 0, 0]) == (0.0, 2.0)


def test_equally_good_responses_are_not_ranked():
    assert terms([-3.0, -2.0, -1.0], [1, 1, 1], [0, 0, 0], [0, 0, 0]) == (0.0, 3.0)
    assert terms([-3.0, -1.0, -2.0], [1, 1, 1], [0, 1, 1], [0, 0, 0]) == (3.0, 3.0)


def test_prompts_of_a_batch_count_alike_and_are_never_compared():
    import torch

    generator = torch.Generator().manual_seed(3)
    logps = (-30 * torch.rand(9, generator=generator)).tolist()
    sizes = [4, 9, 2, 30, 7, 7, 1, 12, 3]
    ranks, groups = [0, 1, 2, 2, 0, 1, 0, 0, 1], [0, 0, 0, 0, 1, 1, 2, 2, 2]
    found = terms(logps, sizes, ranks, groups)
    assert found == pytest.approx(by_hand(logps, sizes, ranks, groups))
    alone = [
        terms(logps[a:b], sizes[a:b], ranks[a:b], [0] * (b - a))
        for a, b in ((0, 4), (4, 6), (6, 9))
    ]
    assert found == pytest.approx([sum(values) / 3 for values in zip(*alone, strict=True)])


def test_likelihoods_are_of_the_response_alone_whatever_the_padding(tiny_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    (row,) = tokenize([ranking(0)], tokenizer, 100)
    slow = []
    for ids in row["ids"]:
        logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        told = [logps[at - 1, ids[at]].item() for at in range(row["start"], len(ids))]
        slow.append(sum(told))
    longest = max(map(len, row["ids"]))
    for width in (longest, longest + 7):
        pad = torch.full((3, width), tokenizer.pad_token_id)
        mask, learned = torch.zeros_like(pad), torch.zeros_like(pad, dtype=torch.bool)
        for place, ids in enumerate(row["ids"]):
            pad[place, : len(ids)] = torch.tensor(ids)
            mask[place, : len(ids)] = 1
            learned[place, row["start"] : len(ids)] = True
        inputs = {"input_ids": pad, "attention_mask": mask, "learned": learned}
        found, sizes = response_logps(model, inputs)
        assert found.tolist() == pytest.approx(slow, rel=1e-5, abs=1e-4)
        assert sizes.tolist() == [len(ids) - row["start"] for ids in row["ids"]]


@pytest.mark.slow
def test_training_learns_the_order_and_the_best_and_is_repeatable(start, tmp_path):
    upside = [
        ranking(i, responses=["No", f"The answer is {i + 4}.", "What is 3?"]) for i in range(16)
    ]
    first = fit(start, tmp_path / "a", rankings=upside, epochs=6)
    steps = rows(tmp_path / "a")
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert steps[0]["rank_loss"] > 0 and steps[-1]["rank_loss"] < steps[0]["rank_loss"] / 2
    assert steps[-1]["logp_best"] > steps[0]["logp_best"]
    for row in steps:
        assert row["loss"] == pytest.approx(row["rank_loss"] - row["logp_best"], abs=1e-4)
    second = fit(start, tmp_path / "b", rankings=upside, epochs=6)
    assert first.digest == second.digest != start.digest


@pytest.mark.slow
def test_the_first_step_is_the_loss_of_the_start(start, tmp_path, tiny_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    fit(start, tmp_path / "a", rankings=RANKINGS[:4], batch_size=4)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    found = tokenize(RANKINGS[:4], AutoTokenizer.from_pretrained(tiny_model), 100)
    totals, sizes, groups = [], [], []
    for group, row in enumerate(found):
        for ids in row["ids"]:
            logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            told = [logps[at - 1, ids[at]].item() for at in range(row["start"], len(ids))]
            totals.append(sum(told))
            sizes.append(len(told))
            groups.append(group)
    ranked, best = by_hand(totals, sizes, [0, 1, 2] * 4, groups)
    (step,) = rows(tmp_path / "a")
    assert step["rank_loss"] == pytest.approx(ranked, abs=1e-4)
    assert step["logp_best"] == pytest.approx(-best, abs=1e-3)


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_one_large_batch(start, tmp_path):
    fit(start, tmp_path / "one", batch_size=8, epochs=2)
    fit(start, tmp_path / "four", batch_size=2, gradient_accumulation=4, epochs=2)
    for one, four in zip(rows(tmp_path / "one"), rows(tmp_path / "four"), strict=True):
        assert four == pytest.approx(one, rel=1e-3, abs=1e-4)


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


@pytest.mark.slow
def test_what_is_saved_is_a_plain_folder_that_generates_with_a_cache(start, tmp_path):
    from transformers import AutoModelForCausalLM

    trained = fit(start, tmp_path / "a")
    assert AutoModelForCausalLM.from_pretrained(trained.model).config.use_cache
    assert EngineLoader(CPU.spec()).load(trained).generate(["What"], Sampling(max_tokens=3))


def test_what_does_not_fit_is_left_out(start, tiny_model, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    long = "word " * 100
    best_too_long = ranking(1, responses=[long, "What is 3?", "No"])
    worst_too_long = ranking(2, responses=["The answer is 6.", "No", long])
    only_one_left = ranking(3, responses=["The answer is 7.", long, long + "."])
    found = tokenize([best_too_long, worst_too_long, only_one_left], tokenizer, 100)
    assert [(len(row["ids"]), row["ranks"]) for row in found] == [(2, [0, 1])]
    with pytest.raises(UserError, match=r"None of the 16 rankings.*raise train\.max_length"):
        fit(start, tmp_path / "a", max_length=10)


@pytest.mark.slow
def test_what_was_cut_off_learns_no_end_and_nothing_of_nothing(start, tiny_model, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    cut = ranking(0, cut=[False, True, False])
    (row,) = tokenize([cut], tokenizer, 100)
    ends = [ids[-1] == tokenizer.eos_token_id for ids in row["ids"]]
    assert ends == [True, False, True]
    empty = ranking(0, responses=["The answer is 4.", "No", ""], cut=[False, False, True])
    (row,) = tokenize([empty], tokenizer, 100)
    assert len(row["ids"]) == 2
    fit(start, tmp_path / "a", rankings=[empty])
    assert all(math.isfinite(value) for value in rows(tmp_path / "a")[0].values())


def test_a_ranking_has_a_rank_for_each_response():
    with pytest.raises(ValueError, match="one rank and one cut per response"):
        ranking(0, ranks=[0, 1])
