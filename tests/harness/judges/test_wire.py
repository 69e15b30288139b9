"""Whatever a server sends is an answer, or is refused as none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.judges.budget import Tokens
from harness.judges.llm import read
from harness.serving.wire import TransientError, error_message

NEED = Tokens(10, 100)

anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return anything | st.fixed_dictionaries({}, optional=fields)


top = some(token=st.sampled_from(["A", " A", "", "B"]) | anything, logprob=st.floats() | anything)
position = some(
    token=st.text(max_size=3) | anything, top_logprobs=st.lists(top, max_size=3) | anything
)
choice = some(
    message=some(content=st.text() | anything, refusal=anything),
    finish_reason=st.sampled_from(["stop", "length", "content_filter"]) | anything,
    logprobs=some(content=st.lists(position, max_size=3) | anything),
)
completions = some(
    choices=st.lists(choice, max_size=2) | anything,
    usage=some(prompt_tokens=anything, completion_tokens=anything),
    error=some(message=anything),
)


@given(completions)
@example(
    {
        "choices": [
            {
                "message": {"content": "A"},
                "logprobs": {
                    "content": [
                        {"token": "A", "top_logprobs": [{"token": "A", "logprob": 10**400}]}
                    ]
                },
            }
        ]
    }
)
def test_a_completion_is_read_or_refused_and_nothing_else(value):
    body = json.dumps(value).encode()
    try:
        answer = read(body, ("A", "B"), NEED)
    except TransientError:
        return
    assert answer.reply.failure or answer.reply.text.strip()
    assert answer.used.prompt >= 0 and answer.used.completion >= 0
    assert all(p <= 0 for p in (answer.reply.logprobs or {}).values())


@given(st.binary(max_size=50) | completions.map(lambda value: json.dumps(value).encode()))
def test_an_errors_message_is_one_short_printable_line(body):
    message = error_message(body)
    assert len(message) <= 200
    assert message.isprintable()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "too long"}}, "too long"),
        ({"error": "too long"}, "too long"),
        ({"detail": "too long"}, "too long"),
        ({"object": "error", "message": "too long"}, "too long"),
        ({"detail": [{"loc": ["body"]}]}, ""),
    ],
)
def test_errors_are_read_in_the_ways_that_servers_write_them(body, message):
    assert error_message(json.dumps(body).encode()) == message
