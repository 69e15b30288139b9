"""Judging that is killed goes on where it was, in this process or another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from helpers.faulty import Act, completion

CALLS, AT_ONCE = 60, 4
ASK = """
import sys
from pathlib import Path
from harness.judges.config import open_judge
from harness.judges.settings import JudgeSettings
from harness.core.schema import Call
base_url, cache, calls, at_once = sys.argv[1:]
settings = JudgeSettings(
    base_url=base_url, model="m", cache=Path(cache), max_concurrency=int(at_once)
)
with open_judge(settings) as judge:
    replies = judge.ask([Call(prompt=f"call {i}") for i in range(int(calls))])
    print([r.text for r in replies] == [f"said to call {i}" for i in range(int(calls))])
"""


def start(server, cache):
    return subprocess.Popen(
        [sys.executable, "-c", ASK, server.base_url, str(cache), str(CALLS), str(AT_ONCE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def unhurried(number, asked):
    return Act(body=completion(f"said to {asked.prompt}"), delay=0.02)


def test_a_killed_process_repeats_at_most_the_calls_that_were_under_way(serve, tmp_path):
    server = serve(unhurried)
    cache = tmp_path / "judge.sqlite"
    for until in (15, 35):
        killed = start(server, cache)
        while len(server.asked) < until:
            assert killed.poll() is None
            time.sleep(0.005)
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
    out, _ = start(server, cache).communicate(timeout=60)
    assert out == "True\n"
    assert set(server.prompts) == {f"call {i}" for i in range(CALLS)}
    assert CALLS < len(server.asked) <= CALLS + 2 * AT_ONCE


def test_two_processes_share_one_cache(serve, tmp_path):
    server = serve(unhurried)
    both = [start(server, tmp_path / "judge.sqlite") for _ in range(2)]
    said = [one.communicate(timeout=60) for one in both]
    assert [out for out, _ in said] == ["True\n", "True\n"], said
    asked = len(server.asked)
    out, err = start(server, tmp_path / "judge.sqlite").communicate(timeout=60)
    assert (out, err) == ("True\n", "")
    assert len(server.asked) == asked
