"""What was found out about a judge, for a page: agreement, drift, canaries, bias, preference.

The findings are the JSON that `rlrf judge check`, `compare`, `agree`, `calibrate` and `drift`
print with --json.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import parse, read_json
from harness.core.schema import JudgeRef, MetricResult
from harness.judges.checks.calibrate import Calibrations
from harness.judges.checks.canaries import Canaries
from harness.judges.checks.drift import Drift
from harness.judges.checks.pairwise import Comparison
from harness.judges.checks.panel import Panel
from harness.render import numbers
from harness.render.html.report import JudgeFinding, Table


def read(path: Path) -> JudgeFinding:
    """The finding in a file.

    Raises:
        UserError: it is missing, malformed, or no finding about a judge.
    """
    value = read_json(path)
    kinds: dict[str, Callable[[], JudgeFinding]] = {
        "canaries": lambda: _canaries(parse(Canaries, value, str(path))),
        "anchors": lambda: _drift(parse(Drift, value, str(path))),
        "members": lambda: _panel(parse(Panel, value, str(path))),
        "win_rate": lambda: _comparison(parse(Comparison, value, str(path))),
        "baseline": lambda: _calibrations(parse(Calibrations, value, str(path))),
    }
    for key, finding in kinds.items():
        if isinstance(value, dict) and key in value:
            return finding()
    raise UserError(
        f"{path} is no finding about a judge: `rlrf judge check`, `compare`, `agree`, `calibrate` "
        "or `drift` prints one with --json."
    )


def _canaries(found: Canaries) -> JudgeFinding:
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
        for one in found.canaries
    ]
    heads = ["worthless answer", "verdict", "scored below the real one [95 %]", "tied", "above"]
    return JudgeFinding(
        f"Canaries: does {_name(found.judge)} rank worthless answers below real ones? "
        f"{found.task} {found.metric}",
        found.verdict,
        Table([*heads, "n", "unscored"], rows),
    )


def _drift(found: Drift) -> JudgeFinding:
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
        for one in found.metrics
    ]
    level = f"{100 - 200 * found.alpha:g} %"
    heads = ["metric", "verdict", f"change [{level}]", "margin", "scores changed [95 %]", "n"]
    return JudgeFinding(
        f"Drift: does {_name(found.after)} still say what it said? {found.task}, "
        f"{found.anchors:,} items scored twice",
        found.verdict,
        Table([*heads, "unscored"], rows),
    )


def _panel(found: Panel) -> JudgeFinding:
    levels = sorted({level for metric in found.metrics for level in metric.alpha})
    rows = [
        [
            metric.metric,
            *(
                _share(one.alpha, one.low, one.high) if one else numbers.NOTHING
                for one in (metric.alpha.get(level) for level in levels)
            ),
            f"{metric.n:,}",
            *(_mean(metric.means.get(member.name)) for member in found.members),
        ]
        for metric in found.metrics
    ]
    heads = ["metric", *(f"{level} alpha [95 %]" for level in levels), "n"]
    return JudgeFinding(
        f"Agreement of {len(found.members)} judges, Krippendorff's alpha: {found.task}",
        "",
        Table([*heads, *(f"mean, {member.name}" for member in found.members)], rows),
    )


def _comparison(found: Comparison) -> JudgeFinding:
    rows = [
        ["preferred, ties counted half", numbers.result(found.win_rate)],
        ["wins, losses, ties", f"{found.wins:,}, {found.losses:,}, {found.ties:,}"],
        ["verdict survives the swap of positions", numbers.result(found.consistency)],
    ]
    return JudgeFinding(
        f"Preference of {_name(found.judge)}, asked in both orders: {found.task}, candidate over "
        "baseline",
        "",
        Table(["", "value [95 %]"], rows),
    )


def _calibrations(found: Calibrations) -> JudgeFinding:
    rows = [
        [
            one.metric,
            _mean(one.judge),
            _mean(one.human),
            _mean(one.corrected),
            _mean(one.bias),
            _mean(one.correlation),
            f"{one.labelled:,} + {one.unlabelled:,}",
        ]
        for one in found.metrics
    ]
    heads = ["metric", "judge, all", "people, labelled", "corrected", "bias of the judge"]
    what = "gain" if found.baseline else "mean"
    return JudgeFinding(
        f"{_name(found.judge)} against people, {what} [95 %]: {found.task}",
        "",
        Table([*heads, "correlation", "labelled + not"], rows),
    )


def _name(judge: JudgeRef | None) -> str:
    return judge.id if judge else "the task's own scoring"


def _mean(found: MetricResult | None) -> str:
    return numbers.result(found) if found else numbers.NOTHING


def _share(
    value: float | None, low: float | None, high: float | None, *, signed: bool = False
) -> str:
    ends = numbers.interval(low, high, signed=signed)
    return f"{numbers.number(value, signed=signed)} {ends}".strip()
