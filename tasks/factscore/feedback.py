"""Give feedback from verified facts: unsupported facts, and whether enough is said."""

from __future__ import annotations

from typing import Literal

from harness.core.schema import AspectFeedback, Feedback, Item, Sample, Score
from tasks.factscore.scoring import GAMMA, Fact

MAX_EVIDENCE = 300  # characters


def feedback(item: Item, sample: Sample, score: Score) -> Feedback:
    """Quote each unsupported fact with the evidence, and count the supported ones.

    Factuality: 2 if every fact is supported, 1 if half of them are, else 0. Completeness: 2 with
    more than gamma supported facts, so that a response is not penalised as short, 1 with more than
    half as many, else 0. A response that declines is only incomplete. One without verified facts
    gets no feedback.
    """
    entity = item.reference["entity"]
    aspects = []
    if score.values.get("responded") == 0:
        aspects = [
            AspectFeedback(
                aspect="completeness",
                justification=f"It declines to answer. Say what is known of {entity}.",
                grade=0,
            )
        ]
    elif "precision" in score.values:
        facts = [Fact.model_validate(fact) for fact in score.details["facts"]]
        aspects = [_factuality(facts), _completeness(facts, entity, score)]
    return Feedback(task=item.task, item=item.digest, aspects=aspects)


def _factuality(facts: list[Fact]) -> AspectFeedback:
    wrong = [fact for fact in facts if not fact.supported]
    lines = [
        f"The record does not support: '{fact.text}'. "
        + (f"Nearest it says: '{fact.evidence[:MAX_EVIDENCE]}'. " if fact.evidence else "")
        + "Leave it out or correct it."
        for fact in wrong
    ]
    return AspectFeedback(
        aspect="factuality",
        justification="\n".join(lines)
        or ("Every fact is supported." if facts else "It states no facts."),
        grade=0 if 2 * len(wrong) > len(facts) or not facts else 1 if wrong else 2,
    )


def _completeness(facts: list[Fact], entity: str, score: Score) -> AspectFeedback:
    supported = sum(fact.supported for fact in facts)
    gamma = score.details.get("gamma", GAMMA)
    grade: Literal[0, 1, 2] = 2 if supported > gamma else 1 if 2 * supported > gamma else 0
    return AspectFeedback(
        aspect="completeness",
        justification=f"It says {supported} supported things of {entity}."
        + (" Say more of what is known." if grade < 2 else ""),
        grade=grade,
    )
