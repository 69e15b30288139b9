"""Rewards of a run: from one model, an ensemble, or nearness to demonstrations."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from helpers import tiny, toy

from harness.core.errors import UserError
from rlrf.config import Device, RewardSource
from rlrf.models.reward.model import RewardModel
from rlrf.models.reward.rewarder import open_rewarder
from rlrf.reward import reward_by_model

CPU = Device(device="cpu")
ITEMS = {item.digest: item for item in toy.items("train")[:3]}
SAMPLES = [
    toy.sample(text, repeat, index)
    for index in range(3)
    for repeat, text in enumerate(["The answer is 7.", "No", "What is 3?"])
]
RESPONSES = [sample.response for sample in SAMPLES]
ASKED = [ITEMS[sample.item].prompt for sample in SAMPLES]


def reward_model(folder, seed, template=tiny.TEMPLATE):
    """A random reward model that sees prompts through `template`."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    language_model = tiny.save(folder.with_name(f"{folder.name}-words"), seed)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(language_model, num_labels=1)
    torch.nn.init.normal_(model.score.weight)  # rewards that differ by more than rounding
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two reward models, of which the second has another chat template."""
    folder = tmp_path_factory.mktemp("rewards")
    other = "{% for m in messages %}Human: {{ m['content'] }} Robot: {% endfor %}"
    return [reward_model(folder / "a", 1), reward_model(folder / "b", 2, other)]


def alone(model, render):
    """What a model gives to the responses when prompts are put as `render` does."""
    return RewardModel(model, device=CPU).score([render(prompt) for prompt in ASKED], RESPONSES)


def as_chat(prompt):
    return f"<|user|>{prompt}<|end|><|assistant|>"


def as_human(prompt):
    return f"Human: {prompt} Robot: "


def score(**source):
    return open_rewarder(RewardSource(**source), CPU).score(SAMPLES, ITEMS)


def test_a_model_sees_prompts_by_its_own_template_and_not_the_policys(models):
    first, second = models
    assert SAMPLES[0].prompt != as_chat(ASKED[0])  # the policy's
    assert score(models=[str(first)]) == pytest.approx(alone(first, as_chat), abs=1e-6)
    assert score(models=[str(second)]) == pytest.approx(alone(second, as_human), abs=1e-6)


def test_an_ensemble_is_a_lower_bound_and_each_member_sees_its_own_template(models):
    first, second = models
    a, b = alone(first, as_chat), alone(second, as_human)
    found = score(models=[str(first), str(second)])
    assert found == pytest.approx((a + b) / 2, abs=1e-6)
    careful = score(models=[str(first), str(second)], beta=0.5)
    # Of two numbers the standard deviation is their distance over the root of two.
    assert careful == pytest.approx((a + b) / 2 - 0.5 * np.abs(a - b) / math.sqrt(2), abs=1e-6)


def test_rewards_count_by_how_near_they_come_to_the_demonstration(models, tmp_path):
    shown = {item.prompt: f"Sure: {item.index + 4}." for item in ITEMS.values()}
    path = tmp_path / "shown.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in shown.items())
    )
    model = RewardModel(models[0], device=CPU)
    wanted = model.score([as_chat(p) for p in ASKED], [shown[p] for p in ASKED])
    found = score(models=[str(models[0])], demonstrations=str(path))
    assert found == pytest.approx(-((alone(models[0], as_chat) - wanted) ** 2), abs=1e-5)
    assert (found < 0).all()
    # A response that is the demonstration is as good as any can be.
    same = [s.model_copy(update={"response": shown[ITEMS[s.item].prompt]}) for s in SAMPLES]
    source = RewardSource(models=[str(models[0])], demonstrations=str(path))
    assert open_rewarder(source, CPU).score(same, ITEMS) == pytest.approx(np.zeros(9), abs=1e-9)


def test_prompts_without_a_demonstration_are_counted(models, tmp_path):
    path = tmp_path / "shown.jsonl"
    path.write_text(json.dumps({"prompt": ASKED[0], "response": "4"}) + "\n")
    with pytest.raises(UserError, match=r"2 of the prompts have no demonstration.*1 plus 4"):
        score(models=[str(models[0])], demonstrations=str(path))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"prompt": "a", "response": "b"}, {"prompt": "c"}], "line 2"),
        (
            [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": "c"}],
            "line 2 gives 'a' another demonstration",
        ),
        ([["a", "b"]], "line 1"),
    ],
)
def test_a_line_that_is_no_demonstration_is_named(models, tmp_path, lines, said):
    path = tmp_path / "shown.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=said):
        open_rewarder(RewardSource(models=[str(models[0])], demonstrations=str(path)), CPU)


def test_no_such_model_and_no_reward_model_are_said(tiny_model, tmp_path):
    with pytest.raises(UserError, match="no such"):
        open_rewarder(RewardSource(models=[str(tmp_path / "no such")]), CPU)
    with pytest.raises(UserError, match="is not a reward model"):
        score(models=[str(tiny_model)])


def test_the_identity_is_of_what_rewards_and_not_of_its_place(models, tmp_path):
    first, second = map(str, models)
    shown = tmp_path / "shown.jsonl"
    shown.write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n")
    sources = [
        RewardSource(models=[first]),
        RewardSource(models=[second]),
        RewardSource(models=[first, second]),
        RewardSource(models=[first, second], beta=1.0),
        RewardSource(models=[first], demonstrations=str(shown)),
    ]
    digests = [open_rewarder(source, CPU).digest for source in sources]
    assert len(set(digests)) == len(sources)
    moved = shutil.copytree(models[0], tmp_path / "moved")
    assert open_rewarder(RewardSource(models=[str(moved)]), CPU).digest == digests[0]


# What a method makes of a reward


def values(rewards, samples=SAMPLES):
    return [one.reward.value for one in reward_by_model(samples, rewards)]


def test_only_differences_within_a_prompt_count():
    rewards = [1.5, -0.5, 0.25, 4.0, 2.0, 3.0, -2.0, -1.0, -8.0]
    shifted = [reward + 7 * (place // 3) for place, reward in enumerate(rewards)]
    assert values(shifted) == pytest.approx(values(rewards))
    for prompt in range(3):
        of_prompt = slice(3 * prompt, 3 * prompt + 3)
        found = values(rewards)[of_prompt]
        assert sorted(found)[1] == 0.5  # the middling one
        assert np.argsort(found).tolist() == np.argsort(rewards[of_prompt]).tolist()
        assert all(0 < value < 1 for value in found)


def test_a_value_is_the_probability_that_bradley_and_terry_give():
    assert values([0.0, 1.0, 2.0], SAMPLES[:3]) == pytest.approx(
        [1 / (1 + math.e), 0.5, 1 / (1 + 1 / math.e)]
    )


def test_the_order_survives_rewards_too_far_apart_for_a_probability():
    samples = [*SAMPLES[:3], toy.sample("7", repeat=3)]
    best, good, bad, worst = reward_by_model(samples, [900.0, 800.0, -800.0, -900.0])
    assert best.reward.value == good.reward.value == 1
    assert bad.reward.value == worst.reward.value == 0
    assert best.reward.over(good.reward) > 0 < bad.reward.over(worst.reward)
    equal = reward_by_model(SAMPLES[:2], [3.0, 3.0])
    assert equal[0].reward.over(equal[1].reward) == 0


def test_the_models_own_number_is_kept():
    assert [one.raw for one in reward_by_model(SAMPLES[:2], [3.0, -1.0])] == [3.0, -1.0]
