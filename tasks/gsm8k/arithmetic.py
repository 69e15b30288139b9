"""Evaluate arithmetic and short LaTeX formulas in untrusted text, exactly.

Numerals and `+ - * / ^ ( )` become fractions; Python evaluates nothing. Length, nesting, digits and
the size of every intermediate result are bounded, so no text takes more than a moment, and no value
exceeds Python's limit for printing integers. Formulas with roots, pi and nested fractions go to
Math-Verify's grammar. Only short expressions of known commands are passed on, so no time limit is
needed: Math-Verify's is a signal of the main thread.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from fractions import Fraction

MAX_LENGTH = 400
MAX_NESTING = 20
MAX_DIGITS = 100
MAX_BITS = 1000  # of a numerator or denominator, so that a float can hold it
MAX_EXPONENT = 99
MAX_PLACES = 6  # decimals that `show` writes

# 1,319 or 1319, 0.5 or .5, 2e6; ASCII digits only.
NUMERAL = (
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,2}(?![0-9A-Za-z]))?"
)
_NUMERAL = re.compile(NUMERAL)
_TOKEN = re.compile(rf"\s*({NUMERAL}%?|[-+*/^()])")

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
SPACES = "\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
CURRENCIES = "$£¥₹€" + "".join(map(chr, [*range(0x20A0, 0x20AC), *range(0x20AD, 0x20C1), 0xE3F]))
BETWEEN = "¤"  # replaces a currency sign between two digits: 12€50 is not 1250


def _full_width() -> dict[int, str]:
    """Map full-width characters and every vulgar fraction to ASCII."""
    table = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189):
        table[code] = " " + unicodedata.normalize("NFKC", chr(code)).replace("⁄", "/")  # noqa: RUF001
    return table


_SYMBOLS = str.maketrans(
    {
        **{chr(code): text for code, text in _full_width().items()},
        **dict.fromkeys("−–﹣‐‑", "-"),  # noqa: RUF001 - what models write for a minus
        **dict.fromkeys("×∙⋅·✕✖", "*"),  # noqa: RUF001
        **dict.fromkeys(SPACES, " "),
        **dict.fromkeys(CURRENCIES + "`\u200b\u200c\u200d\u2060\ufeff"),
        **dict.fromkeys("÷⁄∕", "/"),  # noqa: RUF001
    }
)
_POWERS = re.compile(r"(?<=[0-9)])[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_SMALL_FRACTION = re.compile(r"([⁰¹²³⁴⁵⁶⁷⁸⁹]+)[⁄∕/]([₀₁₂₃₄₅₆₇₈₉]+)")  # noqa: RUF001
_CURRENCY_BETWEEN = re.compile(rf"(?<=[0-9])[{re.escape(CURRENCIES)}](?=[.,]?[0-9])")
_MINUS_SPACE = re.compile(r"(?<![0-9)%\w])(?<![0-9)%\w] )−\s?(?=[$€£]?\s?\.?[0-9])")  # noqa: RUF001
_WIDE_SPACE_GROUPS = re.compile(
    rf"(?<![0-9.,])[0-9]{{1,3}}(?:[{SPACES}][0-9]{{3}})+(?![0-9])(?![{SPACES}][0-9])"
)
_POWER = re.compile(r"(?<=[0-9)])[ ]?\*\*[ ]?(?=[0-9(])")
_TIMES_X = re.compile(r"(?:(?<=[0-9)%])|(?<=\s))[xX](?=\s?\(?\s?\.?[0-9]|\s?\(-)")
_LATEX = (
    (
        re.compile(
            r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:rm|bf|sf|it|tt)|mbox|underline|emph|bold|"
            r"operatorname)\s?\{([^{}]*)\}"
        ),
        r" \1 ",
    ),
    (re.compile(r"(?<=[0-9])\s?\\[dtc]?frac\s?\{([0-9]+)\}\s?\{([0-9]+)\}"), r" \1/\2"),
    (re.compile(r"(?<=[0-9])\s?\\[dtc]?frac\s?([0-9])\s?([0-9])"), r" \1/\2"),
    (re.compile(r"\\[dtc]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\[dtc]?frac\s?([0-9])\s?([0-9])"), r"(\1/\2)"),
    (re.compile(r"\\(?:boxed|fbox)\s?\{([^{}]*)\}"), r" \1 "),
)
_LATEX_SYMBOLS = (
    (re.compile(r"\\!\s*"), ""),
    (re.compile(r"\{,\}\s*"), ","),
    (re.compile(r"\^\{(-?[0-9]{1,2})\}"), r"^(\1)"),
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])"), "*"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\(?:approx|simeq)(?![A-Za-z])"), "≈"),
    (
        re.compile(
            r"\\(?:left|right|displaystyle|large|Large|LARGE|huge|Huge|bf|rm|pounds|euro|yen)"
            r"(?![A-Za-z])|\\(?:text)?color\{[A-Za-z]{1,20}\}|\^\{?\\circ\}?"
        ),
        "",
    ),
    (re.compile(r"\\q?quad(?![A-Za-z])|\\[()\[\],;:\s]"), " "),
    (re.compile(r"\\([$%#&_{}])"), r"\1"),
)
MAX_LATEX_NESTING = 4


def plain(text: str) -> str:
    """Rewrite LaTeX, markdown emphasis and typographic signs as `+ - * / ^ ( ) % = ≈`.

    Currency signs are removed; a wrapper such as `\\boxed{}` or `\\text{}` leaves its content.
    LaTeX without such an equivalent (`\\sqrt`, `\\pi`) stays.
    """
    text = _WIDE_SPACE_GROUPS.sub(lambda match: "".join(match[0].split()), text)
    text = _SMALL_FRACTION.sub(_ascii_fraction, text)
    text = _POWERS.sub(lambda match: f"^{match[0].translate(_SUPERSCRIPTS)}", text)
    text = _MINUS_SPACE.sub("-", _CURRENCY_BETWEEN.sub(BETWEEN, text))
    if "\\" in text or "{" in text:
        for pattern, replacement in _LATEX_SYMBOLS:
            text = pattern.sub(replacement, text)
        for _ in range(MAX_LATEX_NESTING):
            before = text
            for pattern, replacement in _LATEX:
                text = pattern.sub(replacement, text)
            if text == before:
                break
    text = _POWER.sub("^", text.translate(_SYMBOLS)).replace("**", "")
    return _TIMES_X.sub("*", text)


def _ascii_fraction(match: re.Match[str]) -> str:
    return f" {match[1].translate(_SUPERSCRIPTS)}/{match[2].translate(_SUBSCRIPTS)}"


def numeral(text: str) -> Fraction | None:
    """Return the exact value of an unsigned numeral, with or without grouping; else None."""
    if len(text) > MAX_DIGITS or not _NUMERAL.fullmatch(text):
        return None
    return Fraction(text.replace(",", ""))


def evaluate(text: str) -> Fraction | None:
    """Return the exact value of an arithmetic expression; `50%` is 1/2.

    None if the text is not an expression, divides by zero, has an irrational power, or exceeds the
    bounds of this module.
    """
    if len(text) > MAX_LENGTH:
        return None
    tokens: list[str] = []
    at, nesting = 0, 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        nesting += {"(": 1, ")": -1}.get(match[1], 0)
        if nesting > MAX_NESTING:
            return None
        tokens.append(match[1])
        at = match.end()
    tokens.reverse()  # popped from the end
    try:
        value = _sum(tokens)
    except (_NotArithmeticError, ZeroDivisionError):
        return None
    return None if tokens else value


class _NotArithmeticError(Exception):
    """The tokens are not an expression, or a result is too large."""


def _sum(tokens: list[str]) -> Fraction:
    value = _product(tokens)
    while tokens and tokens[-1] in "+-":
        sign = 1 if tokens.pop() == "+" else -1
        value = _bounded(value + sign * _product(tokens))
    return value


def _product(tokens: list[str]) -> Fraction:
    value = _signed(tokens)
    while tokens and tokens[-1] in "*/":
        times = tokens.pop() == "*"
        factor = _signed(tokens)
        value = _bounded(value * factor if times else value / factor)
    return value


def _signed(tokens: list[str]) -> Fraction:
    sign = 1
    while tokens and tokens[-1] in "+-":
        sign = sign if tokens.pop() == "+" else -sign
    return sign * _power(tokens)


def _power(tokens: list[str]) -> Fraction:
    base = _atom(tokens)
    if not tokens or tokens[-1] != "^":
        return base
    tokens.pop()
    exponent = _signed(tokens)
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
        raise _NotArithmeticError
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MAX_BITS:
        raise _NotArithmeticError
    return Fraction(base ** int(exponent))


def _atom(tokens: list[str]) -> Fraction:
    if not tokens:
        raise _NotArithmeticError
    token = tokens.pop()
    if token == "(":
        value = _sum(tokens)
        if not tokens or tokens.pop() != ")":
            raise _NotArithmeticError
        return value
    percent = token.endswith("%")
    number = numeral(token.rstrip("%"))
    if number is None:
        raise _NotArithmeticError
    return number / 100 if percent else number


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _NotArithmeticError
    return value


def show(value: Fraction, places: int = MAX_PLACES) -> str:
    """Write `value` in full if `places` decimals are enough, else rounded: "about 3.333"."""
    if (value * 10**places).denominator != 1:
        return f"about {float(value):.4g}"
    whole, rest = divmod(abs(value * 10**places).numerator, 10**places)
    decimals = f"{rest:0{places}}".rstrip("0")
    return ("-" if value < 0 else "") + str(whole) + (f".{decimals}" if decimals else "")


MAX_FORMULA_NESTING = 5

# Numbers of few digits, roots of numbers, pi, squares and cubes. SymPy would expand a larger power
# of a sum, which can take minutes.
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
    return deepest <= MAX_FORMULA_NESTING and _FORMULA.fullmatch(formula) is not None


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
