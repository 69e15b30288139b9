"""The loop: explore -> feedback -> reflect -> pairs -> train -> evaluate -> gate -> promote.

A candidate that the gate does not pass is rolled back: the next iteration explores again from the
incumbent, with other prompts. Reinforcement learning from reflective feedback, arXiv 2403.14238.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import evaluation, gate, models
from harness.errors import UserError
from harness.evaluate import evaluate
from harness.evaluation import Scored
from harness.gate import alarms
from harness.judge.config import load_judging
from harness.leaderboard import Board
from harness.progress import say
from harness.render import markdown
from harness.schema import Decision, Item, Policy, Sample, digest
from harness.settings import default_policy
from harness.store import write_json, write_jsonl, write_text
from rlrf.checkpoint import Checkpoint, Engines
from rlrf.config import Config
from rlrf.explore import explore, pick
from rlrf.feedback import Judged, give_feedback
from rlrf.leaks import leaks
from rlrf.pairs import PairReport, make_pairs
from rlrf.reflect import Refinement, choose_drafts, reflect
from rlrf.result import GateVerdict, Iteration, RunResult, Sealed
from rlrf.run import Run, open_run
from rlrf.train import checkpoint, dpo
from tasks.plugin import Judge, Task


@dataclass(frozen=True)
class Lab:
    """What every step of a run works with."""

    config: Config
    tasks: dict[str, Task]
    policy: Policy
    anchor: Checkpoint
    run: Run
    engines: Engines
    judge: Judge | None
    board: Board
    name: str

    def seed(self, *place: str | int) -> int:
        """A seed of its own for each place in the run."""
        return int(digest([self.config.seed, *place])[:7], 16)

    def pick(self, split: str, size: int | None, turn: int) -> dict[str, list[Item]]:
        """The items of this turn, task by task: disjoint from other turns while they last."""
        return {
            task.name: pick(
                self.tasks[task.name],
                split,
                size or task.prompts,
                turn=turn,
                seed=self.config.seed,
                data=Path(task.data) if task.data else None,
            )
            for task in self.config.tasks
        }

    def held_out(self) -> list[Item]:
        """All that may be asked at the gate or under seal."""
        return [
            item
            for task in self.config.tasks
            for split in ("gate", "sealed")
            for item in self.tasks[task.name].items(split, Path(task.data) if task.data else None)
        ]


def train(config: Config, out: Path, *, fresh: bool = False) -> RunResult:
    """Improve `config.model` for `config.iterations` turns; `out` is the run's folder.

    A run that exists is resumed, `fresh` deletes it first. The sealed split is opened once, at
    the end, for M0 and every candidate.

    Raises:
        UserError: the configuration, the model or the folder cannot be used.
    """
    with open_lab(config, out, fresh) as lab:
        incumbent = lab.anchor
        iterations, made = [], [lab.anchor]
        for turn in range(1, config.iterations + 1):
            candidate, pairs, blocked = improve(lab, incumbent, turn)
            verdict = None
            if candidate is not None:
                verdict = meet_gate(lab, turn, candidate, incumbent)
                made.append(candidate)
            iterations.append(
                Iteration(
                    number=turn,
                    explored_by=incumbent.name,
                    candidate=f"M{turn}",
                    pairs=pairs,
                    blocked=blocked,
                    seconds=lab.run.seconds(f"iter_{turn}"),
                    gate=verdict,
                )
            )
            if candidate is not None and verdict is not None and verdict.promotion.promoted:
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
        write_json(out / "result.json", result)
    return result


@contextlib.contextmanager
def open_lab(config: Config, out: Path, fresh: bool) -> Iterator[Lab]:
    """What the run in `out` works with: all that can be refused is refused here."""
    judging = load_judging(Path(config.judge) if config.judge else None)
    plugins = {task.name: judging.task(task.name) for task in config.tasks}
    policy = config.gate.policy or default_policy({n: t.metrics for n, t in plugins.items()})
    _check_rules(policy, plugins)
    anchor = Checkpoint("M0", models.find(config.model, config.revision))
    with judging.open() as judge:
        common = {
            "config": config.identity,
            "model": anchor.digest,
            "tasks": {n: [t.version, t.judge_prompt, t.estimator] for n, t in plugins.items()},
            "judge": [judge.id, judge.digest] if judge else None,
            "code": evaluation.code_version(),
        }
        with open_run(out, common, fresh=fresh) as run:
            yield Lab(
                config=config,
                tasks=plugins,
                policy=policy,
                anchor=anchor,
                run=run,
                engines=Engines(config.engine),
                judge=judge,
                board=Board(Path(config.board) if config.board else out / "board"),
                name=digest(common)[:12],
            )


def improve(lab: Lab, policy: Checkpoint, turn: int) -> tuple[Checkpoint | None, PairReport, str]:
    """A candidate M`turn` from `policy`, with the report on its pairs.

    None where no pair was usable, or where the pairs must not be used: the last value says why.
    """
    config, run, at = lab.config, lab.run, f"iter_{turn}"
    asked = lab.pick("train", None, turn - 1)
    items = {item.digest: item for found in asked.values() for item in found}

    explored = run.records(
        f"{at}/explore",
        Sample,
        [policy, config.explore, list(items)],
        lambda: explore(
            lab.engines.load(policy), asked, lab.tasks, config.explore, lab.seed(turn, "explore")
        ),
    )
    judged = run.records(
        f"{at}/feedback",
        Judged,
        [explored],
        lambda: give_feedback(
            explored.records, items, lab.tasks, judge=lab.judge, critiqued=config.critiqued
        ),
    )
    drafts = choose_drafts(judged.records, lab.tasks, config.reflect.m, lab.seed(turn, "drafts"))
    refined = run.records(
        f"{at}/reflect",
        Refinement,
        [policy, config.reflect, judged],
        lambda: reflect(
            lab.engines.load(policy),
            drafts,
            items,
            lab.tasks,
            config.reflect,
            first_repeat=config.explore.n,
            seed=lab.seed(turn, "reflect"),
        ),
    )
    rejudged = run.records(
        f"{at}/reflect_feedback",
        Judged,
        [refined],
        lambda: give_feedback(
            [refinement.sample for refinement in refined.records],
            items,
            lab.tasks,
            judge=lab.judge,
            critiqued=config.critiqued,
            drafts=[refinement.draft for refinement in refined.records],
        ),
    )
    both = judged.records + rejudged.records
    pairs, report = make_pairs(both, lab.tasks, config.pairs, lab.seed(turn, "pairs"))

    def keep_pairs(folder: Path) -> None:
        write_jsonl(folder / "pairs.jsonl", pairs)
        write_json(folder / "report.json", report)

    paired = run.stage(f"{at}/pairs", [judged, rejudged, config.pairs], keep_pairs)
    say(f"iteration {turn}: {report.sentence()}")
    blocked = leaks(pairs, items, lab.held_out(), config.gate.overlap)
    if blocked:
        say(f"iteration {turn} is blocked: {blocked}")
    if not pairs or blocked:
        return None, report, blocked

    def fit(folder: Path) -> None:
        lab.engines.release()
        dpo(
            pairs,
            policy,
            config.train,
            adapter=config.adapter,
            device=config.engine,
            seed=lab.seed(turn, "train"),
            out=folder,
        )

    trained = run.stage(f"{at}/train", [policy, paired, config.train, config.adapter], fit)
    return checkpoint(trained.folder, f"M{turn}", policy), report, ""


def meet_gate(lab: Lab, turn: int, candidate: Checkpoint, incumbent: Checkpoint) -> GateVerdict:
    """Measure candidate, incumbent and anchor on one fresh slice of the gate split, and decide."""
    at = f"iter_{turn}"
    asked = lab.pick("gate", lab.config.gate.slice, turn - 1)
    contestants = {model.name: model for model in (lab.anchor, incumbent, candidate)}
    scored = {
        name: measure(lab, f"{at}/evaluate_{name}", model, "gate", asked)
        for name, model in contestants.items()
    }
    vs_incumbent = decide(lab, scored[incumbent.name], scored[candidate.name])
    vs_anchor = decide(lab, scored[lab.anchor.name], scored[candidate.name])
    promotion = gate.promote(vs_incumbent, vs_anchor)
    verdict = GateVerdict(vs_incumbent=vs_incumbent, vs_anchor=vs_anchor, promotion=promotion)
    write_json(lab.run.folder / at / "gate.json", verdict)
    write_text(lab.run.folder / at / "gate.md", markdown.decision(vs_incumbent))
    lab.board.add_decision(vs_incumbent, lab.name, "incumbent")
    lab.board.add_decision(vs_anchor, lab.name, "anchor")
    lab.board.add_promotion(promotion, candidate.name, incumbent.name, lab.name)
    outcome = "is promoted" if promotion.promoted else f"is rolled back, {incumbent.name} stays"
    say(f"iteration {turn}: {candidate.name} {outcome} ({'; '.join(promotion.reasons)})")
    return verdict


def decide(lab: Lab, baseline: Mapping[str, Scored], candidate: Mapping[str, Scored]) -> Decision:
    """The gate's decision, with the alarms that the answers raise."""
    decision = gate.decide(lab.policy, baseline, candidate)
    return gate.raise_alarms(decision, alarms.examine(baseline, candidate))


