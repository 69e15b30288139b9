"""No bytes break a parser: there is the documented result, or a sentence for the user, and soon.

`bench/fuzz.py` does the same for as long as one likes.
"""

from __future__ import annotations

import random
import warnings

import material
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsers import PARSERS

names = st.characters(exclude_categories=[])  # halves of surrogate pairs, too
texts = st.text(names, max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
tokens = st.lists(st.sampled_from(material.TOKENS), max_size=30).map(b"".join)
every_parser = pytest.mark.parametrize("name", sorted(PARSERS))


@every_parser
def test_what_is_whole_is_taken(name):
    assert material.whole()[name]
    for data in material.whole()[name]:
        PARSERS[name](data)


@every_parser
@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=200) | texts | tokens)
def test_any_bytes_are_read_or_refused(name, data):
    PARSERS[name](data)


@pytest.mark.slow
@every_parser
def test_what_was_whole_and_is_spoiled_is_read_or_refused(name):
    rng = random.Random(name)
    for _ in range(60):
        PARSERS[name](material.spoiled(rng, material.whole()[name], largest=20_000))


@every_parser
@pytest.mark.timeout(120)  # ends what hangs; bench/fuzz.py says how long each takes
@pytest.mark.parametrize("size", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_bomb_keeps_a_parser_busy(name, size):
    for make in material.BOMBS.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            PARSERS[name](make(size)[:size])
