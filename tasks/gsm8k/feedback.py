"""Give feedback on a worked answer in three aspects."""

from __future__ import annotations

from collections import Counter

from harness.core.schema import AspectFeedback, Feedback, Item, Sample, Score
from tasks.gsm8k.items import gold
from tasks.gsm8k.run_on import own_sample
from tasks.gsm8k.steps import MAX_TEXT, Step, check_steps

REPEATS = 3  # of one line make a response repetitive


def feedback(item: Item, sample: Sample, score: Score) -> Feedback:
    """Grade the logical correctness, completeness and readability of one response.

    Logical correctness is 2 if the final answer is right and no shown step is wrong, 1 if only one
    of the two holds, else 0; the justification names the first wrong step. `score` is this task's
    score of the sample. Steps of a problem that the response poses itself are ignored; not stopping
    after the answer counts under readability.
    """
    own = own_sample(item, sample)
    steps = check_steps(own.response)
    return Feedback(
        task=item.task,
        item=sample.item,
        aspects=[
            _correctness(steps, score, gold(item)),
            _completeness(steps, score, own),
            _readability(steps, sample.response),
        ],
    )


def _correctness(steps: list[Step], score: Score, wanted: str) -> AspectFeedback:
    right = score.values["accuracy"] == 1.0
    wrong = next((step for step in steps if not step.ok), None)
    given = score.details["answer"]
    differs = f"the final answer is {given}, and {wanted} is expected"
    if given is None:
        differs = f"there is no final answer, and {wanted} is expected"
    if unread := score.details.get("unread"):
        differs = f"the final answer '{unread}' is not one number, and {wanted} is expected"
    if right and wrong:
        words = f"{wrong}; the final answer is right all the same."
    elif right:
        words = "No shown step is wrong, and the final answer is right."
    elif wrong:
        words = f"{wrong}; {differs}."
    elif steps:
        words = f"The arithmetic holds, but {differs}: a step is missing or uses the wrong numbers."
    else:
        words = f"No step is shown, and {differs}."
    grade = right + (wrong is None and (right or bool(steps)))
    return _aspect("logical_correctness", words, grade)


def _completeness(steps: list[Step], score: Score, sample: Sample) -> AspectFeedback:
    found_by = score.details["found_by"]
    if sample.finish_reason == "length":
        tokens = f" after {sample.completion_tokens} tokens" if sample.completion_tokens else ""
        return _aspect("completeness", f"The response was cut off{tokens}: be briefer.", 0)
    if found_by is None:
        return _aspect("completeness", "End with a line `#### ` and the final number.", 0)
    missing = []
    if found_by != "####":
        missing.append("end with a line `#### ` and the final number")
    if not steps:
        missing.append("show each step as an equation")
    if missing:
        return _aspect("completeness", " and ".join(missing).capitalize() + ".", 1)
    return _aspect("completeness", "Each step is shown, and the last line has the answer.", 2)


def _readability(steps: list[Step], response: str) -> AspectFeedback:
    lines = [line.strip() for line in response[:MAX_TEXT].splitlines() if line.strip()]
    line, times = Counter(lines).most_common(1)[0] if lines else ("", 0)
    if times >= REPEATS:
        return _aspect("readability", f"The line '{line[:60]}' stands {times} times.", 0)
    last = next((at for at, text in enumerate(lines, 1) if text.startswith("####")), len(lines))
    if last < len(lines):
        return _aspect("readability", "Stop after the line with the final answer.", 1)
    if len(steps) > 2 and len({step.line for step in steps}) == 1:
        return _aspect("readability", "Put each step on a line of its own.", 1)
    return _aspect("readability", "One step a line, and nothing after the answer.", 2)


def _aspect(name: str, justification: str, grade: int) -> AspectFeedback:
    return AspectFeedback.model_validate(
        {"aspect": name, "justification": justification, "grade": grade}
    )
