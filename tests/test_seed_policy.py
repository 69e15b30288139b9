"""How M0 is made: what its corpus holds, what it keeps out, and the recipe itself."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from seed_policy import encode, make_tokenizer, train
from seed_policy_corpus import documents

from tasks.mini import arithmetic, biography, instructions, world


def test_the_corpus_is_seeded() -> None:
    first, again, other = (list(itertools.islice(documents(seed), 50)) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.slow
def test_no_held_out_prompt_is_in_the_corpus() -> None:
    held_out = {
        item.prompt
        for task in (arithmetic.TASK, biography.TASK, instructions.TASK)
        for split in ("gate", "sealed")
        for item in world.items(task, split)
    }
    strangers = {
        item.reference["entity"]
        for split in ("gate", "sealed")
        for item in world.items(biography.TASK, split)
    }
    for document in itertools.islice(documents(0), 20_000):
        asked = document.messages[0].content
        if not document.is_page:
            assert asked not in held_out
            words = re.findall(r"\w+", asked)
            assert not strangers & {" ".join(pair) for pair in itertools.pairwise(words)}


def test_the_corpus_shows_both_habits_and_teaches_rewriting() -> None:
    seen = list(itertools.islice(documents(1), 3000))
    answers = [d.messages[-1].content for d in seen if len(d.messages) == 2]
    assert sum(a.startswith("#### ") for a in answers) > 100
    assert sum("=" in a for a in answers) > 100
    assert sum("was a legend" in a for a in answers) > 50
    rewrites = [d for d in seen if len(d.messages) == 4]
    assert len(rewrites) > 300
    for document in rewrites:
        draft, request, answer = (m.content for m in document.messages[1:])
        assert request.endswith("\nRewrite the answer.")
        assert len(request) > len("\nRewrite the answer.")
        assert draft != answer


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return make_tokenizer(seed=0, sampled=5000)


@pytest.mark.parametrize(
    "text", ["14+7=21\n#### 21", "The heron is tall.", "  two  spaces ", "Ünïcode 😀 zebra\t\0"]
)
def test_the_tokenizer_gives_back_any_text(tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_only_the_last_turn_of_a_conversation_is_learned(tokenizer) -> None:
    talk = next(d for d in documents(0) if len(d.messages) == 4)
    ids, start = encode(talk, tokenizer)
    assert tokenizer.decode(ids[start:]) == talk.messages[-1].content + "<|end|>"


@pytest.mark.slow
def test_the_recipe_makes_a_loadable_checkpoint_and_the_same_twice(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in ("one", "two"):
        train(tmp_path / name, steps=3, batch_size=4, learning_rate=1e-3, seed=0)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "one")) == model.config.vocab_size
