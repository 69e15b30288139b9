"""The outcomes of `harness.gate.simulate` as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from harness.gate.simulate import PolicyOutcome, Settings
from harness.render.style import BLUE, GREY, RED, styled, svg
from harness.schema import MetricResult


def table(settings: Settings, outcomes: Sequence[PolicyOutcome]) -> str:
    """The outcomes as a Markdown table: means over loops, gains in percentage points."""
    lines = [
        f"{settings.iterations} iterations, {settings.items:,} items of which two models differ on "
        f"{settings.discordance:.1%}, true gains Normal({100 * settings.effect_mean:+.2g}, "
        f"{100 * settings.effect_sd:.2g}) points; {settings.loops:,} loops, seed {settings.seed}.",
        f"Margin {100 * settings.margin:g} points, alpha {settings.alpha:g}.",
        "",
        "| policy | promotions | of these harmful | true gain | seen gain | ends below -margin |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in outcomes:
        true, seen = (_pm(gain, 100, "+.2f") for gain in (one.true_gain, one.seen_gain))
        lines.append(
            f"| {one.policy} | {_pm(one.promotions, 1, '.2f')} | {_pm(one.harmful, 1, '.3f')} | "
            f"{true} | {seen} | {one.regressed.mean:.2%} |"
        )
    return "\n".join(lines)


def _pm(found: MetricResult, scale: float, how: str) -> str:
    """Mean and half of its 95 % interval."""
    half = ((found.high or 0.0) - (found.low or 0.0)) / 2
    return f"{scale * (found.mean or 0.0):{how}} ± {scale * half:{how.lstrip('+')}}"


def picture(outcomes: Sequence[PolicyOutcome]) -> bytes:
    """True and seen gains, and promotions with the harmful among them, as SVG.

    The colours are readable on light and dark pages.
    """
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(9, 0.9 + 0.32 * len(outcomes)))
        gains, counts = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        for y, one in enumerate(reversed(outcomes)):
            true, seen = (100 * (m.mean or 0.0) for m in (one.true_gain, one.seen_gain))
            gains.plot([true, seen], [y, y], color=GREY, lw=2, alpha=0.5, zorder=1)
            gains.plot(seen, y, "o", mfc="none", mec=GREY, mew=1.6, label="" if y else "seen")
            gains.plot(true, y, "o", color=BLUE, label="" if y else "true")
            promoted, harmful = (m.mean or 0.0 for m in (one.promotions, one.harmful))
            counts.barh(y, promoted, 0.55, color=GREY, alpha=0.6, label="" if y else "promoted")
            counts.barh(y, harmful, 0.55, color=RED, alpha=0.8, label="" if y else "truly worse")
        gains.set_yticks(range(len(outcomes)), [one.policy for one in reversed(outcomes)])
        gains.axvline(0, color=GREY, lw=0.8)
        gains.set_xlabel("gain over M0, percentage points")
        counts.set_xlabel("promotions a loop")
        for axis in (gains, counts):
            axis.tick_params(length=0)
            axis.spines["left"].set_visible(False)
            axis.grid(axis="x")
            axis.legend(fontsize=8, loc="best")
        return svg(figure)
