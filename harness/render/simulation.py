"""Show what `harness.gate.lab` measured: simulated loops, certified gates, noise of runs."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.schema import MetricResult, rule_name
from harness.core.text import markdown as escape
from harness.core.text import plural
from harness.gate.lab.at_margin import KINDS
from harness.gate.lab.certify import Certificate
from harness.gate.lab.noise import RuleNoise
from harness.gate.lab.simulate import PolicyOutcome, Settings, ThresholdOutcome
from harness.render import table as tables
from harness.render.style import BLUE, GREY, RED, styled, svg


def table(settings: Settings, outcomes: Sequence[PolicyOutcome]) -> str:
    """Render the outcomes as a Markdown table: means over loops, gains in percentage points."""
    lines = [
        f"{settings.iterations} {plural('iteration', settings.iterations)}, "
        f"{settings.items:,} items of which two models differ on {settings.discordance:.1%}, "
        f"true gains Normal({100 * settings.effect_mean:+.2g}, "
        f"{100 * settings.effect_sd:.2g}) points; {settings.loops:,} loops, seed {settings.seed}.",
        f"Margin {100 * settings.margin:g} points, alpha {settings.alpha:g}.",
        "",
        "| policy | promotions | of these harmful | true gain | seen gain | ends below -margin |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for outcome in outcomes:
        lines.append(f"| {outcome.policy} | {_cells(outcome)} | {outcome.regressed.mean:.2%} |")
    return "\n".join(lines)


def thresholds(settings: Settings, outcomes: Sequence[ThresholdOutcome]) -> str:
    """Render the cost of each promotion threshold as a Markdown table."""
    lines = [
        "What the gate promotes by promotion threshold (standard errors of gain over the "
        f"incumbent; 1 unless a policy says otherwise), {settings.iterations} "
        f"{plural('candidate', settings.iterations)} per loop.",
        "",
        "| threshold | items | promotions | of these harmful | true gain | seen gain | "
        "candidates promoted that are only noise |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for threshold in outcomes:
        lines.append(
            f"| {threshold.threshold:g} | {threshold.items} | {_cells(threshold.outcome)} | "
            f"{_pm(threshold.noise, 100, '.1f')} % |"
        )
    return "\n".join(lines)


def certificate(found: Certificate) -> str:
    """Render whether a gate is certified, and its error rates by rule."""
    return "\n".join(
        [
            f"{'certified' if found.certified else 'not certified'}: {found.reason}",
            f"{found.inconclusive} were inconclusive, so at most {found.inconclusive_bound:.1%}; "
            f"{found.runs} run{'s' * (found.runs > 1)}, gated by {found.by}, seed {found.seed}",
            _rates(found),
        ]
    )


def noise(found: Sequence[RuleNoise]) -> str:
    """Lay out how much runs of one model differ, by rule."""
    heads = ["rule", "margin", "runs", "items", "mean", "items that differ", "sd of a run"]
    heads += ["beyond its items", "p", "two runs differ by"]
    rows = [
        [
            f"{one.task} {one.metric}",
            *(f"{one.margin:g}", f"{one.runs}", f"{one.items:,}", f"{one.mean:.4g}"),
            *(f"{one.differing:.2%}", f"{one.total_sd:.3g}", f"{one.shared_sd:.3g}"),
            *(f"{one.p_value:.2g}", f"{one.reach:.3g}"),
        ]
        for one in found
    ]
    return tables.table([heads, *rows])


def _rates(certificate: Certificate) -> str:
    """Render the error rates of each rule, on the model itself and at the margin."""
    heads = [f"passes at the margin, {kind}" for kind in KINDS]
    lines = [
        f"| rule | tier | margin | false alarms | inconclusive | {' | '.join(heads)} |",
        "|---|---|---:|---:|---:|" + "---:|" * len(heads),
    ]
    notes = []
    for rule in certificate.rules:
        cells = []
        reasons = {rate.unmeasured for rate in rule.at_margin}
        if len(reasons) == 1 and (reason := reasons.pop()):
            notes.append(f"{rule.task} {rule.metric}, at the margin: {reason}.")
            reasons = set()
        for rate in rule.at_margin:
            if rate.low is None or rate.high is None:
                cells.append("-")
                if rate.unmeasured in reasons:
                    notes.append(f"{rule.task} {rule.metric}, {rate.kind}: {rate.unmeasured}.")
                continue
            cells.append(f"{rate.passed / rate.gates:.1%} [{rate.low:.1%}, {rate.high:.1%}]")
            if rate.low > certificate.alpha:
                notes.append(
                    f"{rule.task} {rule.metric}, {rate.kind}: more candidates pass at the margin "
                    f"than the level of {certificate.alpha:g} says. Ask more items, or read a "
                    "pass of this rule with care."
                )
        name = rule_name(rule.task, rule.metric, rule.every)
        lines.append(
            f"| {escape(name)} | {rule.tier} | {rule.margin:g} | "
            f"{rule.failed / rule.gates:.1%} | {rule.inconclusive / rule.gates:.1%} | "
            f"{' | '.join(cells)} |"
        )
    about = f"Of candidates exactly at the margin {certificate.alpha:.1%} may pass."
    return "\n".join(["", *lines, "", about, *map(escape, notes)])


def _cells(outcome: PolicyOutcome) -> str:
    """Format promotions, the harmful ones, and the true and seen gains, as cells of a table."""
    true, seen = (_pm(gain, 100, "+.2f") for gain in (outcome.true_gain, outcome.seen_gain))
    harmful = _pm(outcome.harmful, 1, ".3f")
    return f"{_pm(outcome.promotions, 1, '.2f')} | {harmful} | {true} | {seen}"


def _pm(result: MetricResult, scale: float, how: str) -> str:
    """Format a mean and half of its 95 % interval."""
    half = ((result.high or 0.0) - (result.low or 0.0)) / 2
    return f"{scale * (result.mean or 0.0):{how}} ± {scale * half:{how.lstrip('+')}}"


def picture(outcomes: Sequence[PolicyOutcome]) -> bytes:
    """Draw true and seen gains, and promotions with the harmful ones among them, as SVG."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(9, 0.9 + 0.32 * len(outcomes)))
        gains, counts = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        for y, outcome in enumerate(reversed(outcomes)):
            true, seen = (100 * (m.mean or 0.0) for m in (outcome.true_gain, outcome.seen_gain))
            gains.plot([true, seen], [y, y], color=GREY, lw=2, alpha=0.5, zorder=1)
            gains.plot(seen, y, "o", mfc="none", mec=GREY, mew=1.6, label="" if y else "seen")
            gains.plot(true, y, "o", color=BLUE, label="" if y else "true")
            promoted, harmful = (m.mean or 0.0 for m in (outcome.promotions, outcome.harmful))
            counts.barh(y, promoted, 0.55, color=GREY, alpha=0.6, label="" if y else "promoted")
            counts.barh(y, harmful, 0.55, color=RED, alpha=0.8, label="" if y else "truly worse")
        gains.set_yticks(range(len(outcomes)), [outcome.policy for outcome in reversed(outcomes)])
        gains.axvline(0, color=GREY, lw=0.8)
        gains.set_xlabel("gain over M0, percentage points")
        counts.set_xlabel("promotions a loop")
        for axis in (gains, counts):
            axis.tick_params(length=0)
            axis.spines["left"].set_visible(False)
            axis.grid(axis="x")
            axis.legend(fontsize=8, loc="best")
        return svg(figure)
