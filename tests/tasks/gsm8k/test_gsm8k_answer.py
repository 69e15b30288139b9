from __future__ import annotations

import threading
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.gsm8k.scoring import extract, matches, readings

RIGHT = [
    ("#### 18", "18"),
    ("####18", "18"),
    ("#### \n18", "18"),
    ("#### 1,000", "1000"),
    ("#### 1000", "1,000"),
    ("#### $1,000.00", "1,000"),
    ("#### 1,00,000", "100000"),
    ("#### 70 000", "70000"),
    ("#### 70\u202f000", "70000"),
    ("#### **18**", "18"),
    ("**#### 18**", "18"),
    ("#### 18.", "18"),
    ("#### 18 dollars a day", "18"),
    ("#### 5 m", "5"),
    ("#### -3", "-3"),
    ("#### −$3", "-3"),  # noqa: RUF001
    ("#### $-3", "-3"),
    ("#### (-3)", "-3"),
    ("#### US$18", "18"),
    ("#### about 18", "18"),
    ("#### x = 18", "18"),
    ("#### 3 + 4 = 7", "7"),
    ("#### 3/4", "0.75"),
    ("#### 1 1/2", "1.5"),
    ("#### 2½", "2.5"),
    ("#### 1/3", "2/6"),
    ("#### 0.33333333", "1/3"),
    ("#### 2,74", "2.74"),
    ("#### 25%", "25"),
    ("#### 25%", "0.25"),
    ("#### 2 million", "2000000"),
    ("#### $70k", "70000"),
    ("#### 18.0000001", "18"),
    ("#### 18\x00", "18"),
    ("\ud800 #### 18", "18"),
    ("The answer is: 18", "18"),
    ("The answer is $\\boxed{18}$.", "18"),
    ("So the final answer is **18**.", "18"),
    ("**Final Answer:** 18", "18"),
    ("Answer:\n18", "18"),
    ("The answer is 18 because 9*2=18.", "18"),
    ("The answer is 5, since 3+4=8-1", "5"),
    ("A: 5\nA: 7", "7"),
    ("\\boxed{\\frac{3}{4}}", "0.75"),
    ("\\boxed{18\\text{ dollars}}", "18"),
    ("\\boxed{\\$1{,}000}", "1000"),
    ("\\[\\boxed{1,\\!000}\\]", "1000"),
    ("\\boxed{2^{3}}", "8"),
    ("\\boxed{18", "18"),
    ("\\boxed{\\text{Ida makes } 18}", "18"),
    ("\\boxed{\\text{Answer: } 18}", "18"),
    ("\\boxed{\\color{red}{18}}", "18"),
    ("$\\boxed{\\pounds 18}$", "18"),
    ("\\boxed{\\underline{18}}", "18"),
    ("#### «18»", "18"),
    ("She makes 18 dollars.", "18"),
    ("It is 5 and 3/4.", "5.75"),
    ("It costs 1,234.50.", "1234.5"),
]


@pytest.mark.parametrize(("response", "gold"), RIGHT)
def test_formats_of_a_right_answer(response: str, gold: str) -> None:
    assert matches(extract(response), gold)


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("", "18"),
        ("no number at all", "18"),
        ("#### 16.5", "16"),
        ("#### 3", "-3"),
        ("#### 0.3333", "1/3"),
        ("#### ١٨", "18"),
        ("#### 1801", "18"),
        ("#### 99999999999999999999", "99999999999999999998"),
        ("\\boxed{4\\sqrt{2}}", "4"),
        ("\\boxed{(3, 4)}", "3"),
        ("16-7", "7"),
        ("12:00", "12"),
        ("The answer is 11 5/6.", "11"),
    ],
)
def test_wrong_answers_are_not_forgiven(response: str, gold: str) -> None:
    assert not matches(extract(response), gold)


