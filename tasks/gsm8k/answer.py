"""Extract the final answer of a response and compare it with the gold answer, as numbers.

The response is cut where another problem begins; then the last commitment counts, else the last
number. Responses are untrusted: everything read is cut to a short span first, numbers are exact
fractions of bounded size, and Math-Verify, the second opinion on LaTeX, sees only short expressions
of known commands.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from tasks.gsm8k.commitment import Answer, committed, last_number
from tasks.gsm8k.formula import formula_value
from tasks.gsm8k.quantity import readings
from tasks.gsm8k.run_on import own_answer
from tasks.gsm8k.scales import asks_in

__all__ = ["ABSOLUTE_TOLERANCE", "Answer", "extract", "find", "matches", "readings"]

ABSOLUTE_TOLERANCE = 1e-6


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
