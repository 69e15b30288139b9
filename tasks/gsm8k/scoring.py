"""Score worked answers: by the final answer as a number, and by lm-eval's two string comparisons.

The response is cut where another problem begins; then the last commitment counts, else the last
number. Responses are untrusted: everything read is cut to a short span first, numbers are exact
fractions of bounded size, and Math-Verify, the second opinion on LaTeX, sees only short expressions
of known commands.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from harness.core.schema import Item, Metric, Sample, Score
from tasks.gsm8k.arithmetic import formula_value
from tasks.gsm8k.commitment import Answer, committed, last_number
from tasks.gsm8k.items import gold
from tasks.gsm8k.quantity import readings
from tasks.gsm8k.run_on import own_answer, own_sample, until_stop
from tasks.gsm8k.scales import asks_in
from tasks.task import Answered, Judge, new_score

ABSOLUTE_TOLERANCE = 1e-6

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
    it poses itself. `truncated` has no value if the sample does not say how it ended, as recorded
    responses do not. `details` hold the answer, its marker and the gold, and as `unread` a marked
    answer that is not one number.
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
    return new_score(sample, values, unscored, details)


_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


def strict_match(response: str, gold: str) -> bool:
    """Compare one response as lm-eval 0.4.13's gsm8k does by `exact_match,strict-match`."""
    found = _STRICT.search(response)
    return found is not None and _compared(found[1]) == _compared(gold)


def flexible_extract(response: str, gold: str) -> bool:
    """Compare one response as lm-eval 0.4.13's gsm8k does by `exact_match,flexible-extract`."""
    last = deque(_FLEXIBLE.finditer(response), maxlen=1)
    return bool(last) and _compared(last[0][0]) == _compared(gold)


def _compared(text: str) -> str:
    """Apply lm-eval's `regexes_to_ignore` and `ignore_case` to an answer.

    Its pattern for everything up to `#### ` is not needed here, because neither side still has that
    prefix, and would take quadratic time for a long number.
    """
    return text.replace(",", "").replace("$", "").removesuffix(".").lower()


def find(response: str, prompt: str = "") -> Answer | None:
    """Find the final answer of a response to `prompt`, even one that cannot be read as a number.

    None where the response states no number and no refusal.
    """
    response = own_answer(response, prompt)
    answer = committed(response) or last_number(response)
    if answer and answer.count is not None and asks_in(prompt, answer.scale):
        return replace(answer, readings=(answer.count, *answer.readings))
    return answer


def extract(response: str, prompt: str = "") -> Answer | None:
    """Extract the final answer of a response to `prompt`.

    None where the response states no number and no refusal, or where its answer is not one number.
    """
    answer = find(response, prompt)
    return None if answer is None or answer.unread else answer


def matches(
    answer: Answer | None, gold: str, *, abs_tol: float = ABSOLUTE_TOLERANCE, rel_tol: float = 0.0
) -> bool:
    """Check whether `answer` is the gold answer.

    Integers compare exactly; anything else within `abs_tol`, or, where the gold is not an integer,
    `rel_tol` times the gold. The gold "None" is met by an answer that none can be given.
    """
    if answer is None or answer.unread:
        return False
    if gold.strip().lower() == "none":
        return answer.none
    wanted = readings(gold)
    if not wanted:
        return False
    values = answer.readings or (formula_value(answer.text),)
    return any(v is not None and _close(v, wanted[0], abs_tol, rel_tol) for v in values)


def _close(value: Fraction, gold: Fraction, abs_tol: float, rel_tol: float) -> bool:
    if value.denominator == gold.denominator == 1:
        return value == gold
    relative = Fraction(rel_tol) * abs(gold) if gold.denominator != 1 else Fraction(0)
    return abs(value - gold) <= max(Fraction(abs_tol), relative)
