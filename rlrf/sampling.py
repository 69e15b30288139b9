"""Sample responses from the policy model; tasks with equal settings share batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from harness.core.log import say
from harness.core.progress import track
from harness.core.schema import Item, Message, Sample
from harness.engines import Completion, Engine, Sampling
from rlrf.config import Decoding, Explore
from tasks.task import Task


def explore(
    engine: Engine,
    items_by_task: Mapping[str, Sequence[Item]],
    tasks: Mapping[str, Task],
    config: Explore,
    seed: int,
) -> list[Sample]:
    """Sample `config.n` responses to each item, ordered by task, item and repeat."""
    items = [item for of_task in items_by_task.values() for item in of_task]
    prompts = [engine.render([Message(role="user", content=item.prompt)]) for item in items]
    named = [(item.task, prompt) for item, prompt in zip(items, prompts, strict=True)]
    completed = completions(
        engine, named, tasks, decoding=config, n=config.n, seed=seed, stage="explore"
    )
    return drop_unanswered(
        [
            sample_of(item, prompt, completion, repeat)
            for item, prompt, responses in zip(items, prompts, completed, strict=True)
            for repeat, completion in enumerate(responses)
        ]
    )


def completions(
    engine: Engine,
    prompts: Sequence[tuple[str, str]],
    tasks: Mapping[str, Task],
    *,
    decoding: Decoding,
    n: int,
    seed: int,
    stage: str,
) -> list[list[Completion]]:
    """Generate `n` completions of each (task, prompt), in order; progress is shown as `stage`."""
    if not prompts:
        return []
    groups: dict[Sampling, list[int]] = defaultdict(list)
    for position, (task, _) in enumerate(prompts):
        groups[sampling_for(tasks[task], decoding, n, seed)].append(position)
    completed: dict[int, list[Completion]] = {}
    names = ", ".join(dict.fromkeys(task for task, _ in prompts))
    with track(f"{stage} {names}", len(prompts) * n, "responses") as advance:
        for sampling, positions in groups.items():
            generated = engine.generate([prompts[i][1] for i in positions], sampling, advance)
            completed.update(zip(positions, generated, strict=True))
    return [completed[i] for i in range(len(prompts))]


def sampling_for(task: Task, decoding: Decoding, n: int, seed: int) -> Sampling:
    """Combine the configuration with the task's stop strings and default length limit."""
    return Sampling(
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        max_tokens=decoding.max_tokens or task.generation["max_tokens"],
        n=n,
        stop=tuple(task.generation["stop"]),
        seed=seed,
    )


def conversation(prompt: str, response: str, request: str) -> list[Message]:
    """Write a conversation that asks for something about a response to `prompt`."""
    return [
        Message(role="user", content=prompt),
        Message(role="assistant", content=response),
        Message(role="user", content=request),
    ]


def sample_of(item: Item, prompt: str, completion: Completion, repeat: int) -> Sample:
    """Turn a completion into a record."""
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
        unanswered=completion.unanswered,
    )


def drop_unanswered(samples: Sequence[Sample]) -> list[Sample]:
    """Drop samples without a response, and log how many there are and why."""
    reasons = [sample.unanswered for sample in samples if sample.unanswered]
    if reasons:
        say(f"{len(reasons)} of {len(samples)} responses are missing and left out ({reasons[0]})")
    return [sample for sample in samples if not sample.unanswered]
