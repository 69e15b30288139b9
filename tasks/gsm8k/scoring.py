"""What a worked answer is worth: the numeric comparison, and lm-eval's two string comparisons."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

from harness.core.schema import Item, Metric, Sample, Score
from tasks.gsm8k.answer import ABSOLUTE_TOLERANCE, find, matches
from tasks.gsm8k.items import gold
from tasks.gsm8k.run_on import own_sample, until_stop
from tasks.task import Answered, Judge

METRICS = (
    Metric(
        name="accuracy",
        kind="binary",
        primary=True,
        description="the final answer, found marker first, equals the gold as a number",
    ),
    Metric(
        name="strict_match",
        kind="binary",
        description="lm-eval's strict-match: the first `#### N` is the gold's string",
    ),
    Metric(
        name="flexible_extract",
        kind="binary",
        description="lm-eval's flexible-extract: the last run of digits is the gold's string",
    ),
    Metric(
        name="invalid",
        kind="binary",
        higher_is_better=False,
        description="no final answer was found",
    ),
    Metric(
        name="truncated",
        kind="binary",
        higher_is_better=False,
        description="the response was cut off at its token limit",
    ),
)


def score(answered: Sequence[Answered], judge: Judge | None = None) -> list[Score]:
    """Score each response, in order; no judge is asked.

    `item.reference["answer"]` ends in `#### GOLD`. A response is scored up to the next problem that
    it poses itself. `truncated` has no value where the sample does not say how it ended, as
    recorded responses do not. `details` hold the answer, the marker that it was found by, and the
    gold; and as `unread` what was marked as the answer and is not one number.
    """
    return [_score(item, sample) for item, sample in answered]


def _score(item: Item, sample: Sample) -> Score:
    own, wanted = own_sample(item, sample), gold(item)
    stated = find(own.response, item.prompt)
    answer = None if stated is None or stated.unread else stated
    right = matches(
        answer,
        wanted,
        abs_tol=item.reference.get("abs_tol", ABSOLUTE_TOLERANCE),
        rel_tol=item.reference.get("rel_tol", 0.0),
    )
    whole = until_stop(sample.response)
    values = {
        "accuracy": float(right),
        "strict_match": float(strict_match(whole, wanted)),
        "flexible_extract": float(flexible_extract(whole, wanted)),
        "invalid": float(answer is None),
    }
    unscored = {}
    if sample.finish_reason is None:
        unscored["truncated"] = "the response does not say how it ended"
    else:
        values["truncated"] = float(own.finish_reason == "length")
    details = {
        "answer": str(answer) if answer else None,
        "found_by": stated.found_by if stated else None,
        "gold": wanted,
    }
    if stated is not None and stated.unread:
        details["unread"] = str(stated)
    return Score(
        task=item.task,
        item=sample.item,
        index=sample.index,
        repeat=sample.repeat,
        values=values,
        unscored=unscored,
        details=details,
    )


_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


def strict_match(response: str, gold: str) -> bool:
    """lm-eval 0.4.13's `exact_match,strict-match` of its task gsm8k on one response."""
    found = _STRICT.search(response)
    return found is not None and _compared(found[1]) == _compared(gold)


def flexible_extract(response: str, gold: str) -> bool:
    """lm-eval 0.4.13's `exact_match,flexible-extract` of its task gsm8k on one response."""
    last = deque(_FLEXIBLE.finditer(response), maxlen=1)
    return bool(last) and _compared(last[0][0]) == _compared(gold)


def _compared(text: str) -> str:
    """What lm-eval's `regexes_to_ignore` and `ignore_case` leave of an answer.

    Its pattern for everything up to `#### ` is not needed here, as neither side has it any more,
    and would take a time quadratic in the length of a long number.
    """
    return text.replace(",", "").replace("$", "").removesuffix(".").lower()
