"""Render responses with a reward per token, next to their rewrites, as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.schema import Metric, MetricResult
from harness.render import numbers
from harness.render.html.page import render

LEVELS = 4  # of colour, for rewards of one sign
SHARE = Metric(name="share", kind="continuous")


@dataclass(frozen=True)
class Token:
    """The text of one or more tokens, with their reward or whether they are an edit."""

    text: str
    reward: float = 0.0
    edited: bool = False


@dataclass(frozen=True)
class Rewritten:
    """A response to `prompt`, and its rewrite."""

    task: str
    index: int
    prompt: str
    right: bool
    response: Sequence[Token]
    rewrite: Sequence[Token]


def rewrites(
    shown: Sequence[Rewritten],
    count: int,
    measured: Sequence[tuple[str, str, MetricResult]] = (),
) -> str:
    """Render the page of `shown`, which are some of `count` responses.

    Args:
        measured: results of the rewriting model, as (task, what is measured, share).
    """
    rewards = [token.reward for one in shown for token in one.response]
    return render(
        "rewrites.html.jinja",
        sheet="rewrites.css",
        shown=shown,
        count=count,
        measured=measured,
        numbers=numbers,
        share=SHARE,
        levels=_Levels(max([0.0, *rewards]), min([0.0, *rewards])),
        steps=range(LEVELS, 0, -1),
    )


@dataclass(frozen=True)
class _Levels:
    """Grade rewards in `LEVELS` levels, up to the largest reward of the same sign."""

    most: float
    least: float

    def name(self, reward: float) -> str:
        """Return the CSS class of a token with that reward, "" for 0."""
        end = self.most if reward > 0 else self.least
        if not reward or not end:
            return ""
        level = math.ceil(min(LEVELS * reward / end, LEVELS))
        return f"{'earns' if reward > 0 else 'loses'} l{level}"
