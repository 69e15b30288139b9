"""Evaluate a candidate because a gate asks for it: all that was planned, or until it is decided.

A sequential plan commits to an order of the items. The candidate is asked in that order, some
items at a time, and no more of a task once its critical rules are decided.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.core.errors import UserError
from harness.core.folders import sole_user
from harness.core.schema import Decision, Sample, Score
from harness.core.scored import ScoredEvaluation
from harness.engines import Engine
from harness.evals import evaluation
from harness.evals.evaluate import evaluate
from harness.evals.evaluation import BATCHES_FOLDER
from harness.gate import gate
from harness.gate.plan import Plan, orders
from tasks.task import Judge, Task

LEAST_BATCH = 32  # items: fewer leave an engine idle
BATCHES = 20  # of the planned items, at most


def evaluate_like(
    engine: Engine,
    baseline: Mapping[str, ScoredEvaluation],
    tasks: Sequence[Task],
    *,
    data: Path | None = None,
    judge: Judge | None = None,
    out: Path | None = None,
) -> dict[str, ScoredEvaluation]:
    """Task -> evaluation of the engine's model on the items that the baseline was asked.

    It answers as the baseline did: as often, at the same temperature and length limit. Written to
    `out`/TASK if `out` is given.

    Raises:
        UserError: as `harness.evals.evaluate.evaluate`.
    """
    found: dict[str, ScoredEvaluation] = {}
    for task in tasks:
        before = baseline[task.name]
        indices = sorted({score.index for score in before.scores})
        found |= _ask(engine, task, before, indices, data=data, judge=judge, out=out)
    return found


def watch(
    engine: Engine,
    plan: Plan,
    baseline: Mapping[str, ScoredEvaluation],
    tasks: Sequence[Task],
    *,
    data: Path | None = None,
    judge: Judge | None = None,
    out: Path | None = None,
    doubts: Mapping[tuple[str, str], str] | None = None,
) -> tuple[Decision, dict[str, ScoredEvaluation]]:
    """Decide on the engine's model by a sequential plan, with as few items as it takes.

    Returns the decision and the candidate's evaluations, of the items that were used; these are
    written to `out`/TASK if `out` is given. What was answered is kept there as it comes: the same
    call again goes on where it was stopped.

    Raises:
        UserError: the plan is for another baseline, or not sequential; as
            `harness.evals.evaluate.evaluate`.
    """
    if plan.mode != "sequential":
        raise UserError("The plan is not sequential: evaluate all its items, then decide.")
    drawn = orders(plan, baseline)
    if out is not None:
        evaluation.check_out(out, {rule.task for rule in plan.policy.rules})
    named = {task.name: task for task in tasks}
    with sole_user(out) if out else contextlib.nullcontext():
        return _watch(
            engine, plan, baseline, named, drawn=drawn, data=data, judge=judge, out=out,
            doubts=doubts,
        )  # fmt: skip


def _watch(
    engine: Engine,
    plan: Plan,
    baseline: Mapping[str, ScoredEvaluation],
    named: Mapping[str, Task],
    *,
    drawn: Mapping[str, Sequence[str]],
    data: Path | None,
    judge: Judge | None,
    out: Path | None,
    doubts: Mapping[tuple[str, str], str] | None,
) -> tuple[Decision, dict[str, ScoredEvaluation]]:
    batches: dict[str, list[ScoredEvaluation]] = {task: [] for task in drawn}
    used = dict.fromkeys(drawn, 0)
    open_ = set(drawn)
    while open_:
        for task in sorted(open_):
            size = max(LEAST_BATCH, math.ceil(len(drawn[task]) / BATCHES))
            items = set(drawn[task][used[task] : used[task] + size])
            place = out / BATCHES_FOLDER / str(len(batches[task])) if out else None
            indices = sorted({s.index for s in baseline[task].scores if s.item in items})
            before = baseline[task]
            asked = _ask(engine, named[task], before, indices, data=data, judge=judge, out=place)
            batches[task].append(asked[task])
            used[task] += len(items)
        candidate = {task: _joined(named[task], parts) for task, parts in batches.items()}
        decision = gate(baseline, candidate, plan.policy, plan=plan, doubts=doubts)
        open_ = {
            task for task in drawn if used[task] < len(drawn[task]) and _undecided(decision, task)
        }
    if out:
        evaluation.check_out(out, candidate)
        for task, scored in candidate.items():
            evaluation.save(scored, out / task)
        shutil.rmtree(out / BATCHES_FOLDER, ignore_errors=True)
    return decision, candidate


def _undecided(decision: Decision, task: str) -> bool:
    """Whether more items of `task` can matter to the verdict of the gate."""
    if any(c.verdict == "fail" and c.tier != "advisory" for c in decision.checks):
        return False
    checks = [check for check in decision.checks if check.task == task]
    tier = next((t for t in ("critical", "guardrail") if any(c.tier == t for c in checks)), None)
    return any(c.tier == (tier or c.tier) and c.verdict == "inconclusive" for c in checks)


def _ask(
    engine: Engine,
    task: Task,
    before: ScoredEvaluation,
    indices: Sequence[int],
    *,
    data: Path | None,
    judge: Judge | None,
    out: Path | None,
) -> dict[str, ScoredEvaluation]:
    decoding = before.evaluation.decoding
    return evaluate(
        engine,
        [task],
        split=before.evaluation.split,
        indices={task.name: indices},
        data=data,
        max_tokens=decoding.get("max_tokens"),
        temperature=decoding.get("temperature"),
        repeats=decoding.get("n"),
        judge=judge,
        out=out,
        seed=before.evaluation.seed,
    )


def _joined(task: Task, parts: Sequence[ScoredEvaluation]) -> ScoredEvaluation:
    """One evaluation of the items of all `parts`, which were made in the same way."""
    made = parts[0].evaluation
    items = [item for part in parts for item in part.items]
    samples: list[Sample] = sorted((s for part in parts for s in part.samples), key=_place)
    scores: list[Score] = sorted((s for part in parts for s in part.scores), key=_place)
    return evaluation.assemble(
        task,
        items,
        samples,
        scores,
        model=made.model,
        engine=made.engine,
        decoding=made.decoding,
        split=made.split,
        prompt_digest=made.prompt_digest,
        judge=made.judge,
        estimator=made.estimator,
        seed=made.seed,
    )


def _place(one: Sample | Score) -> tuple[int, int]:
    return one.index, one.repeat
