"""Worked examples for few-shot prompts, written for this project: none is of a benchmark."""

from __future__ import annotations

import json
from typing import Any

from tasks.gsm8k.items import prompt

EXAMPLES = (
    (
        "A beekeeper has 6 hives with 3 frames of honey each. She sells 11 frames at the fair. "
        "How many frames are left?",
        "The hives hold 6 * 3 = 18 frames.\nAfter the fair, 18 - 11 = 7 frames are left.\n#### 7",
    ),
    (
        "A tram ticket costs $2.50 and a museum ticket three times as much. How many dollars does "
        "a family of 4 pay for the tram and the museum?",
        "A museum ticket costs 2.5 * 3 = 7.5 dollars.\n"
        "One person pays 2.5 + 7.5 = 10 dollars.\n"
        "The family pays 10 * 4 = 40 dollars.\n#### 40",
    ),
    (
        "Half of the 36 musicians of an orchestra play strings, and a third of the others play "
        "brass. How many play neither?",
        "There are 36 / 2 = 18 string players.\n"
        "The others are 36 - 18 = 18.\n"
        "Of them 18 / 3 = 6 play brass.\n"
        "That leaves 18 - 6 = 12 who play neither.\n#### 12",
    ),
    (
        "Oda walks 1.2 kilometers to the library and the same way back, five days a week. How "
        "many kilometers does she walk in 4 weeks?",
        "A day she walks 1.2 * 2 = 2.4 kilometers.\n"
        "A week that is 2.4 * 5 = 12 kilometers.\n"
        "In 4 weeks she walks 12 * 4 = 48 kilometers.\n#### 48",
    ),
    (
        "A bakery bakes 240 rolls. It sells 70 before noon and twice as many after noon, and packs "
        "the rest in bags of 5. How many bags does it fill?",
        "After noon it sells 70 * 2 = 140 rolls.\n"
        "In all it sells 70 + 140 = 210 rolls.\n"
        "There remain 240 - 210 = 30 rolls.\n"
        "They fill 30 / 5 = 6 bags.\n#### 6",
    ),
    (
        "A tank of 500 liters is 40% full. A pump adds 15 liters a minute. How many minutes does "
        "it take to fill the tank?",
        "There are 500 * 0.4 = 200 liters in the tank.\n"
        "Still missing are 500 - 200 = 300 liters.\n"
        "The pump needs 300 / 15 = 20 minutes.\n#### 20",
    ),
    (
        "Rui is 4 years older than Bea, and Bea is twice as old as Tom, who is 9. What is the sum "
        "of their ages?",
        "Bea is 9 * 2 = 18 years old.\n"
        "Rui is 18 + 4 = 22 years old.\n"
        "Together they are 9 + 18 + 22 = 49 years old.\n#### 49",
    ),
    (
        "A shop buys 50 lamps at $12 each and sells 45 of them at $20. The rest break. What is its "
        "profit in dollars?",
        "The lamps cost 50 * 12 = 600 dollars.\n"
        "The sales bring 45 * 20 = 900 dollars.\n"
        "The profit is 900 - 600 = 300 dollars.\n#### 300",
    ),
)


def docs() -> list[dict[str, Any]]:
    """The examples as lm-eval's few-shot documents."""
    return [
        {"prompt": prompt(question), "reference": json.dumps({"answer": answer})}
        for question, answer in EXAMPLES
    ]


def target(doc: dict[str, Any]) -> str:
    """The worked answer of a document."""
    return str(json.loads(doc["reference"])["answer"])
