"""Evaluate short LaTeX formulas with roots, pi and nested fractions, by Math-Verify's grammar.

Formulas are untrusted. Only short expressions of known commands are handed on, so that no clock is
needed: Math-Verify's own is a signal of the main thread.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction

MAX_NESTING = 5

# What Math-Verify is shown: numbers of few digits, roots of numbers, pi, squares and cubes.
# SymPy multiplies a larger power of a sum out, which can take minutes.
_FORMULA = re.compile(
    r"(?=.{1,120}\Z)(?=.*[0-9])(?=.*\\(?:sqrt|pi|[dtc]?frac))"
    r"(?!.*[0-9]{13})(?!.*\^.*\^)(?!(?:.*\\sqrt){4})"
    r"(?:[A-Za-z]\s?=)?"
    r"(?:[0-9+\-*/(){}. ]|\^(?=\s?\{?[23](?![0-9]))"
    r"|\\(?:[dtc]?frac|cdot|times|div|left|right|pi)(?![A-Za-z])"
    r"|\\sqrt\s?(?=[0-9]|\{[0-9.]{1,8}\})|\\[,;! ])+"
)


def is_formula(text: str) -> bool:
    """Check that `text` is a formula that takes no more than a moment to evaluate."""
    formula = _bare(text)
    depth = deepest = 0
    for char in formula[:200]:
        depth += (char in "({") - (char in ")}")
        deepest = max(deepest, depth)
    return deepest <= MAX_NESTING and _FORMULA.fullmatch(formula) is not None


def formula_value(text: str) -> Fraction | None:
    """Compute a short formula such as `\\frac{\\sqrt{16}}{2}`; None for any other text.

    Only Math-Verify's LaTeX grammar is used: its other reader ends in SymPy's `parse_expr`, which
    evaluates text as Python. Its comparison, which may simplify for minutes, is not called.
    """
    if not is_formula(text):
        return None
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify.parser").setLevel(logging.ERROR)  # warns of the stopped clock
    config = [LatexExtractionConfig()]
    parsed = parse(f"${_bare(text)}$", config, fallback_mode="no_fallback", parsing_timeout=None)
    try:
        return Fraction(float(parsed[0].rhs if hasattr(parsed[0], "rhs") else parsed[0]))
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError):
        return None


def _bare(text: str) -> str:
    return text.strip().strip("$*.").removeprefix("\\(").removesuffix("\\)").strip()
