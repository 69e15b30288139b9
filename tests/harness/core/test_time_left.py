"""The time left is believable whatever finishes first, or is not said.

A fake clock stands for the machine: what a step costs, how long responses are.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.core import progress, run_status
from harness.core.progress import Advance, already, track
from harness.core.run_status import snapshot
from harness.engines import Sampling

LIMIT = 1024
Lengths = Callable[[random.Random], float]


class Clock:
    """A clock that goes when it is told to: a fake, so that seconds cost none."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (progress, run_status):
        monkeypatch.setattr(module, "time", found)
    return found


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    monkeypatch.undo()


def generate(
    clock: Clock,
    lengths: Sequence[int],
    size: int,
    *,
    of_step: float,
    of_row: float,
    limit: int = LIMIT,
) -> tuple[float, list[tuple[float, float | None]]]:
    """Batches of `size` rows, each a step at a time: the whole time, and what is said when."""
    said: list[tuple[float, float | None]] = []
    began = clock.now
    with track("explore quiz", len(lengths), "responses") as advance:
        work = snapshot().work[-1]
        advance.generating(limit, 1)
        for first in range(0, len(lengths), size):
            rows = list(lengths[first : first + size])
            since = clock.now
            clock.now += 1.0  # the prompts are read
            advance.begin_batch(len(rows), since)
            step = 0
            while rows:
                clock.now += of_step + of_row * len(rows)
                step += 1
                for _ in range(rows.count(step)):
                    advance(1)
                finished = rows.count(step)
                rows = [length for length in rows if length > step]
                advance.step(finished)
                said.append((clock.now - began, work.left))
    return clock.now - began, said


def drawn(lengths: Lengths, count: int) -> list[int]:
    rng = random.Random(5)
    return [max(1, min(LIMIT, round(lengths(rng)))) for _ in range(count)]


KINDS: dict[str, Lengths] = {
    "all are cut off": lambda rng: math.inf if rng else 0,
    "alike": lambda rng: rng.gauss(400, 50),
    "late": lambda rng: rng.uniform(800, 1000),
    "any": lambda rng: rng.uniform(50, 900),
    "a few long ones": lambda rng: rng.lognormvariate(math.log(150), 1),
    "short or cut off": lambda rng: rng.uniform(50, 70) if rng.random() < 0.7 else LIMIT,
}
KINDS["all are cut off"] = lambda rng: LIMIT
MACHINES = {"a row costs": (0.002, 0.005), "a step costs": (0.03, 0.0001)}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", KINDS)
def test_of_many_batches_the_time_left_is_right_within_a_half(
    clock: Clock, kind: str, machine: str
) -> None:
    of_step, of_row = MACHINES[machine]
    lengths = drawn(KINDS[kind], 400)
    whole, said = generate(clock, lengths, 64, of_step=of_step, of_row=of_row)
    for share in (0.25, 0.5, 0.75):
        at, left = min(said, key=lambda one: abs(one[0] - share * whole))
        assert left is not None
        assert (whole - at) / 1.6 < left < 1.6 * (whole - at), (share, left, whole - at)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", KINDS)
def test_of_one_batch_nothing_absurd_is_said(clock: Clock, kind: str, machine: str) -> None:
    of_step, of_row = MACHINES[machine]
    lengths = drawn(KINDS[kind], 64)
    whole, said = generate(clock, lengths, 64, of_step=of_step, of_row=of_row)
    assert said[-1][1] is not None
    for at, left in said:
        assert left is None or abs(left - (whole - at)) < whole, (at, left, whole)
    for share in (0.1, 0.5, 0.9):
        at, left = min(said, key=lambda one: abs(one[0] - share * whole))
        assert left is None or left < 3 * (whole - at) + 0.1 * whole, (share, left, whole)


def test_the_first_response_of_a_long_stage_says_nothing_of_the_rest(clock: Clock) -> None:
    lengths = [40, *[900] * 63]
    whole, said = generate(clock, lengths, 64, of_step=0.01, of_row=0.01)
    at, left = next(one for one in said if one[1] is not None)
    assert at > 0.2 * whole and left is not None and left < whole


def test_units_one_after_the_other_are_reckoned_from_the_latest_of_them(clock: Clock) -> None:
    with track("train from M0", 100, "steps") as advance:
        work = snapshot().work[-1]
        assert work.left is None
        for _ in range(10):
            clock.now += 5.0  # the first steps are slow
            advance(1)
        for _ in range(40):
            clock.now += 2.0
            advance(1)
        assert work.left == pytest.approx(100.0)


def test_what_was_done_before_says_nothing_of_the_pace(clock: Clock) -> None:
    with track("train from M0", 100, "steps") as advance:
        work = snapshot().work[-1]
        already(advance, 60)
        assert work.left is None
        for _ in range(4):
            clock.now += 3.0
            advance(1)
        assert work.left == pytest.approx(108.0)
    counted: list[int] = []
    already(counted.append, 3)
    assert counted == [3]


def test_of_calls_under_way_together_the_first_say_nothing(clock: Clock) -> None:
    with track("judging", 1000, "calls") as advance:
        work = snapshot().work[-1]
        advance.at_once(16)
        for _ in range(16):
            clock.now += 2.0  # they come one by one, late
            advance(1)
            assert work.left is None
        for _ in range(484):
            clock.now += 0.5
            advance(1)
        assert work.left == pytest.approx(250.0)


def test_phases_that_cost_differently_are_weighed(clock: Clock) -> None:
    with track("train from M0", 30, "steps", [(10, 1.0), (20, 3.0)]) as advance:
        work = snapshot().work[-1]
        for _ in range(5):
            clock.now += 2.0
            advance(1)
        assert work.left == pytest.approx(5 * 2.0 + 20 * 6.0)


def test_the_estimate_of_the_process_that_does_the_work_is_taken(clock: Clock) -> None:
    with track("train from M0", 30, "steps") as advance:
        advance(15)
        advance.left(77.0)
        work = snapshot().work[-1]
        assert work.left == 77.0
        clock.now += 7.0
        assert work.left == 70.0
        advance.left(None)
        assert work.left is None


def test_a_real_generation_tells_its_steps_before_a_response_is_finished(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_status, "PUBLISH_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", 0.0)
    monkeypatch.setenv("RLRF_LOG", "json")
    seen: list[tuple[int, float | None]] = []
    tell = Advance._tell

    def look(advance: Advance) -> None:
        work = snapshot().work[-1]
        seen.append((work.done, work.left))
        tell(advance)

    monkeypatch.setattr(Advance, "_tell", look)
    prompts = [f"She has {n} plums." for n in range(6)]
    with track("explore quiz", 12, "responses") as advance:
        engine.generate(prompts, Sampling(temperature=1.0, max_tokens=40, n=2), advance)
    assert len(seen) > 12 and seen[0][0] == 0  # steps are told, not only responses
    assert seen[-1] == (12, pytest.approx(0.0, abs=1.0))
    lines = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    assert any("s left" in line for line in lines)
    assert not any("left" in line for line in lines if line.startswith("explore quiz: 0/12"))
