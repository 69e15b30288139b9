"""Check the arithmetic that a worked answer shows, line by line.

    Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.
    That makes 9 eggs * $2 = $28 a day.

gives two steps, of which the second is wrong: "9 * 2 is 18, not 28". Both calculator annotations
and plain equations are read. The checker says nothing rather than accuse a right step: an equation
that it cannot read as arithmetic, or that may be meant otherwise (mixed units, remainders,
rounding), is not a step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from tasks.gsm8k.arithmetic import NUMERAL, evaluate, plain, show

MAX_TEXT = 20_000
MAX_LINE = 1_000


@dataclass(frozen=True)
class Step:
    """One computation: `expression` is claimed to be `claimed` and is `actual`.

    `line` counts the non-blank lines of the text, from 1.
    """

    line: int
    expression: str
    claimed: str
    actual: str
    ok: bool

    def __str__(self) -> str:
        verdict = f"{self.expression} is {self.actual}"
        return f"step {self.line}: {verdict}" + ("" if self.ok else f", not {self.claimed}")


def check_steps(text: str) -> list[Step]:
    """Return every computation of `text` that can be read, in order, each once per line.

    Only the first 20,000 characters are read, and of a line the first 1,000.
    """
    lines = [line for line in text[:MAX_TEXT].splitlines() if line.strip()]
    steps: dict[tuple[int, str, str], Step] = {}
    for number, line in enumerate(lines, 1):
        for step in _line_steps(number, line[:MAX_LINE]):
            steps.setdefault((number, step.actual, step.claimed), step)
    return list(steps.values())


_ANNOTATION = re.compile(r"<<([^<>]*)>>")
_BULLET = re.compile(r"^\s*(?:[-*•#>]+\s+|\(?[0-9]{1,2}[.):]\s+|\(?[a-z]\)\s+)+")
_TOKEN = re.compile(
    rf"(?P<N>{NUMERAL}%?)|(?P<W>[^\W\d_]+(?:['’-][^\W\d_]+)*)"  # noqa: RUF001
    r"|(?P<E>[=≈])|(?P<O>[+*^])|(?P<M>-)|(?P<D>/)|(?P<L>\()|(?P<R>\))|(?P<X>\S)"
)
# Words that compute: next to one of them, an expression is only part of the computation.
_MAGNITUDES = frozenset(
    "hundred thousand million billion trillion dozen dozens score percent remainder mod".split()
)
_OPERATIVE = _MAGNITUDES | frozenset(
    "and of times plus minus by than twice half third quarter double triple thrice".split()
)

# Where a whole number may stand for what a division gives.
_ROUNDS = re.compile(
    r"remain|left ?over|full|whole|complete|round|about|approx|nearly|at (?:most|least)"
)

# Kinds of tokens, one letter each: N number, W word, E equals, O + * ^, M minus, D slash or "per",
# L and R brackets, V operative word or single letter, X anything else.
_OPERAND = r"[LM]*NW{0,3}(?:DW{1,2})?R*"
_EXPRESSION = re.compile(rf"{_OPERAND}(?:[OMD]{_OPERAND})*")


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def _line_steps(number: int, line: str) -> Iterator[Step]:
    rounds = _ROUNDS.search(line) is not None
    for annotation in _ANNOTATION.findall(line):
        yield from _equations(number, _tokens(plain(annotation)), rounds)
    text = plain(_ANNOTATION.sub("", line))
    yield from _equations(number, _tokens(_BULLET.sub("", text)), rounds)


def _tokens(text: str) -> list[_Token]:
    tokens = []
    for match in _TOKEN.finditer(text):
        kind, word = str(match.lastgroup), match[0]
        if kind == "W" and word.lower() == "per":
            kind = "D"
        elif kind == "W" and (len(word) == 1 or word.lower() in _OPERATIVE):
            kind = "V"
        tokens.append(_Token(kind, word, match.start(), match.end()))
    return tokens


def _equations(number: int, tokens: list[_Token], rounds: bool) -> Iterator[Step]:
    kinds = "".join(token.kind for token in tokens)
    spans = [match.span() for match in _EXPRESSION.finditer(kinds)]
    ending = {end: (start, end) for start, end in spans}
    starting = {start: (start, end) for start, end in spans}
    for at in (i for i, kind in enumerate(kinds) if kind == "E"):
        left, right = ending.get(at), starting.get(at + 1)
        if left and right and _begins(tokens, left[0]) and _ends(tokens, right[1]):
            sides = tokens[slice(*left)], tokens[slice(*right)]
            if step := _step(number, *sides, approximate=rounds or tokens[at].text == "≈"):
                yield step


def _begins(tokens: list[_Token], start: int) -> bool:
    """Return whether the expression at `start` is whole, not the tail of a longer one."""
    if start == 0 or tokens[start - 1].kind == "E":
        return True
    before, first = tokens[start - 1], tokens[start]
    # After a word a minus may be one, not a sign: "the rest - 3 + 4".
    return before.kind in ("X" if first.kind == "M" else "WX") and before.end < first.start


def _ends(tokens: list[_Token], end: int) -> bool:
    """Return whether the claimed value that stops before `end` is whole."""
    if end == len(tokens):
        return True
    after, spaced = tokens[end], tokens[end].start > tokens[end - 1].end
    if after.text == "and" and re.match("NDN|L", "".join(t.kind for t in tokens[end + 1 :])):
        return False  # 1 and 1/3
    if after.kind == "V":
        return (
            spaced and after.text not in _MAGNITUDES and (len(after.text) > 1 or after.text == "a")
        )
    return after.kind not in "OMDNL" and (spaced or after.text in ".,;")


def _step(
    number: int, left: list[_Token], right: list[_Token], *, approximate: bool
) -> Step | None:
    computed, given = _arithmetic(left), _arithmetic(right)
    while computed.count("(") > computed.count(")") and computed[0] == "(":
        computed.pop(0)
    while given.count(")") > given.count("(") and given[-1] == ")":
        given.pop()
    actual, claimed = evaluate("".join(computed)), evaluate("".join(given))
    if actual is None or claimed is None or not set(computed[1:]) & set("+-*/^"):
        return None
    ok = _agree(actual, claimed, given, approximate)
    if not ok and (
        _meant_otherwise(computed, given, actual, claimed) or _units_differ(left, right)
    ):
        return None
    return Step(number, _readable(computed), _readable(given), show(actual), ok)


def _arithmetic(tokens: list[_Token]) -> list[str]:
    """Return the numbers, signs and brackets, without units and rates ("/ egg")."""
    return [
        token.text
        for token, after in zip(tokens, [*tokens[1:], None], strict=True)
        if token.kind != "W" and not (token.kind == "D" and after and after.kind == "W")
    ]


def _readable(arithmetic: list[str]) -> str:
    return " ".join(arithmetic).replace("( ", "(").replace(" )", ")")


def _agree(actual: Fraction, claimed: Fraction, given: list[str], approximate: bool) -> bool:
    """Return whether `claimed` is `actual`, also cut or rounded to the decimals written."""
    places = max(len(text.rstrip("%").partition(".")[2]) for text in given)
    rounded = (places > 0 or approximate) and abs(actual - claimed) < Fraction(1, 10**places)
    return actual == claimed or rounded


def _meant_otherwise(
    computed: list[str], given: list[str], actual: Fraction, claimed: Fraction
) -> bool:
    """Return whether an equation that does not hold literally has another reading."""
    if len(given) > 1 and evaluate(given[0]) == actual:
        return True  # a running total: 3 * 4 = 12 + 5 = 17
    if any(re.match("0[0-9]", text) for text in computed):
        return True  # a clock: 0900 - 0130
    if re.search(r"/\S+/", "".join(computed)):
        return True  # division by a fraction: 28 / 1/5
    if "%" not in "".join((*computed, *given)):
        return False
    bare = [evaluate("".join(side).replace("%", "")) for side in (computed, given)]
    hundred = actual * 100
    return (
        bool(set(computed[1:]) & set("+-"))  # 50 + 20% = 60
        or (bare[0] is not None and bare[1] is not None and _agree(bare[0], bare[1], given, False))
        or _agree(hundred, claimed, given, False)
    )


def _units_differ(left: list[_Token], right: list[_Token]) -> bool:
    """Return whether terms of different units are added, or cents become dollars."""
    if any(t.kind == "W" and t.text.lower().startswith("cent") for t in (*left, *right)):
        return True
    if not any(token.text in ("+", "-") for token in left[1:]):
        return False
    last_words = (
        token.text.lower().removesuffix("s")
        for token, after in zip(left, [*left[1:], None], strict=True)
        if token.kind == "W" and (after is None or after.kind != "W")
    )
    return len(set(last_words)) > 1