@pytest.mark.parametrize(
    ("response", "text", "found_by"),
    [
        ("#### 5\nThe answer is 7", "7", "answer is"),
        ("The answer is 7\n#### 5", "5", "####"),
        ("#### 5\n#### 7", "7", "####"),
        ("#### 5\n#### ", "5", "####"),
        ("The answer is 5. A: 6 \\boxed{7}", "7", "boxed"),
        ("\\boxed{7} and then 9", "7", "boxed"),
        ("\\boxed{7} is half.\nA: 14", "14", "A:"),
        ("A: 3\n\\boxed{7}", "7", "boxed"),
        ("#### 72 is half of it, so we double.\nThe final answer is \\boxed{144}", "144", "boxed"),
        ("#### 16\nThat is not all of it.\n\n**Total: 18 eggs**", "18 eggs", "bold"),
        ("<answer>5</answer>, or rather <answer>7</answer>", "7", "<answer>"),
        ("<answer>\n18\n</answer> I checked it in 3 ways.", "18", "<answer>"),
        ("So the answer would be 18 (2 x 9).", "18 (2 x 9).", "answer is"),
        ("The answer must be 18, as 9 * 2 = 18", "18, as 9 * 2 = 18", "answer is"),
        ("答案 Answer：１８", "18", "answer is"),  # noqa: RUF001
        # what comes after a commitment and is none
        ("#### 18\nI checked it in 3 ways.", "18", "####"),
        ("#### 18\n\n**Note: 3 eggs are eaten.**", "18", "####"),
        ("The answer is 18. Or is the answer 20? The answer is 20? No.", "18. Or is", "answer is"),
        ("The answer is 18. The answer is not 20.", "18.", "answer is"),
        ("#### 18\nThe answer is as expected.", "18", "####"),
        ("The answer (in dollars) is 18. It took 3 steps.", "18", "answer is"),
        ("The answer, then, is 18. It took 3 steps.", "18", "answer is"),
        ("The answer to the question of how much she makes is 18. 3 steps.", "18", "answer is"),
        ("The final result is 18. 3 eggs were eaten.", "18", "answer is"),
        ("### Final Answer\n\n**18**\n\nNote: 3 eggs are eaten.", "**18**", "answer is"),
        ("## Answer\n16 - 7 = 9 eggs\n9 * 2 = 18 dollars", "18", "last number"),
        ("La respuesta es 18. Son 3 pasos.", "18", "answer is"),
        ("Die Antwort ist 18. Das sind 3 Schritte.", "18", "answer is"),
        ("答案是18。共3步", "18", "answer is"),
        ("Ответ: 18. Это 3 шага.", "18", "answer is"),
        # what the answer would be in another case
        ("If she had 10 eggs, the answer would be 20. She has 9, so 18.", "18", "last number"),
        ("The answer is 18. Had she sold all, the answer would be 32.", "18", "answer is"),
        ("#### 18\nOtherwise the answer would be 32.", "18", "####"),
        ("#### 18\nThe answer would be 20 if she had 10 eggs.", "18", "####"),
        # reasoning in tags
        ("<think>The answer is 20.</think>\nShe makes 18 dollars.", "18", "last number"),
        ("First #### 20, but no.</think>\n\nShe makes 18 dollars.", "18", "last number"),
        ("[THINK]#### 20[/THINK]She makes 18 dollars.", "18", "last number"),
        ("<think>\nSo the answer is 18.</think>", "18", "answer is"),
        ("<think>9 * 2 = 18", "18", "last number"),
        (
            "<|channel|>analysis<|message|>The answer is 20<|end|><|start|>assistant"
            "<|channel|>final<|message|>She makes 18.",
            "18",
            "last number",
        ),
        # words before the number
        ("The answer is that she has 18 eggs. She ate 3.", "that she has 18 eggs", "answer is"),
        ("#### Total: 18", "Total: 18", "####"),
        ("9 * 2 = 18 eggs", "18", "last number"),
        # Markdown headings and lists are no markers, nor is a label before the work
        ("#### 1. Add\n2 + 3 = 5\n#### 2. Conclude\nSo 5 eggs.", "5", "last number"),
        ("#### Step 1\nSo 5 eggs.", "5", "last number"),
        ("Answer:\n1. Add: 3 + 4 = 7\n2. Double: 14", "14", "last number"),
        ("Answer: 16 - 7 = 9 eggs.\n9 * 2 = 18 dollars", "18", "last number"),
    ],
)
def test_the_last_commitment_counts(response: str, text: str, found_by: str) -> None:
    answer = extract(response)
    assert answer is not None
    assert answer.found_by == found_by
    assert answer.text.startswith(text)


