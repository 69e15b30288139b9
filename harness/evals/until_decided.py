"""Evaluate a candidate for a gate: on all planned items, or until the gate is decided.

A sequential plan commits to an order of the items. The candidate is asked in that order, in
batches, and no more of a task once its critical rules are decided.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UserError
from harness.core.folders import sole_user
from harness.core.schema import Decision, Sample, Score
from harness.core.scored import ScoredEvaluation
from harness.engines import Engine
from harness.evals import evaluation
from harness.evals.evaluate import EvalOptions, evaluate
from harness.evals.evaluation import BATCHES_FOLDER
from harness.evals.scoring import Generation, assemble
from harness.gate import gate
from harness.gate.plan import Plan, planned_orders
from tasks.task import Judge, Task

MIN_BATCH_ITEMS = 32  # fewer leave an engine idle
MAX_BATCHES = 20  # per task


@dataclass(frozen=True)
class CandidateModel:
    """A candidate to evaluate like its baseline: with the same items, decoding and seed."""

    engine: Engine
    tasks: Sequence[Task]
    data: Path | None = None
    judge: Judge | None = None

    def evaluate_like(
        self, baseline: Mapping[str, ScoredEvaluation], out: Path | None = None
    ) -> dict[str, ScoredEvaluation]:
        """Evaluate the candidate on the baseline's items, task by task; written to `out`/TASK.

        Raises:
            UserError: as `harness.evals.evaluate.evaluate`.
        """
        candidate: dict[str, ScoredEvaluation] = {}
        for task in self.tasks:
            before = baseline[task.name]
            candidate[task.name] = self._on(task, before, [s.item for s in before.scores], out)
        return candidate

    def _on(
        self, task: Task, before: ScoredEvaluation, items: Sequence[str], out: Path | None
    ) -> ScoredEvaluation:
        """Evaluate on those of the baseline's items whose digests are `items`."""
        wanted, decoding = set(items), before.evaluation.decoding
        options = EvalOptions(
            split=before.evaluation.split,
            indices={task.name: sorted({s.index for s in before.scores if s.item in wanted})},
            data=self.data,
            max_tokens=decoding.get("max_tokens"),
            temperature=decoding.get("temperature"),
            repeats=decoding.get("n"),
            seed=before.evaluation.seed,
        )
        return evaluate(self.engine, [task], options, judge=self.judge, out=out)[task.name]

    def evaluate_until_decided(
        self,
        plan: Plan,
        baseline: Mapping[str, ScoredEvaluation],
        out: Path | None = None,
        doubts: Mapping[tuple[str, str], str] | None = None,
    ) -> tuple[Decision, dict[str, ScoredEvaluation]]:
        """Decide on the candidate by a sequential plan, with as few items as possible.

        Returns the decision and the candidate's evaluations of the items that were used; these
        are written to `out`/TASK if `out` is given. Responses are kept in `out` as they come:
        call again to resume.

        Raises:
            UserError: the plan is for another baseline, or not sequential; or as
                `harness.evals.evaluate.evaluate`.
        """
        if plan.mode != "sequential":
            raise UserError("The plan is not sequential: evaluate all its items, then decide.")
        order = planned_orders(plan, baseline)
        if out is not None:
            evaluation.check_out(out, {rule.task for rule in plan.policy.rules})
        tasks = {task.name: task for task in self.tasks}
        batches: dict[str, list[ScoredEvaluation]] = {task: [] for task in order}
        used = dict.fromkeys(order, 0)
        undecided = set(order)
        with sole_user(out) if out else contextlib.nullcontext():
            while undecided:
                for task in sorted(undecided):
                    size = max(MIN_BATCH_ITEMS, math.ceil(len(order[task]) / MAX_BATCHES))
                    items = order[task][used[task] : used[task] + size]
                    place = out / BATCHES_FOLDER / str(len(batches[task])) if out else None
                    batches[task].append(self._on(tasks[task], baseline[task], items, place))
                    used[task] += len(items)
                candidate = {task: _joined(tasks[task], parts) for task, parts in batches.items()}
                decision = gate(baseline, candidate, plan.policy, plan=plan, doubts=doubts)
                undecided = {
                    task
                    for task in order
                    if used[task] < len(order[task]) and _is_undecided(decision, task)
                }
            if out:
                evaluation.check_out(out, candidate)
                for task, scored in candidate.items():
                    evaluation.save(scored, out / task)
                shutil.rmtree(out / BATCHES_FOLDER, ignore_errors=True)
        return decision, candidate


def _is_undecided(decision: Decision, task: str) -> bool:
    """Tell whether more items of `task` can change the verdict of the gate."""
    if any(c.verdict == "fail" and c.tier != "advisory" for c in decision.checks):
        return False
    checks = [check for check in decision.checks if check.task == task]
    tier = next((t for t in ("critical", "guardrail") if any(c.tier == t for c in checks)), None)
    return any(c.tier == (tier or c.tier) and c.verdict == "inconclusive" for c in checks)


def _joined(task: Task, parts: Sequence[ScoredEvaluation]) -> ScoredEvaluation:
    """Join evaluations of different items, made in the same way, into one evaluation."""
    made = parts[0].evaluation
    items = [item for part in parts for item in part.items]
    samples = sorted((s for part in parts for s in part.samples), key=_position)
    scores = sorted((s for part in parts for s in part.scores), key=_position)
    generation = Generation.of(made)
    return assemble(
        task, items, samples, scores, generation, judge=made.judge, estimator=made.estimator
    )


def _position(record: Sample | Score) -> tuple[int, int]:
    return record.index, record.repeat
