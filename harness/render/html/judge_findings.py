"""Read findings about a judge, and lay them out for a page.

The findings are the JSON that `rlrf judge check`, `compare`, `agree`, `calibrate` and `drift`
print with --json.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import parse, read_json
from harness.core.schema import JudgeRef, Record
from harness.judges.checks.calibrate import Calibrations
from harness.judges.checks.canaries import Canaries
from harness.judges.checks.drift import Drift
from harness.judges.checks.pairwise import Comparison
from harness.judges.checks.panel import Panel
from harness.render import numbers
from harness.render.html.report import JudgeFinding, Table


def read(path: Path) -> JudgeFinding:
    """Read the finding in a file.

    Raises:
        UserError: the file is missing, malformed, or not a finding about a judge.
    """
    value = read_json(path)
    if isinstance(value, dict):
        for key, (record, lay_out) in KINDS.items():
            if key in value:
                return lay_out(parse(record, value, str(path)))
    raise UserError(
        f"{path} is not a finding about a judge: `rlrf judge check`, `compare`, `agree`, "
        "`calibrate` or `drift` prints one with --json."
    )


def _canaries(finding: Canaries) -> JudgeFinding:
    rows = [
        [
            one.name,
            one.verdict,
            _share(one.share, one.low, one.high),
            f"{one.tied:,}",
            f"{one.won:,}",
            f"{one.n:,}",
            f"{one.unscored:,}",
        ]
        for one in finding.canaries
    ]
    heads = ["worthless answer", "verdict", "scored below the real one [95 %]", "tied", "above"]
    return JudgeFinding(
        f"Canaries: does {_name(finding.judge)} rank worthless answers below real ones? "
        f"{finding.task} {finding.metric}",
        finding.verdict,
        Table([*heads, "n", "unscored"], rows),
    )


def _drift(finding: Drift) -> JudgeFinding:
    rows = [
        [
            one.metric,
            one.verdict,
            _share(one.change, one.low, one.high, signed=True),
            f"{one.margin:g}",
            numbers.result(one.changed),
            f"{one.n:,}",
            f"{one.unscored:,}",
        ]
        for one in finding.metrics
    ]
    level = f"{100 - 200 * finding.alpha:g} %"
    heads = ["metric", "verdict", f"change [{level}]", "margin", "scores changed [95 %]", "n"]
    return JudgeFinding(
        f"Drift: does {_name(finding.after)} still say what it said? {finding.task}, "
        f"{finding.anchors:,} items scored twice",
        finding.verdict,
        Table([*heads, "unscored"], rows),
    )


def _panel(finding: Panel) -> JudgeFinding:
    levels = sorted({level for metric in finding.metrics for level in metric.alpha})
    rows = [
        [
            metric.metric,
            *(
                _share(one.alpha, one.low, one.high) if one else numbers.NOTHING
                for one in (metric.alpha.get(level) for level in levels)
            ),
            f"{metric.n:,}",
            *(numbers.result(metric.means.get(member.name)) for member in finding.members),
        ]
        for metric in finding.metrics
    ]
    heads = ["metric", *(f"{level} alpha [95 %]" for level in levels), "n"]
    return JudgeFinding(
        f"Agreement of {len(finding.members)} judges, Krippendorff's alpha: {finding.task}",
        "",
        Table([*heads, *(f"mean, {member.name}" for member in finding.members)], rows),
    )


def _comparison(finding: Comparison) -> JudgeFinding:
    rows = [
        ["preferred, ties counted half", numbers.result(finding.win_rate)],
        ["wins, losses, ties", f"{finding.wins:,}, {finding.losses:,}, {finding.ties:,}"],
        ["verdict survives the swap of positions", numbers.result(finding.consistency)],
    ]
    return JudgeFinding(
        f"Preference of {_name(finding.judge)}, asked in both orders: {finding.task}, candidate "
        "over baseline",
        "",
        Table(["", "value [95 %]"], rows),
    )


def _calibrations(finding: Calibrations) -> JudgeFinding:
    rows = [
        [
            one.metric,
            numbers.result(one.judge),
            numbers.result(one.human),
            numbers.result(one.corrected),
            numbers.result(one.bias),
            numbers.result(one.correlation),
            f"{one.labelled:,} + {one.unlabelled:,}",
        ]
        for one in finding.metrics
    ]
    heads = ["metric", "judge, all", "people, labelled", "corrected", "bias of the judge"]
    what = "gain" if finding.baseline else "mean"
    return JudgeFinding(
        f"{_name(finding.judge)} against people, {what} [95 %]: {finding.task}",
        "",
        Table([*heads, "correlation", "labelled + not"], rows),
    )


def _name(judge: JudgeRef | None) -> str:
    return judge.id if judge else "the task's own scoring"


def _share(
    value: float | None, low: float | None, high: float | None, *, signed: bool = False
) -> str:
    ends = numbers.interval(low, high, signed=signed)
    return f"{numbers.number(value, signed=signed)} {ends}".strip()


# A key that only one kind of finding has -> its record, and how it is laid out.
KINDS: dict[str, tuple[type[Record], Callable[[Any], JudgeFinding]]] = {
    "canaries": (Canaries, _canaries),
    "anchors": (Drift, _drift),
    "members": (Panel, _panel),
    "win_rate": (Comparison, _comparison),
    "baseline": (Calibrations, _calibrations),
}
