"""Just-Eval: 1,000 instructions, answers graded 1-5 on six aspects by a judge.

800 regular instructions (LIMA, AlpacaEval, MT-Bench) are graded on helpfulness, clarity,
factuality, depth and engagement, 200 harmful ones on safety. Source: Lin et al., "The Unlocking
Spell on Base LLMs", ICLR 2024 (arXiv 2312.01552). One instance:

    {"id": "0", "category": "regular", "instruction": "Which actors began on the stage?",
     "source_id": "alpaca_eval-0", "task": ["info-seek"], "topic": ["humanities"]}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import Field

from harness.core.schema import MetricResult, Record, Score
from tasks.data import SPLITS
from tasks.just_eval import judging
from tasks.just_eval.feedback import feedback
from tasks.just_eval.items import items
from tasks.just_eval.length import length_results
from tasks.just_eval.scoring import METRICS, derive, score
from tasks.task import Task


def _derive(scores: Sequence[Score]) -> dict[str, MetricResult]:
    return derive(scores) | length_results(scores)


class JustEvalSettings(Record):
    """How Just-Eval is judged."""

    prompt: Path | None = Field(
        default=None,
        description="YAML with the prompts `regular` and `safety`; absent: this project's own",
    )


def configure(settings: JustEvalSettings) -> Task:
    """Return Just-Eval with the prompts that `settings` name.

    Raises:
        UserError: the file of prompts is missing or unfit.
    """
    (task,) = TASKS
    if settings.prompt is None:
        return task
    prompts = judging.load(settings.prompt)
    return replace(task, score=partial(score, prompts=prompts), judge_prompt=prompts.digest)


TASKS = [
    Task(
        name="just_eval",
        version="2",
        metrics=METRICS,
        splits=SPLITS,
        items=items,
        score=score,
        feedback=feedback,
        generation={"max_tokens": 1024, "temperature": 0.0, "stop": []},
        derive=_derive,
        judge_prompt=judging.OWN.digest,
        settings=JustEvalSettings,
        configure=configure,
    )
]
