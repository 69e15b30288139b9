"""Who puts wrong responses right, with few edits, for the rewriter to learn from.

A benchmark that can does it itself; where it cannot a language model does, given the reference.
Neither is believed: what the benchmark does not score as right is no correction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field

from harness.core.log import say
from harness.core.schema import Item, Record
from harness.replies import UnparsableReplyError
from rlrf.config import Rlmec
from rlrf.feedback import Judged, give_feedback
from rlrf.reward import of_feedback
from rlrf.rlmec.steps import first_wrong
from rlrf.rlmec.teacher_prompt import read_rewrite, rewriting_call
from tasks.task import Judge, Task, ask


class Correction(Record):
    """What a teacher makes of a wrong response: the right one, or the reason why there is none."""

    task: str
    item: str
    repeat: int = Field(description="of the response")
    rewrite: str = ""
    first_wrong: int = Field(default=0, description="step of the response, from 1; 0: no rewrite")
    reason: str = Field(default="", description="why there is no rewrite")


def is_right(judged: Judged, tasks: Mapping[str, Task], gold: float) -> bool | None:
    """Whether a response reaches the gold answer: a reward of at least `gold`. None: unscored."""
    task = tasks[judged.sample.task]
    reward = of_feedback(task.primary, judged.score, judged.feedback)
    return None if reward is None else reward.value >= gold


def teach(
    judged: Sequence[Judged],
    items: Mapping[str, Item],
    tasks: Mapping[str, Task],
    config: Rlmec,
    judge: Judge | None = None,
) -> list[Correction]:
    """A correction of each different wrong response, in order; how many there are not is told.

    By the benchmark (`Task.rewrite`), unless `config.teacher` is the judge or it has none.
    """
    different: dict[tuple[str, str], Judged] = {}
    for one in judged:
        if is_right(one, tasks, config.gold) is False:
            different.setdefault((one.sample.item, one.sample.response), one)
    wrong = list(different.values())
    own = [one for one in wrong if _teaches_itself(tasks[one.sample.task], config)]
    rest = [one for one in wrong if not _teaches_itself(tasks[one.sample.task], config)]
    made = by_task(own, items, tasks) + by_judge(rest, items, tasks, judge)
    written = [
        one.sample.model_copy(update={"response": proposed.rewrite, "finish_reason": "stop"})
        for one, proposed in zip(own + rest, made, strict=True)
        if proposed.rewrite
    ]
    scored = iter(give_feedback(written, items, tasks, judge=judge))
    found = {
        (one.sample.item, one.sample.repeat): proposed
        if not proposed.rewrite or is_right(next(scored), tasks, config.gold)
        else _correction(one, reason="the rewrite does not reach the gold answer")
        for one, proposed in zip(own + rest, made, strict=True)
    }
    corrections = [found[one.sample.item, one.sample.repeat] for one in wrong]
    if failed := Counter(one.reason for one in corrections if one.reason):
        causes = ", ".join(f"{cause} {count}" for cause, count in failed.most_common(3))
        say(f"{failed.total()} of {len(corrections)} wrong responses are not corrected: {causes}")
    return corrections


def by_task(
    wrong: Sequence[Judged], items: Mapping[str, Item], tasks: Mapping[str, Task]
) -> list[Correction]:
    """What each response's own benchmark makes of it."""
    found = []
    for one in wrong:
        rewrite = tasks[one.sample.task].rewrite
        text = rewrite(items[one.sample.item], one.sample, one.score) if rewrite else None
        found.append(_correction(one, text or "", "" if text else "the benchmark has no rewrite"))
    return found


def by_judge(
    wrong: Sequence[Judged],
    items: Mapping[str, Item],
    tasks: Mapping[str, Task],
    judge: Judge | None,
) -> list[Correction]:
    """What a language model makes of each response, where the task knows what is right."""
    asked = [(one, items[one.sample.item], one.sample.response) for one in wrong]
    references = [tasks[item.task].ground(item, response) for _, item, response in asked]
    replies = iter(
        ask(
            judge,
            [
                rewriting_call(item, response, reference)
                for (_, item, response), reference in zip(asked, references, strict=True)
                if reference
            ],
        )
    )
    found = []
    for one, reference in zip(wrong, references, strict=True):
        try:
            if not reference:
                raise UnparsableReplyError("nothing is known that is right")
            found.append(_correction(one, read_rewrite(next(replies), one.sample.response)))
        except UnparsableReplyError as error:
            found.append(_correction(one, reason=str(error)))
    return found


def _teaches_itself(task: Task, config: Rlmec) -> bool:
    return config.teacher == "task" and task.rewrite is not None


def _correction(wrong: Judged, rewrite: str = "", reason: str = "") -> Correction:
    sample = wrong.sample
    return Correction(
        task=sample.task,
        item=sample.item,
        repeat=sample.repeat,
        rewrite=rewrite,
        first_wrong=first_wrong(sample.response, rewrite) if rewrite else 0,
        reason=reason,
    )
