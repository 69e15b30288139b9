"""Word problems of three to five easy steps, in GSM8K's format.

    Mara keeps a market stall. She has 14 plums. She buys 7 more. She sells 5. Then they double.
    How many plums does she have now?

    14+7=21
    21-5=16
    16*2=32
    #### 32

Each step is easy and the whole chain is not: an answer that is worked out is nearly always right,
one that is guessed at once nearly never.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from harness.core.schema import AspectFeedback, Feedback, Item, Sample, Score

TASK = "mini_gsm8k"

NAMES = ("Mara", "Tilda", "Wren", "Ines", "Jonas", "Pavel", "Rufus", "Emil")
PRONOUN = dict(zip(NAMES, ("She",) * 4 + ("He",) * 4, strict=True))

# setting -> (things, how they come, how they go)
SETTINGS = {
    "a market stall": ("plums", "buys", "sells"),
    "a small farm": ("hens", "raises", "trades"),
    "a toy shop": ("kites", "makes", "sells"),
    "a quiet library": ("books", "finds", "lends"),
    "a bakery": ("rolls", "bakes", "serves"),
    "a garden": ("roses", "grows", "gives"),
    "a harbour shed": ("ropes", "ties", "lends"),
    "a workshop": ("lamps", "builds", "mends and returns"),
}


SMALLEST, LARGEST = 4, 60


@dataclass(frozen=True)
class Step:
    """One link of the chain: `before` `sign` `by` = `after`."""

    before: int
    sign: str
    by: int
    after: int

    def __str__(self) -> str:
        return f"{self.before}{self.sign}{self.by}={self.after}"


def _next_step(rng: random.Random, value: int) -> Step:
    by = rng.randint(2, 9)
    choices = []
    if value + by <= LARGEST:
        choices += [Step(value, "+", by, value + by)] * 3
    if value - by >= SMALLEST:
        choices += [Step(value, "-", by, value - by)] * 3
    if 2 * value <= LARGEST:
        choices.append(Step(value, "*", 2, value * 2))
    if value % 2 == 0 and value >= 2 * SMALLEST:
        choices.append(Step(value, "/", 2, value // 2))
    return rng.choice(choices)


def chain(rng: random.Random) -> list[Step]:
    """Make three to five steps from a random start, with values in [`SMALLEST`, `LARGEST`]."""
    value = rng.randint(10, 30)
    steps: list[Step] = []
    for _ in range(rng.randint(3, 5)):
        steps.append(_next_step(rng, value))
        value = steps[-1].after
    return steps


def problem(rng: random.Random) -> tuple[str, list[Step]]:
    """Make a question and the steps that answer it."""
    name = rng.choice(NAMES)
    she = PRONOUN[name]
    setting = rng.choice(list(SETTINGS))
    things, comes, goes = SETTINGS[setting]
    steps = chain(rng)
    told = {
        "+": f"{she} {comes} {{}} more.",
        "-": f"{she} {goes} {{}}.",
        "*": "Then they double.",
        "/": "Then half of them are lost.",
    }
    sentences = [f"{name} keeps {setting}.", f"{she} has {steps[0].before} {things}."]
    sentences += [told[step.sign].format(step.by) for step in steps]
    sentences.append(f"How many {things} does {she.lower()} have now?")
    return " ".join(sentences), steps


def worked(steps: list[Step]) -> str:
    """Return the worked answer."""
    return "\n".join([*map(str, steps), f"#### {steps[-1].after}"])


def item(split: str, index: int, rng: random.Random) -> Item:
    """Make a problem, with its worked answer as the reference."""
    question, steps = problem(rng)
    return Item(
        task=TASK,
        split=split,
        index=index,
        prompt=question,
        reference={"answer": worked(steps)},
        tags={"steps": [str(len(steps))]},
    )


def feedback(item: Item, sample: Sample, score: Score) -> Feedback:
    """Name the first step that differs from the reference, and what it should be."""
    gold = [line.strip() for line in item.reference["answer"].splitlines()]
    given = [line.strip() for line in sample.response.splitlines() if line.strip()]
    right = score.values["accuracy"] == 1.0
    wrong = next((i for i, (a, b) in enumerate(zip(given, gold, strict=False)) if a != b), None)
    correctness: Literal[0, 1, 2] = 1 if right else 0
    if len(given) < 2:
        words = "The result is not shown to be right."
    elif wrong is not None:
        words = f"Line {wrong + 1} should be {gold[wrong]}"
    elif not right:
        words = f"The last line should be {gold[-1]}"
    else:
        correctness, words = 2, "Every step is right."
    shown = min(len(given), len(gold))
    completeness: Literal[0, 1, 2] = 2 if shown == len(gold) else 1 if shown > 1 else 0
    missing = "All steps are shown." if completeness == 2 else "Show each step."
    return Feedback(
        task=item.task,
        item=item.digest,
        aspects=[
            AspectFeedback(aspect="logical_correctness", justification=words, grade=correctness),
            AspectFeedback(aspect="completeness", justification=missing, grade=completeness),
        ],
    )


def rewrite(item: Item, sample: Sample, score: Score) -> str | None:
    """Keep the lines before the first wrong one, and continue with the reference."""
    gold = item.reference["answer"].splitlines()
    given = [line.strip() for line in sample.response.splitlines() if line.strip()]
    wrong = next((i for i, (a, b) in enumerate(zip(given, gold, strict=False)) if a != b), None)
    kept = min(len(given), len(gold)) if wrong is None else wrong
    return "\n".join([*given[:kept], *gold[kept:]])
