"""The likelihood of continuations is that of each read alone, however much of it they share."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.random_llama import CONTEXT
from test_engine_hf_sharing import (
    HEADS,
    SIZES,
    absolute,
    convolutions,
    llama,
    make,
    sinks,
    sliding,
    some_sliding,
)

from harness.core.errors import UserError
from harness.engines import Likelihood, Pair, hf, likelihood
from harness.engines.hf import HFEngine

LONG = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 48}


def long_positions(vocabulary: int) -> Any:
    """A model whose positions mean something else in texts of more than 48 tokens."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
    more = {"original_max_position_embeddings": 48, "rope_scaling": LONG | factors}
    return make("phi3", vocabulary, **SIZES, **HEADS, **more, sliding_window=None)


def recurrent(vocabulary: int) -> Any:
    return make("mamba", vocabulary, hidden_size=32, state_size=8, num_hidden_layers=2)


def biased(vocabulary: int) -> Any:
    """A model whose attention is biased by distance, and that has no position_ids."""
    return make("bloom", vocabulary, hidden_size=32, n_layer=2, n_head=4)


def parallel(vocabulary: int) -> Any:
    return make("gpt_neox", vocabulary, **SIZES, num_attention_heads=4)


def offset(vocabulary: int) -> Any:
    """A model whose table of positions begins with unused ones."""
    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "word_embed_proj_dim": 32}
    return make("opt", vocabulary, **sizes, num_attention_heads=4)


TREES = [llama, sliding, some_sliding, absolute, parallel, offset, long_positions]
ROWS = [sinks, convolutions, recurrent, biased]


def alone(model: Any, pairs: list[Pair], context: int = CONTEXT) -> list[Likelihood]:
    """Each pair read on its own, with a softmax over all logits, cut as stock lm-eval cuts it."""
    found = []
    for before, after in pairs:
        ids = torch.tensor([(before + after)[-(context + 1) :]])
        with torch.inference_mode():
            shares = model(ids[:, :-1], use_cache=False).logits[0].float().log_softmax(-1)
        shares, asked = shares[-len(after) :], torch.tensor(after)
        total = shares.gather(1, asked[:, None]).sum()
        found.append((float(total), bool((shares.argmax(-1) == asked).all())))
    return found


def words(rng: random.Random, count: int, vocabulary: int) -> list[int]:
    return [rng.randrange(5, vocabulary) for _ in range(count)]


def questions(vocabulary: int, shown: int = 0, count: int = 7) -> list[Pair]:
    """Questions after examples of `shown` tokens, with choices that have much in common."""
    rng = random.Random(3)
    examples, pairs = words(rng, shown, vocabulary), []
    for _ in range(count):
        context = examples + words(rng, rng.randrange(1, 40), vocabulary)
        start = words(rng, 3, vocabulary)
        choices = [words(rng, 1, vocabulary), words(rng, 1, vocabulary)]  # one token each
        choices += [start, start[:1], start + words(rng, 9, vocabulary), start]  # prefixes, twice
        choices.append(words(rng, rng.randrange(1, 20), vocabulary))
        pairs += [(context, choice) for choice in choices]
    pairs += [([7], words(rng, 30, vocabulary)), ([7], [9])]  # a text without a context
    pairs += [(context[:-2], [*context[-2:], 9])]  # a context that ends within another
    pairs += [(words(rng, 300, vocabulary), choice) for choice in ([5, 6], [5, 7, 8])]  # too long
    whole = words(rng, CONTEXT + 1, vocabulary)
    pairs += [(whole[:1], whole[1:]), (whole[:-1], whole[-1:]), ([8, *whole[:1]], whole[1:])]
    rng.shuffle(pairs)
    return pairs