@pytest.mark.parametrize(
    "marked",
    [
        "#### 12:00",
        "#### 3:2",
        "#### 1, 2 and 3",
        "#### >18",
        "The answer is 10 to 12.",
        "The answer is between 10 and 12.",
        "The answer is eighteen.",
        "The answer is half a dozen.",
        "\\boxed{3, 4}",
        "\\boxed{x^2 + 18}",
        "<answer>18x</answer>",
        "Answer: 3/4/2024",
    ],
)
def test_a_commitment_that_is_not_one_number_has_no_value(marked: str) -> None:
    for response in (marked, f"#### 18\n{marked}", f"9 * 2 = 18\n{marked} So 18.", f"{marked}\n18"):
        assert extract(response) is None
    answer = extract(f"{marked}\n#### 18")
    assert answer is not None and answer.readings == (18,)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("#### None", True),
        ("The answer is unknown.", True),
        ("There is not enough information to determine this.", True),
        ("It cannot be determined from the 3 facts given.", True),
        ("We don't know how many red cars there are.", True),
        ("None", True),
        ("We don't know, so assume 5.\n#### 5", False),
        ("#### 5", False),
        ("", False),
    ],
)
def test_unanswerable_problems_want_a_refusal(response: str, right: bool) -> None:
    assert matches(extract(response), "None") == right


def test_a_refusal_is_no_number() -> None:
    assert not matches(extract("#### None"), "0")


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("\\boxed{\\sqrt{16}}", "4"),
        ("\\boxed{\\frac{\\sqrt{16}}{2}}", "2"),
        ("#### \\sqrt{16}", "4"),
        ("\\boxed{2\\pi}", "6.2831853"),
    ],
)
def test_math_verify_reads_what_fractions_cannot(response: str, gold: str) -> None:
    assert matches(extract(response), gold)


def test_math_verify_is_asked_from_any_thread() -> None:
    found: list[bool] = []
    thread = threading.Thread(
        target=lambda: found.append(matches(extract("\\boxed{\\sqrt9}"), "3"))
    )
    thread.start()
    thread.join()
    assert found == [True]


def test_tolerances() -> None:
    answer = extract("#### 5.33")
    assert not matches(answer, "5.3333333333")
    assert matches(answer, "5.3333333333", rel_tol=1e-3)
    assert matches(extract("#### 4.3333"), "4.33", abs_tol=0.005)
    # an integer is an integer
    assert not matches(extract("#### 9867631"), "9867630", rel_tol=1e-3)


def test_an_answer_is_shown_without_the_words_around_it() -> None:
    assert str(extract("The answer is $1,234.50 because she saved.")) == "1234.5"
    assert str(extract("#### 1/3 cup")) == "1/3"
    assert str(extract("#### 15.333333333")) == "15.333333333"
    assert str(extract("#### 46/3")) == "46/3"
    assert str(extract("#### 1.5e40")) == "15" + "0" * 39
    assert str(extract("#### 1/123456789123456789")) == "about 8.1e-18"
    assert str(extract("#### \\sqrt{16}")) == "\\sqrt{16}"
    assert str(extract("#### None")) == "None"


def test_readings_begin_with_the_literal_one() -> None:
    assert readings("25%") == (25, Fraction(1, 4))
    assert readings("10/3 ≈ 3.33") == (Fraction(10, 3), Fraction(333, 100))
    assert readings("eggs") == ()


