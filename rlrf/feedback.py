"""Fine-grained feedback: what each response is worth, and what is wrong with it.

A benchmark says so itself, from what it scores by; or a language model criticises each response
on the three aspects that matter for its instruction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from harness.progress import say, track
from harness.schema import Feedback, Item, Metric, Record, Sample, Score
from tasks.plugin import Answered, Judge, Task

_Answer = tuple[str, str, str | None]


class Judged(Record):
    """What is known of one response; `draft` is the repeat that it rewrites, if it does."""

    sample: Sample
    score: Score
    feedback: Feedback
    draft: int | None = None


@dataclass(frozen=True)
class Reward:
    """A response's worth for training: the primary metric in [0, 1], ties broken by feedback.

    `value` is the task's primary metric, scaled so that 1 is best; `grade` is the mean grade of
    the feedback's aspects.
    """

    value: float
    grade: float

    def over(self, other: Reward) -> float:
        """By how much this one is better: in value, or where that is equal, in grade."""
        return self.value - other.value or self.grade - other.grade


def reward(metric: Metric, score: Score, feedback: Feedback) -> Reward | None:
    """The reward under the task's primary `metric`; None where that or the feedback is missing."""
    if metric.name not in score.values or not feedback.aspects:
        return None
    share = (score.values[metric.name] - metric.low) / (metric.high - metric.low)
    return Reward(share if metric.higher_is_better else 1 - share, feedback.grade)


def give_feedback(
    samples: Sequence[Sample],
    items: Mapping[str, Item],
    tasks: Mapping[str, Task],
    *,
    judge: Judge | None = None,
    critiqued: Collection[str] = (),
    drafts: Sequence[int | None] | None = None,
) -> list[Judged]:
    """Score every sample and say what is wrong with it; equal responses are scored once.

    `items` maps digests to items, `tasks` names to tasks; `judge` grades what needs a judge, and
    criticises the responses to the tasks in `critiqued`; `drafts` says, sample by sample, which
    repeat it rewrites.
    """
    distinct: dict[str, dict[_Answer, Sample]] = defaultdict(dict)
    for sample in samples:
        distinct[sample.task].setdefault(_answer(sample), sample)
    known: dict[_Answer, tuple[Score, Feedback]] = {}
    for name, responses in distinct.items():
        task = tasks[name]
        with track(f"feedback {name}", len(responses), "responses") as advance:
            answered = [(items[sample.item], sample) for sample in responses.values()]
            scores = task.score(answered, judge)
            said = (
                _critiques(answered, judge)
                if judge is not None and name in critiqued
                else [task.feedback(*a, s) for a, s in zip(answered, scores, strict=True)]
            )
            for (_, sample), score, feedback in zip(answered, scores, said, strict=True):
                known[_answer(sample)] = score, feedback
            advance(len(responses))
    judged = []
    for sample, draft in zip(samples, drafts or [None] * len(samples), strict=True):
        score, feedback = known[_answer(sample)]
        score = score.model_copy(update={"index": sample.index, "repeat": sample.repeat})
        judged.append(Judged(sample=sample, score=score, feedback=feedback, draft=draft))
    return judged


def _critiques(answered: Sequence[Answered], judge: Judge) -> list[Feedback]:
    """The judge's critiques; of what it said nothing usable, no aspects, and how often is told."""
    from tasks.just_eval.critique import critique

    found = critique(answered, judge)
    if failed := [one.reason for one in found if one.feedback is None]:
        say(f"{len(failed)} of {len(found)} responses have no critique ({failed[0]})")
    return [
        one.feedback or Feedback(task=item.task, item=item.digest, aspects=[])
        for (item, _), one in zip(answered, found, strict=True)
    ]


def _answer(sample: Sample) -> _Answer:
    return sample.item, sample.response, sample.finish_reason
