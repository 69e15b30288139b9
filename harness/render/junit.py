"""Render a decision as JUnit XML for CI systems: a test case per check, and one for the gate."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from harness.core.schema import Check, Decision, Verdict
from harness.core.text import xml_legal


def decision(decision: Decision) -> str:
    """Render the verdicts as test results.

    A failed check that can fail the gate is a failure, and an inconclusive critical check is an
    error. Checks that decide nothing (advisory, or an inconclusive guardrail) are skipped with the
    reason, and so are alarms. The last case, `verdict`, is the gate's own: the suite is green
    exactly if the gate passes.
    """
    suite = Element("testsuite", name="gate")
    outcomes = [_add(suite, check) for check in decision.checks]
    for alarm in decision.alarms:
        case = SubElement(
            suite,
            "testcase",
            classname=xml_legal(f"gate.{alarm.task}"),
            name=f"alarm: {alarm.kind}",
        )
        outcomes.append("skipped")
        _say(case, "skipped", alarm.message, "")
    case = SubElement(suite, "testcase", classname="gate", name="verdict")
    outcomes.append(_outcome(decision.verdict, "critical"))
    _say(case, outcomes[-1], decision.verdict, "\n".join(decision.reasons))
    counts = {
        "tests": len(outcomes),
        "failures": outcomes.count("failure"),
        "errors": outcomes.count("error"),
        "skipped": outcomes.count("skipped"),
    }
    for name, count in counts.items():
        suite.set(name, str(count))
    suites = Element("testsuites", {"name": "gate"} | {k: str(v) for k, v in counts.items()})
    suites.append(suite)
    indent(suites)
    body = tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _outcome(verdict: Verdict, tier: str) -> str:
    if verdict == "pass":
        return ""
    if tier == "advisory" or (tier == "guardrail" and verdict == "inconclusive"):
        return "skipped"
    return "failure" if verdict == "fail" else "error"


def _add(suite: Element, check: Check) -> str:
    name = check.name.removeprefix(f"{check.task} ")
    case = SubElement(
        suite, "testcase", classname=xml_legal(f"gate.{check.task}"), name=xml_legal(name)
    )
    outcome = _outcome(check.verdict, check.tier)
    _say(case, outcome, f"{check.verdict}: {check.reason}", "")
    said = [f"{check.tier}, {check.label}: {_figures(check)}"]
    said += [f"{name}, {part.verdict}: {_figures(part)}" for name, part in check.worst_subgroups]
    said += [check.subgroups.others] if check.subgroups and check.subgroups.others else []
    SubElement(case, "system-out").text = xml_legal("\n".join(said))
    return outcome


def _figures(check: Check) -> str:
    low, high = check.interval
    return (
        f"{check.baseline_mean:.6g} -> {check.candidate_mean:.6g}, "
        f"gain {check.delta:+.6g} in [{low:+.6g}, {high:+.6g}], "
        f"margin {check.margin:g}, n {check.n}, p {check.p_value:.3g}, {check.test}"
    )


def _say(case: Element, outcome: str, message: str, text: str) -> None:
    if outcome == "skipped":
        SubElement(case, outcome, message=xml_legal(message))
    elif outcome:
        said = SubElement(case, outcome, message=xml_legal(message), type="gate")
        said.text = xml_legal(text or message)