MILLION = 1_000_000
BOMBS = {
    "tower": "#### 9**9**9**9",
    "latex tower": "\\boxed{9^{9^{9^{9}}}}",
    "brackets": "#### " + "(" * MILLION,
    "long number": "#### " + "9" * MILLION,
    "long number without marker": "9" * MILLION,
    "text": "a b " * (MILLION // 4),
    "numbers": "1 " * (MILLION // 2),
    "groups": "1,111" + ",111" * (MILLION // 4) + "1",
    "hashes": "#" * MILLION,
    "markers": "#### " * (MILLION // 5),
    "spaces": "####" + " " * MILLION + "1",
    "answers": "answer is " * (MILLION // 10),
    "answer lines": "A: \n" * (MILLION // 4),
    "boxes": "\\boxed{" * (MILLION // 7) + "1",
    "fractions": "\\boxed{" + "\\frac{" * (MILLION // 6) + "1",
    "roots": "\\boxed{" + "\\sqrt{" * 6 + "2" + "}" * 7,
    "factorial": "\\boxed{9999999!}",
    "power of a sum": "\\boxed{(\\pi+\\sqrt{2}+1/7)^{99}}",
    "binomial": "\\boxed{\\binom{999999}{4999}}",
    "NUL": "\0" * MILLION,
    "surrogates": "\ud800" * MILLION,
    "foreign digits": "٣" * MILLION,
    "equations": "#### 1" + "=1" * MILLION,
    "refusals": "cannot be " * (MILLION // 10),
    "exponent": "#### 1e999999999",
    "currency": "$1," * (MILLION // 3),
    "mixed": "1 " * (MILLION // 2) + "1/2",
    "ratios": "1:" * (MILLION // 2),
    "words that compute": "1 times " * (MILLION // 8),
    "bold": "**" * (MILLION // 2),
    "units": "#### 1 " + ("a" * 30 + " * 1 ") * 6 + "!",
    "about": "#### 1" + "≈1" * MILLION,
    "tags": "<answer>" * (MILLION // 8),
    "problems": "1\nQuestion: 2\nAnswer: " * (MILLION // 20),
    "headings": "Question: " + "\nQ: a" * (MILLION // 5),
    "numbered": "1\n" + "\n#### Problem 1" * (MILLION // 15),
    "labels": "1\nQ:" + "\nA" * (MILLION // 2),
    "blank": "1" + " \n" * (MILLION // 2),
    "superscripts": "1" + "²" * MILLION,
    "wide spaces": "1" + "\u202f111" * (MILLION // 4),
    "apostrophes": "1" + "'111" * (MILLION // 4),
    "plus or minus": "±" * MILLION,
    "scales": "#### 1" + " million" * (MILLION // 8),
    "scaled": "1 million " * (MILLION // 10),
    "functions": "sqrt(" * (MILLION // 5),
    "reasoning": "<think></think>" * (MILLION // 15),
    "channels": "<|channel|>final<|message|>" * (MILLION // 27),
    "speakers": "#### 1\n" + "Student: 1\n" * (MILLION // 11),
    "foreign answers": "respuesta " * (MILLION // 10),
    "answers in brackets": "answer (in " * (MILLION // 11),
    "headings of answers": "## Answer\n" * (MILLION // 10),
    "conditions": "if the answer would be " * (MILLION // 23),
    "special tokens": "<|a " * (MILLION // 4),
    "answers to": "answer to the question" * (MILLION // 22),
}


@pytest.mark.slow
@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_only_wrong(name: str) -> None:
    assert not matches(extract(BOMBS[name]), "18")


PIECES = st.sampled_from(
    [
        *"{}.,-+=/^()%$*19 xe\n≈",
        "#### ",
        "answer is ",
        "A: ",
        "\\boxed{",
        "\\frac{",
        "\\sqrt{",
        "None",
        "<answer>",
        "**",
        "½",
        "³",
        " and ",
        " hours ",
        "\nQuestion: ",
    ]
)


@given(st.lists(PIECES, max_size=25).map("".join))
def test_any_response_is_read(response: str) -> None:
    answer = extract(response)
    assert isinstance(matches(answer, "9"), bool)
    assert matches(answer, "None") in (False, True)


def test_of_an_answer_without_end_the_end_is_read() -> None:
    found = extract("#### 17\n" + "the answer is 5 " * 1_000_000 + "#### 18")
    assert found is not None and found.text == "18" and found.found_by == "####"
    assert extract("#### 17" + "x" * 10_000_000) is None
