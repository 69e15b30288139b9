"""The loop: learn from what was explored, measure, gate, promote or roll back; and again.

How an iteration learns is its method's (`rlrf.methods`); a candidate that the gate does not pass is
rolled back: the next iteration explores again from the incumbent, with other prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness import gate
from harness.core.files import write_json, write_jsonl, write_text
from harness.core.progress import say
from harness.core.schema import Decision, Item, digest
from harness.core.scored import ScoredEvaluation
from harness.evals import evaluation
from harness.evals.evaluate import evaluate
from harness.render import markdown
from rlrf import methods, metrics, stages
from rlrf.checkpoint import Checkpoint
from rlrf.config import Config
from rlrf.context import IterationContext, RunContext, open_context
from rlrf.result import RESULT, GateVerdict, Iteration, RunResult, Sealed
from rlrf.run import Records, is_whole
from rlrf.training_examples import means_by_task


def train(config: Config, out: Path, *, fresh: bool = False) -> RunResult:
    """Improve `config.model` for `config.iterations` turns; `out` is the run's folder.

    A run that exists is resumed, `fresh` deletes it first. The sealed split is opened once, at
    the end, for M0 and every candidate.

    Raises:
        UserError: the configuration, the model or the folder cannot be used.
    """
    with open_context(config, out, fresh) as lab:
        incumbent = lab.anchor
        iterations, rows, made = [], [], [lab.anchor]
        for turn in range(1, config.iterations + 1):
            attempt = methods.improve(config.method, IterationContext(lab, incumbent, turn))
            candidate, verdict = attempt.candidate, None
            if candidate is not None:
                verdict = meet_gate(lab, turn, candidate, incumbent)
                made.append(candidate)
            iterations.append(
                Iteration(
                    number=turn,
                    explored_by=incumbent.name,
                    candidate=f"M{turn}",
                    lessons=attempt.report,
                    stopped=attempt.stopped,
                    seconds=lab.run.seconds(f"iter_{turn}"),
                    gate=verdict,
                    enforced=config.gate.enforce,
                )
            )
            rows.append(metrics.of_iteration(out, iterations[-1]))
            write_jsonl(out / metrics.METRICS, rows)
            if candidate is not None and iterations[-1].takes_over:
                incumbent = candidate
        result = RunResult(
            run=lab.name,
            folder=str(out),
            board=str(lab.board.folder),
            incumbent=incumbent.name,
            weights=str(incumbent.model),
            adapter=str(incumbent.adapter) if incumbent.adapter else None,
            shown=[f"{r.task} {r.metric}" for r in lab.policy.rules if r.tier == "critical"],
            iterations=iterations,
            sealed=open_sealed(lab, made),
        )
        write_json(out / RESULT, result)
    return result


def meet_gate(
    lab: RunContext, turn: int, candidate: Checkpoint, incumbent: Checkpoint
) -> GateVerdict:
    """Measure candidate, incumbent and anchor on one fresh slice of the gate split, and decide."""
    at = f"iter_{turn}"
    asked = lab.pick("gate", lab.config.gate.slice, turn - 1)
    contestants = {model.name: model for model in (lab.anchor, incumbent, candidate)}
    scored = {
        name: measure(lab, f"{at}/evaluate_{name}", model, "gate", asked)
        for name, model in contestants.items()
    }
    rewards = {name: mean_rewards(lab, f"{at}/reward_{name}", of) for name, of in scored.items()}

    def against(baseline: Checkpoint) -> Decision:
        return gate.gate(
            scored[baseline.name],
            scored[candidate.name],
            lab.policy,
            rewards=(rewards[baseline.name], rewards[candidate.name]),
        )

    vs_incumbent, vs_anchor = against(incumbent), against(lab.anchor)
    promotion = gate.promote(vs_incumbent, vs_anchor)
    verdict = GateVerdict(vs_incumbent=vs_incumbent, vs_anchor=vs_anchor, promotion=promotion)
    write_json(lab.run.folder / at / "gate.json", verdict)
    write_text(lab.run.folder / at / "gate.md", markdown.decision(vs_incumbent))
    lab.board.add_decision(vs_incumbent, lab.name, "incumbent")
    lab.board.add_decision(vs_anchor, lab.name, "anchor")
    lab.board.add_promotion(promotion, candidate.name, incumbent.name, lab.name)
    outcome = "is promoted" if promotion.promoted else f"is rolled back, {incumbent.name} stays"
    if not promotion.promoted and not lab.config.gate.enforce:
        outcome = "takes over although it did not pass, as gate.enforce is off"
    say(f"iteration {turn}: {candidate.name} {outcome} ({'; '.join(promotion.reasons)})")
    return verdict


def mean_rewards(
    lab: RunContext, place: str, scored: Mapping[str, ScoredEvaluation]
) -> dict[str, float]:
    """Task -> mean reward of the answers by the run's reward model, if it has one.

    Not where rewards are by demonstrations, which gate items have none of.
    """
    if lab.rewarder is None or lab.rewarder.demonstrations is not None:
        return {}
    answers = [sample for one in scored.values() for sample in one.samples]
    items = {item.digest: item for one in scored.values() for item in one.items}
    made_of = digest([one.evaluation.samples_digest for one in scored.values()])
    found = stages.model_rewards(lab, place, Records(answers, made_of), items).records
    return means_by_task((s.task, one.reward) for s, one in zip(answers, found, strict=True))


def measure(
    lab: RunContext, place: str, model: Checkpoint, split: str, asked: Mapping[str, list[Item]]
) -> dict[str, ScoredEvaluation]:
    """Evaluate `model` on the items `asked` of each task, and put it on the board."""
    config = lab.config
    before = lab.run.folder / place

    def run_evaluation(folder: Path) -> None:
        for data in dict.fromkeys(task.data for task in config.tasks):
            # Tasks that are asked together share their batches.
            tasks = [lab.tasks[task.name] for task in config.tasks if task.data == data]
            found = evaluate(
                lab.run.keeping(lab.engines.load(model)),
                tasks,
                split=split,
                indices={task.name: [item.index for item in asked[task.name]] for task in tasks},
                data=Path(data) if data else None,
                judge=lab.judge,
                answered=before if is_whole(before) else None,
                seed=config.seed,
            )
            for name, one in found.items():
                evaluation.save(one, folder / name)

    digests = [item.digest for items in asked.values() for item in items]
    stage = lab.run.stage(place, [model, split, digests], run_evaluation, lab.tasks_code)
    scored = evaluation.load(stage.folder)
    for one in scored.values():
        lab.board.add_evaluation(one, model.name, lab.name)
    return scored


def open_sealed(lab: RunContext, models: list[Checkpoint]) -> list[Sealed]:
    """Measure every model on the sealed split, against the first of them."""
    asked = lab.pick("sealed", lab.config.gate.sealed, 0)
    scored = [measure(lab, f"sealed/{m.name}", m, "sealed", asked) for m in models]
    found = []
    for model, evaluations in zip(models, scored, strict=True):
        decision = None
        if model is not models[0]:
            decision = gate.gate(scored[0], evaluations, lab.policy)
            lab.board.add_decision(decision, lab.name, "sealed")
        means = {
            f"{task} {name}": value
            for task, one in evaluations.items()
            for name, value in one.evaluation.metrics.items()
        }
        found.append(Sealed(name=model.name, metrics=means, vs_anchor=decision))
    return found
