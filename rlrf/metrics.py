"""What became of each iteration, in numbers: `RUN/metrics.jsonl`, a row an iteration.

Rewards that rise while the gate's metrics fall, a likelihood of the chosen that falls, answers
that grow: what goes wrong in training shows here first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from harness.core.files import read_jsonl, read_records
from harness.core.schema import Record, Sample
from harness.evals import evaluation
from rlrf.result import Iteration
from rlrf.run import RECORDS
from rlrf.stages import ModelReward
from rlrf.training_examples import means_by_task

METRICS = "metrics.jsonl"


class IterationMetrics(Record):
    """One iteration; what depends on a candidate is empty where there is none."""

    iteration: int
    candidate: str
    outcome: str
    lessons: int
    chosen_refined: int = Field(description="lessons whose better response is a refinement")
    rejected_refined: int
    refinements_improved: float | None = Field(
        description="share of the refinements that are rewarded more than their draft"
    )
    training: dict[str, tuple[float, float]] = Field(
        description="metric of training -> its first and last value"
    )
    explored_reward: dict[str, float] = Field(description="task -> mean, as the lessons have it")
    explored_model_reward: dict[str, float] = Field(description="task -> mean by the reward model")
    explored_tokens: dict[str, float] = Field(description="task -> mean length of responses")
    gate: dict[str, float] = Field(description="'task metric' -> mean of the candidate")
    gate_model_reward: dict[str, float] = Field(description="task -> its mean by the reward model")
    gate_tokens: dict[str, float] = Field(description="task -> mean length of its answers")


def of_iteration(run: Path, turn: Iteration) -> IterationMetrics:
    """The row of an iteration of the run in a folder."""
    folder, learned = run / f"iter_{turn.number}", turn.lessons
    scored = evaluation.load(folder / f"evaluate_{turn.candidate}") if turn.gate else {}
    answers = [sample for one in scored.values() for sample in one.samples]
    return IterationMetrics(
        iteration=turn.number,
        candidate=turn.candidate,
        outcome=turn.outcome,
        lessons=learned.lessons,
        chosen_refined=learned.chosen_refined,
        rejected_refined=learned.rejected_refined,
        refinements_improved=learned.refinements_better / learned.refinements
        if learned.refinements
        else None,
        training=first_and_last(folder / "train"),
        explored_reward=learned.mean_reward,
        explored_model_reward=_rewards(folder / "reward", folder / "explore"),
        explored_tokens=learned.mean_tokens,
        gate={
            f"{task} {name}": found.mean
            for task, one in scored.items()
            for name, found in one.evaluation.metrics.items()
            if found.mean is not None
        },
        gate_model_reward=_rewards(folder / f"reward_{turn.candidate}", answers),
        gate_tokens=means_by_task((s.task, s.completion_tokens) for s in answers),
    )


def first_and_last(training: Path) -> dict[str, tuple[float, float]]:
    """Of a training's folder: metric -> its value at the first and at the last step."""
    path = training / METRICS
    rows = [row for _, row in read_jsonl(path)] if path.is_file() else []
    if not rows:
        return {}
    return {name: (rows[0][name], rows[-1][name]) for name in rows[0] if name != "step"}


def _rewards(stage: Path, samples: Path | Sequence[Sample]) -> dict[str, float]:
    """Task -> mean reward, where a reward model gave any to `samples` (records, or a stage)."""
    path = stage / RECORDS
    if not path.is_file():
        return {}
    rewards = read_records(path, ModelReward)
    if isinstance(samples, Path):
        samples = read_records(samples / RECORDS, Sample)
    return means_by_task((s.task, one.reward) for s, one in zip(samples, rewards, strict=True))
