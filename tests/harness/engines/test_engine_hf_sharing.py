"""What prompts have in common: read once, attended to once, and nothing comes out differently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from helpers.random_llama import CONTEXT, make_model
from test_engine_hf import by_generate, texts

from harness.engines import Sampling
from harness.engines.hf import HFEngine

SHOWN = "She has 14 plums. She buys 7 more. How many plums does she have now? "
FEWSHOT = [
    SHOWN + "buys 7",
    SHOWN + "She buys 7 more. How many?",
    SHOWN,  # the beginning of the others
    SHOWN + "buys 7",
    SHOWN + "14 14 14 14 more plums",
]
GREEDY = Sampling(max_tokens=24)
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def make(kind: str, vocabulary: int, **more: Any) -> Any:
    """A random model of the type `kind` whose answers end at different lengths."""
    import torch
    import transformers

    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=vocabulary, max_position_embeddings=CONTEXT, initializer_range=0.3,
        eos_token_id=[1, *range(20, 40)], pad_token_id=0, bos_token_id=None, **more,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def llama(vocabulary: int) -> Any:
    return make_model(vocabulary)


def sliding(vocabulary: int) -> Any:
    return make("mistral", vocabulary, **SIZES, **HEADS, sliding_window=8)


def some_sliding(vocabulary: int) -> Any:
    layers = ["sliding_attention", "full_attention"]
    return make(
        "gemma2", vocabulary, **SIZES, **HEADS, sliding_window=24, layer_types=layers,
        attn_logit_softcapping=0.5, tie_word_embeddings=False,
    )  # fmt: skip


def absolute(vocabulary: int) -> Any:
    return make("gpt2", vocabulary, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4)


def sinks(vocabulary: int) -> Any:
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 16}
    return make("gpt_oss", vocabulary, **SIZES, **HEADS, **experts)


def convolutions(vocabulary: int) -> Any:
    return make("lfm2", vocabulary, **SIZES, **HEADS, layer_types=["conv", "full_attention"])


def is_generate(engine: HFEngine, prompts: list[str]) -> bool:
    answers = []
    for prompt in prompts:
        ids = by_generate(engine.model, engine.tokenizer, prompt, GREEDY.max_tokens)
        answers.append([engine.tokenizer.decode(ids, skip_special_tokens=True)])
    assert len({answer for (answer,) in answers}) > 1
    return answers == texts(engine, prompts, GREEDY)


def read(engine: HFEngine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes (rows, columns) of what `engine` will read."""
    real, shapes = engine.reader.forward, []

    def forward(tokens: Any, *rest: Any) -> Any:
        shapes.append(tuple(tokens.shape))
        return real(tokens, *rest)

    monkeypatch.setattr(engine.reader, "forward", forward)
    return shapes


