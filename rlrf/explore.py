"""Exploration: the policy answers fresh prompts several times, by sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.core.errors import UserError
from harness.core.schema import Item, Message, Sample, digest
from harness.engines import Engine
from rlrf.config import Explore
from rlrf.sampling import completions, drop_unanswered, sample_of
from tasks.task import Task


def rotate(count: int, size: int, turn: int, seed: int, name: str) -> list[int]:
    """The `turn`-th (from 0) slice of `size` positions below `count`, in order.

    One permutation per (`seed`, `name`) is cut into slices, so that turns are disjoint while
    there are positions left; then it starts again from the front.
    """
    shuffled = sorted(range(count), key=lambda position: digest([seed, name, position]))
    size = min(size, count)
    return sorted(shuffled[(turn * size + i) % count] for i in range(size))


def pick(
    task: Task, split: str, size: int, *, turn: int, seed: int, data: Path | None = None
) -> list[Item]:
    """The items of turn `turn`: `rotate` over the task's `split`.

    Raises:
        UserError: the task has no such split, or it is empty.
    """
    if split not in task.splits:
        raise UserError(
            f"{task.name} has no {split} split (it has {', '.join(task.splits)}), "
            "so it cannot be trained on; choose another task."
        )
    items = task.items(split, data)
    if not items:
        raise UserError(f"The {split} split of {task.name} is empty.")
    return [items[i] for i in rotate(len(items), size, turn, seed, f"{task.name}/{split}")]


def explore(
    engine: Engine,
    asked: Mapping[str, Sequence[Item]],
    tasks: Mapping[str, Task],
    config: Explore,
    seed: int,
) -> list[Sample]:
    """`config.n` responses to every item of `asked` (task -> items), by task, item, repeat."""
    items = [item for of_task in asked.values() for item in of_task]
    prompts = [engine.render([Message(role="user", content=item.prompt)]) for item in items]
    to_ask = [(item.task, prompt) for item, prompt in zip(items, prompts, strict=True)]
    made = completions(
        engine, to_ask, tasks, decoding=config, n=config.n, seed=seed, what="explore"
    )
    return drop_unanswered(
        [
            sample_of(item, prompt, completion, repeat)
            for item, prompt, answers in zip(items, prompts, made, strict=True)
            for repeat, completion in enumerate(answers)
        ]
    )
