from __future__ import annotations

import math

import pytest
import torch
from helpers.jobs import job, rows

from harness.core.errors import UserError
from rlrf.config import Device
from rlrf.objectives import base
from rlrf.objectives.job import DivergedError, checkpoint
from rlrf.objectives.rlmec import RewriteExample, _collate, loss_terms, rlmec, tokenize
from rlrf.rlmec.tokens import edited, pieces
from rlrf.training_config import Adapter, Rlmec, Training

CPU = Device(device="cpu")


@pytest.fixture
def tokenizer(start):
    return base.load_policy_tokenizer(start)


@pytest.fixture
def make(tokenizer):
    """A lesson with every reward of its response the same."""

    def rewrite(index: int, response: str, better: str, reward: float, cut=False) -> RewriteExample:
        ids = base.encode_response(response, tokenizer, cut=cut)
        return RewriteExample(
            task="toy",
            item=str(index),
            index=index,
            prompt=f"<|user|>What is {index} plus 4?<|end|><|assistant|>",
            response=response,
            cut=cut,
            right=reward > 0,
            tokens=pieces(response, tokenizer, cut=cut),
            rewards=[reward] * len(ids),
            rewrite=better,
            rewrite_tokens=pieces(better, tokenizer),
            edited=edited(ids, base.encode_response(better, tokenizer)),
        )

    return rewrite


@pytest.fixture
def lessons(make):
    wrong = [make(i, "The answer is 7.", f"The answer is {i + 4}.", -0.1) for i in range(12)]
    return wrong + [make(i, f"The answer is {i + 4}.", f"The answer is {i + 4}.", 0.5)
                    for i in range(12, 20)]  # fmt: skip


def fit(start, out, lessons, *, adapter=None, settings=None, **training):
    training = {"learning_rate": 3e-3, "batch_size": 5, "max_length": 120} | training
    more = {"rlmec": settings or Rlmec(), "adapter": adapter}
    rlmec(lessons, job(start, out, Training(**training), **more))
    return checkpoint(out, "M1", start)


@pytest.mark.slow
def test_training_imitates_the_rewrites_and_is_repeatable(start, lessons, tmp_path):
    first = fit(start, tmp_path / "a", lessons, epochs=6)
    steps = rows(tmp_path / "a")
    assert len(steps) == 24
    assert steps[0]["ratio"] == pytest.approx(1, abs=1e-5)  # the start is its own reference
    assert steps[0]["clipped"] == 0
    assert steps[-1]["ratio"] != pytest.approx(1, abs=1e-2)
    assert steps[-1]["logp_rewrite"] > steps[0]["logp_rewrite"] + 1
    for step in steps:
        assert step["loss"] == pytest.approx(step["rl"] + step["imitation"], rel=1e-3)
        assert step["rewarded"] == 1
    second = fit(start, tmp_path / "b", lessons, epochs=6)
    assert first.digest == second.digest != start.digest


