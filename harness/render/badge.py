"""Render one number of a board as a badge: JSON for shields.io, or an SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.board.ledger import EvaluationEntry, PromotionEntry, Row
from harness.board.ranking import divide
from harness.core.errors import UserError
from harness.core.schema import Evaluation
from harness.core.text import one_line, xml
from harness.render.numbers import mean_and_interval

HEIGHT_PX = 20
CHARACTER_PX = 6.6  # Verdana at 11 px, on average; the text is fitted to its room


@dataclass(frozen=True)
class Badge:
    """The text of a badge."""

    label: str
    message: str

    def endpoint(self) -> dict[str, Any]:
        """Return the JSON that https://shields.io/badges/endpoint-badge reads."""
        return {"schemaVersion": 1, "label": self.label, "message": self.message, "color": "blue"}

    def svg(self) -> str:
        """Render an SVG picture without external resources."""
        label, message = (xml(text) for text in (self.label, self.message))
        left, right = (round(CHARACTER_PX * len(text) + 12) for text in (self.label, self.message))
        texts = "".join(
            f'<text x="{x}" y="14" textLength="{width - 12}" lengthAdjust="spacingAndGlyphs">'
            f"{text}</text>"
            for x, width, text in ((6, left, label), (left + 6, right, message))
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="{HEIGHT_PX}" '
            f'role="img" aria-label="{label}: {message}"><title>{label}: {message}</title>'
            f'<rect width="{left}" height="{HEIGHT_PX}" fill="#475569"/>'
            f'<rect x="{left}" width="{right}" height="{HEIGHT_PX}" fill="#2563eb"/>'
            f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">{texts}'
            "</g></svg>\n"
        )


def badge(
    rows: Sequence[Row],
    task: str,
    metric: str | None = None,
    name: str | None = None,
    split: str | None = None,
) -> Badge:
    """Make a badge of the latest result that counts, with its 95 % interval and n.

    By default the metric is the task's primary one, the model is the last promoted one (or else the
    last evaluated one), and the split is the one that the model was last evaluated on.

    Raises:
        UserError: the board has no such result.
    """
    standing, _ = divide(rows)
    promoted = [
        row.entry.candidate
        for row in standing
        if isinstance(row.entry, PromotionEntry) and row.entry.promotion.promoted
    ]
    name = name or (promoted[-1] if promoted else None)
    found = [
        row.entry
        for row in standing
        if isinstance(row.entry, EvaluationEntry)
        and row.entry.evaluation.task == task
        and name in {None, row.entry.name}
        and split in {None, row.entry.evaluation.split}
    ]
    if not found:
        wanted = " ".join(f"{k} {v}" for k, v in (("of", name), ("on the split", split)) if v)
        raise UserError(f"The board has no evaluation {wanted} on the task {task}.")
    entry = found[-1]
    metric = metric or _primary(entry.evaluation)
    result = entry.evaluation.metrics.get(metric)
    if result is None or result.mean is None:
        known = ", ".join(sorted(entry.evaluation.metrics)) or "none"
        raise UserError(f"{entry.name} on {task} has no number for '{metric}'; it has {known}.")
    message = f"{mean_and_interval(result, '.3g')} n={result.n}"
    return Badge(one_line(f"{entry.name} {task} {metric}"), message)


def _primary(evaluation: Evaluation) -> str:
    return next((m.name for m in evaluation.definitions.values() if m.primary), "")
