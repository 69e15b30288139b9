"""The training loop: improve the incumbent, gate the candidate, promote it or roll back, repeat.

The method (`rlrf.methods`) decides how an iteration learns. After a rollback the next iteration
explores again from the incumbent, with other prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness import gate
from harness.core.schema import Decision, Item, digest
from harness.core.scored import ScoredEvaluation
from harness.engines.model_folder import Checkpoint
from harness.evals import evaluation
from harness.evals.evaluate import EvalOptions, evaluate
from harness.gate.clusters import assign
from harness.stats.intervals import aggregate_by_policy
from rlrf import methods, recording, stages
from rlrf.config import Config
from rlrf.context import RunContext, open_context
from rlrf.guards import Part
from rlrf.result import GateVerdict, RunResult, Sealed
from rlrf.run import Records, iteration_name
from rlrf.stage_folder import is_whole
from rlrf.training_examples import means_by_task


def train(config: Config, out: Path, *, fresh: bool = False) -> RunResult:
    """Improve `config.model` for `config.iterations` iterations; `out` is the run's folder.

    An existing run is resumed, or deleted first if `fresh`. The sealed split is opened once, at
    the end, for M0 and every candidate.

    Raises:
        UserError: the configuration, the model or the folder cannot be used.
    """
    with open_context(config, out, fresh) as context:
        incumbent, models, iterations = context.m0, [context.m0], []
        for k in range(1, config.iterations + 1):
            attempt, verdict = methods.improve(config.method, context.iteration(k, incumbent)), None
            if (candidate := attempt.candidate) is not None:
                verdict = meet_gate(context, k, candidate, incumbent)
                models.append(candidate)
            iterations.append(recording.record_iteration(context, k, incumbent, attempt, verdict))
            if candidate and verdict and (verdict.promotion.promoted or not config.gate.enforce):
                incumbent = candidate
        sealed = open_sealed(context, models)
        return recording.record_result(context, incumbent, iterations, sealed)


def meet_gate(
    context: RunContext, k: int, candidate: Checkpoint, incumbent: Checkpoint
) -> GateVerdict:
    """Evaluate candidate, incumbent and M0 on the gate items of iteration `k`, and decide."""
    folder = iteration_name(k)
    items = context.services.pick_items("gate", context.config.gate.slice, k - 1)
    models = dict.fromkeys((context.m0, incumbent, candidate))
    evaluations = {
        model.name: measure(context, f"{folder}/evaluate_{model.name}", model, "gate", items)
        for model in models
    }
    guards = {model.name: measure_guards(context, folder, model, "gate", k - 1) for model in models}
    rewards = {
        name: mean_rewards(context, f"{folder}/reward_{name}", scored)
        for name, scored in evaluations.items()
    }

    def against(baseline: Checkpoint) -> Decision:
        return gate.gate(
            evaluations[baseline.name] | guards[baseline.name],
            evaluations[candidate.name] | guards[candidate.name],
            context.gate_policy,
            rewards=(rewards[baseline.name], rewards[candidate.name]),
        )

    vs_incumbent, vs_anchor = against(incumbent), against(context.m0)
    promotion = gate.promote(vs_incumbent, vs_anchor)
    verdict = GateVerdict(vs_incumbent=vs_incumbent, vs_anchor=vs_anchor, promotion=promotion)
    recording.record_verdict(
        context, k, verdict, candidate=candidate.name, incumbent=incumbent.name
    )
    return verdict


def measure(
    context: RunContext,
    stage: str,
    model: Checkpoint,
    split: str,
    items_by_task: Mapping[str, list[Item]],
) -> dict[str, ScoredEvaluation]:
    """Evaluate `model` on the items of each task, and record the evaluations on the board."""
    services, config = context.services, context.config
    earlier = context.run.folder / stage

    def evaluate_all(folder: Path) -> None:
        reuse = earlier if is_whole(earlier) else None
        for how in dict.fromkeys((task.data_path, task.max_tokens) for task in config.tasks):
            # Tasks that read the same data, with the same limit, share their batches.
            data, limit = how
            tasks = [
                services.tasks[task.name]
                for task in config.tasks
                if (task.data_path, task.max_tokens) == how
            ]
            options = EvalOptions(
                split=split,
                indices={t.name: [item.index for item in items_by_task[t.name]] for t in tasks},
                data=data,
                max_tokens=limit,
                seed=config.seed,
            )
            scored = evaluate(
                context.run.keeping(services.engines.load(model)),
                tasks,
                options,
                judge=services.judge,
                reuse=reuse,
            )
            for name, one in scored.items():
                evaluation.save(one, folder / name)

    digests = [item.digest for items in items_by_task.values() for item in items]
    reads = [model, split, digests]
    made = context.run.stage(stage, reads, evaluate_all, services.tasks_code)
    evaluations = evaluation.load(made.folder)
    for one in evaluations.values():
        context.board.add_evaluation(one, model.name, context.run_id)
    return evaluations


def measure_guards(
    context: RunContext, folder: str, model: Checkpoint, part: Part, rotation: int
) -> dict[str, ScoredEvaluation]:
    """Evaluate `model` on items of each guard, and record the evaluations on the board."""
    services, run = context.services, context.run
    if not services.guards:
        return {}
    stage, code = f"{folder}/guards_{model.name}", services.guards_code
    items_by_task = services.pick_guard_items(part, rotation)
    digests = [item.digest for items in items_by_task.values() for item in items]
    reads = [model, part, digests]
    earlier = [
        run.folder / iteration_name(k) / f"guards_{model.name}" for k in range(1, rotation + 1)
    ]

    def evaluate_all(new: Path) -> None:
        resumed = run.in_progress(stage, reads, code)
        for name, guard in services.guards.items():
            guard.reuse(filter(is_whole, earlier), resumed)
            scored = guard.evaluate(
                services.engines.load(model),
                part,
                items_by_task[name],
                seed=context.config.seed,
                judge=services.judge,
                out=resumed,
            )
            evaluation.save(scored, new / name)

    made = run.stage(stage, reads, evaluate_all, code)
    evaluations = evaluation.load(made.folder)
    for scored in evaluations.values():
        context.board.add_evaluation(scored, model.name, context.run_id)
    return evaluations


def mean_rewards(
    context: RunContext, stage: str, evaluations: Mapping[str, ScoredEvaluation]
) -> dict[str, float]:
    """Return task -> mean reward of the evaluated responses by the run's reward model, if any.

    Rewards by demonstrations are left out, because gate items have no demonstrations.
    """
    rewarder = context.services.rewarder
    if rewarder is None or rewarder.demonstrations is not None:
        return {}
    samples = [sample for one in evaluations.values() for sample in one.samples]
    items = {item.digest: item for one in evaluations.values() for item in one.items}
    made_of = digest([one.evaluation.samples_digest for one in evaluations.values()])
    reads = Records(samples, made_of)
    rewards = stages.score_by_model(context.services, context.run, stage, reads, items).records
    return means_by_task((s.task, one.reward) for s, one in zip(samples, rewards, strict=True))


def open_sealed(context: RunContext, models: list[Checkpoint]) -> list[Sealed]:
    """Evaluate every model on the sealed split, and compare the candidates with M0."""
    items = context.services.pick_items("sealed", context.config.gate.sealed, 0)
    measured = [
        measure(context, f"sealed/{model.name}", model, "sealed", items)
        | measure_guards(context, "sealed", model, "sealed", 0)
        for model in models
    ]
    clusters = assign(context.gate_policy, measured[0], measured[0])
    sealed = []
    for model, evaluations in zip(models, measured, strict=True):
        decision = None
        if model is not context.m0:
            decision = gate.gate(measured[0], evaluations, context.gate_policy)
            context.board.add_decision(decision, context.run_id, "sealed")
        means = {
            f"{task} {name}": value
            for task, one in evaluations.items()
            for name, value in aggregate_by_policy(
                one.evaluation, one.scores, context.gate_policy, clusters.get(task, {})
            ).items()
        }
        sealed.append(Sealed(name=model.name, metrics=means, vs_anchor=decision))
    return sealed