def test_a_batch_is_what_the_slow_way_gives(start, lessons, tokenizer, make):
    """Every token of every sequence by itself, without padding or vectors."""
    model, _ = base.load_model(job(start))
    chosen = [*lessons[:2], make(3, "The", "The answer is 7. Rewrite it.", 0.2, cut=True)]
    settings = Rlmec(clip=0.1, imitation=0.7)
    data = tokenize(chosen, tokenizer, 200, settings)
    for row in data:  # another reference than the policy, so that ratios are not 1
        row["reference"] = [-5.0 - 0.2 * i for i in range(len(row["response"]))]
    loss, terms = loss_terms(model, _collate(data, tokenizer.pad_token_id), settings)

    def logps(row, key):
        ids = torch.tensor([row["prompt"] + row[key]])
        shares = model(input_ids=ids).logits[0].log_softmax(-1)
        return [shares[len(row["prompt"]) + i - 1, t].item() for i, t in enumerate(row[key])]

    rl = counted = imitation = weighted = clipped = 0.0
    ratios = []
    for row in data:
        for p, q, r in zip(logps(row, "response"), row["reference"], row["rewards"], strict=True):
            ratio = math.exp(p - q)
            held = min(max(ratio, 0.9), 1.1)
            rl -= min(ratio * r, held * r) * p
            clipped += held * r < ratio * r
            counted += 1
            ratios.append(ratio)
        for p, w in zip(logps(row, "rewrite"), row["weights"], strict=True):
            imitation -= w * p
            weighted += 1
    assert terms["rl"] == pytest.approx(rl / counted, rel=1e-4)
    assert terms["imitation"] == pytest.approx(imitation / weighted, rel=1e-4)
    assert loss.item() == pytest.approx(rl / counted + 0.7 * imitation / weighted, rel=1e-4)
    assert terms["ratio"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
    assert terms["clipped"] == pytest.approx(clipped / counted)


def test_rows_are_the_tokens_with_their_rewards_and_weights(tokenizer, make):
    lesson = make(3, "The answer is 7.", "The answer is 9.", -0.05)
    (row,) = tokenize([lesson], tokenizer, 200, Rlmec(edited=0.9, kept=0.2))
    assert tokenizer.decode(row["prompt"]) == lesson.prompt
    assert row["response"][-1] == row["rewrite"][-1] == tokenizer.eos_token_id
    assert len(row["rewards"]) == len(row["response"])
    changed = [t for t, w in zip(row["rewrite"], row["weights"], strict=True) if w == 0.9]
    assert tokenizer.decode(changed) == " 9"
    assert {0.2, 0.9} == set(row["weights"])
    (cut,) = tokenize([make(3, "The", "The answer", 0.1, cut=True)], tokenizer, 200, Rlmec())
    assert cut["response"][-1] != tokenizer.eos_token_id


@pytest.mark.slow
def test_rewards_alone_push_tokens_up_and_down(start, make, tmp_path, tokenizer):
    """Without imitation, the rewarded response becomes likelier and the punished one less so."""
    lessons = [make(1, "The answer is 5.", "The answer is 5.", 0.5),
               make(2, "No plus no.", "The answer is 6.", -0.1)]  # fmt: skip
    after = fit(start, tmp_path / "a", lessons, settings=Rlmec(imitation=0), epochs=8, batch_size=2)

    def likely(checkpoint):
        model, _ = base.load_model(job(checkpoint))
        found = []
        for row in tokenize(lessons, tokenizer, 200, Rlmec()):
            ids = torch.tensor([row["prompt"] + row["response"]])
            shares = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            found.append(shares.gather(-1, ids[0, 1:, None])[len(row["prompt"]) - 1 :].sum().item())
        return found

    (good, bad), (better, worse) = likely(start), likely(after)
    assert better > good + 1
    assert worse < bad


@pytest.mark.slow
def test_an_adapter_goes_on_from_itself(start, lessons, tmp_path):
    first = fit(start, tmp_path / "a", lessons, adapter=Adapter(r=4), epochs=2)
    assert first.model == start.model and first.adapter
    second = fit(first, tmp_path / "b", lessons, adapter=Adapter(r=4))
    assert rows(tmp_path / "b")[0]["ratio"] == pytest.approx(1, abs=1e-5)
    assert len({start.digest, first.digest, second.digest}) == 3


def test_a_loss_that_is_no_number_stops_with_a_sentence(start, lessons, tmp_path):
    with pytest.raises(DivergedError, match=r"diverged at step.*learning_rate"):
        fit(start, tmp_path / "a", lessons, learning_rate=1e30, epochs=3, max_grad_norm=1e30)
    assert not (tmp_path / "a" / "model").exists()


@pytest.mark.slow
def test_what_does_not_fit_is_left_out_and_told(start, lessons, make, tmp_path, capsys):
    with pytest.raises(UserError, match=r"raise train\.max_length"):
        fit(start, tmp_path / "a", lessons, max_length=10)
    long = make(99, "No", "word " * 150, -0.1)
    fit(start, tmp_path / "b", [*lessons, long], batch_size=20)
    assert len(rows(tmp_path / "b")) == 1
    assert "1 of 21 rewrites do not fit into 120 tokens and are left out" in capsys.readouterr().err


def test_a_token_has_one_reward(make):
    lesson = make(1, "The answer is 5.", "The answer is 5.", 0.5).model_dump()
    with pytest.raises(ValueError, match="one reward"):
        RewriteExample.model_validate(lesson | {"rewards": [0.1]})


@pytest.mark.parametrize("text", ["", "The answer is 7.", " a\n\nb  ", "ünïcode 漢字 👩‍💻", "a\n"])
def test_pieces_are_the_text(tokenizer, text):
    found = pieces(text, tokenizer, cut=True)
    assert "".join(found) == text
    assert len(found) == len(base.encode_response(text, tokenizer, cut=True))
    assert pieces(text, tokenizer) == [*found, tokenizer.eos_token]
