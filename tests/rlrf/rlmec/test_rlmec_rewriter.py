"""What the rewriter is taught, how it is measured, and what it makes of tokens."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import toy

from harness.engines.model_folder import Checkpoint
from harness.engines.open import EngineLoader, EngineSpec
from rlrf.objectives import base
from rlrf.rlmec.rewriter import (
    LOCATE,
    REWRITE,
    agree,
    agreement,
    conversation,
    examples,
    held_out,
    locate,
    rewrite,
)
from rlrf.rlmec.teacher import Correction
from rlrf.rlmec.tokens import token_rewards
from rlrf.training_config import Rlmec

ITEMS = {item.digest: item for item in toy.items("train")}
TASKS = {"toy": toy.TASK}


@pytest.fixture(scope="module")
def engine(tiny_model):
    return EngineLoader(EngineSpec(device="cpu")).load(Checkpoint("the rewriter", tiny_model))


def correction(judged, rewrite: str, first: int) -> Correction:
    sample = judged.sample
    return Correction(
        task="toy", item=sample.item, repeat=sample.repeat, rewrite=rewrite, first_wrong=first
    )


def test_the_rewriter_learns_to_locate_to_rewrite_and_to_leave_alone():
    wrong, right = toy.judged("It is 9.", 0.0), toy.judged("It is 4.", 1.0, repeat=1)
    made = examples(
        [wrong, right, toy.judged("It is 4.", 1.0, repeat=2), toy.judged("8", 0.0, repeat=3)],
        [correction(wrong, "Surely 4.", 1)],
        ITEMS,
        TASKS,
        gold=1.0,
        render=lambda turns: " | ".join(turn.content for turn in turns),
    )  # fmt: skip
    question = "What is 0 plus 4?"
    assert [(one.prompt, one.response) for one in made] == [
        (f"{question} | It is 4. | {LOCATE}", "0"),
        (f"{question} | It is 4. | {REWRITE}", "It is 4."),
        (f"{question} | It is 9. | {LOCATE}", "1"),
        (f"{question} | It is 9. | {REWRITE}", "Surely 4."),
        (f"{question} | Surely 4. | {LOCATE}", "0"),
        (f"{question} | Surely 4. | {REWRITE}", "Surely 4."),
    ]


def test_a_share_of_each_task_is_held_out_the_same_every_time():
    asked = {"toy": toy.items("train"), "letters": toy.items("gate")}
    kept = held_out(asked, 0.1, 3)
    assert kept == held_out(asked, 0.1, 3) != held_out(asked, 0.1, 4)
    assert [len(kept & {i.digest for i in items}) for items in asked.values()] == [4, 3]
    assert held_out(asked, 0, 3) == set()


def test_agreement_worked_by_hand():
    first = [toy.judged("a", 0.0), toy.judged("b", 0.0, repeat=1), toy.judged("4", 1.0, repeat=2)]
    second = [toy.judged("c", 0.0, index=1), toy.judged("d", None, index=1, repeat=1)]
    after = [
        toy.judged("4", 1.0, draft=0), toy.judged("x", 0.0, draft=1), toy.judged("4", 1.0, draft=2),
        toy.judged("5", 1.0, index=1, draft=0), toy.judged("5", 1.0, index=1, draft=1),
    ]  # fmt: skip
    taught = [correction(first[0], "4", 1), correction(second[0], "5", 2)]
    scores = agreement([*first, *second], after, [1, 1, 0, None, 1], taught, tasks=TASKS, gold=1.0)
    assert [score.values for score in scores] == [
        {"located": 1, "repaired": 1},
        {"repaired": 0},  # no teacher says where it is wrong
        {"located": 1, "copied": 1},
        {"located": 0, "repaired": 1},  # the unscored one is none
    ]
    found = agree(scores).by_task["toy"]
    assert found["located"].mean == 0.5 and found["located"].n == 2  # items, not responses
    assert found["repaired"].mean == 0.75
    assert found["copied"].mean == 1 and found["copied"].n == 1
    assert 0 <= found["repaired"].low <= 0.75 <= found["repaired"].high <= 1


def test_every_response_is_rewritten_in_order(engine):
    samples = [toy.sample("It is 9.", 0, 1), toy.sample("No.", 1, 1), toy.sample("It is 9.", 0, 2)]
    made = rewrite(engine, samples, ITEMS, TASKS, max_tokens=5, first_repeat=10)
    assert [(one.draft, one.sample.repeat, one.sample.item) for one in made] == [
        (0, 10, samples[0].item), (1, 11, samples[1].item), (0, 10, samples[2].item),
    ]  # fmt: skip
    assert all(REWRITE in one.sample.prompt for one in made)
    assert all(one.sample.completion_tokens <= 5 for one in made)
    assert rewrite(engine, [], ITEMS, TASKS, max_tokens=5, first_repeat=0) == []


def test_the_number_of_a_step_is_read_and_nothing_else(engine, monkeypatch):
    from harness.engines import Completion

    replies = ["2", "Step 13.", "none", "", "9" * 40]
    monkeypatch.setattr(
        engine, "generate", lambda *_: [[Completion(text, "stop", 1, 1)] for text in replies]
    )
    samples = [toy.sample("x", repeat=i) for i in range(5)]
    assert locate(engine, samples, ITEMS) == [2, 13, None, None, 999999]


def test_token_rewards_are_those_of_the_slow_way(engine):
    """Each response by itself, its probabilities from a plain softmax."""
    judged = [
        toy.judged("It is 4.", 1.0),
        toy.judged("It is surely 9 or so", 0.0, repeat=1, finish_reason="length"),
        toy.judged("unscored", None, repeat=2),
        toy.judged("", 0.0, repeat=3),
    ]
    found = token_rewards(engine, judged, ITEMS, TASKS, Rlmec(middle=0.003, most=0.002))
    assert [one.repeat for one in found] == [0, 1, 3]
    for one, made in zip([judged[0], judged[1], judged[3]], found, strict=True):
        sample = one.sample
        asked = engine.render(conversation(ITEMS[sample.item].prompt, sample.response, REWRITE))
        prompt = engine.encode(asked)
        response = base.encode_response(
            sample.response, engine.tokenizer, cut=sample.finish_reason == "length"
        )
        shares = engine.model(torch.tensor([prompt + response])).logits[0].softmax(-1)
        slow = [shares[len(prompt) + i - 1, token].item() for i, token in enumerate(response)]
        assert made.probabilities == pytest.approx(slow, abs=2e-6)
        low, high = (0, 0.002) if made.right else (-0.1, 0)
        wanted = [min(max(p - 0.003, low), high) for p in slow]
        assert made.rewards == pytest.approx(wanted, abs=2e-6)
        end = [] if sample.finish_reason == "length" else [engine.tokenizer.eos_token]
        assert "".join(made.tokens) == sample.response + "".join(end)
    assert [one.right for one in found] == [True, False, False]
    assert all(math.isfinite(p) and 0 <= p <= 1 for one in found for p in one.probabilities)


def test_what_does_not_fit_into_the_context_is_told(engine, capsys):
    judged = [toy.judged("word " * 400, 0.0), toy.judged("It is 9.", 0.0, repeat=1)]
    found = token_rewards(engine, judged, ITEMS, TASKS, Rlmec())
    assert [one.repeat for one in found] == [1]
    assert "1 of 2 responses are too long for the rewriter" in capsys.readouterr().err
