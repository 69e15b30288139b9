"""JUnit XML: well-formed, counted right, and red exactly when the gate does not pass."""

from __future__ import annotations

from xml.etree.ElementTree import Element, fromstring

import pytest
from helpers.quiz import make

from harness.core.schema import Alarm, Check, Decision, Policy, Rule, Tier
from harness.gate import decide, with_alarms
from harness.render import junit


def parsed(decision: Decision) -> Element:
    suites = fromstring(junit.decision(decision).encode())
    assert suites.tag == "testsuites"
    (suite,) = suites
    kinds = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    for element in (suites, suite):
        assert element.get("tests") == str(len(suite))
        for count, tag in kinds.items():
            assert element.get(count) == str(len(suite.findall(f"testcase/{tag}")))
    return suite


def outcomes(suite: Element) -> list[list[str]]:
    return [[child.tag for child in case] for case in suite]


def gate(tier: Tier, right: int, n: int = 100) -> Decision:
    rules = Policy(
        rules=[
            Rule(task="quiz", metric="accuracy", margin=0.1),
            Rule(task="quiz", metric="responded", tier=tier, margin=0.1),
        ]
    )
    before = make([{"accuracy": 1.0, "responded": 1.0}] * n)
    after = make([{"accuracy": 1.0, "responded": float(i < right)} for i in range(n)])
    return decide(rules, {"quiz": before}, {"quiz": after})


@pytest.mark.parametrize(
    ("tier", "right", "told", "verdict"),
    [
        ("critical", 100, [], []),
        ("critical", 50, ["failure"], ["failure"]),
        ("critical", 92, ["error"], ["error"]),
        ("guardrail", 50, ["failure"], ["failure"]),
        ("guardrail", 92, ["skipped"], []),
        ("advisory", 50, ["skipped"], []),
        ("advisory", 92, ["skipped"], []),
    ],
)
def test_verdicts_are_test_results(
    tier: Tier, right: int, told: list[str], verdict: list[str]
) -> None:
    suite = parsed(gate(tier, right))
    assert outcomes(suite) == [["system-out"], [*told, "system-out"], verdict]
    assert [(c.get("classname"), c.get("name")) for c in suite] == [
        ("gate.quiz", "accuracy"),
        ("gate.quiz", "responded"),
        ("gate", "verdict"),
    ]


def test_a_guardrail_without_evidence_is_red() -> None:
    rules = Policy(
        rules=[
            Rule(task="quiz", metric="accuracy", margin=0.1),
            Rule(task="quiz", metric="grade", tier="guardrail", margin=0.1),
        ]
    )
    rows = make([{"accuracy": 1.0, "grade": "no judge"}] * 100)
    suite = parsed(decide(rules, {"quiz": rows}, {"quiz": rows}))
    assert outcomes(suite)[-1] == ["error"]
    assert "no judge" in (suite[-1][0].text or "")


def test_nothing_breaks_the_xml() -> None:
    decision = gate("critical", 50)
    nasty = 'a"b<c>&d]]>\x00\x0b\ud800\ufffe\n\U0001f600'
    checks: list[Check] = [
        c.model_copy(update={"task": nasty, "metric": nasty, "reason": nasty, "test": nasty})
        for c in decision.checks
    ]
    changed = decision.model_copy(update={"checks": checks, "reasons": [nasty]})
    suite = parsed(changed)
    shown = suite[0].get("name")
    assert shown == 'a"b<c>&d]]>⟨U+0000⟩⟨U+000B⟩⟨U+D800⟩\ufffd\n\U0001f600'


def test_an_alarm_is_told_and_turns_nothing_red() -> None:
    alarm = Alarm(kind="length", task="quiz", message="longer\x00", baseline=1, candidate=2)
    suite = parsed(with_alarms(gate("critical", 100), [alarm]))
    assert outcomes(suite)[2:] == [["skipped"], []]
    assert (suite[2].get("name"), suite[2][0].get("message")) == ("alarm: length", "longer⟨U+0000⟩")
