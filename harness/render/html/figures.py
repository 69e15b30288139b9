"""Draw plots as inline SVG by matplotlib, in the page's own colours and fonts.

A page has a light and a dark scheme, and matplotlib has fixed colours. Plots are therefore drawn in
stand-in colours, which become CSS custom properties. `style` attributes become presentation
attributes, because the Content-Security-Policy allows no style except the style sheet.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from harness.core.schema import Metric, MetricResult
from harness.core.text import visible
from harness.render.numbers import result as shown

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from matplotlib.figure import Figure

SERIES = 6
MAX_LABEL_CHARS = 24  # the description has the whole name
_INK, _SOFT, _LINE, _PAPER = "#010101", "#010102", "#010103", "#010104"
_SERIES = [f"#01020{k}" for k in range(SERIES)]
_COLOURS = {
    _INK: "var(--ink)",
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    _PAPER: "var(--panel)",
} | {colour: f"var(--series-{k})" for k, colour in enumerate(_SERIES)}
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


@dataclass(frozen=True)
class Point:
    """A model on a curve; `outcome` is "start", "promoted" or another outcome."""

    name: str
    result: MetricResult
    outcome: str


@dataclass(frozen=True)
class Step:
    """Two models and their means on the gate items of one iteration."""

    before: str
    after: str
    baseline: float
    candidate: float


@dataclass(frozen=True)
class Curve:
    """A metric over the iterations: every model on one set of items, and the steps at the gate."""

    title: str
    metric: Metric | None
    points: list[Point]
    steps: list[Step]


def can_draw() -> bool:
    """Tell whether matplotlib is installed, which draws the plots."""
    return importlib.util.find_spec("matplotlib") is not None


def curve(drawn: Curve, name: str) -> str:
    """Draw a curve as SVG; `name` makes its ids unique on the page."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(3.7, 2.5))
        axis = figure.subplots()
        at = {point.name: x for x, point in enumerate(drawn.points)}
        for step in drawn.steps:
            axis.plot(
                [at[step.before], at[step.after]],
                [step.baseline, step.candidate],
                color=_SOFT,
                lw=0.9,
                ls=(0, (2, 2)),
                marker=".",
                ms=4,
            )
        kept = [p for p in drawn.points if p.outcome in ("start", "promoted")]
        axis.plot(
            [at[p.name] for p in kept if p.result.mean is not None],
            [p.result.mean for p in kept if p.result.mean is not None],
            color=_SERIES[1],
            lw=1.6,
        )
        for x, point in enumerate(drawn.points):
            if point.result.mean is None:
                continue
            mean, low, high = point.result.mean, point.result.low, point.result.high
            if low is not None and high is not None:
                axis.plot([x, x], [low, high], color=_SERIES[1], lw=5, alpha=0.3)
            hollow = point not in kept
            axis.plot(
                [x],
                [mean],
                marker="X" if hollow else "o",
                ms=7,
                color=_PAPER if hollow else _SERIES[1],
                markeredgecolor=_SERIES[1],
                markeredgewidth=1.4,
            )
        axis.set_xticks(range(len(drawn.points)), [_label(p.name) for p in drawn.points])
        axis.set_xlim(-0.4, len(drawn.points) - 0.6)
        axis.margins(y=0.12)
        _calm(axis, "y")
        said = "; ".join(
            f"{p.name} ({p.outcome}) {shown(p.result, drawn.metric)}" for p in drawn.points
        )
        return _inline(figure, name, drawn.title, said)


def profile(
    metrics: Sequence[Metric], models: Sequence[str], results: Sequence[Sequence[MetricResult]],
    name: str, title: str,
) -> str:  # fmt: skip
    """Draw several metrics on one scale as SVG, with a dot and its interval per model.

    `results[i][j]` is metric i of model j.
    """
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(4.6, 0.7 + len(metrics) * max(0.3, 0.12 * len(models))))
        axis = figure.subplots()
        gap = 0.7 / max(len(models), 1)
        said = []
        for i, (metric, row) in enumerate(zip(metrics, results, strict=True)):
            for j, found in enumerate(row):
                said.append(f"{metric.name}, {models[j]}: {shown(found, metric)}")
                if found.mean is None:
                    continue
                height = i + (j - (len(models) - 1) / 2) * gap
                colour = _SERIES[j % SERIES]
                if found.low is not None and found.high is not None:
                    axis.plot([found.low, found.high], [height] * 2, color=colour, lw=4, alpha=0.35)
                axis.plot([found.mean], [height], "o", color=colour, ms=4.5)
        axis.set_yticks(range(len(metrics)), [_label(metric.name) for metric in metrics])
        axis.set_ylim(len(metrics) - 0.45, -0.55)
        axis.margins(x=0.05)
        _calm(axis, "x")
        return _inline(figure, name, title, "; ".join(said))


def _style() -> Any:
    import matplotlib as mpl

    rc: dict[Any, Any] = {
        "svg.hashsalt": "rlrf",  # equal numbers give equal bytes
        "svg.fonttype": "none",
        "font.size": 9,
        "text.parse_math": False,  # a model may be called $x$
        "text.color": _INK,
        "xtick.color": _SOFT,
        "ytick.color": _SOFT,
    }
    return mpl.rc_context(rc)


def _label(name: str) -> str:
    return visible(name if len(name) <= MAX_LABEL_CHARS else name[: MAX_LABEL_CHARS - 1] + "…")


def _calm(axis: Any, ruled: str) -> None:
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.tick_params(length=0)
    axis.grid(axis=ruled, color=_LINE, lw=0.8)
    axis.set_axisbelow(True)


def _inline(figure: Figure, name: str, title: str, description: str) -> str:
    """Render the figure as an `svg` element without style or metadata, with unique ids."""
    from xml.etree import ElementTree

    drawn = BytesIO()
    with warnings.catch_warnings():
        # A browser has glyphs that matplotlib's font lacks, and long names only narrow a plot.
        warnings.simplefilter("ignore", UserWarning)
        figure.tight_layout()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    text = drawn.getvalue().decode()
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    root = ElementTree.fromstring(text)  # noqa: S314 - matplotlib wrote it just now
    ElementTree.register_namespace("", _SVG[1:-1])
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        _tame(element, name, used)
    for tag, text in (("desc", description), ("title", title)):
        said = ElementTree.Element(f"{_SVG}{tag}", {"id": f"{name}-{tag}"})
        said.text = visible(text)
        root.insert(0, said)
    box = root.get("viewBox", "0 0 1 1")
    root.attrib.clear()
    root.attrib.update(
        {"viewBox": box, "role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    )
    ElementTree.indent(root, "")
    return ElementTree.tostring(root, encoding="unicode")


def _tame(element: Element, name: str, used: set[str]) -> None:
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = declaration.partition(":")
        key, value = key.strip(), value.strip()
        if key and key != "font-family":
            element.set(key, value)
    if element.get("id") not in used:
        element.attrib.pop("id", None)
    if href := element.attrib.pop(f"{_XLINK}href", ""):
        element.set("href", href)
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key == "href":
            element.set(key, f"#{name}-{value[1:]}")
        elif value in _COLOURS:
            element.set(key, _COLOURS[value])
        elif "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{name}-"))
