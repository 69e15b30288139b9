"""Style pictures so that they are readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

GREY, BLUE, RED, TEXT = "#94a3b8", "#2563eb", "#dc2626", "#64748b"
LINE = "#cbd5e1"
STYLE: dict[str, Any] = {
    "svg.hashsalt": "rlrf",  # the same picture from the same numbers
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": LINE,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "legend.frameon": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style to whatever matplotlib draws in the block."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        yield


def svg(figure: Any) -> bytes:
    """Render a figure as SVG on a transparent ground: equal figures give equal bytes."""
    figure.tight_layout()
    drawn = BytesIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    return drawn.getvalue()
