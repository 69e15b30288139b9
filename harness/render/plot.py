"""Draw a board: a panel per benchmark, with a mean and its 95 % interval per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.board.ledger import EvaluationEntry, Row
from harness.board.ranking import divide
from harness.core.errors import UserError
from harness.core.schema import MetricResult
from harness.core.text import picture
from harness.render.style import BLUE, GREY, styled, svg


def board(rows: Sequence[Row], split: str = "sealed") -> bytes:
    """Draw the primary metrics of the latest evaluations on `split`, as SVG.

    The best mean of a panel has another colour.

    Raises:
        UserError: no evaluation on `split` counts.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    standing, _ = divide(rows)
    panels = _panels(standing, split)
    if not panels:
        raise UserError(f"The board has no evaluation on the {split} split to draw.")
    names = list(dict.fromkeys(name for models in panels for name in models))
    with styled(), mpl.rc_context({"text.parse_math": False}):  # a model may be called $x$
        figure = Figure(figsize=(3.2 * len(panels), 0.9 + 0.42 * len(names)))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, models in zip(axes, panels, strict=True):
            found = {name: _primary(entry) for name, entry in models.items()}
            best = _best(models)
            for height, name in enumerate(reversed(names)):
                if name not in found or (mean := found[name][1].mean) is None:
                    continue
                result = found[name][1]
                ends = [mean if end is None else end for end in (result.low, result.high)]
                colour = BLUE if mean == best else GREY
                axis.plot(ends, [height, height], color=colour, lw=5, alpha=0.35)
                axis.plot([mean], [height], "o", color=colour, ms=8)
                axis.annotate(
                    f"{mean:.3f}", (mean, height), (0, 8), textcoords="offset points",
                    ha="center", fontsize=8,
                )  # fmt: skip
            first = next(iter(models.values())).evaluation
            metric = next(name for name, _ in found.values())
            title = f"{picture(first.task)}\n{picture(metric)}, n = {first.items:,}"
            axis.set_title(title, fontsize=9)
            axis.set_yticks(range(len(names)), [picture(name) for name in reversed(names)])
            axis.set_ylim(-0.6, len(names) - 0.2)
            axis.margins(x=0.15)
            axis.tick_params(length=0, labelsize=8)
            axis.spines["left"].set_visible(False)
            axis.grid(axis="x")
        return svg(figure)


def _panels(rows: Sequence[Row], split: str) -> list[dict[str, EvaluationEntry]]:
    """Group the evaluations on `split` that compare: model name -> its latest evaluation."""
    panels: dict[str, dict[str, EvaluationEntry]] = {}
    for row in rows:
        entry = row.entry
        if not isinstance(entry, EvaluationEntry) or entry.evaluation.split != split:
            continue
        # A task of lm-eval may have no metric that is a mean over items.
        if any(metric.primary for metric in entry.evaluation.definitions.values()):
            panels.setdefault(entry.evaluation.comparable_key, {})[entry.name] = entry
    return list(panels.values())


def _best(models: Mapping[str, EvaluationEntry]) -> float | None:
    """The best mean of a panel."""
    found = [_primary(entry) for entry in models.values()]
    means = [result.mean for _, result in found if result.mean is not None]
    definitions = next(iter(models.values())).evaluation.definitions
    pick = max if definitions[found[0][0]].higher_is_better else min
    return pick(means, default=None)


def _primary(entry: EvaluationEntry) -> tuple[str, MetricResult]:
    definitions = entry.evaluation.definitions.values()
    name = next(metric.name for metric in definitions if metric.primary)
    return name, entry.evaluation.metrics[name]
