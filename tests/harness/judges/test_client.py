"""A judge against a server that does everything wrong that servers do."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import math
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from helpers.faulty import Act, Asked, FaultyServer, completion, echo

from harness.core.errors import UserError
from harness.core.schema import Call
from harness.serving import server as serving

SLEEP = asyncio.sleep
SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}}
OK = Act(body=completion("fine"))


def calls(count: int, **options) -> list[Call]:
    return [Call(prompt=f"call {i}", **options) for i in range(count)]


def always(act: Act):
    return lambda number, asked: act


def first(*acts: Act):
    """These, then the echo."""
    return lambda number, asked: acts[number] if number < len(acts) else echo(number, asked)


class Clock:
    """A clock that only sleep moves, for the judge's side: what it waits for costs no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.noted: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float, *_: object) -> None:
        self.now += max(0.0, seconds)
        await SLEEP(0)

    def noting(self, script):
        """`script`, with the time of every request noted."""

        def noted(number: int, asked: Asked) -> Act:
            self.noted.append(self.now)
            return script(number, asked)

        return noted


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(serving, "time", found)
    monkeypatch.setattr(asyncio, "sleep", found.sleep)
    return found


# What is asked ------------------------------------------------------------------------------------


def test_replies_come_in_the_order_of_the_calls_whatever_order_the_server_answers_in(
    serve, judge_of
):
    def slow_at_first(number: int, asked: Asked) -> Act:
        return Act(body=completion(f"reply to {asked.prompt}"), delay=0.1 if number % 4 == 1 else 0)

    server = serve(slow_at_first)
    replies = judge_of(server).ask(calls(20))
    assert [r.text for r in replies] == [f"reply to call {i}" for i in range(20)]
    assert not any(r.failure for r in replies)


def test_the_request_is_a_chat_completion_with_the_settings_in_it(serve, judge_of):
    server = serve()
    judge = judge_of(server, model="q", seed=7, top_p=0.9, extra_body={"x": 1}, thinking_tokens=10)
    judge.ask([Call(prompt="p", system="s", max_tokens=5)])
    assert server.asked[0].body == {
        "model": "q",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}],
        "max_tokens": 15,
        "temperature": 0.0,
        "top_p": 0.9,
        "seed": 7,
        "x": 1,
    }


def test_what_a_server_does_not_take_can_be_left_out(serve, judge_of):
    server = serve()
    settings = {"temperature": None, "seed": None, "max_tokens_name": "max_completion_tokens"}
    judge_of(server, **settings).ask([Call(prompt="p", max_tokens=5)])
    sent = server.asked[0].body
    assert sent.keys() == {"model", "messages", "max_completion_tokens"}


def test_no_more_calls_are_under_way_than_allowed(serve, judge_of):
    five = threading.Barrier(5)

    def together(number: int, asked: Asked) -> Act:
        if number:  # the very first call goes alone
            five.wait(30)
        return OK

    server = serve(together)
    judge_of(server, max_concurrency=5, timeout=60).ask(calls(41))
    assert server.most_at_once == 5


def test_equal_calls_are_asked_once(serve, judge_of):
    server = serve()
    replies = judge_of(server).ask([Call(prompt="a"), Call(prompt="b"), Call(prompt="a")])
    assert sorted(server.prompts) == ["a", "b"]
    assert replies[0] == replies[2] != replies[1]


def test_asking_nothing_needs_no_server(serve, judge_of):
    server = serve()
    assert judge_of(server).ask([]) == []
    assert server.asked == []


def test_a_judge_works_inside_a_running_loop_as_in_a_notebook(serve, judge_of):
    judge = judge_of(serve())

    async def notebook():
        return judge.ask(calls(3))

    assert [r.text for r in asyncio.run(notebook())] == [f"reply to call {i}" for i in range(3)]


def test_lone_surrogates_travel_both_ways(serve, judge_of):
    server = serve(lambda number, asked: Act(body=completion(asked.prompt)))
    judge = judge_of(server)
    assert judge.ask([Call(prompt="a\ud800b")])[0].text == "a\ud800b"
    assert judge.ask([Call(prompt="a\ud800b")])[0].text == "a\ud800b"
    assert len(server.asked) == 1


