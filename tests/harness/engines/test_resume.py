"""A generation that is killed goes on from the parts that it had finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.engines import Engine, Sampling, resume
from harness.engines.resume import ResumableEngine

PROMPTS = [f"She has {n} plums." + " More." * (n % 3) for n in range(12)]
SAMPLING = Sampling(temperature=1.0, max_tokens=8, n=2, seed=5)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "RESPONSES_PER_PART", 8)  # three parts


class Dying(Engine):
    """An engine whose process dies after `parts` parts: a fake, to provoke that fault."""

    def __init__(self, engine: Any, parts: int) -> None:
        self.name, self.model_id, self.model_digest = engine.name, "m", engine.model_digest
        self.render, self.tokenizer = engine.render, engine.tokenizer
        self.asked: list[Sequence[str]] = []
        self._engine, self._parts = engine, parts

    def generate(self, prompts: Sequence[str], *options: Any) -> Any:
        if len(self.asked) == self._parts:
            raise KeyboardInterrupt
        self.asked.append(prompts)
        return self._engine.generate(prompts, *options)


def test_what_was_generated_is_not_generated_again(engine: Any, tmp_path: Path) -> None:
    undisturbed = engine.generate(PROMPTS, SAMPLING)
    first, second = Dying(engine, 2), Dying(engine, 9)
    with pytest.raises(KeyboardInterrupt):
        ResumableEngine(first, tmp_path).generate(PROMPTS, SAMPLING)
    done: list[int] = []
    assert ResumableEngine(second, tmp_path).generate(PROMPTS, SAMPLING, done.append) == undisturbed
    assert len(first.asked) == 2 and len(second.asked) == 1
    assert sum(done) == len(PROMPTS) * SAMPLING.n
    assert sorted(p for part in first.asked + second.asked for p in part) == sorted(PROMPTS)


def test_what_was_generated_is_found_by_who_cuts_other_parts(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Dying(engine, 2), Dying(engine, 9)
    with pytest.raises(KeyboardInterrupt):
        ResumableEngine(first, tmp_path).generate(PROMPTS, SAMPLING)
    monkeypatch.setattr(
        resume, "RESPONSES_PER_PART", 4
    )  # six parts, four of them in the two there are
    found = ResumableEngine(second, tmp_path).generate(PROMPTS, SAMPLING)
    assert found == engine.generate(PROMPTS, SAMPLING)
    assert len(second.asked) == 2


@pytest.mark.parametrize("change", ["seed", "model", "unknown"])
def test_answers_to_something_else_are_not_taken(engine: Any, tmp_path: Path, change: str) -> None:
    one = Dying(engine, 9)
    ResumableEngine(one, tmp_path).generate(PROMPTS, SAMPLING)
    other = Dying(engine, 9)
    sampling = SAMPLING
    if change == "seed":
        sampling = Sampling(temperature=1.0, max_tokens=8, n=2, seed=6)
    if change == "model":
        other.model_digest = "another"
    if change == "unknown":
        other.model_digest = None
    ResumableEngine(other, tmp_path).generate(PROMPTS, sampling)
    assert len(other.asked) >= 1


def test_it_is_the_engine_for_whoever_asks_for_more(engine: Any, tmp_path: Path) -> None:
    assert ResumableEngine(engine, tmp_path).tokenizer is engine.tokenizer
    assert not hasattr(ResumableEngine(Dying(engine, 1), tmp_path), "loglikelihood")


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [
        "{",
        '{"place": 0}',
        '{"place": 99, "answers": []}',
        '{"place": 0, "answers": [{"text": "x", "finish_reason": "stop"}]}',
        '{"place": 0, "answers": []}',
        '{"place": -1, "answers": [{"text": 1}]}',
    ],
)
def test_a_part_that_is_damaged_is_generated_again(engine: Any, tmp_path: Path, row: str) -> None:
    first, second = Dying(engine, 9), Dying(engine, 9)
    made = ResumableEngine(first, tmp_path).generate(PROMPTS, SAMPLING)
    part = sorted(tmp_path.rglob("*.jsonl"))[0]
    whole = part.read_bytes()
    part.write_text(f"{row}\n")
    assert ResumableEngine(second, tmp_path).generate(PROMPTS, SAMPLING) == made
    assert len(second.asked) == 1 and part.read_bytes() == whole
