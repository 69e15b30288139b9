"""Exploration: the policy answers fresh prompts several times, by sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.engines import Completion, Engine, Sampling
from harness.errors import UserError
from harness.progress import track
from harness.schema import Item, Message, Sample, digest
from rlrf.config import Decoding, Explore
from tasks.plugin import Task


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
    samples = []
    for name, items in asked.items():
        prompts = [engine.render([Message(role="user", content=i.prompt)]) for i in items]
        sampling = sampling_for(tasks[name], config, config.n, seed)
        with track(f"explore {name}", len(prompts) * config.n, "responses") as advance:
            answers = engine.generate(prompts, sampling, advance)
        samples += [
            sample_of(item, prompt, completion, repeat)
            for item, prompt, completions in zip(items, prompts, answers, strict=True)
            for repeat, completion in enumerate(completions)
        ]
    return samples


def sampling_for(task: Task, decoding: Decoding, n: int, seed: int) -> Sampling:
    """As the configuration asks, with the task's own length limit and stop strings."""
    return Sampling(
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        max_tokens=decoding.max_tokens or task.generation["max_tokens"],
        n=n,
        stop=tuple(task.generation["stop"]),
        seed=seed,
    )


def sample_of(item: Item, prompt: str, completion: Completion, repeat: int) -> Sample:
    """A completion as a record."""
    return Sample(
        task=item.task,
        item=item.digest,
        index=item.index,
        repeat=repeat,
        prompt=prompt,
        response=completion.text,
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
    )
