"""What a run works with: opened, checked and locked before anything is trained."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from harness.board import Board
from harness.core.errors import UserError
from harness.core.schema import Item, Policy, digest
from harness.core.text import did_you_mean
from harness.engines import model_folder
from harness.evals import evaluation
from harness.gate.clusters import require_clusters
from harness.gate.policy import default_policy
from harness.judges import critique
from harness.judges.config import load_judging
from rlrf import feedback
from rlrf.artefacts import open_artefacts
from rlrf.checkpoint import Checkpoint, Engines
from rlrf.code_digests import Code, source, tasks_code
from rlrf.config import Config
from rlrf.explore import pick
from rlrf.feedback import Critic, by_judge, by_model, by_score
from rlrf.models import feedback as feedback_model
from rlrf.models.feedback.model import FeedbackModel
from rlrf.models.reward.source import Rewarder, open_rewarder
from rlrf.objectives.base import check_reporters
from rlrf.objectives.launch import check_launch
from rlrf.rlmec.source import RewriterSource, open_rewriter
from rlrf.run import Run, holds_run, open_run, refuse_strangers_in_run
from tasks.task import Judge, Task


@dataclass(frozen=True)
class Services:
    """What every stage of an iteration works with; `run` keeps what it makes."""

    config: Config
    tasks: dict[str, Task]
    run: Run
    engines: Engines
    judge: Judge | None
    critics: Mapping[str, Critic]
    feedback_model: FeedbackModel | None
    rewarder: Rewarder | None
    rewriter: RewriterSource | None

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

    @cached_property
    def tasks_code(self) -> Code:
        """Digests of the code of the tasks."""
        return tasks_code(self.tasks)

    @cached_property
    def feedback_code(self) -> Code:
        """Digests of the code and the words that feedback is given by."""
        asked = {task.feedback for task in self.config.tasks}
        modules = [feedback]
        if "critique" in asked or "model" in asked:
            modules.append(critique)
        if "model" in asked:
            modules.append(feedback_model)
        return {**self.tasks_code, **source("the code of feedback", *modules)}

    @cached_property
    def held_out(self) -> list[Item]:
        """All that may be asked at the gate or under seal."""
        return [
            item
            for task in self.config.tasks
            for split in ("gate", "sealed")
            for item in self.tasks[task.name].items(split, Path(task.data) if task.data else None)
        ]


@dataclass(frozen=True)
class RunContext(Services):
    """What a run works with: measured by `policy`, against the `anchor`, recorded on `board`."""

    policy: Policy
    anchor: Checkpoint
    board: Board
    name: str


@dataclass(frozen=True)
class IterationContext:
    """One iteration, from the policy that it starts from."""

    lab: Services
    policy: Checkpoint
    number: int
    limit: int | None = None  # prompts a task, for a dry run

    @property
    def place(self) -> str:
        """Its folder in the run."""
        return f"iter_{self.number}"

    @property
    def candidate(self) -> str:
        """The name of what it trains."""
        return f"M{self.number}"

    @property
    def logs(self) -> Path:
        """Where what `train.report_to` names writes: not in a stage, as it holds clocks."""
        return self.lab.run.folder / "logs" / self.place

    @property
    def references(self) -> Path:
        """What references gave to pairs: not in a stage, as it outlives one that is cut off."""
        return self.lab.run.folder / "references"

    def seed(self, place: str) -> int:
        return self.lab.seed(self.number, place)

    @cached_property
    def asked(self) -> dict[str, list[Item]]:
        """The train items of this turn, task by task."""
        picked = self.lab.pick("train", None, self.number - 1)
        return {task: items[: self.limit] for task, items in picked.items()}

    @cached_property
    def items(self) -> dict[str, Item]:
        """The same by digest."""
        return {item.digest: item for found in self.asked.values() for item in found}


@contextlib.contextmanager
def open_context(config: Config, out: Path, fresh: bool) -> Iterator[RunContext]:
    """What the run in `out` works with: all that can be refused is refused here.

    Raises:
        UserError: the configuration, a model or the folder cannot be used.
    """
    board = Board(Path(config.board) if config.board else out / "board")
    if holds_run(out) and fresh:
        refuse_strangers_in_run(out)
    board.check_place()
    with open_tools(config) as tools:
        policy = choose_gate_policy(config, tools.tasks)
        check_reporters(config.train)
        check_launch(config.train, config.engine)
        anchor = Checkpoint("M0", model_folder.find(config.model, config.revision))
        judge, feedback_model, rewarder = tools.judge, tools.feedback_model, tools.rewarder
        common = {
            "config": config.identity,
            "model": anchor.digest,
            "tasks": {n: [t.version, t.judge_prompt, t.estimator] for n, t in tools.tasks.items()},
            "judge": [judge.id, judge.digest] if judge else None,
            "feedback_model": feedback_model.digest if feedback_model else None,
            "reward": rewarder.digest if rewarder else None,
            "code": evaluation.code_version(),
        }
        if tools.rewriter is not None:
            common["rewriter"] = tools.rewriter.digest
        kept = open_artefacts(config.artefacts) if config.artefacts else None
        with open_run(out, common, fresh=fresh, artefacts=kept) as run:
            yield RunContext(
                **{field.name: getattr(tools, field.name) for field in fields(Services)}
                | {"run": run},
                policy=policy,
                anchor=anchor,
                board=board,
                name=digest(common)[:12],
            )


@contextlib.contextmanager
def open_tools(config: Config, *, feedback: bool = True) -> Iterator[Services]:
    """What stages outside a run work with: what they make is kept until the block ends.

    Without `feedback` neither the judge nor feedback and reward models nor the rewriter are opened.

    Raises:
        UserError: the configuration cannot be used.
    """
    judging = load_judging(Path(config.judge) if config.judge else None)
    plugins = {task.name: judging.task(task.name) for task in config.tasks}
    with contextlib.ExitStack() as opened:
        rank = config.adapter.r if config.adapter else 0
        engines = Engines(config.engine, rank, config.executor)
        opened.callback(engines.close)
        judge = None
        if feedback:
            judge = opened.enter_context(judging.open(open_engine=engines.open_judge))
        rewarded = config.reward if feedback else None
        model = open_feedback_model(config, engines) if feedback else None
        yield Services(
            config=config,
            tasks=plugins,
            run=Run(Path(opened.enter_context(tempfile.TemporaryDirectory())), {}),
            engines=engines,
            judge=judge,
            critics=critics(config, plugins, judge, model),
            feedback_model=model,
            rewarder=open_rewarder(rewarded, config.engine) if rewarded else None,
            rewriter=open_rewriter(config, plugins, judge) if feedback else None,
        )


def open_feedback_model(config: Config, engines: Engines) -> FeedbackModel | None:
    """The feedback model that a task of the run asks for, loaded by `engines` when it is needed.

    Raises:
        UserError: there is no such model, or it is no feedback model.
    """
    wanted = any(task.feedback == "model" for task in config.tasks)
    if config.feedback_model is None or not wanted:
        return None
    checkpoint = Checkpoint("the feedback model", model_folder.find(config.feedback_model))
    return FeedbackModel(checkpoint.model, lambda: engines.load(checkpoint))


def critics(
    config: Config, plugins: Mapping[str, Task], judge: Judge | None, model: FeedbackModel | None
) -> dict[str, Critic]:
    """Who says what is wrong with answers, where that is not the task itself."""
    found: dict[str, Critic] = {}
    for task in config.tasks:
        if task.feedback == "critique" and judge is not None:
            found[task.name] = by_judge(judge, plugins[task.name])
        elif task.feedback == "model" and model is not None:
            found[task.name] = by_model(model, plugins[task.name])
        elif task.feedback == "score":
            found[task.name] = by_score(plugins[task.name])
    return found


def choose_gate_policy(config: Config, plugins: Mapping[str, Task]) -> Policy:
    """Return the policy of the run's gate: its own or the default, with its promotion threshold.

    Raises:
        UserError: a rule names a metric that is not measured, or a cluster that items do not have.
    """
    policy = config.gate.policy
    if policy is None:
        policy = default_policy({name: task.metrics for name, task in plugins.items()})
    if config.gate.promotion is not None:
        policy = policy.model_copy(update={"promotion": config.gate.promotion})
    check_rules(policy, plugins)
    clustered = {rule.task for rule in policy.rules if policy.cluster_of(rule)}
    data = {task.name: Path(task.data) if task.data else None for task in config.tasks}
    require_clusters(
        policy, {name: plugins[name].items("gate", data[name]) for name in sorted(clustered)}
    )
    return policy


def check_rules(policy: Policy, plugins: Mapping[str, Task]) -> None:
    """A rule on a metric that is not there is found before the first hour, not after it."""
    for rule in policy.rules:
        known = [metric.name for metric in plugins[rule.task].metrics]
        if rule.metric not in known:
            hint = did_you_mean(rule.metric, known) or f" It has {', '.join(known)}."
            raise UserError(
                f"gate.policy has a rule on {rule.metric}, which {rule.task} does not "
                f"measure.{hint}"
            )
