"""Alarms go off for what people should see, and stay silent otherwise."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from helpers.quiz import make

from harness.core.schema import Alarm, FinishReason, Policy, Rule, Sample
from harness.core.scored import ScoredEvaluation
from harness.gate import decide, with_alarms
from harness.gate.alarms import find_alarms, reward_hacking

WORDS = [f"word{i}" for i in range(400)]


def answers(
    write: Callable[[random.Random], str],
    *,
    n: int = 60,
    finish: FinishReason | None = "stop",
    cut: int = 0,
) -> dict[str, ScoredEvaluation]:
    rng = random.Random(0)
    return {
        "quiz": replace(
            make([{"accuracy": 1}]),
            samples=[
                Sample(
                    task="quiz",
                    item=f"item{i}",
                    index=i,
                    prompt="?",
                    response=write(rng),
                    finish_reason="length" if i < cut else finish,
                )
                for i in range(n)
            ],
        )
    }


def prose(rng: random.Random, words: int = 20) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def kinds(before: dict[str, ScoredEvaluation], after: dict[str, ScoredEvaluation]) -> list[str]:
    return [alarm.kind for alarm in find_alarms(before, after)]


def test_answers_of_one_kind_raise_no_alarm() -> None:
    longer = answers(lambda rng: prose(rng, 24), cut=2)
    assert find_alarms(answers(prose), longer) == []


@pytest.mark.parametrize("words", [8, 40])
def test_a_drift_of_length_is_told_either_way(words: int) -> None:
    (alarm,) = find_alarms(answers(prose), answers(lambda rng: prose(rng, words)))
    assert (alarm.kind, alarm.baseline, alarm.candidate) == ("length", 20, words)
    assert f"had 20.0 words and has {words}.0" in alarm.message


def test_more_answers_cut_off_are_told() -> None:
    assert kinds(answers(prose), answers(prose, cut=6)) == ["truncation"]
    assert kinds(answers(prose), answers(prose, cut=3)) == []
    assert kinds(answers(prose, finish=None), answers(prose, finish=None, cut=30)) == []


@pytest.mark.parametrize(
    "refusal",
    [
        "",
        "I'm sorry, but I can't help with that.",
        "I\N{RIGHT SINGLE QUOTATION MARK}m sorry, no.",
        "As an AI, I have no views.",
    ],
)
def test_more_refusals_are_told(refusal: str) -> None:
    def sometimes(rng: random.Random) -> str:
        text = prose(rng)
        return f"{refusal} {text}" if refusal and rng.random() < 0.2 else text

    after = answers(sometimes if refusal else lambda r: prose(r) if r.random() < 0.8 else "")
    assert "refusals" in kinds(answers(prose), after)
    assert kinds(after, after) == []


def test_repetition_is_told_of_equally_much_text() -> None:
    stuck = answers(lambda rng: " ".join(["over and over"] * 6 + ["again", "now"]))
    assert kinds(answers(prose), stuck) == ["repetition"]
    assert kinds(answers(prose, n=30), answers(prose, n=60)) == []


def test_a_handful_of_answers_has_no_style() -> None:
    assert find_alarms(answers(prose, n=19), answers(lambda _: "", n=19)) == []


def test_only_items_that_both_answered_are_compared() -> None:
    before, after = answers(prose), answers(prose)
    extra = answers(lambda _: "", n=300)["quiz"].samples[60:]
    after["quiz"].samples.extend(extra)
    assert find_alarms(before, after | {"poll": after["quiz"]}) == []


RULES = Policy(rules=[Rule(task="quiz", metric="accuracy", margin=0.1)])


def gate(after: int, rules: Policy = RULES):
    rows = [make([{"accuracy": float(i < right)} for i in range(200)]) for right in (100, after)]
    return decide(rules, {"quiz": rows[0]}, {"quiz": rows[1]})


def test_a_reward_that_rises_while_the_benchmark_falls() -> None:
    (alarm,) = reward_hacking(0.4, 0.6, gate(95).checks)
    assert (alarm.kind, alarm.task) == ("reward", "quiz")
    assert reward_hacking(0.6, 0.6, gate(95).checks) == []
    assert reward_hacking(0.4, 0.6, gate(105).checks) == []


ALARM = Alarm(kind="length", task="quiz", message="longer", baseline=1, candidate=2)


def test_an_alarm_is_told_and_blocks_only_where_the_policy_says_so() -> None:
    told = with_alarms(gate(100), [ALARM])
    assert (told.verdict, told.alarms) == ("pass", [ALARM])
    strict = RULES.model_copy(update={"alarms": "block"})
    assert with_alarms(gate(100, strict), []).verdict == "pass"
    blocked = with_alarms(gate(100, strict), [ALARM])
    assert blocked.verdict == "inconclusive"
    assert blocked.reasons == ["alarm on quiz, length: longer"]
    failed = with_alarms(gate(10, strict), [ALARM])
    assert failed.verdict == "fail"
    assert len(failed.reasons) == 2


def test_a_decision_without_news_has_the_bytes_it_always_had() -> None:
    plain = gate(100).model_dump(mode="json")
    assert not {"alarms", "plan"} & plain.keys()
    assert "alarms" not in plain["policy"]
    assert "planned" not in plain["checks"][0]
    told = with_alarms(gate(100), [ALARM])
    assert type(told).model_validate(told.model_dump(mode="json")) == told
