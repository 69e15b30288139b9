"""The embedded world: small editions of the three benchmarks, with an exact verifier.

They share the scoring code of the full editions; in place of a judge, code checks the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.core.schema import Item, Score
from tasks.factscore.pipeline import Pipeline
from tasks.factscore.scoring import METRICS as FACTSCORE_METRICS
from tasks.gsm8k.scoring import METRICS as GSM8K_METRICS
from tasks.gsm8k.scoring import score as score_arithmetic
from tasks.just_eval.scoring import METRICS as JUST_EVAL_METRICS
from tasks.just_eval.scoring import derive
from tasks.just_eval.scoring import score as score_instructions
from tasks.mini import arithmetic, biography, instructions, world
from tasks.task import Answered, Judge, Task

GAMMA, K = 4.0, 5  # a page has five facts

BIOGRAPHIES = Pipeline(
    pages=biography.pages,
    decomposer=biography.Claims(),
    retriever=biography.WholePage(),
    verifier=biography.Exact(),
    gamma=GAMMA,
    at_k=K,
    rules="generic",  # with which the published numbers of this world were made
)


def _items(task: str, split: str, data: Path | None = None) -> list[Item]:
    return world.items(task, split)


def _score_instructions(answered: Sequence[Answered], judge: Judge | None = None) -> list[Score]:
    return score_instructions(answered, instructions.ExactJudge(answered))


TASKS = [
    Task(
        name=arithmetic.TASK,
        version=world.VERSION,
        metrics=GSM8K_METRICS,
        splits=world.SPLITS,
        items=partial(_items, arithmetic.TASK),
        score=score_arithmetic,
        feedback=arithmetic.feedback,
        rewrite=arithmetic.rewrite,
        generation={"max_tokens": 80, "temperature": 0.0, "stop": []},
    ),
    Task(
        name=biography.TASK,
        version=world.VERSION,
        metrics=FACTSCORE_METRICS,
        splits=world.SPLITS,
        items=partial(_items, biography.TASK),
        score=BIOGRAPHIES.score,
        feedback=biography.feedback,
        rewrite=biography.rewrite,
        generation={"max_tokens": 120, "temperature": 0.0, "stop": []},
        estimator=f"sentences, exact record, gamma {GAMMA:g}, k {K}",
    ),
    Task(
        name=instructions.TASK,
        version=world.VERSION,
        metrics=JUST_EVAL_METRICS,
        splits=world.SPLITS,
        items=partial(_items, instructions.TASK),
        score=_score_instructions,
        feedback=instructions.feedback,
        rewrite=instructions.rewrite,
        generation={"max_tokens": 120, "temperature": 0.0, "stop": []},
        derive=derive,
    ),
]
