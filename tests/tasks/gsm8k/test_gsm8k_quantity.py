"""A number is read whole or not at all, whatever it is written like and wherever it stands."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.gsm8k.arithmetic import show
from tasks.gsm8k.scoring import extract, readings

FRAMES = (
    "3 + 4 = 7\n#### {}",
    "3 + 4 = 7\n#### {} dollars",
    "She needs 7. The answer is {}.",
    "The answer is **{}** because 3 + 4 = 7.",
    "So the answer would be {} (see above).",
    "Answer:\n\n- {} apples",
    "A: {}",
    "<answer>{}</answer> I checked it in 3 ways.",
    "First 3 + 4 = 7.\n\n**Total: {} eggs**",
    "She buys 7 bags, and so she has {} eggs left.",
    "3 + 4 = 7\nIn total that is {}",
    "\\[\\boxed{{{}}}\\]",
    "It is $\\boxed{{{}\\text{{ eggs}}}}$ in 7 days.",
)
frames = st.sampled_from(FRAMES)


def grouped(digits: str, separator: str, sizes: tuple[int, ...] = (3,)) -> str:
    """`digits` in groups from the right; the last size is repeated."""
    groups = []
    for at in range(len(digits)):
        if not digits:
            break
        size = sizes[min(at, len(sizes) - 1)]
        groups.append(digits[-size:])
        digits = digits[:-size]
    return separator.join(reversed(groups))


GROUPS = {
    "commas": ",",
    "spaces": " ",
    "no-break spaces": "\u00a0",
    "narrow no-break spaces": "\u202f",
    "thin spaces": "\u2009",
    "apostrophes": "'",
    "typographic apostrophes": "’",  # noqa: RUF001
    "underscores": "_",
    "braced commas": "{,}",
    "LaTeX thin spaces": "\\,",
    "commas with a negative space": ",\\!",
}


@pytest.mark.parametrize("name", GROUPS)
@given(whole=st.integers(0, 10**12), decimals=st.sampled_from(["", ".5", ".25"]), frame=frames)
@settings(max_examples=40)
def test_grouped_digits_are_one_number(name: str, whole: int, decimals: str, frame: str) -> None:
    written = grouped(str(whole), GROUPS[name]) + decimals
    answer = extract(frame.format(written))
    assert answer is not None
    assert answer.readings[0] == whole + Fraction(f"0{decimals or '.0'}")


@given(whole=st.integers(10**5, 10**12), frame=frames)
def test_indian_groups_are_one_number(whole: int, frame: str) -> None:
    answer = extract(frame.format(grouped(str(whole), ",", (3, 2))))
    assert answer is not None and answer.readings[0] == whole


@given(
    whole=st.integers(0, 10**7),
    decimals=st.text("0123456789", min_size=1, max_size=6).filter(lambda text: len(text) != 3),
    dots=st.booleans(),
    frame=frames,
)
def test_a_decimal_comma_is_no_list(whole: int, decimals: str, dots: bool, frame: str) -> None:
    written = f"{grouped(str(whole), '.') if dots else whole},{decimals}"
    answer = extract(frame.format(written))
    assert answer is not None
    assert answer.readings[0] == Fraction(f"{whole}.{decimals}")


FRACTIONS = {
    "in line": "{n}/{d}",
    "LaTeX": "\\frac{{{n}}}{{{d}}}",
    "LaTeX for display": "\\dfrac{{{n}}}{{{d}}}",
}
MIXED = {
    "in line": "{w} {n}/{d}",
    "and": "{w} and {n}/{d}",
    "LaTeX": "{w}\\frac{{{n}}}{{{d}}}",
    "LaTeX with a space": "{w} \\dfrac{{{n}}}{{{d}}}",
}


@given(
    n=st.integers(1, 99),
    d=st.integers(2, 99),
    form=st.sampled_from(sorted(FRACTIONS)),
    sign=st.sampled_from(["", "-", "−"]),  # noqa: RUF001
    frame=frames,
)
def test_fractions_are_read_whole(n: int, d: int, form: str, sign: str, frame: str) -> None:
    answer = extract(frame.format(sign + FRACTIONS[form].format(n=n, d=d)))
    assert answer is not None
    assert answer.readings[0] == Fraction(-n if sign else n, d)


@given(
    w=st.integers(0, 10**4),
    d=st.integers(2, 99),
    form=st.sampled_from(sorted(MIXED)),
    frame=frames,
    data=st.data(),
)
def test_mixed_numbers_are_read_whole(
    w: int, d: int, form: str, frame: str, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, d - 1))
    answer = extract(frame.format(MIXED[form].format(w=w, n=n, d=d)))
    assert answer is not None and answer.readings[0] == w + Fraction(n, d)


AROUND = ("${}", "-${}", "€{}", "£ {}", "US${}", "USD {}", "CHF {}", "{} €", "{}€", "{} kr", "{}km")


@given(value=st.integers(0, 10**6), around=st.sampled_from(AROUND), frame=frames)
def test_currencies_and_units_are_not_part_of_a_number(value: int, around: str, frame: str) -> None:
    answer = extract(frame.format(around.format(f"{value:,}")))
    assert answer is not None
    assert answer.readings[0] == (-value if around.startswith("-") else value)


SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@given(
    digit=st.integers(1, 9),
    tenths=st.integers(0, 9),
    power=st.integers(0, 12),
    form=st.sampled_from(["{m} × 10^{p}", "{m}×10{s}", "{m}e{p}", "{m} \\times 10^{{{p}}}"]),  # noqa: RUF001
    frame=frames,
)
def test_powers_of_ten_are_read_whole(
    digit: int, tenths: int, power: int, form: str, frame: str
) -> None:
    exponent = str(power).translate(SUPERSCRIPTS)
    written = form.format(m=f"{digit}.{tenths}", p=power, s=exponent)
    answer = extract(frame.format(written))
    assert answer is not None
    assert answer.readings[0] == (digit + Fraction(tenths, 10)) * 10**power


@given(value=st.integers(0, 10**9), frame=frames)
def test_full_width_digits_are_digits(value: int, frame: str) -> None:
    wide = "".join(chr(ord(char) + 0xFEE0) for char in f"{value:,}.5")
    answer = extract(frame.format(wide))
    assert answer is not None and answer.readings[0] == value + Fraction(1, 2)


NOT_ONE_NUMBER = (
    "{a}:{c:02}",
    "{a}:{b}",
    "{a} : {b}",
    "{a}-{b}",
    "{a} – {b}",  # noqa: RUF001
    "{a}—{b}",
    "{a} to {b}",
    "{a}, {b}",
    "{a}, {b} and {c}",
    "{a}, {b}, and {c}",
    "{a} or {b}",
    "{a} and {b}",
    "{a}; {b}",
    "{a},{b},{c}",
    "({a}, {b})",
    "{a}.{b}.{c}",
    "{a}/{b}/2024",
    "2024-{c:02}-{c:02}",
    "{c}'{a}\"",
    "{a} feet {b} inches",
    "{a} hours and {b} minutes",
    "{a}h{b}",
    "{a} {b}",
    "{a}€{b}",
    "{a} by {b}",
    "{a} ± {b}",
    "{a}x + {b}",
    "1{a}00,0{b}",
)


@given(
    a=st.integers(11, 30),
    b=st.integers(31, 59),
    c=st.integers(1, 9),
    form=st.sampled_from(NOT_ONE_NUMBER),
    frame=st.sampled_from([f for f in FRAMES if "eggs" not in f and "apples" not in f]),
)
@settings(max_examples=400)
def test_of_what_is_not_one_number_no_part_is_read(
    a: int, b: int, c: int, form: str, frame: str
) -> None:
    assert extract(frame.format(form.format(a=a, b=b, c=c))) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("11 5/6", "71/6"),
        ("2½", "5/2"),
        ("2⅝", "21/8"),
        ("⅔", "2/3"),
        ("2¹⁄₂", "5/2"),  # noqa: RUF001
        ("2 and a half", "5/2"),
        ("2 and three quarters", "11/4"),
        ("-2 1/2", "-5/2"),
        ("12 1/2%", "25/2"),
        ("12,500", "12500"),
        ("0,125", "1/8"),
        ("1.234.567", "1234567"),
        ("(3)(4)", "12"),
        ("2(3+4)", "14"),
        ("18(2*9)", "18"),
        ("18 (2 x 9)", "18"),
        ("(5)", "5"),
        ("10³", "1000"),
        ("18 m²", "18"),
        ("2:00 pm", "2"),
        ("12:00 noon", None),
        ("2 o'clock", "2"),
        ("100 - 28", "72"),
        ("28 - 100", None),
        ("16-7 = 9", "9"),
        ("2 times 9", None),
        ("2 times 9 = 18", "18"),
        ("25% of 80", None),
        ("9 eggs * $2/egg = $18", "18"),
        ("18, as 9 * 2 = 18", "18"),
        ("18, 9 * 2 = 18", "18"),
        ("0.6 or 60%", "3/5"),
        ("√16 = 4", "4"),
        ("sqrt(16)", None),
        ("5 squared", "25"),
        ("5! = 120", None),
        ("0x12", None),
        ("5 out of 10", None),
        ("5 of 10", None),
        ("5 out of 10 = 0.5", "1/2"),
        ("5 R 2", None),
        ("5 remainder 2", None),
        ("5-for-10", None),
        ("1h 30m", None),
        ("0.(3)", None),
        ("3 万", None),
        ("3천", None),
        ("18 in 3 days", "18"),
        ("18 for 9 eggs", "18"),
        ("18+", None),
        ("18x", None),
        ("3万", None),
        ("11-5/6", None),
        ("1000,000", None),
        ("5 May", None),
        ("1٨", None),
    ],
)
def test_forms_of_numbers(text: str, value: str | None) -> None:
    assert readings(text)[:1] == (() if value is None else (Fraction(value),))


SCALED = {
    "million": 10**6,
    "Million": 10**6,
    "M": 10**6,
    "thousand": 10**3,
    "k": 10**3,
    "K": 10**3,
    "billion": 10**9,
    "hundred": 100,
    "dozen": 12,
    "lakh": 10**5,
    "hundred thousand": 10**5,
    "Millionen": 10**6,
    "млн": 10**6,
    "tenths": Fraction(1, 10),
}


@pytest.mark.parametrize("scale", SCALED)
@given(
    count=st.integers(1, 999),
    written=st.sampled_from(["{} {}", "{}.5 {}", "${} {}", "{} 1/2 {}", "{}/2 {}", "{} **{}**"]),
    frame=st.sampled_from([f for f in FRAMES if "eggs" not in f and "apples" not in f]),
)
@settings(max_examples=20)
def test_a_scale_word_is_part_of_its_number(
    scale: str, count: int, written: str, frame: str
) -> None:
    counted = {"{}.5 {}": count + Fraction(1, 2), "{} 1/2 {}": count + Fraction(1, 2)}.get(
        written, Fraction(count, 2) if "/" in written else Fraction(count)
    )
    response = frame.format(written.format(count, scale))
    answer = extract(response)
    assert answer is not None
    assert answer.readings == (counted * SCALED[scale],)
    word = scale if len(scale) > 1 else {"M": "million"}.get(scale, "thousand")
    if word in ("million", "thousand", "billion", "dozen"):
        asked = extract(response, f"How much is it, in {word}s of dollars?")
        assert asked is not None and counted in asked.readings


@pytest.mark.parametrize(
    ("response", "prompt", "value"),
    [
        ("#### 500,000 + 1 million = 1.5 million", "", "1500000"),
        ("#### $5K + $3K = $8K", "", "8000"),
        ("#### 12 million (12,000,000)", "", "12000000"),
        ("#### 2 to 3 million", "", None),
        ("#### 1.5 million - 2 million", "", None),
        ("#### 4 million 500 thousand", "", None),
        ("#### 1 thousand 2", "", None),
        ("#### 18 M&Ms", "", "18"),
        ("#### 18 B vitamins", "", "18"),
        ("#### $2.5 M", "", "2500000"),
        ("#### 5 m", "", "5"),
        ("#### 5 km", "", "5"),
        ("#### 5k", "How many kilometers does he run?", "5"),
        ("#### 7 dozen", "How many dozens of eggs will she eat in 4 weeks?", "7"),
        ("#### 8 dozen", "How many more dozen appetizers does she need to make?", "8"),
        ("#### 2 dozen", "How many eggs are in two dozen boxes?", "24"),
        ("#### $2k", "How much, in thousands of dollars, does she pay?", "2"),
        ("#### 1.5 million", "A house costs a million dollars. How much is it?", "1500000"),
        ("#### $4 million", "The team pays $32 million for 8 players. How much is each?", "4"),
        ("#### 2 dozen", "She buys 3 dozen eggs and eats a dozen. How many are left?", "24"),
    ],
)
def test_what_was_counted_is_the_answer_where_the_question_asks_for_it(
    response: str, prompt: str, value: str | None
) -> None:
    answer = extract(response, prompt)
    assert (answer and answer.readings[0]) == (None if value is None else Fraction(value))


@given(st.text(alphabet="0123456789.,'_ :/-+*()^½²€%=x\n", max_size=40))
def test_any_numerals_are_read_or_refused(text: str) -> None:
    for value in readings(text):
        assert show(value)
