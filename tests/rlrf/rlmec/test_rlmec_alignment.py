from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlrf.rlmec.tokens import align, edited

TOKENS = st.lists(st.integers(0, 3), max_size=9)


def distance(before: list[int], after: list[int]) -> int:
    """The edit distance by trying everything."""

    @cache
    def least(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(
            least(i - 1, j) + 1,
            least(i, j - 1) + 1,
            least(i - 1, j - 1) + (before[i - 1] != after[j - 1]),
        )

    return least(len(before), len(after))


def cost(before: list[int], after: list[int]) -> int:
    """What the alignment says that it costs."""
    places = [place for place in align(before, after) if place is not None]
    return sum(edited(before, after)) + len(before) - len(places)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("14+7=21 21-5=17 #17", "14+7=21 21-5=16 #16", "..............x...x"),
        ("kitten", "sitting", "x...x.x"),
        ("abc", "abc", "..."),
        ("abc", "ac", ".."),  # deleting leaves nothing to learn in the rewrite
        ("", "ab", "xx"),
        ("ab", "", ""),
        ("ab", "aab", ".x."),  # the common beginning is kept
        ("abxcd", "abcd", "...."),
    ],
)
def test_edits_worked_by_hand(before, after, expected):
    assert edited([*map(ord, before)], [*map(ord, after)]) == [mark == "x" for mark in expected]


@given(TOKENS, TOKENS)
def test_the_alignment_is_one_of_least_cost(before, after):
    assert cost(before, after) == distance(before, after)


@given(TOKENS, TOKENS)
def test_the_alignment_goes_forward_and_keeps_the_common_beginning(before, after):
    places = [place for place in align(before, after) if place is not None]
    assert places == sorted(set(places))
    assert all(0 <= place < len(before) for place in places)
    head = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    assert not any(edited(before, after)[:head])


@given(TOKENS)
def test_what_is_kept_whole_is_not_edited(tokens):
    assert not any(edited(tokens, tokens))
