"""Thousands of calls to a server that fails three times in ten, in every way at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from helpers.faulty import Act, Asked, completion

from harness.core.schema import Call

FAILING = 0.3  # of the requests
AT_ONCE = 32
ATTEMPTS = 3

ASK = """
import sys
from pathlib import Path
from harness.judges.config import open_judge
from harness.judges.settings import JudgeSettings
from harness.core.schema import Call
base_url, cache, calls, at_once, attempts, timeout = sys.argv[1:]
settings = JudgeSettings(
    base_url=base_url, model="m", cache=Path(cache), max_concurrency=int(at_once),
    max_attempts=int(attempts), timeout=float(timeout), backoff=0.01,
)
with open_judge(settings) as judge:
    judge.ask([Call(prompt=f"call {i}") for i in range(int(calls))])
"""


def said_to(prompt: str) -> str:
    return f"reply to {prompt}"


class Storm:
    """What the server does to each request, drawn by seed, call and try; and what it did."""

    def __init__(self, seed: int, timeout: float) -> None:
        self.seed = seed
        self.timeout = timeout
        self.calm = False
        self.tries: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()  # whole and right, as far as the server can tell
        self.faults: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, number: int, asked: Asked) -> Act:
        prompt = asked.prompt
        right = completion(said_to(prompt))
        with self._lock:
            self.tries[prompt] += 1
            draw = random.Random(f"{self.seed} {prompt} {self.tries[prompt]}")
            if self.calm or draw.random() >= FAILING:
                self.answered[prompt] += 1
                return Act(body=right)
            acts = {
                "429": Act(status=429),
                "429, wait": Act(status=429, headers={"Retry-After": "0.02"}),
                "429, wait until": Act(
                    status=429, headers={"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}
                ),
                "500": Act(status=500, body=b'{"error": {"message": "worker died"}}'),
                "503": Act(status=503, body=b"<html>busy</html>"),
                # The right replies, but too late: they must not be taken for another call's.
                "hang": Act(body=right, delay=self.timeout + 0.5),
                "drip": Act(body=right, drip=self.timeout / 50),
                "cut": Act(body=right[:-9], cut=True),
                "garbage": Act(body=draw.randbytes(200)),
                "half of the JSON": Act(body=right[: len(right) // 2]),
                "another request's": Act(
                    body=json.dumps(
                        {"object": "list", "id": "embd-7", "data": [{"embedding": [0.1]}]}
                    ).encode()
                ),
                "no choices": Act(body=b'{"object": "chat.completion", "choices": []}'),
                "no message": Act(body=b'{"choices": [{"finish_reason": "stop"}]}'),
                "unpacks to nothing": Act(body=right, headers={"Content-Encoding": "gzip"}),
                "reset": Act(drop=True),
            }
            # What takes its time is rarer, or the test would do little but wait.
            weights = [0.4 if name in ("hang", "drip") else 1 for name in acts]
            [fault] = draw.choices(list(acts), weights)
            self.faults[fault] += 1
            return acts[fault]


# The timeout is long beside a busy machine's delays, so that only faults run into it.
@pytest.mark.parametrize(
    ("count", "timeout"),
    [
        (500, 1.0),
        pytest.param(10_000, 3.0, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_in_a_storm_every_call_is_scored_once_by_its_own_reply_or_has_a_reason(
    serve, judge_of, tmp_path, count, timeout
):
    storm = Storm(0, timeout)
    server = serve(storm)
    calls = [Call(prompt=f"call {i}") for i in range(count)]
    options = {"max_concurrency": AT_ONCE, "max_attempts": ATTEMPTS, "timeout": timeout}

    # A process that is killed midway ...
    arguments = [server.base_url, str(tmp_path / "judge.sqlite"), count, AT_ONCE, ATTEMPTS, timeout]
    killed = subprocess.Popen(
        [sys.executable, "-c", ASK, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(server.asked) < count // 3:
        assert killed.poll() is None
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()

    # ... one whose budget does not suffice ...
    before, budget = len(server.asked), count // 2
    judge = judge_of(server, budget={"requests": budget}, **options)
    replies = judge.ask(calls)
    assert len(server.asked) - before <= judge.spend.requests <= budget
    spent = sum("budget" in reply.failure for reply in replies)
    assert 0 < spent < count
    check(calls, replies)

    # ... and one that goes through with it.
    before = len(server.asked)
    judge = judge_of(server, **options)
    replies = judge.ask(calls)
    check(calls, replies)
    assert len(server.asked) - before <= judge.spend.requests
    assert judge.spend.cached >= count // 6
    failures = [reply.failure for reply in replies if reply.failure]
    assert 0 < len(failures) < 2 * FAILING**ATTEMPTS * count
    assert all(reason.endswith(f"given up after {ATTEMPTS}") for reason in failures)
    assert len(storm.faults) == 15  # all at once

    # What was answered was kept, but for the calls that were under way at the kill.
    scored = count - len(failures)
    assert scored <= len(storm.answered)
    assert sum(storm.answered.values()) - scored <= AT_ONCE

    # The figures, for `pytest -s`.
    tries = sum(storm.tries.values())
    figures = {"calls": count, "tries": tries, "faults": dict(storm.faults), "scored": scored}
    figures["answered twice, for the kill"] = sum(storm.answered.values()) - scored
    figures["unscored"] = Counter(reason.partition(";")[0] for reason in failures)
    print(json.dumps(figures, indent=2))

    # When the storm is over, the calls without a reply are asked, and no other.
    storm.calm, before = True, len(server.asked)
    replies = judge.ask(calls)
    assert [reply.text for reply in replies] == [said_to(call.prompt) for call in calls]
    assert len(server.asked) - before == len(failures)


def check(calls, replies):
    """Each call has its own reply, or none and the reason."""
    assert len(calls) == len(replies)
    for call, reply in zip(calls, replies, strict=True):
        assert (reply.text == said_to(call.prompt)) != bool(reply.failure), (call, reply)
        assert reply.failure or not reply.logprobs
