"""Models that answer mini_gsm8k as a test wants it, scored for real."""

from __future__ import annotations

from collections.abc import Callable

import tasks
from harness.core.schema import ModelRef, Policy, Rule, Sample
from harness.core.scored import ScoredEvaluation
from helpers.build import build_evaluation

N = 60
POLICY = Policy(rules=[Rule(task="mini_gsm8k", metric="accuracy", margin=0.05)])


def answered(
    right: Callable[[int], bool], model: str, *, repeats: int = 1, cut: int = 0, **changes: str
) -> ScoredEvaluation:
    """A model that is right on some items of mini_gsm8k; the first `cut` answers are cut off."""
    task = tasks.load("mini_gsm8k")
    items = task.items("gate")[:N]
    samples = [
        Sample(
            task=task.name,
            item=item.digest,
            index=item.index,
            repeat=repeat,
            prompt=f"<user>{item.prompt}",
            response=item.reference["answer"] if right(item.index) else f"{model}: #### 999999",
            finish_reason="length" if item.index < cut else "stop",
        )
        for item in items
        for repeat in range(repeats)
    ]
    return build_evaluation(
        task,
        items,
        samples,
        model=ModelRef(id=model, digest="d" * 64),
        engine="hf",
        decoding={"temperature": 0.0},
        split="gate",
        prompt_digest=changes.get("prompt_digest", "p" * 64),
    )