# What passes is tried again -----------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 529])
def test_what_may_pass_is_tried_again(serve, judge_of, status):
    server = serve(first(Act(status=status), Act(status=status)))
    [reply] = judge_of(server).ask(calls(1))
    assert (reply.text, reply.failure) == ("reply to call 0", "")
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "act",
    [
        Act(status=200, body=b"<html>busy</html>"),
        Act(status=200, body=b"[" * 100_000),
        Act(status=200, body=b'{"error": {"message": "upstream died"}}'),
        Act(status=200, body=b'{"choices": []}'),
        Act(status=200, body=b'{"choices": [null]}'),
        Act(status=200, body=b"[1]"),
        Act(status=200, body=b"1" * 5000),
        Act(body=completion("fine"), cut=True),
        Act(body=completion("fine"), headers={"Content-Encoding": "gzip"}),
        Act(drop=True),
    ],
    ids=["html", "deep", "error", "empty", "null", "list", "digits", "cut", "encoding", "reset"],
)
def test_a_broken_response_is_tried_again_and_then_the_calls_failure(serve, judge_of, act):
    server = serve(lambda number, asked: act if "call 1" in asked.prompt else echo(number, asked))
    replies = judge_of(server).ask(calls(3))
    assert [bool(r.failure) for r in replies] == [False, True, False]
    assert "given up after 3" in replies[1].failure
    assert len(server.asked) == 5


def test_a_broken_first_response_is_no_reason_to_give_up_the_rest(serve, judge_of):
    server = serve(lambda n, asked: Act(status=500) if "call 0" in asked.prompt else echo(n, asked))
    replies = judge_of(server).ask(calls(3))
    assert [bool(r.failure) for r in replies] == [True, False, False]
    assert replies[0].failure == "the server answered 500; given up after 3"


@pytest.mark.timeout(60)
def test_a_reply_that_drips_is_given_up(serve, judge_of):
    hours = completion("fine" * 100_000)
    server = serve(always(Act(body=hours, drip=0.05)))
    [reply] = judge_of(server, timeout=0.2, max_attempts=2).ask(calls(1))
    assert "no whole reply within 0.2 s" in reply.failure
    assert len(server.asked) == 2


@pytest.mark.timeout(60)
def test_a_server_that_never_answers_is_given_up(serve, judge_of):
    server = serve(always(Act(delay=3600)))
    [reply] = judge_of(server, timeout=0.2, max_attempts=2).ask(calls(1))
    assert "no whole reply within 0.2 s" in reply.failure
    assert len(server.asked) == 2


def test_retry_after_in_seconds_is_kept_by_all_calls(serve, judge_of, clock):
    server = serve(clock.noting(first(Act(status=429, headers={"Retry-After": "90"}))))
    judge_of(server).ask(calls(4))
    refused, *rest = clock.noted
    assert len(rest) == 4 and min(rest) - refused >= 90


def test_retry_after_as_a_date_is_kept(serve, judge_of, clock):
    def script(number: int, asked: Asked) -> Act:
        if number:
            return echo(number, asked)
        until = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
        return Act(status=503, headers={"Retry-After": until})

    judge_of(serve(clock.noting(script))).ask(calls(1))
    refused, again = clock.noted
    assert again - refused >= 60  # and not 100: the date itself is read by the wall's clock


@pytest.mark.timeout(60)
def test_a_server_that_wants_an_hours_rest_is_left_alone(serve, judge_of):
    hour = Act(status=429, headers={"Retry-After": "3600"})
    server = serve(lambda number, asked: echo(number, asked) if number < 4 else hour)
    replies = judge_of(server, max_concurrency=2).ask(calls(20))
    assert len(server.asked) <= 6
    assert sum(not r.failure for r in replies) == 4
    assert all("left alone for 3,600 s" in r.failure for r in replies if r.failure)


