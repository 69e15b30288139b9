"""What judging takes is said before, counted during, and never more than was allowed."""

from __future__ import annotations

import pytest
from helpers.faulty import Act, completion, echo
from hypothesis import given
from hypothesis import strategies as st

from harness.core.schema import Call, Reply
from harness.judges.budget import Meter, Spend, Tokens
from harness.judges.settings import Budget, Price

PRICE = {"input": 2.0, "output": 10.0}


def calls(count: int, **options) -> list[Call]:
    return [Call(prompt=f"call {i}", **options) for i in range(count)]


@given(
    st.integers(0, 5000),
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300), st.floats(0, 1)), max_size=40),
    st.integers(1, 8),
)
def test_no_order_of_reservations_overdraws_a_budget(limit, requests, at_once):
    meter = Meter(Budget(tokens=limit, requests=20, dollars=0.02), Price(input=2, output=10))
    under_way: list[tuple[Tokens, Tokens]] = []
    for length, most, share in requests:
        need = meter.need(Call(prompt="x" * length, max_tokens=most))
        used = Tokens(int(need.prompt * share), int(need.completion * share))
        if len(under_way) == at_once:
            meter.settle(*under_way.pop(0))
        while meter.reserve(need) and under_way:
            meter.settle(*under_way.pop(0))
        if len(under_way) < meter.under_way:
            under_way.append((need, used))
    while under_way:
        meter.settle(*under_way.pop(0))
    spent = meter.spend(0, 0, {})
    assert spent.prompt_tokens + spent.completion_tokens <= limit
    assert spent.requests <= 20
    assert spent.dollars <= 0.02


def test_what_is_spent_is_counted(serve, judge_of):
    def script(number, asked):
        if "call 3" in asked.prompt:
            return Act(status=400)
        return Act(status=503) if number == 1 else Act(body=completion("fine", usage=(1000, 100)))

    judge = judge_of(serve(script), price=PRICE, max_concurrency=1)
    judge.ask(calls(5))
    judge.ask(calls(2))
    assert judge.spend == Spend(
        calls=7,
        cached=2,
        requests=6,
        prompt_tokens=4000,
        completion_tokens=400,
        dollars=0.012,
        failures={"the server refuses the call (400)": 1},
    )


def test_without_a_price_dollars_are_unknown_not_zero(serve, judge_of):
    judge = judge_of(serve())
    judge.ask(calls(1))
    assert judge.spend.dollars is None


def test_a_server_that_reports_no_usage_is_reckoned_by_length(serve, judge_of):
    judge = judge_of(serve(lambda n, asked: Act(body=completion("x" * 400, usage=None))))
    judge.ask([Call(prompt="y" * 4000)])
    assert judge.spend.completion_tokens == 100
    assert 1000 <= judge.spend.prompt_tokens <= 4000


@pytest.mark.parametrize("usage", [(-5, 3), ("a", None), (True, 1.5), (10**30, 2)])
def test_a_server_that_reports_nonsense_is_reckoned_by_length(serve, judge_of, usage):
    judge = judge_of(serve(lambda n, asked: Act(body=completion("fine", usage=usage))))
    judge.ask(calls(1))
    assert 0 < judge.spend.prompt_tokens < 100
    assert 0 < judge.spend.completion_tokens < 100


def test_what_it_will_take_is_said_before_it_is_asked(serve, judge_of, capsys):
    said_before: list[str] = []

    def script(number, asked):
        said_before.append(capsys.readouterr().err)
        return echo(number, asked)

    judge = judge_of(serve(script), price=PRICE, max_concurrency=1)
    judge.ask([Call(prompt="a" * 4000, max_tokens=100)])
    judge.ask([Call(prompt="a" * 4000, max_tokens=100), *calls(2, max_tokens=50)])
    assert said_before[0] == (
        "judge m: 1 calls, 0 cached, 1 to ask: "
        "about 1,016 tokens to read, at most 100 to write, at most about $0.01\n"
    )
    assert "judge m: 3 calls, 1 cached, 2 to ask: about 34 tokens to read" in said_before[1]


def test_a_batch_that_is_cached_says_nothing(serve, judge_of, capsys):
    judge = judge_of(serve())
    judge.ask(calls(3))
    capsys.readouterr()
    judge.ask(calls(3))
    assert capsys.readouterr().err == ""


def test_beyond_the_budget_of_requests_calls_are_left_unscored(serve, judge_of):
    server = serve()
    judge = judge_of(server, budget={"requests": 7}, max_concurrency=4)
    replies = judge.ask(calls(20))
    assert len(server.asked) == 7
    assert sum(not r.failure for r in replies) == 7
    assert {r.failure for r in replies} == {"", "the budget of 7 requests is spent"}
    # What was paid for is kept, and the budget is the judge's, not the batch's.
    assert sum(not r.failure for r in judge.ask(calls(20))) == 7
    assert len(server.asked) == 7


def test_retries_count_as_requests(serve, judge_of):
    server = serve(lambda n, asked: Act(status=503))
    [reply] = judge_of(server, budget={"requests": 2}, max_attempts=5).ask(calls(1))
    assert len(server.asked) == 2
    assert reply.failure == "the budget of 2 requests is spent"


def test_the_budget_of_tokens_is_used_to_its_end_and_not_beyond(serve, judge_of):
    # A request may take 16 + 3 + 1000 tokens and takes 100: what one returns, the next may use.
    server = serve(lambda n, asked: Act(body=completion("fine", usage=(60, 40)), delay=0.01))
    judge = judge_of(server, budget={"tokens": 3000}, max_concurrency=16)
    replies = judge.ask(calls(40, max_tokens=1000))
    spent = judge.spend.prompt_tokens + judge.spend.completion_tokens
    assert 3000 - 1019 - 100 < spent <= 3000
    assert sum(not r.failure for r in replies) == spent // 100
    assert server.most_at_once <= 2


def test_the_budget_of_dollars_is_kept(serve, judge_of):
    server = serve(lambda n, asked: Act(body=completion("fine", usage=(1000, 500))))
    judge = judge_of(server, budget={"dollars": 0.03}, price=PRICE)
    replies = judge.ask([Call(prompt=f"{i:04000}", max_tokens=500) for i in range(40)])
    assert judge.spend.dollars <= 0.03
    assert sum(not r.failure for r in replies) == 3  # a fourth could cost 0.009
    assert replies[-1].failure == "the budget of $0.03 is spent"


def test_a_request_that_breaks_off_counts_in_full(serve, judge_of):
    server = serve(lambda n, asked: Act(body=completion("fine"), cut=True))
    judge = judge_of(server, budget={"tokens": 2500}, max_attempts=5)
    [reply] = judge.ask(calls(1, max_tokens=1000))
    assert len(server.asked) == 2
    assert reply == Reply(failure="the budget of 2,500 tokens is spent")


def test_a_budget_of_nothing_still_gives_what_is_cached(serve, judge_of):
    server = serve()
    judge_of(server).ask(calls(3))
    replies = judge_of(server, budget={"requests": 0}).ask(calls(5))
    assert [bool(r.failure) for r in replies] == [False, False, False, True, True]
    assert len(server.asked) == 3
