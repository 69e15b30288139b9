"""How a policy is asked: tasks that are sampled alike share an engine's batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from harness.core.progress import say, track
from harness.core.schema import Item, Sample
from harness.engines import Completion, Engine, Sampling
from rlrf.config import Decoding
from tasks.task import Task


def completions(
    engine: Engine,
    asked: Sequence[tuple[str, str]],
    tasks: Mapping[str, Task],
    *,
    decoding: Decoding,
    n: int,
    seed: int,
    what: str,
) -> list[list[Completion]]:
    """`n` completions of each (task, prompt) of `asked`, in order; `what` is shown as progress."""
    if not asked:
        return []
    alike: dict[Sampling, list[int]] = defaultdict(list)
    for place, (task, _) in enumerate(asked):
        alike[sampling_for(tasks[task], decoding, n, seed)].append(place)
    made: dict[int, list[Completion]] = {}
    names = ", ".join(dict.fromkeys(task for task, _ in asked))
    with track(f"{what} {names}", len(asked) * n, "responses") as advance:
        for sampling, places in alike.items():
            found = engine.generate([asked[place][1] for place in places], sampling, advance)
            made.update(zip(places, found, strict=True))
    return [made[place] for place in range(len(asked))]


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
        unanswered=completion.unanswered,
    )


def drop_unanswered(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that have a response; how many have none, and why, is said."""
    reasons = [sample.unanswered for sample in samples if sample.unanswered]
    if reasons:
        say(f"{len(reasons)} of {len(samples)} responses are missing and left out ({reasons[0]})")
    return [sample for sample in samples if not sample.unanswered]