# What cannot be helped ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 402, 403, 413, 422])
def test_a_refused_call_is_not_tried_again_and_the_rest_goes_on(serve, judge_of, status):
    said = json.dumps({"error": {"message": "too long\n\x1b[2Jfor the model"}}).encode()

    def script(number: int, asked: Asked) -> Act:
        return Act(status=status, body=said) if "call 1" in asked.prompt else echo(number, asked)

    server = serve(script)
    replies = judge_of(server).ask(calls(3))
    assert replies[1].failure == (
        f"the server refuses the call ({status}: too long [2Jfor the model)"
    )
    assert len(server.asked) == 3
    assert not replies[0].failure and not replies[2].failure


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (Act(status=401), "name its variable in api_key_env"),
        (Act(status=404), "Check base_url"),
        (Act(status=405), "Check base_url"),
        (Act(status=301, headers={"Location": "http://other/"}), "redirects to another address"),
    ],
)
def test_what_is_wrong_for_all_calls_is_said_once(serve, judge_of, act, what):
    server = serve(always(act))
    with pytest.raises(UserError, match=what):
        judge_of(server).ask(calls(100))
    assert len(server.asked) == 1


def test_a_key_that_expires_midway_loses_nothing_that_was_answered(serve, judge_of):
    server = serve(lambda n, asked: Act(status=401) if n >= 10 else echo(n, asked))
    judge = judge_of(server, max_concurrency=2)
    with pytest.raises(UserError, match="wants another key"):
        judge.ask(calls(100))
    assert len(server.asked) <= 12
    server.script = echo
    assert not any(r.failure for r in judge.ask(calls(100)))
    assert len(server.asked) <= 102  # ten were kept


@pytest.mark.timeout(60)
def test_a_server_that_is_not_there_is_one_error(serve, judge_of):
    server = FaultyServer()
    server._server.server_close()
    with pytest.raises(UserError, match=r"cannot be reached .*Start it, or correct base_url"):
        judge_of(server).ask(calls(1000))


@pytest.mark.timeout(60)
def test_a_server_that_goes_away_leaves_the_rest_unscored_at_once(judge_of):
    def script(number: int, asked: Asked) -> Act:
        if number == 6:
            threading.Thread(target=server.stop).start()
        return Act(
            body=completion("fine"), delay=0.3 * (number >= 6), headers={"Connection": "close"}
        )

    server = FaultyServer(script)
    judge = judge_of(server, max_concurrency=2)
    with server.running():
        replies = judge.ask(calls(500))
    assert sum(not r.failure for r in replies) >= 6
    gone = [r.failure for r in replies if "is gone" in r.failure]
    assert len(gone) > 450
    with pytest.raises(UserError, match="is gone"):
        judge.ask([Call(prompt="another")])


def test_a_server_that_answers_nothing_is_given_up_for_all_calls(serve, judge_of):
    server = serve(always(Act(status=500)))
    with pytest.raises(UserError, match=r"failed 20 calls in a row .the server answered 500"):
        judge_of(server, max_attempts=1).ask(calls(1000))
    assert len(server.asked) < 50


def test_a_server_that_stops_answering_leaves_the_rest_unscored(serve, judge_of):
    server = serve(lambda n, asked: echo(n, asked) if n < 9 else Act(status=500))
    replies = judge_of(server, max_attempts=1).ask(calls(1000))
    assert len(server.asked) < 60
    assert sum(not r.failure for r in replies) == 9
    assert sum("in a row" in r.failure for r in replies) > 940


def test_failures_between_answers_are_no_reason_to_give_up(serve, judge_of):
    server = serve(lambda n, asked: echo(n, asked) if n % 5 == 0 else Act(status=500))
    replies = judge_of(server, max_attempts=1, max_concurrency=2).ask(calls(100))
    assert sum(not r.failure for r in replies) == 20
    assert not any("in a row" in r.failure for r in replies)


def test_a_reply_of_endless_length_is_cut_off(serve, judge_of, monkeypatch):
    monkeypatch.setattr(serving, "MAX_BODY_BYTES", 50_000)
    server = serve(always(Act(body=completion("x" * 60_000))))
    [reply] = judge_of(server).ask(calls(1))
    assert reply.failure == "the server's reply is longer than 50,000 bytes"
    assert len(server.asked) == 1


def test_a_small_response_that_unpacks_to_a_large_one_is_cut_off(serve, judge_of, monkeypatch):
    monkeypatch.setattr(serving, "MAX_BODY_BYTES", 50_000)
    packed = gzip.compress(completion("x" * 50_000_000))
    server = serve(always(Act(body=packed, headers={"Content-Encoding": "gzip"})))
    [reply] = judge_of(server).ask(calls(1))
    assert reply.failure == "the server's reply is longer than 50,000 bytes"


