from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.gsm8k.arithmetic import evaluate, numeral, plain, show


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16 - 3 - 4", 9),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("7 / 2", Fraction(7, 2)),
        ("-3 + 1", -2),
        ("2 ^ 3 ^ 2", 512),
        ("1,319 + 1", 1320),
        (".5 * 4", 2),
        ("50% * 8", 4),
        ("1e3", 1000),
        ("- (2 - 5)", 3),
        ("2 ^ -1", Fraction(1, 2)),
    ],
)
def test_expressions_have_exact_values(text: str, value: Fraction) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "()",
        "1 +",
        "1 2",
        "(1",
        "1)",
        "1 / 0",
        "0 ^ -1",
        "2 ^ 0.5",
        "x + 1",
        "__import__('os')",
        "1,23",
        "١٨",
    ],
)
def test_what_is_no_expression_has_no_value(text: str) -> None:
    assert evaluate(text) is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "9^9^9^9",
        "(" * 1_000_000,
        "(" * 25 + "1" + ")" * 25,
        "9" * 1_000_000,
        "9" * 101,
        "99^99^2",
        "*".join(["9" * 90] * 4),
        "1e99999999",
        "-" * 1_000_000 + "1",
    ],
)
def test_bombs_have_no_value(text: str) -> None:
    assert evaluate(text) is None


def test_numerals_are_ascii_and_well_formed() -> None:
    assert numeral("1,234.50") == Fraction(2469, 2)
    assert numeral("1,2,3") is None
    assert numeral("³") is None
    assert numeral("1_000") is None
    assert numeral("") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"16 \times 2", "16 * 2"),
        ("3 x 4", "3 * 4"),
        ("3x - 5", "3x - 5"),
        (r"\frac{1}{2}", "((1)/(2))"),
        (r"1{,}000", "1,000"),
        ("70\u202f000", "70000"),
        ("$5 − £2", "5 - 2"),  # noqa: RUF001
        ("2**3", "2^3"),
        ("**18**", "18"),
        (r"\boxed{18\text{ eggs}}", " 18  eggs  "),
        (r"\sqrt{2}", r"\sqrt{2}"),
    ],
)
def test_notations_become_one(text: str, expected: str) -> None:
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Fraction(9), "9"),
        (Fraction(-5, 2), "-2.5"),
        (Fraction(1, 100), "0.01"),
        (Fraction(10, 3), "about 3.333"),
        (Fraction(-1, 3), "about -0.3333"),
        (Fraction(0), "0"),
    ],
)
def test_values_are_shown_for_people(value: Fraction, words: str) -> None:
    assert show(value) == words


@given(st.fractions(max_denominator=10**6), st.integers(min_value=7, max_value=20))
def test_shown_values_read_back(value: Fraction, places: int) -> None:
    shown = show(value, places)
    if not shown.startswith("about"):
        assert evaluate(shown) == value


@given(st.text(alphabet="0123456789+-*/^()%., ", max_size=40))
def test_any_arithmetic_text_is_read_or_refused(text: str) -> None:
    value = evaluate(text)
    assert value is None or isinstance(value, Fraction)
    assert value is None or show(value)
