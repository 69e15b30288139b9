"""Evaluations made in place, and a judge that says what a test tells it to."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence

import seed_policy_corpus as corpus

import tasks
from harness.core.schema import Call, Item, ModelRef, Reply, Sample
from harness.core.scored import ScoredEvaluation
from helpers.build import build_evaluation
from tasks.just_eval.judging import aspects_of
from tasks.task import Judge, Task

Say = Callable[[Call], str | Reply]


class ScriptedJudge:
    """Says of each call what `say` gives; keeps what it was asked."""

    def __init__(self, say: Say, name: str = "scripted", digest: str | None = "0") -> None:
        self.id = name
        self.digest = digest
        self.calls: list[Call] = []
        self._say = say

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        self.calls += calls
        said = [self._say(call) for call in calls]
        return [one if isinstance(one, Reply) else Reply(text=one) for one in said]


def instructions(count: int, category: str = "regular") -> list[Item]:
    """Items of Just-Eval."""
    return [
        Item(
            task="just_eval",
            split="test",
            index=index,
            prompt=f"What should I know about town number {index}?",
            reference={"id": index, "aspects": list(aspects_of(category))},
            tags={"category": [category]},
        )
        for index in range(count)
    ]


def evaluated(
    task: Task,
    items: Sequence[Item],
    responses: Sequence[str],
    judge: Judge | None = None,
    *,
    model: str = "m",
    repeats: int = 1,
) -> ScoredEvaluation:
    """Item i answers as responses[i * repeats : (i + 1) * repeats] say."""
    samples = [
        Sample(
            task=task.name,
            item=items[i // repeats].digest,
            index=items[i // repeats].index,
            repeat=i % repeats,
            prompt=items[i // repeats].prompt,
            response=response,
        )
        for i, response in enumerate(responses)
    ]
    return build_evaluation(
        task,
        items,
        samples,
        model=ModelRef(id=model),
        engine="recorded",
        decoding={},
        split=items[0].split,
        prompt_digest="p",
        judge=judge,
    )


def mini(kind: str = "complete", count: int = 80, seed: int = 0) -> ScoredEvaluation:
    """The embedded world's instructions, answered with care or without, verified exactly."""
    task = tasks.load("mini_just_eval")
    items = task.items("sealed")[:count]
    answer = corpus.complete if kind == "complete" else corpus.lazy
    rng = random.Random(seed)
    return evaluated(task, items, [answer(item, rng) for item in items], model=kind)


_ANSWER = re.compile(r"\[answered (\w+)\]\n(.*?)\n\[end of answered \1\]", re.DOTALL)
_PAIR = re.compile(
    r"\[first answer (\w+)\]\n(.*?)\n\[end of first answer \1\]\n\n"
    r"\[second answer \1\]\n(.*?)\n\[end of second answer \1\]",
    re.DOTALL,
)


def answer_in(call: Call) -> str:
    """The answer that a call to grade holds."""
    found = _ANSWER.search(call.prompt)
    assert found
    return found.group(2)


def pair_in(call: Call) -> tuple[str, str]:
    """The two answers that a call to compare holds, as they stand."""
    found = _PAIR.search(call.prompt)
    assert found
    return found.group(2), found.group(3)


def grades(score: float) -> str:
    """A reply that grades every aspect `score`."""
    aspects = (*aspects_of("regular"), *aspects_of("safety"))
    return json.dumps({aspect: {"reason": "So it is.", "score": score} for aspect in aspects})


def better(word: str) -> str:
    """A reply that says which answer is better."""
    return json.dumps({"reason": "So it is.", "better": word})
