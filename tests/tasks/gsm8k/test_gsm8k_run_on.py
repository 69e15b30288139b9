"""A model that runs on into another problem, or another turn, is scored on its own answer."""

from __future__ import annotations

import pytest

from harness.core.schema import FinishReason, Item, Sample, Score
from tasks.gsm8k.feedback import feedback
from tasks.gsm8k.items import prompt
from tasks.gsm8k.run_on import STOP, own_answer
from tasks.gsm8k.scoring import score

PROMPT = prompt(
    "Ida's hens lay 16 eggs a day. She eats three of them, bakes with four, and sells the rest at "
    "$2 an egg. How much does she make every day?"
)
ITEM = Item(
    task="gsm8k", split="test", index=0, prompt=PROMPT, reference={"answer": "9 * 2 = 18\n#### 18"}
)
MARKED = "16 - 3 - 4 = 9\n9 * 2 = 18\n#### 18"
UNMARKED = "She sells 16 - 3 - 4 = 9 eggs, so she makes 9 * 2 = 18 dollars."


def sample(response: str, finish_reason: FinishReason | None = None) -> Sample:
    return Sample(
        task="gsm8k",
        item=ITEM.digest,
        index=0,
        prompt=PROMPT,
        response=response,
        finish_reason=finish_reason,
    )


def scored(response: str, finish_reason: FinishReason | None = None) -> Score:
    (result,) = score([(ITEM, sample(response, finish_reason))])
    return result


@pytest.mark.parametrize("own", [MARKED, UNMARKED])
@pytest.mark.parametrize(
    "run_on",
    [
        "\nQuestion: Tom has 2 hats and buys 1.\nAnswer: 2+1=3\n#### 3",
        "\n\nQuestion: Tom has 2 hats and buys 1.\nAnswer: 2+1=3\n#### 3",
        "\n\nProblem: Tom has 2 hats and buys 1.\nSolution: 2+1=3\n#### 3",
        "\nQ: Tom has 2 hats and buys 1.\nA: 2+1=3. The answer is 3.",
        "\n\nQ. Tom has 2 hats and buys 1.\nA. 3",
        "\n\n**Question 2:** Tom has 2 hats and buys 1.\n**Answer:** 3",
        "\n\n## Problem 2\nTom has 2 hats and buys 1.\n#### 3",
        "\n\n### Question\nTom has 2 hats and buys 1.\n\n### Answer\n3",
        "\n\nExercise 5: Tom has 2 hats and buys 1.\nSolution: 3",
        "\n\nHere is another problem:\nTom has 2 hats and buys 1.\n#### 3",
        "\n\n---\n\nQuestion: Tom has 2 hats and buys 1. How many hats",
        " Question: Tom has 2 hats and buys 1.\nAnswer: #### 3",
        "\n\n### Instruction:\nTom has 2 hats and buys 1.\n\n### Response:\n#### 3",
        "\n\nHuman: Tom has 2 hats and buys 1.\n\nAssistant: 3",
        "\nUSER: And with 3 eggs?",
        "\n[INST] Tom has 2 hats and buys 1. [/INST] #### 3",
        "<|im_end|>\n<|im_start|>user\nTom has 2 hats and buys 1.",
        "<|endoftext|>Tom has 2 hats and buys 1.",
        "<|user|>\nTom has 2 hats and buys 1.\n<|assistant|>\n#### 3",
        "<end_of_turn>\n<start_of_turn>user\nTom has 2 hats and buys 1.",
        "</s>3",
        "<|return|>3",
        "<|EOT|>3",
        "<｜end▁of▁sentence｜><｜User｜>Tom has 2 hats.",  # noqa: RUF001
        "\n\nExample 2:\nTom has 2 hats and buys 1. How many hats?\n2+1=3\n#### 3",
        "\n\n2. Question: Tom has 2 hats and buys 1.\nAnswer: 3",
        "\n\n[Question]\nTom has 2 hats and buys 1.\n[Answer]\n3",
        "\n\n<question>Tom has 2 hats and buys 1.</question>\n<answer>3</answer>",
        "\n\nFollow-up question: Tom has 2 hats and buys 1.\nAnswer: 3",
        "\n\nMath problem: Tom has 2 hats and buys 1.\nAnswer: 3",
        "\n\nPrompt: Tom has 2 hats and buys 1.\nCompletion: 3",
        "\n\nPregunta: Tom tiene 2 sombreros y compra 1.\nRespuesta: 3",
        "\n\n问题:汤姆有2顶帽子\n答案:3",
        "\n\nuser\nTom has 2 hats and buys 1.\nassistant\n3",
    ],
)
def test_another_problem_is_not_scored(own: str, run_on: str) -> None:
    assert scored(own + run_on).values["accuracy"] == 1.0
    assert scored(own.replace("18", "3") + run_on).values["accuracy"] == 0.0


