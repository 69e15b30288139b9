"""Responses with a reward a token, and the rewrites beside them, as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.schema import Metric, MetricResult
from harness.render import numbers
from harness.render.html.page import render

LEVELS = 4
SHARE = Metric(name="share", kind="continuous")


@dataclass(frozen=True)
class Token:
    """What one or more tokens spell, and what marks them: a reward, or that they are an edit."""

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
    """The page of `shown`, which are some of `count`; HTML, the same bytes for the same input.

    `measured` is how the model that rewrites does, as (task, what, how often).
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
    """How strongly a reward is drawn: in `LEVELS` levels up to the largest of its sign."""

    most: float
    least: float

    def name(self, reward: float) -> str:
        """The class of a token with that reward; nothing for 0."""
        end = self.most if reward > 0 else self.least
        if not reward or not end:
            return ""
        level = math.ceil(min(LEVELS * reward / end, LEVELS))
        return f"{'earns' if reward > 0 else 'loses'} l{level}"