@pytest.mark.parametrize("kind", [llama, absolute])
def test_a_common_beginning_is_read_once_and_answers_are_those_of_generate(
    kind: Callable[[int], Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(kind(len(tokenizer)), tokenizer=tokenizer)
    assert engine.reader.shares
    own = engine.model.config._attn_implementation
    shapes = read(engine, monkeypatch)
    assert is_generate(engine, FEWSHOT)
    lengths = [len(engine.encode(prompt)) for prompt in FEWSHOT]
    common = min(lengths) - 1
    assert shapes[:2] == [(1, common), (len(FEWSHOT), max(lengths) - common)]
    assert engine.model.config._attn_implementation == own


@pytest.mark.slow
@pytest.mark.parametrize("kind", [llama, absolute])
@pytest.mark.parametrize("begin", ["", SHOWN], ids=["nothing in common", "all begin alike"])
def test_what_some_prompts_go_on_with_in_common_is_read_once(
    begin: str, kind: Callable[[int], Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(kind(len(tokenizer)), tokenizer=tokenizer)
    long, short = "buys 14 plums more " * 6, "does have 7 " * 8
    prompts = [
        long + "buys 7",
        short + "now?",
        long + "How many plums does she have now? 14 14 14",
        "many " * 40,
        short + "7 plums 7 plums",
        long + "buys 7",
    ]
    prompts = [begin + prompt for prompt in prompts]
    shapes = read(engine, monkeypatch)
    assert is_generate(engine, prompts)
    asked = [shape for shape in shapes if shape[1] > 1]
    ids = [engine.encode(prompt) for prompt in prompts]
    start = 0
    if begin:
        assert asked[0][0] == 1, "first what all begin with"
        start = asked.pop(0)[1]
    (alone, heads, tails) = asked
    assert alone == (1, len(ids[3]) - start)
    assert heads[0] == 2 and tails[0] == 5
    assert start + heads[1] + tails[1] <= max(map(len, ids))
    warm = Sampling(temperature=1.0, max_tokens=24, n=3, seed=3)
    one_by_one = HFEngine(engine.model, tokenizer=tokenizer, max_batch=1)
    assert texts(engine, prompts, warm) == texts(one_by_one, prompts, warm)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [sliding, some_sliding])
def test_prompts_are_read_whole_where_a_window_slides(
    kind: Callable[[int], Any], tokenizer: Any
) -> None:
    engine = HFEngine(kind(len(tokenizer)), tokenizer=tokenizer)
    assert engine.reader.shares
    assert is_generate(engine, FEWSHOT)
    warm = replace(GREEDY, temperature=1.0, n=3)
    alone = HFEngine(engine.model, tokenizer=tokenizer, max_batch=1)
    assert texts(engine, FEWSHOT, warm) == texts(alone, FEWSHOT, warm)


@pytest.mark.parametrize("kind", [sinks, convolutions])
def test_models_with_an_attention_of_their_own_decode_as_they_do(
    kind: Callable[[int], Any], tokenizer: Any
) -> None:
    engine = HFEngine(kind(len(tokenizer)), tokenizer=tokenizer)
    assert not engine.reader.shares
    assert is_generate(engine, FEWSHOT)


@pytest.mark.slow
@pytest.mark.parametrize("max_batch", [2, 5, 256])
def test_samples_that_share_a_prompt_are_those_of_each_alone(
    model: Any, tokenizer: Any, max_batch: int
) -> None:
    warm = Sampling(temperature=1.0, max_tokens=24, n=6, seed=3)
    engine = HFEngine(model, tokenizer=tokenizer, max_batch=max_batch)
    found = texts(engine, FEWSHOT, warm)
    assert len({len(text) for row in found for text in row}) > 2, "rows leave at different steps"
    alone = HFEngine(model, tokenizer=tokenizer, max_batch=1)
    assert found == [texts(alone, [prompt], warm)[0] for prompt in FEWSHOT]
    assert [row[:1] for row in found] == texts(engine, FEWSHOT, replace(warm, n=1))


def test_prompts_without_a_common_beginning_are_read_together(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(model, tokenizer=tokenizer)
    shapes = read(engine, monkeypatch)
    prompts = ["buys " * 20, "plums " * 20]
    engine.generate(prompts, Sampling(temperature=1.0, max_tokens=4, n=3))
    longest = max(len(engine.encode(prompt)) for prompt in prompts)
    assert shapes[0] == (2, longest)
    assert {rows for rows, _ in shapes[1:]} <= set(range(1, 7)) and shapes[1][0] > 2


def test_the_batch_is_as_large_as_free_memory_allows(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engines import hf

    engine = HFEngine(model, tokenizer=tokenizer, device="cpu")
    expected = texts(engine, FEWSHOT, GREEDY)
    shapes = read(engine, monkeypatch)

    def most(free: int) -> int:
        monkeypatch.setattr(hf, "free_memory", lambda _: free)
        shapes.clear()
        assert texts(engine, FEWSHOT, GREEDY) == expected
        return max(rows for rows, _ in shapes)

    assert hf.free_memory(engine.device) > 2**20
    assert most(2**30) == len(FEWSHOT)
    assert most(0) == 1
    columns = max(len(engine.encode(prompt)) for prompt in FEWSHOT) + GREEDY.max_tokens
    past = 2 * 2 * 2 * 8 * 4 * columns  # keys and values: layers, heads, dim, bytes
    row = past + hf.LOGITS_COPIES * 4 * len(tokenizer)
    # A power of two, so that a little more memory free than before changes no rounding.
    assert most(int(3 * row / hf.MEMORY_SHARE) + 1) == most(int(2 * row / hf.MEMORY_SHARE) + 1) == 2
