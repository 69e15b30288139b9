"""The loop on the architectures that people train, with their kinds of tokenizer and template."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from helpers import architectures, toy

from harness.core.files import read_records
from harness.core.schema import Message, Sample
from harness.engines import Sampling
from harness.engines.hf import HFEngine
from harness.engines.model_folder import Checkpoint
from harness.engines.prompts import encode
from rlrf.config import Config
from rlrf.loop import train
from rlrf.objectives import base
from rlrf.objectives.job import checkpoint
from rlrf.pairs import Pair

NAMES = sorted(architectures.FAMILIES)
ASKED = ["What is 3 plus 4?", "Use more letters, please; and check the answer that you have.", "a"]


def ask(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


@pytest.fixture(scope="session", params=NAMES)
def family(request, tmp_path_factory):
    """The name of an architecture and the folder of a random model of it."""
    return request.param, architectures.save(
        tmp_path_factory.mktemp("m") / "model", request.param, spread=0.2
    )


def config(model: Path, **changes) -> Config:
    settings = {
        "model": str(model),
        "iterations": 1,
        "tasks": [{"name": "toy_letters", "prompts": 6}],
        "explore": {"n": 4},
        "reflect": {"m": 1},
        "pairs": {"threshold": 0.02},
        "train": {"learning_rate": 1e-3, "batch_size": 64, "max_length": 150, "epochs": 2},
        "gate": {"slice": 4, "sealed": 4, "enforce": False},
        "engine": {"device": "cpu"},
    }
    return Config.model_validate(settings | changes)


def steps(run: Path, iteration: int) -> list[dict[str, float]]:
    lines = (run / f"iter_{iteration}" / "train" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def likelihood(engine: HFEngine, pairs: list[Pair], side: str) -> float:
    """The mean log-probability of a side of the pairs, by the engine that generates."""
    tokenizer = engine.tokenizer
    texts = [
        (
            engine.encode(pair.prompt),
            base.encode_response(
                getattr(pair, side), tokenizer, cut=side == "rejected" and pair.rejected_cut
            ),
        )
        for pair in pairs
    ]
    found = [total for total, _ in engine.loglikelihood(texts)]
    return math.fsum(found) / len(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_greedy_answers_are_those_of_generate(name, tmp_path):
    import torch

    engine = HFEngine(architectures.save(tmp_path / "m", name, spread=0.3), device="cpu")
    prompts = [engine.render(ask(text)) for text in ASKED]
    found = engine.generate(prompts, Sampling(max_tokens=40))
    for prompt, (completion,) in zip(prompts, found, strict=True):
        ids = torch.tensor([engine.encode(prompt)])
        out = engine.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40,
            pad_token_id=0,
        )[0, ids.shape[1] :]  # fmt: skip
        assert completion.text == engine.tokenizer.decode(out, skip_special_tokens=True)
        assert completion.completion_tokens == len(out)
    assert len({completion.text for (completion,) in found}) > 1


def test_prompts_are_the_same_tokens_for_generation_and_training(family):
    name, folder = family
    made = architectures.FAMILIES[name]
    engine, tokenizer = (
        HFEngine(folder, device="cpu"),
        base.load_policy_tokenizer(Checkpoint("M", folder)),
    )
    for text in ASKED:
        for prompt in (engine.render(ask(text)), text):
            ids = engine.encode(prompt)
            assert encode(tokenizer, prompt) == ids
            if made.bos:
                assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    told = engine.render([Message(role="system", content="Be brief."), *ask("What is 3 plus 4?")])
    assert "Be brief." in told and "What is 3 plus 4?" in told


def test_a_responseends_in_training_as_the_chat_templateends_it(family):
    name, folder = family
    tokenizer = base.load_policy_tokenizer(Checkpoint("M", folder))
    end = tokenizer.convert_tokens_to_ids(architectures.FAMILIES[name].end)
    assert base.encode_response("The answer is 7.", tokenizer)[-1] == end
    assert end in HFEngine(folder, device="cpu").ends.tolist()
    assert base.encode_response("The answer is 7.", tokenizer, cut=True)[-1] != end


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, {"r": 4}], ids=["weights", "lora"])
def test_the_loop_trains_from_the_policy_that_generates(family, tmp_path, toy_letters, adapter):
    _, folder = family
    iterations = 1 if adapter is None else 2
    result = train(config(folder, adapter=adapter, iterations=iterations), tmp_path / "run")
    policy = Checkpoint("M0", folder)
    for iteration in range(1, iterations + 1):
        at = tmp_path / "run" / f"iter_{iteration}"
        engine = HFEngine(policy.model, adapter=policy.adapter, device="cpu")
        for sample in read_records(at / "explore" / "records.jsonl", Sample):
            assert sample.prompt_tokens == len(engine.encode(sample.prompt))
        (asked,) = at.glob("evaluate_M0/*/samples.jsonl")
        for sample in read_records(asked, Sample):
            assert sample.prompt_tokens == len(engine.encode(sample.prompt))
        pairs = read_records(at / "pairs" / "pairs.jsonl", Pair)
        first = steps(tmp_path / "run", iteration)[0]
        # Its reference is itself: rewards are beta times what a log-probability has risen.
        assert first["reward_chosen"] == pytest.approx(0, abs=1e-4)
        assert first["reward_rejected"] == pytest.approx(0, abs=1e-4)
        for side in ("chosen", "rejected"):
            expected = likelihood(engine, pairs, side)
            assert first[f"logp_{side}"] == pytest.approx(expected, rel=1e-5, abs=1e-3)
        policy = checkpoint(at / "train", f"M{iteration}", policy)
        after = HFEngine(policy.model, adapter=policy.adapter, device="cpu")
        assert after.ends.tolist() == engine.ends.tolist()
        assert after.model_digest != engine.model_digest
        assert likelihood(after, pairs, "chosen") - likelihood(
            after, pairs, "rejected"
        ) > likelihood(engine, pairs, "chosen") - likelihood(engine, pairs, "rejected")
    assert result.incumbent == f"M{iterations}"
    assert toy.LETTERS.name in {one.task for one in result.sealed[-1].vs_anchor.checks}
