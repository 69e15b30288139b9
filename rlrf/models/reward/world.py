"""Preferences of the embedded world: a policy's own answers, ordered by what the task knows.

The exact verifier is the truth here, which no preference data has: how often a reward model
agrees with it, domain by domain, is what a reward is worth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from harness.core.schema import Item, Sample, digest
from harness.engines import Engine
from rlrf.config import Explore
from rlrf.context import pick_items
from rlrf.models.reward.preferences import Preference
from rlrf.sampling import explore
from tasks.mini import TASKS, biography, instructions
from tasks.task import Task

# Of two arithmetic answers one can be better by its form, worked out against guessed at once, which
# is style, or by its result alone, which has to be calculated to be seen.
FORM, RESULT = "arithmetic: form", "arithmetic: result"
DOMAINS = {biography.TASK: "biography", instructions.TASK: "instructions"}

LEAST_GAP = 0.1  # of the primary metric's range


def sample_preferences(
    engine: Engine, prompts: int, *, n: int = 6, seed: int = 0, split: str = "train"
) -> list[Preference]:
    """Preferences between `n` sampled answers to `prompts` items of each mini benchmark.

    At most one a prompt and domain; prompts whose answers are all equally good give none.
    """
    tasks = {task.name: task for task in TASKS}
    asked = {
        name: pick_items(task, split, prompts, rotation=0, seed=seed)
        for name, task in tasks.items()
    }
    samples = explore(engine, asked, tasks, Explore(n=n), seed)
    items = {item.digest: item for found in asked.values() for item in found}
    return preferences_of(samples, items, tasks, seed)


def preferences_of(
    samples: Sequence[Sample], items: Mapping[str, Item], tasks: Mapping[str, Task], seed: int
) -> list[Preference]:
    """At most one preference an item and domain, of two of its `samples` that were not cut off.

    The better one has the higher primary metric, by `LEAST_GAP` of its range; of the pairs that
    do, `seed` chooses, so that not only the widest are there.
    """
    values = _values([s for s in samples if s.finish_reason != "length"], items, tasks)
    prompts = {sample.item: sample.prompt for sample in samples}
    found = []
    for name, responses in values.items():
        primary = tasks[items[name].task].primary
        gap = LEAST_GAP * (primary.span or 0.0)  # without a known range any gap counts
        sign = 1 if primary.higher_is_better else -1
        candidates: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for better, high in responses.items():
            for worse, low in responses.items():
                if sign * (high - low) >= gap:
                    domain = DOMAINS.get(items[name].task) or _arithmetic(better, worse)
                    candidates[domain].append((better, worse))
        for domain, ordered in sorted(candidates.items()):
            better, worse = min(ordered, key=lambda pair: digest([seed, name, *pair]))
            prompt = prompts[name]
            found.append(Preference(prompt=prompt, chosen=better, rejected=worse, domain=domain))
    return found


def _values(
    samples: Sequence[Sample], items: Mapping[str, Item], tasks: Mapping[str, Task]
) -> dict[str, dict[str, float]]:
    """Item -> response -> its primary metric, where it has one."""
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for name, task in tasks.items():
        asked = [sample for sample in samples if sample.task == name]
        scores = task.score([(items[sample.item], sample) for sample in asked])
        for sample, score in zip(asked, scores, strict=True):
            if task.primary.name in score.values:
                values[sample.item][sample.response] = score.values[task.primary.name]
    return values


def _arithmetic(better: str, worse: str) -> str:
    def is_guess(text: str) -> bool:
        return len(text.strip().splitlines()) < 2

    return FORM if is_guess(better) != is_guess(worse) else RESULT
