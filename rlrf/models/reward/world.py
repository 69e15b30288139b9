"""Sample preferences in the embedded world: a model's own responses, ordered by the exact verifier.

The verifier is the truth, which ordinary preference data do not have: how often a reward model
agrees with it, domain by domain, shows what the reward is worth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from harness.core.schema import Item, Sample, digest
from harness.engines import Engine
from rlrf.config import Explore
from rlrf.context import pick_from_task
from rlrf.models.reward.preferences import Preference
from rlrf.sampling import explore
from tasks.mini import TASKS, biography, instructions
from tasks.task import Task

# Of two answers to arithmetic, one can be better in form, worked out instead of guessed, which is
# style, or only in its result, which has to be calculated to be seen.
FORM, RESULT = "arithmetic: form", "arithmetic: result"
DOMAINS = {biography.TASK: "biography", instructions.TASK: "instructions"}
MIN_GAP = 0.1  # of the primary metric's range


def sample_preferences(
    engine: Engine, prompts: int, *, n: int = 6, seed: int = 0, split: str = "train"
) -> list[Preference]:
    """Sample `n` responses to `prompts` items of each mini benchmark, and order them.

    Gives at most one preference per prompt and domain, and none for equally good responses.
    """
    tasks = {task.name: task for task in TASKS}
    asked = {
        name: pick_from_task(task, split, prompts, rotation=0, seed=seed)
        for name, task in tasks.items()
    }
    samples = explore(engine, asked, tasks, Explore(n=n), seed)
    items = {item.digest: item for found in asked.values() for item in found}
    return preferences_of(samples, items, tasks, seed)


def preferences_of(
    samples: Sequence[Sample], items: Mapping[str, Item], tasks: Mapping[str, Task], seed: int
) -> list[Preference]:
    """Order `samples`: at most one preference per item and domain, of responses not cut off.

    The chosen response has the better primary metric, by `MIN_GAP` of its range. Among such pairs
    `seed` decides, so that not only the widest gaps occur.
    """
    values = _values([s for s in samples if s.finish_reason != "length"], items, tasks)
    prompts = {sample.item: sample.prompt for sample in samples}
    preferences = []
    for name, responses in values.items():
        primary = tasks[items[name].task].primary
        gap = MIN_GAP * (primary.span or 0.0)  # without a known range any gap counts
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
            preferences.append(
                Preference(prompt=prompt, chosen=better, rejected=worse, domain=domain)
            )
    return preferences


def _values(
    samples: Sequence[Sample], items: Mapping[str, Item], tasks: Mapping[str, Task]
) -> dict[str, dict[str, float]]:
    """Score responses: item -> response -> primary metric, without unscored ones."""
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
