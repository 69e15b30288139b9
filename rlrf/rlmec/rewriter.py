"""The generative reward model: it finds the first wrong step of an answer, and rewrites it.

It is asked in conversations, rendered with its own chat template: the question, the answer, and a
request. It learns to name the first wrong step and to write the whole answer anew, as its teacher
does, and to leave alone what is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from pydantic import Field

from harness.core.log import say
from harness.core.schema import Item, Message, Metric, MetricResult, Record, Sample, Score, digest
from harness.engines import Engine, Sampling
from rlrf.config import Decoding
from rlrf.feedback import Judged
from rlrf.objectives.sft import Example
from rlrf.reflect import Refinement
from rlrf.rlmec.teacher import Correction, is_right
from rlrf.sampling import completions, sample_of
from tasks.task import Task, aggregate

LOCATE = "Which step is the first wrong one?"
REWRITE = "Keep what is right.\nRewrite the answer."
REQUESTS = digest([LOCATE, REWRITE])

NUMBER = Sampling(max_tokens=8)

Render = Callable[[Sequence[Message]], str]


class Agreement(Record):
    """How a rewriter does on the items that it did not learn from: means over items."""

    by_task: dict[str, dict[str, MetricResult]] = Field(
        description="task -> located: the first wrong step is the teacher's; repaired: the rewrite "
        "of a wrong response reaches the gold answer; copied: that of a right one is the response"
    )

    def sentence(self) -> str:
        """What a person wants to know, in one line."""
        return "; ".join(
            f"{task} " + ", ".join(f"{name} {_shown(found)}" for name, found in metrics.items())
            for task, metrics in self.by_task.items()
        )


def conversation(prompt: str, response: str, request: str) -> list[Message]:
    """What the rewriter is asked of a response to `prompt`."""
    return [
        Message(role="user", content=prompt),
        Message(role="assistant", content=response),
        Message(role="user", content=request),
    ]


def held_out(asked: Mapping[str, Sequence[Item]], share: float, seed: int) -> set[str]:
    """Digests of the items of each task that the rewriter is measured on: `share` of them."""
    found: set[str] = set()
    for items in asked.values():
        order = sorted((item.digest for item in items), key=lambda one: digest([seed, one]))
        found |= set(order[: round(share * len(order))])
    return found


def examples(
    judged: Iterable[Judged],
    corrections: Iterable[Correction],
    items: Mapping[str, Item],
    tasks: Mapping[str, Task],
    *,
    gold: float,
    render: Render,
) -> list[Example]:
    """What the rewriter learns: both tasks for each response that is right or corrected.

    A correction is right too, and so is to be left alone.
    """
    responses = {(one.sample.item, one.sample.repeat): one for one in judged}
    shown: dict[tuple[str, str], tuple[int, str]] = {}  # item, response -> first wrong, rewrite
    for (item, _), one in responses.items():
        if is_right(one, tasks, gold):
            shown[item, one.sample.response] = 0, one.sample.response
    for made in corrections:
        if made.rewrite:
            response = responses[made.item, made.repeat].sample.response
            shown[made.item, response] = made.first_wrong, made.rewrite
            shown.setdefault((made.item, made.rewrite), (0, made.rewrite))
    return [
        Example(
            task=items[item].task,
            item=item,
            index=items[item].index,
            prompt=render(conversation(items[item].prompt, response, request)),
            response=answer,
        )
        for (item, response), (first, rewrite) in shown.items()
        for request, answer in ((LOCATE, str(first)), (REWRITE, rewrite))
    ]


def rewrite(
    engine: Engine,
    samples: Sequence[Sample],
    items: Mapping[str, Item],
    tasks: Mapping[str, Task],
    *,
    max_tokens: int | None,
    first_repeat: int,
) -> list[Refinement]:
    """The rewriter's likeliest rewrite of each sample; its repeat is `first_repeat` more."""
    prompts = _prompts(engine, samples, items, REWRITE)
    to_ask = [(draft.task, prompt) for draft, prompt in zip(samples, prompts, strict=True)]
    greedy = Decoding(temperature=0, max_tokens=max_tokens)
    made = completions(engine, to_ask, tasks, decoding=greedy, n=1, seed=0, stage="rewrite")
    return [
        Refinement(
            draft=draft.repeat,
            sample=sample_of(items[draft.item], prompt, completion, first_repeat + draft.repeat),
        )
        for draft, prompt, (completion,) in zip(samples, prompts, made, strict=True)
    ]


def locate(
    engine: Engine, samples: Sequence[Sample], items: Mapping[str, Item]
) -> list[int | None]:
    """The number of each sample's first wrong step, 0 for none, as the rewriter says it.

    None where it says no number.
    """
    prompts = _prompts(engine, samples, items, LOCATE)
    answers = engine.generate(prompts, NUMBER) if prompts else []
    found = [re.search(r"[0-9]{1,6}", completion.text) for (completion,) in answers]
    return [int(number.group()) if number else None for number in found]


def agreement(
    judged: Sequence[Judged],
    rewritten: Sequence[Judged],
    located: Sequence[int | None],
    corrections: Sequence[Correction],
    *,
    tasks: Mapping[str, Task],
    gold: float,
) -> list[Score]:
    """Where the rewriter does as it should, response by response.

    `rewritten` are the judged rewrites of `judged`, `located` what it says of their first wrong
    steps, which is measured where a teacher has corrected responses to the task.
    """
    taught = {(one.item, one.repeat): one.first_wrong for one in corrections if one.rewrite}
    with_teacher = {one.task for one in corrections if one.rewrite}
    scores = []
    for one, other, number in zip(judged, rewritten, located, strict=True):
        sample, right = one.sample, is_right(one, tasks, gold)
        if right is None:
            continue
        values = {}
        truth = 0 if right else taught.get((sample.item, sample.repeat))
        if truth is not None and sample.task in with_teacher:
            values["located"] = float(number == truth)
        if right:
            values["copied"] = float(other.sample.response == sample.response)
        else:
            values["repaired"] = float(is_right(other, tasks, gold) or False)
        scores.append(
            Score(
                task=sample.task,
                item=sample.item,
                index=sample.index,
                repeat=sample.repeat,
                values=values,
            )
        )
    return scores


def agree(scores: Sequence[Score]) -> Agreement:
    """Means over items, with their intervals; what was found is told."""
    names = dict.fromkeys(score.task for score in scores)
    metrics = {metric for score in scores for metric in score.values}
    shares = {metric: Metric(name=metric, kind="continuous") for metric in metrics}
    found = Agreement(
        by_task={name: aggregate([s for s in scores if s.task == name], shares) for name in names}
    )
    say(f"the rewriter on what it did not learn from: {found.sentence() or 'nothing is held out'}")
    return found


def _prompts(
    engine: Engine, samples: Sequence[Sample], items: Mapping[str, Item], request: str
) -> list[str]:
    return [
        engine.render(conversation(items[sample.item].prompt, sample.response, request))
        for sample in samples
    ]


def _shown(found: MetricResult) -> str:
    if found.mean is None or found.low is None or found.high is None:
        return f"{found.mean} (n {found.n})"
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}] (n {found.n})"