@pytest.mark.parametrize(
    "response",
    [
        "The question: how much does she make? 9 * 2 = 18\n#### 18",
        f"{PROMPT}\n\nAnswer: {MARKED}",
        "Question: How much does she make every day?\n16 - 3 - 4 = 9\n#### 18",
        "16 eggs a day.\nQuestion: How much does she make?\nAnswer: 9 * 2 = 18\n#### 18",
        "16 - 3 - 4 = 9 eggs.\nProblem: how much does she make with the rest?\nAnswer: 9 * 2 = 18",
        "16 eggs\nQuestion: how many does she sell? 9.\nQuestion: how much is that?\nIt is 9*2=18.",
        "16 - 3 - 4 = 9 eggs are left.\nQuestion: what is the revenue?\n9 * 2 = 18",
        "16 - 3 - 4 = 9\nInput: 9 eggs at 2 dollars\n9 * 2 = 18\n#### 18",
        "We sell 9 eggs.\nExample: 2 eggs cost 4 dollars.\nSo 9 eggs cost 18 dollars.\n#### 18",
        "16 - 3 - 4 = 9 eggs.\nExample 2: 9 * 2 = 18.",
        "Problem 1: eggs = 16 - 7 = 9\nProblem 2: dollars = 9 * 2 = 18",
        "Student: 3 eggs, teacher: 4 eggs.\nTeacher: 16 - 7 = 9\n9 * 2 = 18",
        "Problem solving, step 1: 16 - 3 - 4 = 9.\nProblem solving, step 2: 9 * 2 = 18.",
        "### Instruction: solve the problem\n#### 18",
    ],
)
def test_a_question_that_is_restated_is_no_other_problem(response: str) -> None:
    assert own_answer(response, PROMPT) == response
    assert scored(response).values["accuracy"] == 1.0


@pytest.mark.parametrize(
    "turn", ["Student: Tom has 2 hats.\nTeacher: 3", "AI: The answer is 3", "Customer: 3 eggs"]
)
def test_after_an_answer_another_speaker_is_not_scored(turn: str) -> None:
    assert scored(f"{MARKED}\n\n{turn}").values["accuracy"] == 1.0


def test_dropping_reasoning_is_not_truncation() -> None:
    response = f"<think>Is it 20?</think>{MARKED}"
    assert scored(response, "length").values["truncated"] == 1.0
    assert scored(response, "length").values["accuracy"] == 1.0


def test_the_whole_problem_once_more_after_the_answer_is_another_round() -> None:
    assert own_answer(f"{MARKED}\n{PROMPT}\n#### 20", PROMPT).strip() == MARKED


def test_a_response_that_is_cut_was_not_truncated() -> None:
    run_on = f"{MARKED}\nQuestion: Tom has 2 hats and buys"
    assert scored(run_on, "length").values["truncated"] == 0.0
    assert scored(MARKED, "length").values["truncated"] == 1.0
    assert "truncated" in scored(run_on).unscored


def test_string_matches_see_what_lm_eval_would_have_seen() -> None:
    """Its stop strings end a response; a problem after one newline does not."""
    stopped = scored(f"{MARKED}\n\nQuestion: Tom has 2 hats.\nAnswer: 3\n#### 3").values
    assert stopped["strict_match"] == stopped["flexible_extract"] == 1.0
    run_on = scored(f"{MARKED}\nQuestion: Tom has 2 hats.\nAnswer: 3\n#### 3").values
    assert (run_on["accuracy"], run_on["strict_match"], run_on["flexible_extract"]) == (1, 1, 0)


@pytest.mark.parametrize("stop", STOP)
def test_every_stop_string_ends_a_response(stop: str) -> None:
    assert own_answer(f"{MARKED}{stop} 19") == MARKED


def test_feedback_is_about_the_own_answer_and_names_the_run_on() -> None:
    run_on = sample(f"{MARKED}\nQuestion: Tom has 2 hats.\nAnswer: 2 + 1 = 4\n#### 4", "length")
    (result,) = score([(ITEM, run_on)])
    aspects = {a.aspect: a for a in feedback(ITEM, run_on, result).aspects}
    assert aspects["logical_correctness"].grade == 2
    assert aspects["completeness"].grade == 2
    assert aspects["readability"].justification == "Stop after the line with the final answer."