def is_equal(found: list[Likelihood], expected: list[Likelihood]) -> bool:
    values, others = ([value for value, _ in side] for side in (found, expected))
    assert values == pytest.approx(others, abs=1e-4, rel=2e-6)
    return [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def count_columns(engine: HFEngine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Note each forward pass: its rows, its columns, and how many have logits."""
    real, shapes = engine.model.forward, []

    def forward(input_ids: Any, **options: Any) -> Any:
        out = real(input_ids, **options)
        shapes.append((*input_ids.shape, out.logits.shape[1]))
        return out

    assert engine.likelihoods.longest_in_tree
    monkeypatch.setattr(engine.model, "forward", forward)
    return shapes


@pytest.mark.parametrize("shown", [0, 60])
@pytest.mark.parametrize("kind", [*TREES, *ROWS])
def test_choices_are_as_likely_as_when_each_is_read_alone(
    kind: Callable[[int], Any], shown: int, tokenizer: Any
) -> None:
    engine = HFEngine(kind(len(tokenizer)), tokenizer=tokenizer, device="cpu")
    assert bool(engine.likelihoods.longest_in_tree) == (kind in TREES)
    pairs = questions(len(tokenizer), shown)
    for context, _ in pairs[:3]:
        with torch.inference_mode():
            best = int(engine.model(torch.tensor([context[-CONTEXT:]])).logits[0, -1].argmax())
        pairs.append((context, [best]))
    expected = alone(engine.model, pairs)
    assert {greedy for _, greedy in expected} == {True, False}
    assert is_equal(engine.loglikelihood(pairs), expected)


@pytest.mark.parametrize("columns", [1, 2, 7, 33, 64, 4096])
@pytest.mark.parametrize("kind", [llama, sliding, some_sliding])
def test_the_columns_read_together_change_nothing(
    kind: Callable[[int], Any], columns: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(kind(len(tokenizer)), tokenizer=tokenizer, device="cpu")
    pairs = questions(len(tokenizer), 60, 3)
    expected = alone(engine.model, pairs)
    monkeypatch.setitem(hf.MAX_COLUMNS, "cpu", columns)
    assert is_equal(engine.loglikelihood(pairs), expected)
    monkeypatch.setattr(likelihood, "MAX_BLOCK", max(1, columns // 3))
    assert is_equal(engine.loglikelihood(pairs), expected)


def test_a_context_is_read_once_for_all_its_choices(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(model, tokenizer=tokenizer, device="cpu")
    shapes = count_columns(engine, monkeypatch)
    rng = random.Random(0)
    context = words(rng, 90, len(tokenizer))
    start = words(rng, 4, len(tokenizer))
    choices = [[*start, 6, 7], [*start, 8, 9], [10, 11, 12]]
    engine.loglikelihood([(context, choice) for choice in choices])
    # All but the last token of each choice, and the shared four once.
    assert shapes == [(1, 90 + 4 + 1 + 1 + 2, 1 + 4 + 1 + 1 + 2)]
    shapes.clear()
    engine.loglikelihood([(context, [token]) for token in (20, 21, 22, 23)])
    assert shapes == [(1, 90, 1)], "one token needs nothing but the context"


def test_examples_that_all_questions_share_are_read_once(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(model, tokenizer=tokenizer, device="cpu")
    shapes = count_columns(engine, monkeypatch)
    rng = random.Random(0)
    pairs, own = [], 0
    for _ in range(2):  # subjects, each with its examples
        examples = words(rng, 150, len(tokenizer))
        for _ in range(30):
            question = words(rng, 20, len(tokenizer))
            pairs += [([*examples, *question], words(rng, 5, len(tokenizer))) for _ in range(4)]
            own += 20 + 4 * 4
    engine.loglikelihood(pairs)
    read = sum(columns for _, columns, _ in shapes)
    assert read <= 2 * 150 + own
    assert all(rows == 1 and columns <= hf.MAX_COLUMNS["cpu"] for rows, columns, _ in shapes)


def test_models_that_read_rows_read_a_context_once_for_one_token_choices(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(convolutions(len(tokenizer)), tokenizer=tokenizer, device="cpu")
    assert engine.likelihoods.longest_in_tree == 0
    rows: list[int] = []
    real = engine.model.forward

    def forward(input_ids: Any, **options: Any) -> Any:
        rows.append(len(input_ids))
        return real(input_ids, **options)

    monkeypatch.setattr(engine.model, "forward", forward)
    context = [9, 8, 7, 6]
    pairs = [(context, [token]) for token in (5, 6, 7)] + [(context, [5, 6])]
    found = engine.loglikelihood(pairs)
    assert rows == [1]
    assert is_equal(found, alone(engine.model, pairs))


def test_texts_are_read_again_with_fewer_columns_where_memory_does_not_suffice(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = HFEngine(model, tokenizer=tokenizer, device="cpu")
    pairs = questions(len(tokenizer), 60)
    expected = alone(model, pairs)
    assert engine.likelihoods.longest_in_tree
    real = model.forward

    def forward(input_ids: Any, **options: Any) -> Any:
        if input_ids.shape[1] > 70:
            raise MemoryError
        return real(input_ids, **options)

    monkeypatch.setattr(model, "forward", forward)
    assert is_equal(engine.loglikelihood(pairs), expected)
    assert "Out of memory: continuing with batches of 64." in capsys.readouterr().err


def test_a_model_of_which_a_tree_cannot_be_read_exactly_reads_rows(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(llama(len(tokenizer)), tokenizer=tokenizer, device="cpu")
    inner = engine.model.model
    real = inner.forward

    def mixing(*args: Any, **options: Any) -> Any:
        """Mix each token with the one before it in its row, which no attention sees."""
        out = real(*args, **options)
        out.last_hidden_state = out.last_hidden_state + out.last_hidden_state.roll(1, 1)
        return out

    monkeypatch.setattr(inner, "forward", mixing)
    assert engine.reader.shares
    assert engine.likelihoods.longest_in_tree == 0


def test_nothing_to_score_is_certain(model: Any, tokenizer: Any) -> None:
    engine = HFEngine(model, tokenizer=tokenizer, device="cpu")
    assert engine.loglikelihood([]) == []
    (nothing, something) = engine.loglikelihood([([5], []), ([5], [6])])
    assert nothing == (0.0, True)
    assert is_equal([something], alone(model, [([5], [6])]))


def test_a_continuation_longer_than_the_context_is_refused(model: Any, tokenizer: Any) -> None:
    engine = HFEngine(model, tokenizer=tokenizer, device="cpu")
    with pytest.raises(UserError, match="has 257 tokens and the model's context only 256"):
        engine.loglikelihood([([5], [6] * 257)])


def test_damaged_weights_are_named_and_not_scored(tokenizer: Any) -> None:
    model = llama(len(tokenizer))
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    engine = HFEngine(model, tokenizer=tokenizer, device="cpu")
    with pytest.raises(UserError, match="gives NaN"):
        engine.loglikelihood([([5], [6]), ([5, 6], [7, 8])])
