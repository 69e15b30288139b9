"""What makes two calls the same call, and two judges the same judge."""

from __future__ import annotations

import pytest

from harness.core.schema import Call

CALL = Call(prompt="p")


@pytest.mark.parametrize(
    "other",
    [
        Call(prompt="q"),
        Call(prompt="p", system="s"),
        Call(prompt="p", max_tokens=5),
        Call(prompt="p", reply_schema={"type": "object"}),
        Call(prompt="p", choices=("A",)),
    ],
)
def test_another_call_is_not_answered_from_the_cache(serve, judge_of, other):
    server = serve()
    judge = judge_of(server)
    judge.ask([CALL])
    judge.ask([other])
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"model": "n"},
        {"revision": "abc"},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"seed": 1},
        {"thinking_tokens": 5},
        {"extra_body": {"k": 1}},
    ],
)
def test_another_judge_has_another_identity_and_other_replies(serve, judge_of, other):
    server = serve()
    one, two = judge_of(server), judge_of(server, **other)
    assert (one.id, one.digest) != (two.id, two.digest)
    one.ask([CALL])
    two.ask([CALL])
    assert len(server.asked) == 2


def test_where_and_how_fast_a_judge_is_asked_is_not_its_identity(serve, judge_of, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-1234567890")
    here, there = serve(), serve()
    one = judge_of(here)
    two = judge_of(
        there, max_concurrency=1, api_key_env="SOME_KEY", budget={"requests": 9}, timeout=9
    )
    assert (one.id, one.digest) == (two.id, two.digest)
    one.ask([CALL])
    two.ask([CALL])
    # Nobody says that the two serve the same weights, so that neither answers for the other.
    assert len(there.asked) == 1
    named = judge_of(here, revision="2026-11"), judge_of(there, revision="2026-11")
    assert named[0].ask([CALL]) == named[1].ask([CALL])
    assert len(there.asked) == 1


def test_a_fresh_judge_asks_anew_and_keeps_nothing(serve, judge_of):
    server = serve()
    judge_of(server).ask([CALL])
    fresh = judge_of(server, fresh=True)
    fresh.ask([CALL])
    fresh.ask([Call(prompt="q")])
    assert len(server.asked) == 3
    judge_of(server).ask([Call(prompt="q")])
    assert len(server.asked) == 4
