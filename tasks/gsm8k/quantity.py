"""Read one number from text: the whole number, or none.

Digits are understood by their form. Between digits, a comma, a space, an apostrophe, an underscore
or several dots group thousands (70,000, 1,00,000, 70 000, 70'000, 1.234.567). One comma that is
not followed by exactly three digits is a decimal comma (12,50); 12,500 is grouped. A mixed number,
a fraction, a power and a product are one number. A range, a ratio, a list, a date, a time of day, a
version and a length in feet and inches are not: they have digits and no value, and no part of them
is read as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from tasks.gsm8k.arithmetic import BETWEEN, CURRENCIES, NUMERAL, evaluate, plain
from tasks.gsm8k.scales import Scale, scale_after

MAX_SPAN = 200  # characters in which a marked number is looked for
MAX_CHAIN = 400  # numbers read as parts of one list, range or chain of equations

# Units that are given together: 5 feet 10 inches is neither 5 nor 10.
_FAMILIES = (
    "s sec secs second seconds m min mins minute minutes h hr hrs hour hours d day days week weeks "
    "month months yr yrs year years",
    "mm cm m km meter meters metre metres kilometer kilometers centimeter centimeters in inch "
    "inches ft foot feet yd yard yards mile miles",
    "g kg gram grams kilogram kilograms oz ounce ounces lb lbs pound pounds stone ton tons",
    "dollar dollars cent cents pound pounds pence penny pennies euro euros quarter quarters dime "
    "dimes nickel nickels rupee rupees",
    "ml l liter liters litre litres cup cups pint pints quart quarts gallon gallons",
)
_FAMILIES_OF: dict[str, set[int]] = {}
for _index, _words in enumerate(_FAMILIES):
    for _word in _words.split():
        _FAMILIES_OF.setdefault(_word, set()).add(_index)


@dataclass(frozen=True)
class Quantity:
    """Digits of a text up to `end`: the numbers that they may stand for, or none.

    The literal number comes first: 25 % is 25, then 0.25. Of "2 million", which is 2,000,000,
    `count` is 2, and `scale` the word.
    """

    values: tuple[Fraction, ...]
    end: int
    count: Fraction | None = None
    scale: tuple[str, ...] = ()


# Digits that are not one number become this character, which no rule below reads.
_UNREAD = "\ue000"
_DIGITS = re.compile(r"(?<![\w.])\.[0-9]+|[0-9]+(?:[.,'’ʼ_ ][0-9]+)*")  # noqa: RUF001
_PLAIN_DIGITS = re.compile(r"[0-9]*\.?[0-9]+")
_FORMS = (
    # 1,319 or 1,00,000, and with decimals
    (re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?"), ",", "."),
    (re.compile(r"[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]+)?"), ",", "."),
    # 1.234,50 or 1.234.567
    (re.compile(r"[1-9][0-9]{0,2}(?:(?:\.[0-9]{3})+,[0-9]+|(?:\.[0-9]{3}){2,})"), ".", ","),
    # 70 000, 70'000, 70_000, and with decimals
    (re.compile(r"[1-9][0-9]{0,2}(?: [0-9]{3})+(?:[.,][0-9]+)?"), " ", ","),
    (re.compile(r"[1-9][0-9]{0,2}(?:['’ʼ][0-9]{3})+(?:[.,][0-9]+)?"), "'’ʼ", ","),  # noqa: RUF001
    (re.compile(r"[0-9]{1,3}(?:_[0-9]{3})+(?:\.[0-9]+)?"), "_", "."),
    # 12,50, but not 1000,000
    (re.compile(r"(?:[0-9]+,(?![0-9]{3}\Z)|0,)[0-9]+"), "", ","),
)
_MIXED = re.compile(
    r"(?<![0-9.,/'’_^])(?<![0-9] )([0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,9})"  # noqa: RUF001
    r"[^\S\n]+(?:and[^\S\n]+|&[^\S\n]+)?([0-9]{1,9})\s?/\s?([0-9]{1,9})(?!\.?[0-9]|\s?/)"
)
_MIXED_IN_WORDS = re.compile(
    r"(?<![0-9.,/'’_^])(?<![0-9] )([0-9]{1,9})\s+and\s+(an?|one|two|three)[\s-]"  # noqa: RUF001
    r"(half|halves|thirds?|quarters?|fourths?)\b",
    re.IGNORECASE,
)
_COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3}
_PARTS = {"h": 2, "t": 3, "q": 4, "f": 4}
_ON_THE_HOUR = re.compile(
    r"(?<![0-9:.,/-])([0-9]{1,2}):00(?=\s?(?:[ap]\.?m\b|o['’]clock))",  # noqa: RUF001
    re.IGNORECASE,
)
_SPACES = re.compile(r"[^\S\n]+")
_CURRENCY_CODE = re.compile(rf"(?<=[A-Za-z])[{re.escape(CURRENCIES)}](?=\s?-?\s?\.?[0-9])")
_TOLERANCE = re.compile(r"(?:±|\+/-|\\pm)\s?[0-9.,]+")
_WITH_VARIABLE = re.compile(  # 11x + 31
    r"(?<![A-Za-z0-9.])[0-9.]{0,20}[xyznXYZ](?![A-Za-z])(?:\^[0-9]{1,9})?"
    r"(?: ?[-+*/] ?[0-9]{1,20}(?:\.[0-9]{1,20})?(?![0-9A-Za-z.]*[A-Za-z]))+"
)
_NEGATIVE = re.compile(
    r"(?:\bnegative|(?:(?<=is )|(?<=be )|(?<=of )|(?<=: )|^[\s*_]{0,5})minus)\s(?=[$€£]?\.?[0-9])",
    re.IGNORECASE,
)
_SQUARED = re.compile(r"(?<=[0-9])\s(?:(s)quared|cubed)\b(?!\s(?:f|m|i|y|k|c))")
_FUNCTION = re.compile(
    r"√\s?(?:\([0-9 ()+*/.,^-]{1,40}\)|[0-9][0-9.,]{0,20})"
    r"|\b(?:sqrt|cbrt|log|ln|exp|sin|cos|tan|gcd|lcm|max|min|factorial|mod)"
    r"\s?\([0-9 ()+*/.,^-]{1,40}\)"
    r"|\b0(?:[xX][0-9A-Fa-f]{1,20}|[bB][01]{1,64})\b(?!\s?=)"
)
_LONG_DASH = re.compile(r"(?<=[0-9])\s?-{2,3}\s?(?=[0-9])")
_ANNOTATION = re.compile(r"<<[^<>]*>>")
_TILDE = re.compile(r"(?<=[0-9])~(?=[0-9]{3}(?![0-9]))")


def prepare(text: str) -> str:
    """Rewrite the numerals of `text` without grouping and with a decimal point, for `read`.

    A mixed number becomes a sum in brackets. Digits that form no number become one character that
    is not read.
    """
    text = _NEGATIVE.sub("-", _ANNOTATION.sub("", text.replace(_UNREAD, " ")))
    text = _SQUARED.sub(lambda match: f"^{2 if match[1] == 's' else 3}", text)
    text = _FUNCTION.sub(_UNREAD, text)
    text = plain(_TOLERANCE.sub(_UNREAD, _CURRENCY_CODE.sub(" ", text)))
    text = _LONG_DASH.sub("—", text)
    text = _WITH_VARIABLE.sub(_UNREAD, text)
    text = _ON_THE_HOUR.sub(r"\1", _TILDE.sub(" ", text))
    text = _MIXED_IN_WORDS.sub(_mixed_in_words, text)
    text = _DIGITS.sub(_without_grouping, _MIXED.sub(_mixed, text))
    return _SPACES.sub(" ", text)


def _mixed(match: re.Match[str]) -> str:
    if 0 < int(match[2]) < int(match[3]):
        return f"({match[1]}+{match[2]}/{match[3]})"
    return match[0]


def _mixed_in_words(match: re.Match[str]) -> str:
    return f"({match[1]}+{_COUNTS[match[2].lower()]}/{_PARTS[match[3][0].lower()]})"


def _without_grouping(match: re.Match[str]) -> str:
    digits = match[0]
    if _PLAIN_DIGITS.fullmatch(digits):
        return digits
    before = match.string[match.start() - 1 : match.start()]
    for form, groups, point in _FORMS:
        if form.fullmatch(digits):
            if not groups and before in ("(", "[", "{"):
                break  # a pair of coordinates
            for separator in groups:
                digits = digits.replace(separator, "")
            return digits.replace(point, ".")
    return _UNREAD


_TERM = re.compile(rf"\s*(?:(?P<open>\()|(?P<sign>[-+])|(?P<number>{NUMERAL}))")
_OPERATOR = re.compile(r"[^\S\n]*([-+*/^])(?=[^\S\n]*[-+(]*[^\S\n]*(?:\(|\.?[0-9]))")


_FACTOR = re.compile(r"\(\s?-?\.?[0-9(]")


@dataclass(frozen=True)
class _Expression:
    """The longest arithmetic expression at a place: its value and its end."""

    value: Fraction | None
    end: int
    count: Fraction | None = None  # without its scale word
    scale: tuple[str, ...] = ()


def _expression(text: str, at: int) -> _Expression | None:
    """Read the expression at `at`; its value is None if it is not one number."""
    tokens: list[str] = []
    opened: list[int] = []  # places of brackets that are still open
    end, last = at, ""
    implicit = False
    scale: Scale | None = None
    while len(tokens) < 4 * MAX_SPAN:
        term = _TERM.match(text, end)
        if term is None or ("\n" in term[0] and tokens):
            break
        end = term.end()
        tokens.append(term[0].strip())
        if term["open"]:
            opened.append(len(tokens) - 1)
        if term["number"] is None:
            continue
        end, scale = _after_number(text, term, tokens, opened)
        last = text[end - 1]
        operator = _OPERATOR.match(text, end)
        if operator:
            tokens.append(operator[1])
            end = operator.end()
        elif _FACTOR.match(text, end + (last == ")" and text.startswith(" ", end))):
            tokens.append("*")  # (3)(4), 2(3+4)
            implicit = True
        else:
            break
        last = ""
    if not last:
        return _Expression(None, end) if any(c.isdigit() for c in text[at:end]) else None
    while opened and opened[0] == 0:  # the bracket of a remark: (18 dollars)
        del tokens[0]
        opened = [place - 1 for place in opened[1:]]
    written = text[at:end]
    value = None if opened else evaluate("".join(tokens))
    if value is not None and (_is_ambiguous(written) or (implicit and "/" in written)):
        follows = re.match(r"\s?=", text[end : end + 2])
        value = value if follows else None
    if implicit and value is not None:
        value = _restated(written) or value
    if scale is None or value is None:
        return _Expression(value, end)
    return _Expression(value, end, value / scale.factor, scale.words)


def _after_number(
    text: str, term: re.Match[str], tokens: list[str], opened: list[int]
) -> tuple[int, Scale | None]:
    """Add the scale words and closing brackets after a number to its tokens; return their end."""
    end = term.end()
    if scale := scale_after(text, end):
        whole = [] if text[term.start("number") - 1] == "/" else ["("]  # 1/2 million
        tokens[-1:] = [*whole, tokens[-1], "*", f"({scale.factor})", *(")" for _ in whole)]
        end = scale.end
    is_closed = False
    while end < len(text) and text[end] == ")" and opened:
        tokens.append(")")
        opened.pop()
        end += 1
        is_closed = True
    if is_closed and (after := scale_after(text, end)):  # (1+1/2) million
        tokens += ["*", f"({after.factor})"]
        return after.end, after
    return end, scale


_DIFFERENCE = re.compile(
    r"\s*[(]?\s*([0-9.]+)(?: ?[A-Za-z]+)?(\s*)-(\s*)([0-9.]+)(?: ?[A-Za-z]+)?\s*[)]?\s*"
)
_DATE = re.compile(
    r"[0-9.]+\s?/\s?[0-9.]+\s?/\s?[0-9.]+|[0-9]{1,4}-[0-9]{1,2}(?:-[0-9]{1,4}|/[0-9]+)"
)


def _is_ambiguous(written: str) -> bool:
    """Check for what may be a range (10-12), a date (3/4/2024) or a mixed number (2-1/2).

    A difference with spaces around its sign that falls (100 - 28) is a computation.
    """
    if _DATE.fullmatch(written.strip()):
        return True
    match = _DIFFERENCE.fullmatch(written)
    if match is None:
        return False
    falls = (evaluate(match[1]) or 0) > (evaluate(match[4]) or 0)
    return not (match[2] and match[3] and falls)


_REMARK = re.compile(r"(\(?[0-9.]+\)?)\s?(\(.*\))")


def _restated(written: str) -> Fraction | None:
    """Return 18 for `18(2*9)`, where the bracket only says how the number came about."""
    match = _REMARK.fullmatch(written.strip())
    value = evaluate(match[1]) if match else None
    return value if match and value == evaluate(match[2]) else None


_NUMBER_NEXT = rf"(?=[-+(]*\.?[0-9]|[-(]*{_UNREAD})"
_WORD = r"(?:%|[A-Za-z]++\.?+)"
_MYRIADS = "万萬億亿兆千仟百만억천백"
# After a number, what makes it a part of something that is not one number, or not arithmetic.
_NOT_ARITHMETIC = re.compile(
    rf" ?[\\√π‰{BETWEEN}]|\^|_\w|[xyzn](?![A-Za-z])|[*/](?=[(A-Za-z]\b(?![a-z]))"
    r"| [*] (?=\S)| ?[+] ?[\w(]|[^\W0-9A-Za-z_]?(?![0-9])\d"
    rf"|\+(?= |\Z)|\){_NUMBER_NEXT}|! ?[=*/^]|\.\([0-9]{{1,9}}\)|(?: ?[{_MYRIADS}])"
)
# Between two numbers: words that compute, and what makes a list, a range, a ratio, a time of day.
_COMPUTES = re.compile(
    r"(?: (?:plus|minus|times|over|multiplied by|divided by|more than|less than|fewer than|of|"
    r"out of|out of the|out of a total of|per|for every|mod|modulo|choose|remainder|rem|r) "
    rf"| ?(?:%|percent) ?of (?:the )?){_NUMBER_NEXT}",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"(?: ?[,;:|°] ?|(?:-for-| ?[rR](?=[0-9]))| ?(?:-|~|\.\.+|…|/|'|’|\") ?|—"  # noqa: RUF001
    r"| (?:to|through|thru|until|till|or|and|&|vs\.?|versus|by) "
    rf"|{BETWEEN}| ?(?={_UNREAD}))(?:(?:and|or|to) )?{_NUMBER_NEXT}",
    re.IGNORECASE,
)
_JOINED_UNITS = re.compile(
    rf" ?{_WORD}(?:,? (?:and|or|to|plus|minus|times) | ?[-~/:] ?){_NUMBER_NEXT}"
)
_LISTED_UNITS = re.compile(rf" ?{_WORD}, {_NUMBER_NEXT}")
_GLUED_WORD = re.compile(r"(?!(?:[cdkm]?m|ft|in|yd|mi)[23](?![0-9]))[A-Za-z]{1,10}(?=[0-9])")
_COMPOUND = re.compile(
    rf" ?(?P<first>[A-Za-z]+)\.?,? (?:and )?{_NUMBER_NEXT}[-+(0-9.)/]+ ?(?P<second>[A-Za-z]*)"
)
_MONTH = re.compile(
    r"(?:st|nd|rd|th)? (?:of )?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}\b"
)
_UNITS_COMPUTED = re.compile(
    rf"(?![xyzn](?![A-Za-z]))(?: ?{_WORD}){{1,3}}"
    rf"(?: ?[-+*/] ?[-(]*{NUMERAL}\)*(?: ?/? ?{_WORD}){{0,3}})+(?P<equals>(?= ?=))?"
)
_EQUALS = re.compile(r" ?= ?(?:[A-Za-z] ?= ?)?(?=[-+(]*\.?[0-9]|[-(]*[0-9])")
_SECOND_SCALE = re.compile(
    r",? (?:and )?(?:[0-9.]{1,20}(?: ?(?:k|hundred|thousand|million|dozen)\b|\W*\Z)"
    r"|(?:one|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty|forty|fifty|sixty|seventy|"
    r"eighty|ninety)\b)",
    re.IGNORECASE,
)
_PERCENT = re.compile(r"[*\s]*(?:%|(?:percent|per cent|pct)\b)", re.IGNORECASE)


def read(text: str, at: int = 0, *, in_prose: bool = False) -> Quantity | None:
    """Read the number at `at` of a text that `prepare` made; None where no digits begin there.

    A chain of equations has the value after its last `=`; `in_prose` even where other numbers
    stand directly before it ("Day 2: 3 * 4 = 12").
    """
    parts = _chain(text, at, in_prose)
    first = next(parts, None)
    if first is None:
        return None
    values, end = first[1].values, first[1].end
    counted = first[1]
    for computes, part in parts:
        if (computes or in_prose) and "=" in text[end : part.end]:  # 2 times 9 = 18
            values, counted = part.values, part
        elif computes or set(values).isdisjoint(part.values):
            values = ()
        else:  # 18, 9 * 2 = 18; 0.6 or 60%
            values = tuple(dict.fromkeys((*values, *part.values)))
            counted = part if counted.count is None else counted
        end = part.end
    return Quantity(values, end, counted.count, counted.scale)


def _chain(text: str, at: int, in_prose: bool) -> Iterator[tuple[bool, Quantity]]:
    """Yield the numbers from `at` on that are joined to a list, a range or the like.

    Each comes with whether a word that computes stands before it.
    """
    computes: re.Match[str] | None = None
    for _ in range(MAX_CHAIN):
        if text.startswith(_UNREAD, at) or re.match(rf"[-+(]+{_UNREAD}", text[at : at + 4]):
            end = text.index(_UNREAD, at) + 1
            equals = _EQUALS.match(text, end)  # sqrt(16) = 4
            result = _computed(text, equals.end()) if equals else None
            part = result or Quantity((), end)
        elif (computed := _computed(text, at)) is not None:
            part = computed
        else:
            return
        yield computes is not None, part
        end = part.end
        computes = _COMPUTES.match(text, end)
        joined = computes or _JOINED.match(text, end) or _compound(text, end)
        joined = joined or _JOINED_UNITS.match(text, end)
        if not in_prose:  # where a comma between words ends a clause
            joined = joined or _LISTED_UNITS.match(text, end)
        if joined is None:
            return
        at = joined.end()


def _computed(text: str, at: int) -> Quantity | None:
    """Read the number at `at`, or what the last `=` of its equations gives."""
    expression = _expression(text, at)
    for _ in range(MAX_CHAIN):
        if expression is None:
            return None
        end = expression.end
        equals = _EQUALS.match(text, end)
        if units := None if equals else _UNITS_COMPUTED.match(text, end):
            if units["equals"] is None:
                return Quantity((), end)
            equals = _EQUALS.match(text, units.end())  # 9 eggs * 2 dollars = 18 dollars
        following = _expression(text, equals.end()) if equals else None
        if following is None:
            return _with_readings(text, expression)
        expression = following
    return None


def _with_readings(text: str, expression: _Expression) -> Quantity:
    value, end = expression.value, expression.end
    is_part = expression.scale and _SECOND_SCALE.match(text, end)  # 3 thousand 5 hundred
    if value is None or is_part or _makes_more(text, end):
        return Quantity((), end)
    if rounded := re.match(r"\s?≈\s?", text[end : end + 3]):
        other = _expression(text, end + rounded.end())
        if other is not None and other.value is not None:
            return Quantity((value, other.value), other.end)
    values = (value, value / 100) if _PERCENT.match(text, end) else (value,)
    return Quantity(values, end, expression.count, expression.scale)


def _makes_more(text: str, end: int) -> bool:
    after = text[end : end + 60]
    return bool(_NOT_ARITHMETIC.match(after) or _GLUED_WORD.match(after) or _MONTH.match(after))


def _compound(text: str, end: int) -> re.Match[str] | None:
    """Find where the second number of "5 feet 10 inches" or "2 hours and 30 minutes" begins."""
    match = _COMPOUND.match(text, end)
    if match is None:
        return None
    first, second = (_FAMILIES_OF.get(match[name].lower()) for name in ("first", "second"))
    if first is None or (match["second"] and first.isdisjoint(second or ())):
        return None
    if match["first"].lower() == match["second"].lower():
        return None
    return re.compile(rf"\s?[A-Za-z]+\.?,?\s(?:and\s)?{_NUMBER_NEXT}").match(text, end)


_LEAD = re.compile(
    r"[\s:=~≈*#_\"'“”‘«\[{}]*"  # noqa: RUF001
    r"(?:(?:about|approximately|approx\.?|roughly|around|exactly|only|just|equal to|is|a total of|"
    r"therefore|thus|simply|clearly|indeed|now|then|also)\s+)*"
    r"(?:[A-Za-z]\s?[=≈]\s?)?"
    r"(?:(?:USD?|EUR|GBP|CHF|INR|CAD|AUD|JPY|CNY|SEK|NOK|DKK|[AC](?=\s?-?[0-9])|Rs\.?|kr\.?)\s?)?"
    r"[\s*_\"'“\[{]*"
)


def leading(text: str) -> tuple[str, Quantity | None]:
    """Read the number that `text` begins with, after emphasis, currency, "about" or "x =".

    Returns the text as it was prepared, with the number or None where it begins otherwise.
    """
    prepared = prepare(_whole_words(text))
    lead = _LEAD.match(prepared)
    return prepared, read(prepared, lead.end() if lead else 0)


def _whole_words(text: str) -> str:
    """Cut `text` to its first words, none of them in part."""
    if len(text) <= MAX_SPAN:
        return text
    cut = text[:MAX_SPAN]
    return cut.rpartition(" ")[0] if " " in cut.strip() else cut


_START = re.compile(
    rf"(?:(?<![A-Za-z0-9_)%.])-)?(?<![A-Za-z0-9_.^])\(*(?:(?<![A-Za-z0-9_)%.])-)?"
    rf"(?:(?<![A-Za-z_])\.?[0-9]|{_UNREAD})"
)


def numbers(text: str) -> Iterator[tuple[str, Quantity]]:
    """Yield every number of `text`: its prepared text and its value."""
    prepared = prepare(text)
    at = 0
    while start := _START.search(prepared, at):
        quantity = read(prepared, start.start(), in_prose=True)
        if quantity is not None:
            yield prepared[start.start() : quantity.end], quantity
        at = max(start.end(), quantity.end if quantity else 0)


def readings(text: str) -> tuple[Fraction, ...]:
    """Read the numbers that the beginning of `text` may stand for, the literal number first.

    Empty where `text` does not begin with one whole number.
    """
    _, quantity = leading(text)
    return quantity.values if quantity else ()
