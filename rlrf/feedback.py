"""Fine-grained feedback: score each response and say what is wrong with it.

The feedback is the benchmark's own, or a critic's: a judge or a trained feedback model criticises
each response on the aspects that matter for its instruction. Without a critic, only the score is
known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from harness.core.log import say
from harness.core.progress import track
from harness.core.schema import AspectFeedback, Feedback, Item, Record, Sample, Score
from tasks.task import Answered, Judge, Task, quality

if TYPE_CHECKING:
    from harness.judges.critique import Critique

# Gives feedback on scored responses, in order; feedback without aspects means it could not.
Critic = Callable[[Sequence[Answered], Sequence[Score]], list[Feedback]]

_Answer = tuple[str, str, str | None]


class Judged(Record):
    """A response with its score and feedback; `draft` is the repeat that it rewrites, if any."""

    sample: Sample
    score: Score
    feedback: Feedback
    draft: int | None = None


def give_feedback(
    samples: Sequence[Sample],
    items: Mapping[str, Item],
    tasks: Mapping[str, Task],
    *,
    judge: Judge | None = None,
    critics: Mapping[str, Critic] | None = None,
    drafts: Sequence[int | None] | None = None,
) -> list[Judged]:
    """Score every sample and say what is wrong with it; equal responses are scored once.

    Args:
        items: digest -> item.
        tasks: name -> task.
        judge: grades what needs a judge.
        critics: task -> critic that replaces the task's own feedback.
        drafts: for each sample the repeat that it rewrites, if any.
    """
    distinct: dict[str, dict[_Answer, Sample]] = defaultdict(dict)
    for sample in samples:
        distinct[sample.task].setdefault(_answer(sample), sample)
    known: dict[_Answer, tuple[Score, Feedback]] = {}
    for name, responses in distinct.items():
        task = tasks[name]
        critic = (critics or {}).get(name) or task_critic(task)
        with track(f"feedback {name}", len(responses), "responses") as advance:
            answered = [(items[sample.item], sample) for sample in responses.values()]
            scores = task.score(answered, judge)
            said = critic(answered, scores)
            for (_, sample), score, feedback in zip(answered, scores, said, strict=True):
                known[_answer(sample)] = score, feedback
            advance(len(responses))
    judged = []
    for sample, draft in zip(samples, drafts or [None] * len(samples), strict=True):
        score, feedback = known[_answer(sample)]
        score = score.model_copy(update={"index": sample.index, "repeat": sample.repeat})
        judged.append(Judged(sample=sample, score=score, feedback=feedback, draft=draft))
    return judged


def task_critic(task: Task) -> Critic:
    """Give the benchmark's own feedback."""

    def critic(answered: Sequence[Answered], scores: Sequence[Score]) -> list[Feedback]:
        return [task.feedback(*a, s) for a, s in zip(answered, scores, strict=True)]

    return critic


def judge_critic(judge: Judge, task: Task) -> Critic:
    """Give feedback by the judge's critiques."""
    from harness.judges.critique import critique

    return _critic_by_critiques(lambda answered: critique(answered, judge, task.ground))


def model_critic(
    critiques: Callable[[Sequence[Answered], Task], list[Critique]], task: Task
) -> Critic:
    """Take the critiques of a trained feedback model as feedback."""
    return _critic_by_critiques(lambda answered: critiques(answered, task))


def _critic_by_critiques(critiques: Callable[[Sequence[Answered]], list[Critique]]) -> Critic:
    """Turn critiques into feedback, and log how many responses have none."""

    def critic(answered: Sequence[Answered], scores: Sequence[Score]) -> list[Feedback]:
        found = critiques(answered)
        if failed := [one.reason for one in found if one.feedback is None]:
            say(f"{len(failed)} of {len(found)} responses have no critique ({failed[0]})")
        if 2 * len(failed) > len(found):
            say(
                "WARNING: most responses have no critique, so most prompts cannot be learned "
                "from. What gives the feedback does not work."
            )
        return [
            one.feedback or Feedback(task=item.task, item=item.digest, aspects=[])
            for (item, _), one in zip(answered, found, strict=True)
        ]

    return critic


def score_critic(task: Task) -> Critic:
    """Give feedback by score alone: how good a response is, but not why."""
    metric = task.primary

    def aspects(score: Score) -> list[AspectFeedback]:
        if metric.name not in score.values:
            return []
        level = round(2 * quality(metric, score.values[metric.name]))
        words = "The answer is good." if level == 2 else "The answer can be better."
        return [
            AspectFeedback.model_validate(
                {"aspect": metric.name, "justification": words, "grade": level}
            )
        ]

    def critic(answered: Sequence[Answered], scores: Sequence[Score]) -> list[Feedback]:
        return [
            Feedback(task=item.task, item=item.digest, aspects=aspects(score))
            for (item, _), score in zip(answered, scores, strict=True)
        ]

    return critic


def _answer(sample: Sample) -> _Answer:
    return sample.item, sample.response, sample.finish_reason
