"""Render a decision for GitHub Actions: annotations on the run, and the summary of the job.

The limits are GitHub's: it shows ten errors and ten warnings per step, and refuses a summary of
more than 1 MiB.
"""

from __future__ import annotations

from harness.core.schema import Check, Decision
from harness.core.text import visible
from harness.gate.clusters import INDEPENDENT

MAX_ANNOTATIONS = 10  # of a kind, per step
MAX_SUMMARY_BYTES = 1024 * 1024
CUT = (
    "\n\n*The rest is left out: GitHub shows 1 MiB. The whole decision is in the file that "
    "`--markdown` writes.*\n"
)


def commands(decision: Decision) -> list[str]:
    """Return workflow commands to print: failed checks as errors, inconclusive ones as warnings.

    The first command is the verdict. If there are more than GitHub shows, the last one counts the
    others.
    """
    errors, warnings = [], []
    title = f"Gate: {decision.verdict}"
    if decision.verdict == "fail":
        errors.append((title, "the candidate is worse than the margin allows"))
    elif decision.verdict == "inconclusive":
        warnings.append((title, "the evidence does not say whether the candidate is worse"))
    for check in decision.checks:
        said = (f"{check.name}: {check.verdict}", _said(check))
        if check.verdict == "fail" and check.tier != "advisory":
            errors.append(said)
        elif check.verdict != "pass":
            warnings.append(said)
    warnings += [(f"Alarm: {alarm.task} {alarm.kind}", alarm.message) for alarm in decision.alarms]
    warnings += [("Gate: clusters", note) for note in decision.notes if INDEPENDENT in note]
    return [*_commands("error", errors), *_commands("warning", warnings)]


def summary(markdown: str, room: int = MAX_SUMMARY_BYTES) -> str:
    """Truncate `markdown` at the end of a line to at most `room` bytes of UTF-8."""
    data = markdown.encode("utf-8", "replace")
    if len(data) <= room:
        return data.decode()
    kept = data[: max(room - len(CUT.encode()), 0)]
    return kept[: kept.rfind(b"\n") + 1].decode("utf-8", "ignore") + CUT


def _said(check: Check) -> str:
    low, high = check.interval
    return (
        f"{check.tier}; gain {check.delta:+.4g} [{low:+.4g}, {high:+.4g}], margin "
        f"{check.margin:g}, n {check.n}; {check.reason}"
    )


def _commands(kind: str, said: list[tuple[str, str]]) -> list[str]:
    if len(said) > MAX_ANNOTATIONS:
        left = len(said) - MAX_ANNOTATIONS + 1
        said = [
            *said[: MAX_ANNOTATIONS - 1],
            ("Gate", f"{left} more are in the summary of the job"),
        ]
    return [f"::{kind} title={_property(title)}::{_data(text)}" for title, text in said]


def _data(text: str) -> str:
    """Escape a message for a workflow command: the runner decodes exactly these three."""
    return visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