def test_a_judge_that_wants_max_completion_tokens_gets_it(serve, judge_of, caplog):
    server = serve(refusing("max_tokens"))
    replies = judge_of(server).ask(calls(5, max_tokens=7))
    assert all(r.text == "fine" for r in replies)
    assert sum("max_tokens" in asked.body for asked in server.asked) == 1
    assert all(asked.body["max_completion_tokens"] == 7 for asked in server.asked[1:])
    assert "max_tokens: max_completion_tokens is sent instead" in caplog.text


def test_a_judges_list_of_text_parts_is_read(serve, judge_of):
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Sup"}]
    parts.append({"type": "text", "text": "ported"})
    server = serve(always(Act(body=completion(parts))))
    [reply] = judge_of(server).ask(calls(1))
    assert (reply.text, reply.failure) == ("Supported", "")


@pytest.mark.parametrize(
    ("body", "text", "failure"),
    [
        (completion(None, message={"content": None, "reasoning": "Hm."}), "", "reasoning alone"),
        (completion([{"type": "image_url"}]), "", "none of its parts is text"),
        (completion("half a ver", finish="length"), "half a ver", "cut short"),
        (completion(None, finish="length"), "", "cut short"),
        (completion(None), "", "the reply is empty"),
        (completion(" \n"), " \n", "the reply is empty"),
        (completion(["parts"]), "", "the reply is empty"),
        (completion("no", finish="content_filter"), "no", "content filter"),
        (completion(None, message={"content": None, "refusal": "I can't"}), "", "refused"),
    ],
)
def test_a_reply_that_says_nothing_has_its_reason(serve, judge_of, body, text, failure):
    server = serve(always(Act(body=body)))
    [reply] = judge_of(server).ask(calls(1))
    assert reply.text == text
    assert failure in reply.failure
    assert len(server.asked) == 1


def test_failures_are_asked_again_another_time(serve, judge_of):
    server = serve(first(Act(body=completion("half", finish="length"))))
    judge = judge_of(server)
    assert judge.ask(calls(1))[0].failure
    assert judge.ask(calls(1))[0].text == "reply to call 0"


# What a server may be unable to do ----------------------------------------------------------------


def refusing(*names: str, status: int = 400):
    def script(number: int, asked: Asked) -> Act:
        return Act(status=status) if names and set(names) & asked.body.keys() else OK

    return script


def test_a_reply_schema_is_sent_in_the_form_that_servers_hold_replies_to(serve, judge_of):
    server = serve()
    judge_of(server).ask([Call(prompt="p", reply_schema=SCHEMA)])
    assert server.asked[0].body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True},
    }


@pytest.mark.parametrize("status", [400, 422])
def test_a_schema_that_is_refused_is_sent_once(serve, judge_of, status, caplog):
    server = serve(refusing("response_format", status=status))
    judge = judge_of(server)
    assert "refuses" not in judge.description
    with caplog.at_level(logging.WARNING):
        replies = judge.ask(calls(20, reply_schema=SCHEMA))
    assert all(r.text == "fine" for r in replies)
    assert sum("response_format" in asked.body for asked in server.asked) == 1
    assert len(server.asked) == 21
    assert judge.description.endswith("which refuses a JSON schema")
    assert len(caplog.records) == 1
    judge.ask([Call(prompt="later", reply_schema=SCHEMA)])
    assert "response_format" not in server.asked[-1].body


def test_of_two_wishes_only_the_refused_one_is_dropped(serve, judge_of):
    server = serve(refusing("logprobs"))
    judge = judge_of(server)
    judge.ask(calls(5, reply_schema=SCHEMA, choices=("A", "B")))
    assert judge.description.endswith("which refuses log-probabilities")
    assert "response_format" in server.asked[-1].body


def test_both_wishes_may_be_refused(serve, judge_of):
    server = serve(refusing("logprobs", "response_format"))
    judge = judge_of(server)
    judge.ask(calls(5, reply_schema=SCHEMA, choices=("A", "B")))
    assert judge.description.endswith("which refuses a JSON schema and log-probabilities")


