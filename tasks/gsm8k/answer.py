"""Find the final answer in a response and compare it with the gold answer, as numbers.

The order of evidence: the last `#### N`, the last "answer is N", the last line `A: N`, the last
`\\boxed{N}`, the last number. A marker counts only where a readable answer follows it. Responses
are untrusted: everything read is cut to a short span first, numbers are exact fractions of bounded
size, and Math-Verify, the second opinion on LaTeX, sees only short expressions of known commands.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from tasks.gsm8k.arithmetic import NUMERAL, evaluate, plain, show

MAX_TEXT = 200_000  # characters read of a response, its last
SPAN = 200  # characters read after a marker
LOOKBACK = 400  # characters read before the last digit, when no marker is found
MAX_MARKERS = 20  # of a kind, from the last; a flood of markers is not read further
MAX_SHOWN = 60
ABSOLUTE_TOLERANCE = 1e-6

# What a number may be multiplied by for the word after it.
SCALES = {
    **dict.fromkeys(("%", "percent", "pct"), Fraction(1, 100)),
    "hundred": Fraction(100),
    **dict.fromkeys(("k", "thousand"), Fraction(10**3)),
    "million": Fraction(10**6),
    "billion": Fraction(10**9),
}


@dataclass(frozen=True)
class Answer:
    """A final answer as found in a response.

    `readings` are the numbers it may stand for, the literal one first: 25 % is 25, then 0.25;
    "2 million" is 2, then 2,000,000. They are empty where it is no plain number (`2\\sqrt{3}`).
    `none` says that the response finds the question unanswerable.
    """

    text: str
    found_by: str
    readings: tuple[Fraction, ...] = ()
    none: bool = False

    def __str__(self) -> str:
        """The number without the words around it, or what else was found, cut short."""
        if not self.readings:
            return self.text[:MAX_SHOWN] or "that none can be given"
        shown = show(self.readings[0])
        return str(self.readings[0]) if shown.startswith("about") else shown


_MARKERS = (
    ("####", re.compile(r"####")),
    ("answer is", re.compile(r"\banswer\b\W{0,4}(?:is\b|was\b|[:=])", re.IGNORECASE)),
    ("A:", re.compile(r"^[ \t]*A[ \t]?:", re.MULTILINE)),
    ("boxed", re.compile(r"\\(?:boxed|fbox)\s?(?=\{)")),
)

# What may stand between a marker and its number.
_LEAD = (
    r"[\s:=~≈*_\"'\[{]*"
    r"(?:(?:about|approximately|roughly|around|exactly|only|just|equal to|is)\s+)?"
    r"(?:[A-Za-z]\s?[=≈]\s?|USD?\s?|Rs\.?\s?)?"
)
_OPERATION = rf"[-+(\s]*{NUMERAL}[)\s]*(?:[-+*/^][-(\s]*{NUMERAL}[)\s]*)*"
_FIRST = re.compile(rf"{_LEAD}(?P<operation>{_OPERATION})")
_LONE_NUMBER = re.compile(rf"[+(\s]*(-?)[(\s]*({NUMERAL})[)\s]*")
_MIXED = re.compile(r"(?<![0-9.,/])([0-9]{1,9})\s+([0-9]{1,9})\s?/\s?([0-9]{1,9})(?![0-9.])")
_SPACED = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?=(?:\.[0-9]+)?[.\s)*]*$)")
_ODD_COMMAS = re.compile(r"(?<![0-9.,({\[])[0-9]+(?:,[0-9]+)+(?:\.[0-9]+)?(?![0-9,])")
_LAST = re.compile(
    rf"(?<![0-9A-Za-z_.])(?:(?<![)%])-)?(?:\(*{NUMERAL}\)*/\(*{NUMERAL}|{NUMERAL})%?"
)
# After a number, what makes it more than one: `\sqrt{2}`, `^{2}`, `x`, `, 7`, `:30`.
_MORE = re.compile(r"\s*[\\^√π_]|[xyzn](?![A-Za-z])|\s?[,;:]\s?-?[0-9]")
_UNIT = re.compile(r"[*\s]*(%|[A-Za-z]+)")
_HEADING = re.compile(r"\s?\**[0-9]{1,2}[.):]\**\s+\S")

_NONE = re.compile(
    r"[\s:*_\"'({]*(?:none|unknown|undetermined|n/a|not enough|insufficient|"
    r"(?:it )?can(?:not|'t|’t)|impossible|undefined|indeterminate)\b",  # noqa: RUF001
    re.IGNORECASE,
)
_UNANSWERABLE = re.compile(
    r"(?:not|n't|n’t)\s(?:have\s|give\s|provide\s|contain\s)?(?:\w+\s)?"  # noqa: RUF001
    r"(?:enough|sufficient)\s(?:\w+\s)?(?:information|info|data|details?|context)|"
    r"insufficient\s(?:information|data)|missing\sinformation|"
    r"(?:can\s?not|can't|can’t|unable\sto|impossible\sto|not\spossible\sto|no\sway\sto)\s"  # noqa: RUF001
    r"(?:\w+\s){0,2}?(?:determine|calculate|compute|answer|know|find|solve|tell|say|figure|conclude)|"
    r"(?:don't|don’t|do\snot)\sknow|\bnone\W*\Z|"  # noqa: RUF001
    r"(?:not|n't|n’t)\s(?:given|specified|provided|stated|mentioned|known|say|tell|specify|state)",  # noqa: RUF001
    re.IGNORECASE,
)


def extract(response: str) -> Answer | None:
    """The final answer of a response, or None where it states no number and no refusal."""
    response = response[-MAX_TEXT:]
    for name, marker in _MARKERS:
        for start in _last_starts(marker, response):
            if answer := _after(name, response, start):
                return answer
    return _last_number(response)


def _last_starts(marker: re.Pattern[str], response: str) -> Iterator[int]:
    starts = [match.end() for match in marker.finditer(response)]
    yield from reversed(starts[-MAX_MARKERS:])


def _after(name: str, response: str, start: int) -> Answer | None:
    span = response[start : start + SPAN]
    if name == "boxed":
        span = _braced(span)
    else:
        span = span.lstrip().split("\n", 1)[0]
        if name == "####" and _HEADING.match(span) and _continues(response, start):
            return None  # markdown's "#### 2. Add them up"
    if _NONE.match(span):
        return Answer(span.strip(), name, none=True)
    if (found := readings(span)) or _is_simple(_formula(span)):
        return Answer(span.strip(), name, found)
    return None


def _continues(response: str, start: int) -> bool:
    _, newline, rest = response[start:].lstrip().partition("\n")
    return bool(newline and rest.strip())


def _braced(span: str) -> str:
    """What stands in the braces that open `span`; all of it if they are never closed."""
    depth = 0
    for at, char in enumerate(span):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return span[1:at]
    return span[1:]


def _last_number(response: str) -> Answer | None:
    end = max(response.rfind(digit) for digit in "0123456789") + 1
    none = bool(_UNANSWERABLE.search(response[-LOOKBACK:]))
    window = plain(response[max(0, end - LOOKBACK) : end + SPAN])
    numbers = list(_LAST.finditer(window)) if end else []
    last = re.sub(r"[()]", "", numbers[-1][0]) if numbers else ""
    found = readings(last)
    return Answer(last, "last number", found, none) if found or none else None


def readings(span: str) -> tuple[Fraction, ...]:
    """The numbers that the beginning of `span` may stand for, the literal one first.

    Empty where it does not begin with a number (after emphasis, currency, "about", "x =").
    A computation gives what follows its last `=`, or its value if it has none.
    """
    text = _MIXED.sub(r"(\1+\2/\3)", plain(span[:SPAN]))
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    text = _ODD_COMMAS.sub(_without_commas, text)
    first = _FIRST.match(text)
    while first and text.startswith("=", first.end()):
        following = _FIRST.match(text, first.end() + 1)
        if following is None:
            break
        first = following
    if first is None or _MORE.match(text, first.end()):
        return ()
    value = evaluate(first["operation"])
    if value is None and (number := _LONE_NUMBER.fullmatch(first["operation"])):
        value = evaluate(number[1] + number[2])  # its brackets do not match
    if value is None:
        return ()
    if text.startswith("≈", first.end()):
        return (value, *readings(text[first.end() + 1 :]))
    unit = _UNIT.match(text, first.end())
    scale = SCALES.get(unit[1].lower()) if unit else None
    return (value, value * scale) if scale else (value,)


def _without_commas(match: re.Match[str]) -> str:
    """1,00,000 has separators, as the official scorer reads it; 2,74 and 0,111 a decimal comma."""
    whole, _, last = match[0].rpartition(",")
    decimal = "," not in whole and "." not in last and (len(last) != 3 or whole[0] == "0")
    return f"{whole}.{last}" if decimal else match[0].replace(",", "")


def matches(
    answer: Answer | None, gold: str, *, abs_tol: float = ABSOLUTE_TOLERANCE, rel_tol: float = 0.0
) -> bool:
    """Whether `answer` is the gold answer.

    Integers compare exactly; anything else within `abs_tol`, or, where the gold is no integer,
    `rel_tol` times the gold. The gold "None" is met by an answer that none can be given.
    """
    if answer is None:
        return False
    if gold.strip().lower() == "none":
        return answer.none
    wanted = readings(gold)
    if not wanted:
        return False
    values = answer.readings or (_formula_value(answer.text),)
    return any(v is not None and _close(v, wanted[0], abs_tol, rel_tol) for v in values)


def _close(value: Fraction, gold: Fraction, abs_tol: float, rel_tol: float) -> bool:
    if value.denominator == gold.denominator == 1:
        return value == gold
    relative = Fraction(rel_tol) * abs(gold) if gold.denominator != 1 else Fraction(0)
    return abs(value - gold) <= max(Fraction(abs_tol), relative)


# What Math-Verify is shown: numbers of few digits, roots of numbers, pi, squares and cubes.
# SymPy multiplies a larger power of a sum out, which can take minutes.
_FORMULA = re.compile(
    r"(?=.{1,120}\Z)(?=.*[0-9])(?!.*[0-9]{13})(?!.*\^.*\^)(?!(?:.*\\sqrt){4})"
    r"(?:[A-Za-z]\s?=)?"
    r"(?:[0-9+\-*/(){}., ]|\^(?=\s?\{?[23](?![0-9]))"
    r"|\\(?:[dtc]?frac|cdot|times|div|left|right|pi)(?![A-Za-z])"
    r"|\\sqrt\s?(?=[0-9]|\{[0-9.]{1,8}\})|\\[,;! ])+"
)
MAX_FORMULA_NESTING = 5


def _formula(span: str) -> str:
    return span.strip().strip("$*.").removeprefix("\\(").removesuffix("\\)").strip()


def _is_simple(formula: str) -> bool:
    """Whether Math-Verify may be asked about `formula` with no clock running."""
    depth = deepest = 0
    for char in formula[:SPAN]:
        depth += (char in "({") - (char in ")}")
        deepest = max(deepest, depth)
    return deepest <= MAX_FORMULA_NESTING and _FORMULA.fullmatch(formula) is not None


def _formula_value(text: str) -> Fraction | None:
    """The value of a short formula such as `\\frac{\\sqrt{16}}{2}`, as Math-Verify reads it.

    Only its LaTeX grammar is used: its other reader ends in SymPy's `parse_expr`, which evaluates
    text as Python. Its clock is a signal of the main thread, so it is off; the bounds on what is
    read stand in for it, and its comparison, which may simplify for minutes, is not called.
    """
    formula = _formula(text)
    if not _is_simple(formula):
        return None
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify.parser").setLevel(logging.ERROR)  # warns of the stopped clock
    config = [LatexExtractionConfig()]
    found = parse(f"${formula}$", config, fallback_mode="no_fallback", parsing_timeout=None)
    try:
        return Fraction(float(found[0].rhs if hasattr(found[0], "rhs") else found[0]))
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError):
        return None
