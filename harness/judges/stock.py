"""Aggregate judged metrics under stock lm-eval; the task YAML files name `judged`.

    RLRF_JUDGE=judge.yaml lm_eval run --include_path "$(rlrf tasks --path)" --tasks just_eval ...

lm-eval aggregates after all generation, so the judge is asked about all answers together,
concurrently and through its cache. Unscored answers are counted and are part of no mean.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from harness.core.log import say
from harness.core.schema import mean
from harness.judges.config import load_judging
from tasks.hooks import JUDGE, Answer, Pending


def judged(values: Sequence[float | Pending]) -> float:
    """Return the mean of one metric over its documents, after the judge has graded them.

    NaN if no document has a value.

    Raises:
        UserError: the judging file or the judge cannot be used.
    """
    waiting = [value for value in values if isinstance(value, Pending)]
    _grade([pending.answer for pending in waiting if pending.answer.score is None])
    reasons = []
    for pending in waiting:
        if score := pending.answer.score:
            pending["value"] = score.values.get(pending.metric)
            reasons += [score.unscored[pending.metric]] if pending.metric in score.unscored else []
    if reasons:
        say(f"{waiting[0].metric}: {len(reasons)} of {len(values)} unscored ({reasons[0]})")
    found = [value["value"] if isinstance(value, Pending) else value for value in values]
    scored = [value for value in found if value is not None]
    return mean(scored) if scored else float("nan")


def _grade(answers: Sequence[Answer]) -> None:
    if not answers:
        return
    judging = load_judging(Path(os.environ[JUDGE]))
    task = judging.task(answers[0].item.task)
    with judging.open() as judge:
        scores = task.score([(answer.item, answer.sample) for answer in answers], judge)
    for answer, score in zip(answers, scores, strict=True):
        answer.score = score
