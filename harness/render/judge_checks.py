"""Lay out what the checks of a judge measured (`harness.judges.checks`) as tables."""

from __future__ import annotations

from collections.abc import Sequence

from harness.judges.checks.calibrate import Calibrations
from harness.judges.checks.canaries import Canaries
from harness.judges.checks.drift import Drift
from harness.judges.checks.pairwise import Comparison
from harness.judges.checks.panel import Panel
from harness.render.numbers import mean_and_interval, with_interval
from harness.render.table import table


def canaries(found: Canaries, required: float) -> str:
    """Lay out how often each kind of worthless answer lost."""
    rows = [
        [
            canary.name,
            canary.verdict,
            with_interval(canary.share, canary.low, canary.high),
            *(str(count) for count in (canary.n, canary.tied, canary.won, canary.unscored)),
        ]
        for canary in found.canaries
    ]
    return _titled(
        f"{found.verdict}: {found.metric} of {found.task}; "
        f"at least {100 * required:g} % have to lose",
        ["canary", "verdict", "lost [95 % interval]", "n", "tied", "won", "unscored"],
        rows,
    )


def comparison(found: Comparison) -> str:
    """Lay out which of two models' answers the judge prefers, and how far its position decides."""
    p_value = "" if found.p_value is None else f"; p = {found.p_value:.3g} of no difference"
    lines = [
        f"{found.task}: {found.wins} wins, {found.losses} losses, {found.ties} ties{p_value}",
        *(f"{count} unscored: {reason}" for reason, count in found.unscored.items()),
    ]
    results = {
        "win rate, ties half": found.win_rate,
        "consistency": found.consistency,
        "position bias": found.position_bias,
    }
    rows = [[name, mean_and_interval(one), str(one.n)] for name, one in results.items()]
    return _titled("\n".join(lines), ["", "mean [95 % interval]", "n"], rows)


def panel(found: Panel) -> str:
    """Lay out how far several judges agree, and the mean that each gives."""
    rows = [
        [
            metric.metric,
            *(with_interval(one.alpha, one.low, one.high) for one in metric.alpha.values()),
            str(metric.n),
            *(
                mean_and_interval(metric.means[member.name]) if member.name in metric.means else "-"
                for member in found.members
            ),
        ]
        for metric in found.metrics
    ]
    heads = ["metric", "nominal alpha", "ordinal alpha", "interval alpha", "n"]
    heads += [f"mean, {member.name}" for member in found.members]
    return _titled(f"{found.task}: alpha and means [95 % interval]", heads, rows)


def calibrations(found: Calibrations, kind: str) -> str:
    """Lay out the judge's means (or gains: `kind`), and what people's labels correct them to."""
    rows = [
        [
            one.metric,
            mean_and_interval(one.judge),
            mean_and_interval(one.human),
            f"**{mean_and_interval(one.corrected)}**",
            mean_and_interval(one.bias),
            mean_and_interval(one.correlation),
            f"{one.labelled} + {one.unlabelled}",
            f"{one.effective_n:.0f}",
        ]
        for one in found.metrics
    ]
    heads = ["metric", "judge, all", "people, labelled", "corrected", "bias of the judge"]
    heads += ["correlation", "labelled + not", "worth labels"]
    return _titled(f"{found.task}, {kind} [95 % interval]", heads, rows)


def drift(found: Drift) -> str:
    """Lay out how far a judge's scores of the same answers changed."""
    rows = [
        [
            one.metric,
            one.verdict,
            with_interval(one.change, one.low, one.high, "+.3f"),
            f"{one.margin:g}",
            mean_and_interval(one.changed),
            str(one.n),
            str(one.unscored),
        ]
        for one in found.metrics
    ]
    heads = ["metric", "verdict", f"change [{100 * (1 - 2 * found.alpha):g} % interval]", "margin"]
    heads += ["scores changed [95 % interval]", "n", "unscored"]
    title = f"{found.verdict}: {found.task}, {found.anchors} items scored twice"
    return _titled(title, heads, rows)


def _titled(title: str, heads: list[str], rows: Sequence[list[str]]) -> str:
    return f"{title}\n\n{table([heads, *rows])}"
