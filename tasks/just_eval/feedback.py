"""Give feedback from a judge's verdict."""

from __future__ import annotations

from typing import Literal

from harness.core.schema import AspectFeedback, Feedback, Item, Sample, Score


def grade(score: float) -> Literal[0, 1, 2]:
    """Map five levels to three: below 3 is poor, 4 and above is good."""
    if score >= 4:
        return 2
    return 1 if score >= 3 else 0


def feedback(item: Item, sample: Sample, score: Score) -> Feedback:
    """Return one entry per scored aspect, with the judge's reason."""
    reasons: dict[str, str] = score.details.get("reasons", {})
    return Feedback(
        task=item.task,
        item=item.digest,
        aspects=[
            AspectFeedback(
                aspect=aspect,
                justification=f"{aspect.capitalize()} is {score.values[aspect]:g} of 5: "
                f"{reasons.get(aspect) or 'the judge gives no reason.'}",
                grade=grade(score.values[aspect]),
            )
            for aspect in item.reference["aspects"]
            if aspect in score.values
        ],
    )
