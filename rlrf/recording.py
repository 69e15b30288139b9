"""Record what the loop does: verdicts, a row of metrics per iteration, and the run's result.

The rows are `RUN/metrics.jsonl`. What goes wrong in training shows there first: rewards that rise
while the gate's metrics fall, a falling likelihood of chosen responses, responses that grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.core.files import read_jsonl, read_records, write_json, write_jsonl, write_text
from harness.core.log import say
from harness.core.schema import Sample
from harness.engines.model_folder import Checkpoint
from harness.evals import evaluation
from harness.render import markdown
from rlrf.context import RunContext
from rlrf.result import (
    METRICS,
    RESULT,
    GateVerdict,
    Iteration,
    IterationMetrics,
    RunResult,
    Sealed,
)
from rlrf.reward import ModelReward
from rlrf.run import RECORDS, iteration_name
from rlrf.stages import Attempt
from rlrf.training_examples import means_by_task


def record_verdict(
    context: RunContext, number: int, found: GateVerdict, *, candidate: str, incumbent: str
) -> None:
    """Record a gate verdict in the run and on the board, and log what follows from it."""
    folder = context.run.folder / iteration_name(number)
    write_json(folder / "gate.json", found)
    write_text(folder / "gate.md", markdown.decision(found.vs_incumbent))
    context.board.add_decision(found.vs_incumbent, context.run_id, "incumbent")
    context.board.add_decision(found.vs_anchor, context.run_id, "anchor")
    promotion = found.promotion
    context.board.add_promotion(promotion, candidate, incumbent, context.run_id)
    outcome = "is promoted" if promotion.promoted else f"is rolled back, {incumbent} stays"
    if not promotion.promoted and not context.config.gate.enforce:
        outcome = "takes over although it did not pass, as gate.enforce is off"
    say(f"iteration {number}: {candidate} {outcome} ({'; '.join(promotion.reasons)})")


def record_iteration(
    context: RunContext,
    number: int,
    incumbent: Checkpoint,
    attempt: Attempt,
    verdict: GateVerdict | None,
) -> Iteration:
    """Record a finished iteration, with a row of its metrics."""
    finished = Iteration(
        number=number,
        explored_by=incumbent.name,
        candidate=context.iteration(number, incumbent).candidate_name,
        lessons=attempt.report,
        stopped=attempt.stopped,
        seconds=context.run.seconds(iteration_name(number)),
        gate=verdict,
        enforced=context.config.gate.enforce,
    )
    path = context.run.folder / METRICS
    earlier = read_records(path, IterationMetrics)[: number - 1] if number > 1 else []
    write_jsonl(path, [*earlier, iteration_metrics(context.run.folder, finished)])
    return finished


def record_result(
    context: RunContext,
    incumbent: Checkpoint,
    iterations: Sequence[Iteration],
    sealed: Sequence[Sealed],
) -> RunResult:
    """Write and return the result of the finished run."""
    rules = context.gate_policy.rules
    critical = [rule for rule in rules if rule.tier == "critical" and not rule.guard]
    finished = RunResult(
        run=context.run_id,
        folder=str(context.run.folder),
        board=str(context.board.folder),
        incumbent=incumbent.name,
        weights=str(incumbent.model),
        adapter=str(incumbent.adapter) if incumbent.adapter else None,
        shown=[*dict.fromkeys(f"{rule.task} {rule.metric}" for rule in critical)],
        guards=[*dict.fromkeys(f"{rule.task} {rule.metric}" for rule in rules if rule.guard)],
        iterations=list(iterations),
        sealed=list(sealed),
    )
    write_json(context.run.folder / RESULT, finished)
    return finished


def iteration_metrics(run: Path, iteration: Iteration) -> IterationMetrics:
    """Collect the metrics of an iteration from the folder of its run."""
    folder, report = run / iteration_name(iteration.number), iteration.lessons
    scored = evaluation.load(folder / f"evaluate_{iteration.candidate}") if iteration.gate else {}
    samples = [sample for one in scored.values() for sample in one.samples]
    guards = iteration.gate.guards() if iteration.gate else {}
    if guards:
        scored |= evaluation.load(folder / f"guards_{iteration.candidate}")
    return IterationMetrics(
        iteration=iteration.number,
        candidate=iteration.candidate,
        outcome=iteration.outcome,
        lessons=report.lessons,
        chosen_refined=report.chosen_refined,
        rejected_refined=report.rejected_refined,
        refinements_improved=report.refinements_better / report.refinements
        if report.refinements
        else None,
        training=first_and_last(folder / "train"),
        explored_reward=report.mean_reward,
        explored_model_reward=_mean_rewards(folder / "reward", folder / "explore"),
        explored_tokens=report.mean_tokens,
        gate={
            f"{task} {name}": metric.mean
            for task, one in scored.items()
            for name, metric in one.evaluation.metrics.items()
            if metric.mean is not None
        },
        guards=guards,
        gate_model_reward=_mean_rewards(folder / f"reward_{iteration.candidate}", samples),
        gate_tokens=means_by_task((s.task, s.completion_tokens) for s in samples),
    )


def first_and_last(training: Path) -> dict[str, tuple[float, float]]:
    """Read each training metric at the first and at the last step, from a training's folder."""
    path = training / METRICS
    rows = [row for _, row in read_jsonl(path)] if path.is_file() else []
    if not rows:
        return {}
    return {name: (rows[0][name], rows[-1][name]) for name in rows[0] if name != "step"}


def _mean_rewards(stage: Path, samples: Path | Sequence[Sample]) -> dict[str, float]:
    """Read task -> mean reward of `samples` (records, or their stage); empty without rewards."""
    path = stage / RECORDS
    if not path.is_file():
        return {}
    rewards = read_records(path, ModelReward)
    if isinstance(samples, Path):
        samples = read_records(samples / RECORDS, Sample)
    return means_by_task((s.task, one.reward) for s, one in zip(samples, rewards, strict=True))
