"""Decoding that gives the same responses is the same, whoever wrote it down; all else is not."""

from __future__ import annotations

from typing import Any

import pytest

from harness.core.decoding import normalize_decoding

OURS = {"max_tokens": 256, "n": 1, "stop": [], "temperature": 0.0, "top_p": 1.0}

SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (OURS, OURS | {"n": 4}),
    (OURS, OURS | {"temperature": 0}),
    (OURS, OURS | {"top_p": 0.9}),  # greedy decoding does not look at it
    (OURS, {"do_sample": False}),
    (OURS, {"do_sample": False, "temperature": 0.7, "max_gen_toks": 256, "until": []}),
    ({"temperature": 0.7}, {"temperature": 0.7, "top_p": 1, "top_k": 0, "max_tokens": 256}),
    ({"until": ["a", "b"]}, {"stop": ["b", "a"]}),
    ({"until": "a"}, {"stop": ["a"], "seed": 3}),
    ({}, {"n": 4}),
]
OTHER: list[dict[str, Any]] = [
    OURS | {"max_tokens": 6},
    OURS | {"stop": ["\n"]},
    OURS | {"temperature": 0.7},
    OURS | {"repetition_penalty": 1.1},
    OURS | {"thinking_budget": 100},
    {},
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_decoding_in_other_words(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert normalize_decoding(one) == normalize_decoding(other)


@pytest.mark.parametrize("other", OTHER)
def test_other_decoding_differs(other: dict[str, Any]) -> None:
    assert normalize_decoding(OURS) != normalize_decoding(other)


def test_sampling_settings_count_where_something_is_sampled() -> None:
    warm = OURS | {"temperature": 0.7}
    assert normalize_decoding(warm) != normalize_decoding(warm | {"top_p": 0.9})
    assert normalize_decoding(warm) != normalize_decoding(warm | {"top_k": 40})


@pytest.mark.parametrize("odd", [{"stop": 3}, {"stop": {"a": 1}}, {"temperature": "hot"}])
def test_odd_values_of_a_foreign_file_are_compared_as_they_are(odd: dict[str, Any]) -> None:
    assert normalize_decoding(odd) == normalize_decoding(dict(odd))
    assert normalize_decoding(odd) != normalize_decoding(OURS)