def test_a_call_that_is_refused_anyhow_says_nothing_of_the_schema(serve, judge_of):
    def script(number: int, asked: Asked) -> Act:
        return Act(status=400) if "call 0" in asked.prompt else OK

    server = serve(script)
    judge = judge_of(server)
    replies = judge.ask(calls(3, reply_schema=SCHEMA))
    assert [bool(r.failure) for r in replies] == [True, False, False]
    assert "refuses" not in judge.description
    assert "response_format" in server.asked[-1].body


def test_a_schema_once_served_is_not_doubted_later(serve, judge_of):
    server = serve(lambda n, asked: Act(status=400) if "call 1" in asked.prompt else OK)
    judge = judge_of(server)
    judge.ask(calls(3, reply_schema=SCHEMA))
    assert len(server.asked) == 3
    assert "refuses" not in judge.description


def test_one_schema_may_be_served_and_another_refused(serve, judge_of):
    def script(number: int, asked: Asked) -> Act:
        return Act(status=400) if "odd" in json.dumps(asked.body.get("response_format")) else OK

    server = serve(script)
    judge = judge_of(server, max_concurrency=1)
    plain = [Call(prompt=f"plain {i}", reply_schema=SCHEMA) for i in range(2)]
    odd = [Call(prompt=f"odd {i}", reply_schema=SCHEMA | {"title": "odd"}) for i in range(3)]
    replies = judge.ask([*plain, *odd, Call(prompt="plain again", reply_schema=SCHEMA)])
    assert {r.text for r in replies} == {"fine"}
    held = ["response_format" in asked.body for asked in server.asked]
    assert held == [True, True, True, False, False, False, True]


def tops(*pairs: tuple[str, float]) -> dict:
    return {"token": pairs[0][0], "top_logprobs": [{"token": t, "logprob": p} for t, p in pairs]}


def test_choices_have_the_log_probability_of_the_tokens_that_stand_for_them(serve, judge_of):
    positions = [
        tops(("\n", -0.1)),
        tops((" True", -0.5), ("True", -2.0), ("Fal", -3.0), ("T", -9.0), ("x", -9.0)),
    ]
    body = completion("True", logprobs={"content": positions})
    server = serve(always(Act(body=body)))
    [reply] = judge_of(server).ask([Call(prompt="p", choices=("True", "False"))])
    assert reply.logprobs == pytest.approx({"True": -0.2984, "False": -3.0}, abs=2e-3)
    assert server.asked[0].body["top_logprobs"] == 20


def test_tokens_count_for_their_word_in_any_case_and_after_any_mark_of_a_space(serve, judge_of):
    first = tops(
        ("true", -1.0), (" TRUE", -2.0), ("\u2581True", -3.0), ("\u0120fal", -2.0), ("\u2581", -2.0)
    )
    body = completion("true", logprobs={"content": [tops(("\u010a", -0.1)), first]})
    server = serve(always(Act(body=body)))
    [reply] = judge_of(server).ask([Call(prompt="p", choices=("True", "False"))])
    likely = math.log(math.exp(-1) + math.exp(-2) + math.exp(-3))
    assert reply.logprobs == pytest.approx({"True": likely, "False": -2.0}, abs=2e-3)


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {"content": None},
        {"content": []},
        {"content": [{"token": "A"}]},
        {"content": [3]},
        "x",
    ],
)
def test_log_probabilities_that_are_not_served_are_none(serve, judge_of, logprobs):
    server = serve(always(Act(body=completion("A", logprobs=logprobs))))
    [reply] = judge_of(server).ask([Call(prompt="p", choices=("A", "B"))])
    assert (reply.text, reply.failure, reply.logprobs) == ("A", "", None)


# Limits -------------------------------------------------------------------------------------------


def test_requests_keep_to_their_limit_a_minute(serve, judge_of, clock):
    server = serve(clock.noting(echo))
    judge_of(server, requests_per_minute=12, max_concurrency=1).ask(calls(11))
    assert clock.noted == pytest.approx([5 * n for n in range(11)])


def test_tokens_keep_to_their_limit_a_minute_as_they_turn_out(serve, judge_of, clock):
    server = serve(clock.noting(always(Act(body=completion("fine", usage=(60, 40))))))
    # 100 tokens a call at 600 a minute are 10 s each; reserved is ten times as much.
    judge_of(server, tokens_per_minute=600, max_concurrency=1).ask(calls(6, max_tokens=1000))
    assert clock.noted == pytest.approx([10 * n for n in range(6)])
