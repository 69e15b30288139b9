"""What GitHub is told: within its limits, and with nothing it could read as a command."""

from __future__ import annotations

from helpers.quiz import make

from harness.core.schema import Alarm, Decision, Policy, Rule, Tier
from harness.gate import decide, with_alarms
from harness.render import github, markdown

ALARM = Alarm(kind="length", task="quiz", message="longer", baseline=1, candidate=2)


def gate(right: int, tier: Tier = "critical") -> Decision:
    rules = Policy(
        rules=[
            Rule(task="quiz", metric="accuracy", margin=0.1),
            Rule(task="quiz", metric="responded", tier=tier, margin=0.1),
        ]
    )
    before = make([{"accuracy": 1.0, "responded": 1.0}] * 100)
    after = make([{"accuracy": 1.0, "responded": float(i < right)} for i in range(100)])
    return decide(rules, {"quiz": before}, {"quiz": after})


def kinds(decision: Decision) -> list[str]:
    return [line.split("::")[1].split(" ")[0] for line in github.commands(decision)]


def test_what_failed_is_an_error_and_what_is_open_a_warning() -> None:
    assert kinds(gate(100)) == []
    assert kinds(gate(50)) == ["error", "error"]
    assert kinds(gate(92)) == ["warning", "warning"]
    assert kinds(gate(50, "guardrail")) == ["error", "error"]
    assert kinds(gate(50, "advisory")) == ["warning"]
    verdict, check = github.commands(gate(50))
    assert verdict.startswith("::error title=Gate%3A fail::")
    assert check.startswith("::error title=quiz responded%3A fail::critical; gain -0.5 [")


def test_alarms_are_warnings() -> None:
    told = with_alarms(gate(100), [ALARM])
    assert github.commands(told) == ["::warning title=Alarm%3A quiz length::longer"]


def test_more_than_github_shows_are_counted() -> None:
    decision = gate(50)
    many = decision.model_copy(update={"checks": [decision.checks[1]] * 30})
    many = with_alarms(many, [ALARM] * 12)
    lines = github.commands(many)
    assert [line.startswith("::error") for line in lines] == [True] * 10 + [False] * 10
    assert lines[0].startswith("::error title=Gate%3A fail::")
    assert lines[9].endswith("::22 more are in the summary of the job")
    assert lines[19].endswith("::3 more are in the summary of the job")


def test_no_text_can_become_a_command() -> None:
    decision = gate(50)
    nasty = "a\n::error::b\r\n%0A,x:y\ud800"
    checks = [c.model_copy(update={"task": nasty, "reason": nasty}) for c in decision.checks]
    lines = github.commands(decision.model_copy(update={"checks": checks}))
    assert len(lines) == 2
    assert all("\n" not in line and "\r" not in line for line in lines)
    title, text = lines[1].removeprefix("::error title=").split("::", 1)
    assert title == "a%0A%3A%3Aerror%3A%3Ab%0A%250A%2Cx%3Ay⟨U+D800⟩ responded%3A fail"
    assert text.endswith("a%0A::error::b%0A%250A,x:y⟨U+D800⟩")


def test_a_summary_is_cut_at_a_line_below_the_limit() -> None:
    text = markdown.decision(gate(100))
    assert github.summary(text) == text
    long = "".join(f"- reason {i}, żółć\n" for i in range(100_000))
    cut = github.summary(long)
    assert github.MAX_SUMMARY_BYTES - 100 < len(cut.encode()) <= github.MAX_SUMMARY_BYTES
    kept, said = cut.split("\n\n*")
    assert long.startswith(kept)
    assert kept.endswith("żółć\n")
    assert "--markdown" in said
    assert len(github.summary(long, room=500).encode()) <= 500
