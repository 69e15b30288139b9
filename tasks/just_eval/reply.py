"""A judge's verdict on an answer: one score an aspect, from 1 to 5 or "N/A".

Scores are read as judges write them, "4/5" and "**4**" too. A score is never guessed: an aspect
that the reply does not plainly grade is unscored with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.replies.judgements import TWICE, UnparsableReplyError, judgements
from tasks.just_eval.aspects import ASPECTS, HIGHEST, LOWEST

MAX_REASON = 2_000  # characters kept

REASON_KEYS = ("reason", "rationale", "justification", "explanation")
SCORE_KEYS = ("score", "rating")


@dataclass(frozen=True)
class Verdict:
    """One aspect's grade: a number from 1 to 5, "N/A", or None where the reply gives none.

    `reason` is the judge's; of an unscored aspect it says why there is no score.
    """

    score: float | Literal["N/A"] | None
    reason: str


def parse(reply: str, aspects: Sequence[str], answer: str = "") -> dict[str, Verdict]:
    """The verdict on each of `aspects`; what the reply quotes of `answer` is none."""
    try:
        judged = judgements(reply, ASPECTS, answer)
    except UnparsableReplyError as error:
        return dict.fromkeys(aspects, Verdict(None, str(error)))
    return {
        aspect: _verdict(judged[aspect])
        if aspect in judged
        else Verdict(None, f"the verdict says nothing of {aspect}")
        for aspect in aspects
    }


_NUMBER = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)(?:\s*(?:/|out of)\s*5(?:\.0)?)?", re.I)
_NOT_APPLICABLE = re.compile(r"n\s?/\s?a|n\.a\.|na|not applicable", re.IGNORECASE)


def _verdict(judgement: Any) -> Verdict:
    if judgement is TWICE:
        return Verdict(None, "judged twice in one verdict")
    reason = ""
    if isinstance(judgement, dict):
        reason = next((r for k in REASON_KEYS if isinstance(r := judgement.get(k), str)), "")
        judgement = next((judgement[k] for k in SCORE_KEYS if k in judgement), None)
    if not isinstance(judgement, str):
        return Verdict(None, "judged without a score")
    text = judgement.strip().strip("*").strip()
    if _NOT_APPLICABLE.fullmatch(text):
        return Verdict("N/A", reason[:MAX_REASON])
    number = _NUMBER.fullmatch(text)
    if number is None:
        return Verdict(None, f"the score {text[:40]!r} is not a number from {LOWEST} to {HIGHEST}")
    score = float(number.group(1))
    if not LOWEST <= score <= HIGHEST:
        return Verdict(None, f"the score {text} is outside {LOWEST} to {HIGHEST}")
    return Verdict(score, reason[:MAX_REASON])
