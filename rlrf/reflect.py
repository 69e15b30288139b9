"""Self-reflection: let the policy model rewrite its responses, given the feedback on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from harness.core.schema import Feedback, Item, Record, Sample, digest
from harness.engines import Engine
from rlrf.config import Reflect
from rlrf.feedback import Judged
from rlrf.reward import Reward, of_feedback
from rlrf.sampling import completions, conversation, drop_unanswered, sample_of
from tasks.task import Task


class Refinement(Record):
    """A rewritten response; `draft` is the repeat that it rewrites."""

    draft: int
    sample: Sample


def request(feedback: Feedback) -> str:
    """Return the user message that asks for a rewrite; the seed policy was trained on it."""
    return f"{feedback.text()}\nRewrite the answer."


def choose_drafts(
    judged: Sequence[Judged], tasks: Mapping[str, Task], m: int, seed: int
) -> list[Judged]:
    """Choose up to `m` responses per item to rewrite, each text once.

    Candidates have feedback that names a fault; those with the highest reward come first, and a
    seeded digest orders equal rewards.
    """
    by_item: dict[str, dict[str, tuple[Reward, Judged]]] = defaultdict(dict)
    for one in judged:
        worth = of_feedback(tasks[one.sample.task].primary, one.score, one.feedback)
        if worth is not None and one.feedback.text():
            by_item[one.sample.item].setdefault(one.sample.response, (worth, one))

    def promise(entry: tuple[Reward, Judged]) -> tuple[float, float, str]:
        worth, one = entry
        return -worth.value, -worth.grade, digest([seed, one.sample.item, one.sample.response])

    return [one for texts in by_item.values() for _, one in sorted(texts.values(), key=promise)[:m]]


def reflect(
    engine: Engine,
    drafts: Sequence[Judged],
    items: Mapping[str, Item],
    tasks: Mapping[str, Task],
    config: Reflect,
    *,
    first_repeat: int,
    seed: int,
) -> list[Refinement]:
    """Sample one rewrite per draft; the repeats of an item's rewrites count from `first_repeat`."""
    chosen = [one for name in tasks for one in drafts if one.sample.task == name]
    prompts = [
        engine.render(
            conversation(items[d.sample.item].prompt, d.sample.response, request(d.feedback))
        )
        for d in chosen
    ]
    to_ask = [(d.sample.task, prompt) for d, prompt in zip(chosen, prompts, strict=True)]
    made = completions(engine, to_ask, tasks, decoding=config, n=1, seed=seed, stage="reflect")
    repeats: dict[str, int] = defaultdict(lambda: first_repeat)
    refinements = []
    for draft, prompt, (completion,) in zip(chosen, prompts, made, strict=True):
        item = items[draft.sample.item]
        sample = sample_of(item, prompt, completion, repeats[item.digest])
        repeats[item.digest] += 1
        refinements.append(Refinement(draft=draft.sample.repeat, sample=sample))
    answered = {id(sample) for sample in drop_unanswered([one.sample for one in refinements])}
    return [one for one in refinements if id(one.sample) in answered]