def measure(
    lab: Lab, place: str, model: Checkpoint, split: str, asked: Mapping[str, list[Item]]
) -> dict[str, Scored]:
    """Evaluate `model` on the items `asked` of each task, and put it on the board."""
    config = lab.config

    def run_evaluation(folder: Path) -> None:
        for task in config.tasks:
            evaluate(
                lab.engines.load(model),
                [lab.tasks[task.name]],
                split=split,
                indices={task.name: [item.index for item in asked[task.name]]},
                data=Path(task.data) if task.data else None,
                judge=lab.judge,
                out=folder,
                seed=config.seed,
            )

    digests = [item.digest for items in asked.values() for item in items]
    stage = lab.run.stage(place, [model, split, digests], run_evaluation)
    scored = evaluation.load(stage.folder)
    for one in scored.values():
        lab.board.add_evaluation(one, model.name, lab.name)
    return scored


def open_sealed(lab: Lab, models: list[Checkpoint]) -> list[Sealed]:
    """Measure every model on the sealed split, against the first of them."""
    asked = lab.pick("sealed", lab.config.gate.sealed, 0)
    scored = [measure(lab, f"sealed/{m.name}", m, "sealed", asked) for m in models]
    found = []
    for model, evaluations in zip(models, scored, strict=True):
        decision = None
        if model is not models[0]:
            decision = decide(lab, scored[0], evaluations)
            lab.board.add_decision(decision, lab.name, "sealed")
        metrics = {
            f"{task} {name}": value
            for task, one in evaluations.items()
            for name, value in one.evaluation.metrics.items()
        }
        found.append(Sealed(name=model.name, metrics=metrics, vs_anchor=decision))
    return found


def _check_rules(policy: Policy, plugins: Mapping[str, Task]) -> None:
    """A rule on a metric that is not there is found before the first hour, not after it."""
    for rule in policy.rules:
        known = [metric.name for metric in plugins[rule.task].metrics]
        if rule.metric not in known:
            near = difflib.get_close_matches(rule.metric, known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"It has {', '.join(known)}."
            raise UserError(
                f"gate.policy has a rule on {rule.metric}, which {rule.task} does not measure. "
                + hint
            )
