"""Render what a gate can tell: items per margin and power, and the rules of a plan."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.text import markdown, picture
from harness.gate.plan import Plan
from harness.gate.planned_rule import POWER, PlannedRule
from harness.gate.sizing import POWERS, SizeTable
from harness.render.style import BLUE, GREY, RED, TEXT, styled, svg
from harness.render.table import table as layout

MAX_SUBGROUPS = 20  # of a rule, in a table


def tables(size_tables: Sequence[SizeTable]) -> str:
    """Render the tables as Markdown: a row per margin, a column per power."""
    return "\n\n".join(_table(table) for table in size_tables)


def plan(made: Plan) -> str:
    """Lay out the rules of a plan: what each tests, on how many items, and what it can detect."""
    sequential, clustered = made.mode == "sequential", bool(made.clusters)
    heads = ["rule", "tier", "margin", "test", "n", "spread", "from", "power", "detectable"]
    heads += ["about", "items if unchanged"] if sequential else []
    heads += ["clusters", "icc", "design effect"] if clustered else []
    rows = []
    for rule in made.rules:
        row = [
            rule.name,
            rule.tier,
            f"{rule.margin:g}",
            rule.test,
            f"{rule.n:,}",
            f"{rule.spread:.3g}",
            rule.spread_from,
            f"{rule.power:.2f}",
            f"{rule.minimum_detectable:.3g}",
        ]
        if sequential:
            row += [made.about, f"{rule.expected_items or 0:,}"]
        if clustered and rule.clusters is not None:
            row += [f"{rule.clusters}", f"{rule.icc:.2g} ({rule.icc_from})"]
            row += [f"{rule.design_effect:.3g}"]
        elif clustered:
            row += ["-"] * 3
        rows.append(row)
    return "\n\n".join([layout([heads, *rows]), *map(_subgroups, filter(_every, made.rules))])


def _every(rule: PlannedRule) -> bool:
    return bool(rule.subgroups)


def _subgroups(rule: PlannedRule) -> str:
    """Lay out the subgroups with the least power, and count the others."""
    rows = [[rule.every or "", "n", "power", "passes margin", "loss seen"]]
    for part in rule.subgroups[:MAX_SUBGROUPS]:
        least, loss = part.minimum_detectable, part.detectable_loss
        rows.append(
            [
                markdown(part.name),
                f"{part.n:,}" if part.clusters is None else f"{part.n:,} in {part.clusters}",
                f"{part.power:.2f}",
                "none" if least is None else f"{least:.3g}",
                "none" if loss is None else f"{loss:.3g}",
            ]
        )
    more = len(rule.subgroups) - MAX_SUBGROUPS
    enough = sum(part.power >= POWER for part in rule.subgroups)
    return "\n\n".join(
        [
            f"{rule.name}: {enough} of {len(rule.subgroups)} subgroups pass an unchanged model "
            f"with power {POWER:g} or more; about {rule.items_needed:,} items in each subgroup "
            f"would let it pass in all of them with power {POWER:g}. The last columns are the "
            "least margin that an unchanged model passes, and the loss with which a model fails, "
            f"each with power {POWER:g}.",
            layout(rows) + (f"\nand {more} with more power" if more > 0 else ""),
        ]
    )


def _table(table: SizeTable) -> str:
    lines = [
        f"{describe(table)}: items for an unchanged candidate to pass, by {table.test}, alpha "
        f"{table.alpha:g} ({table.method}).",
        "",
        "| margin | " + " | ".join(f"power {power:g}" for power in POWERS) + " | rules |",
        "|---:|" + "---:|" * len(POWERS) + "---|",
    ]
    for size in table.margins:
        counts = [size.items[f"{power:g}"] for power in POWERS]
        cells = [f"{n:,}" if n is not None else "not reached" for n in counts]
        rules = ", ".join(markdown(rule) for rule in size.rules) or "-"
        lines.append(f"| {size.margin:.4g} | {' | '.join(cells)} | {rules} |")
    if table.reach is not None:
        lines += [
            "",
            f"However many items they have, {table.clusters} clusters tell a margin of "
            f"{table.reach:.3g} or more with power .8: a smaller margin takes more clusters.",
        ]
    return "\n".join(lines)


def describe(table: SizeTable) -> str:
    """Describe the items that a table is about."""
    if table.kind == "yes/no":
        words = f"Yes/no answers of which {table.spread**2:.3g} flip"
    else:
        words = f"Gains with a standard deviation of {table.spread:.3g}"
    if table.clusters is not None:
        words += f", in {table.clusters} clusters of correlation {table.icc:g}"
    return words


def draw(size_tables: Sequence[SizeTable]) -> bytes:
    """Draw power against the number of items, a line per margin, as SVG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    with styled():
        figure = Figure(figsize=(6.4, 3.4 * len(size_tables)))
        for place, table in enumerate(size_tables, 1):
            axis = figure.add_subplot(len(size_tables), 1, place)
            for size, color in zip(table.margins, _colors(len(table.margins)), strict=True):
                label = f"margin {size.margin:.3g}"
                width = 2.0 if size.rules else 1.0
                axis.plot(table.sizes, size.power, color=color, lw=width, label=label)
            axis.axhline(0.8, color=GREY, lw=0.8, ls="--")
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axis.set_ylim(0, 1.02)
            axis.set_xlabel("items")
            axis.set_ylabel("chance that an unchanged model passes")
            axis.set_title(picture(describe(table)))
            axis.grid()
            axis.legend(fontsize=8, loc="best")
        return svg(figure)


def _colors(count: int) -> list[str]:
    palette = [BLUE, RED, GREY, TEXT]
    return [palette[i % len(palette)] for i in range(count)]
