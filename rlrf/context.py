"""Open, check and lock what a run works with before anything is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.board import Board
from harness.core.errors import UserError
from harness.core.schema import Item, Policy, digest
from harness.core.text import did_you_mean
from harness.engines import model_folder
from harness.engines.model_folder import Checkpoint
from harness.engines.open import EngineLoader
from harness.evals.scoring import code_version
from harness.gate.clusters import require_clusters
from harness.gate.policy import default_policy
from harness.gate.subgroups import require_subgroups
from harness.judges import critique
from harness.judges.config import Judging, load_judging
from rlrf import feedback
from rlrf.artefacts import open_artefacts
from rlrf.code_digests import Code, source, tasks_code
from rlrf.config import Config, TaskConfig
from rlrf.feedback import Critic, judge_critic, model_critic, score_critic
from rlrf.guards import OpenGuard, Part, check_chat_template, guarded_policy, open_guards
from rlrf.models import feedback as feedback_model
from rlrf.models.feedback.model import FeedbackModel
from rlrf.models.reward.rewarder import Rewarder, open_rewarder
from rlrf.objectives.base import check_reporters
from rlrf.objectives.launch import check_launch
from rlrf.rlmec.rewriter import RewriterSource, open_rewriter
from rlrf.run import Run, holds_run, iteration_name, open_run, refuse_strangers_in_run
from rlrf.trainable import check_trainable
from tasks import including
from tasks.task import Judge, Task


@dataclass(frozen=True)
class Services:
    """The benchmarks, engines, judge and models of a run; what it makes is `rlrf.run.Run`."""

    config: Config
    tasks: dict[str, Task]
    engines: EngineLoader
    judge: Judge | None
    critics: Mapping[str, Critic]
    feedback_model: FeedbackModel | None
    rewarder: Rewarder | None
    rewriter: RewriterSource | None
    judging: Judging

    def seed(self, *place: str | int) -> int:
        """Return a seed of its own for each place in the run."""
        return int(digest([self.config.seed, *place])[:7], 16)

    def pick_items(self, split: str, size: int | None, rotation: int) -> dict[str, list[Item]]:
        """Pick items of every task, by default as many as `prompts`; see `pick_from_task`."""
        return {
            task.name: pick_from_task(
                self.tasks[task.name],
                split,
                size or task.prompts,
                rotation=rotation,
                seed=self.config.seed,
                data=task.data_path,
            )
            for task in self.config.tasks
        }

    @cached_property
    def guards(self) -> dict[str, OpenGuard]:
        """The guards of the run, opened at first use.

        Raises:
            UserError: a guard cannot be used.
        """
        return open_guards(self.config, self.judging)

    def pick_guard_items(self, part: Part, rotation: int) -> dict[str, list[Item]]:
        """Pick items of one part of every guard: for decisions, or sealed ones."""
        return {
            name: pick_from_guard(guard, part, self.config, rotation)
            for name, guard in self.guards.items()
        }

    @cached_property
    def guards_code(self) -> Code:
        """Digests of the code and prompts of the guards."""
        return {name: code for guard in self.guards.values() for name, code in guard.code.items()}

    @cached_property
    def tasks_code(self) -> Code:
        """Digests of the tasks' code."""
        return tasks_code(self.tasks)

    @cached_property
    def feedback_code(self) -> Code:
        """Digests of the code and the prompts that produce feedback."""
        kinds = {task.feedback for task in self.config.tasks}
        modules = [feedback]
        if "critique" in kinds or "model" in kinds:
            modules.append(critique)
        if "model" in kinds:
            modules.append(feedback_model)
        return {**self.tasks_code, **source("the code of feedback", *modules)}

    @cached_property
    def held_out(self) -> list[Item]:
        """All items of the gate and sealed splits, and of the guards."""
        return [
            item
            for task in self.config.tasks
            for split in ("gate", "sealed")
            for item in self.tasks[task.name].items(split, task.data_path)
        ] + [item for guard in self.guards.values() for item in guard.held_out]


@dataclass(frozen=True)
class RunContext:
    """An open run: its services and folder, the gate policy, the frozen model M0, the board."""

    services: Services
    run: Run
    gate_policy: Policy
    m0: Checkpoint
    board: Board
    run_id: str

    @property
    def config(self) -> Config:
        return self.services.config

    def iteration(self, number: int, policy_model: Checkpoint) -> IterationContext:
        """Return the context of iteration `number` (from 1), which starts from `policy_model`."""
        return IterationContext(self.services, self.run, policy_model, number)


@dataclass(frozen=True)
class IterationContext:
    """One iteration of a run, and the policy model that it starts from."""

    services: Services
    run: Run
    policy_model: Checkpoint
    number: int
    limit: int | None = None  # prompts per task, for a dry run

    @property
    def config(self) -> Config:
        return self.services.config

    @property
    def name(self) -> str:
        """Name of its folder in the run."""
        return iteration_name(self.number)

    @property
    def candidate_name(self) -> str:
        return f"M{self.number}"

    @property
    def logs(self) -> Path:
        """Where `train.report_to` writes: outside the stages, because logs hold clock times."""
        return self.run.folder / "logs" / self.name

    @property
    def references(self) -> Path:
        """Where reference log-probabilities are kept: they outlive an interrupted stage."""
        return self.run.folder / "references"

    def seed(self, purpose: str) -> int:
        return self.services.seed(self.number, purpose)

    @cached_property
    def items_by_task(self) -> dict[str, list[Item]]:
        """The train items of this iteration."""
        picked = self.services.pick_items("train", None, self.number - 1)
        return {task: items[: self.limit] for task, items in picked.items()}

    @cached_property
    def items(self) -> dict[str, Item]:
        """The train items of this iteration by digest."""
        return {item.digest: item for items in self.items_by_task.values() for item in items}


def rotate(count: int, size: int, rotation: int, seed: int, name: str) -> list[int]:
    """Pick `size` of the positions below `count`: others for each `rotation` (from 0), in order.

    One permutation per (`seed`, `name`) is cut into parts of `size`, so rotations are disjoint
    until all positions were used; then it starts again from the front.
    """
    shuffled = sorted(range(count), key=lambda position: digest([seed, name, position]))
    size = min(size, count)
    return sorted(shuffled[(rotation * size + i) % count] for i in range(size))


def pick_from_task(
    task: Task, split: str, size: int, *, rotation: int, seed: int, data: Path | None = None
) -> list[Item]:
    """Pick `size` items of a split of `task`, by `rotate`.

    Raises:
        UserError: the task has no such split, or the split is empty.
    """
    if split not in task.splits:
        raise UserError(
            f"{task.name} has no {split} split (it has {', '.join(task.splits)}), "
            "so it cannot be trained on; choose another task."
        )
    items = task.items(split, data)
    if not items:
        raise UserError(f"The {split} split of {task.name} is empty.")
    return [items[i] for i in rotate(len(items), size, rotation, seed, f"{task.name}/{split}")]


def guard_size(guard: OpenGuard, part: Part, config: Config) -> int:
    """Return how many items of a part of a guard are asked for."""
    return config.gate.sealed if part == "sealed" else guard.settings.items or config.gate.slice


def pick_from_guard(guard: OpenGuard, part: Part, config: Config, rotation: int) -> list[Item]:
    """Pick items of a part of a guard by `rotate`; always the same ones if it does not rotate."""
    pool, size = guard.pools[part], guard_size(guard, part, config)
    turn = rotation if guard.settings.rotate else 0
    return [pool[i] for i in rotate(len(pool), size, turn, config.seed, f"{guard.name}/{part}")]


@contextlib.contextmanager
def open_context(config: Config, out: Path, fresh: bool) -> Iterator[RunContext]:
    """Open, check and lock the run of `config` in the folder `out`.

    Everything that can be refused is refused here, before anything is generated or trained.

    Raises:
        UserError: the configuration, a model or the folder cannot be used.
    """
    board = Board(Path(config.board) if config.board else out / "board")
    if holds_run(out) and fresh:
        refuse_strangers_in_run(out)
    board.check_place()
    with open_services(config) as services:
        m0 = Checkpoint("M0", model_folder.find(config.model, config.revision))
        check_trainable(config, services.tasks, m0.model)
        gate_policy = choose_gate_policy(config, services.tasks, services.guards)
        check_chat_template(services.guards.values(), m0.model)
        check_reporters(config.train)
        check_launch(config.train, config.engine)
        common = _identity(services, m0)
        artefacts = open_artefacts(config.artefacts) if config.artefacts else None
        with open_run(out, common, fresh=fresh, artefacts=artefacts) as run:
            yield RunContext(services, run, gate_policy, m0, board, digest(common)[:12])


def _identity(services: Services, m0: Checkpoint) -> dict[str, Any]:
    """Describe what every stage of the run depends on; stored as `run.json`."""
    judge, model, rewarder = services.judge, services.feedback_model, services.rewarder
    identity = {
        "config": services.config.identity,
        "model": m0.digest,
        "tasks": {n: [t.version, t.judge_prompt, t.estimator] for n, t in services.tasks.items()},
        "judge": [judge.id, judge.digest] if judge else None,
        "feedback_model": model.digest if model else None,
        "reward": rewarder.digest if rewarder else None,
        "code": code_version(),
    }
    if services.guards:
        identity["guards"] = {name: guard.identity for name, guard in services.guards.items()}
    if services.rewriter is not None:
        identity["rewriter"] = services.rewriter.digest
    return identity


@contextlib.contextmanager
def open_services(config: Config, *, feedback: bool = True) -> Iterator[Services]:
    """Open the services that `config` names, and close them at the end of the block.

    Without `feedback` the judge, feedback and reward models and the rewriter stay closed.

    Raises:
        UserError: the configuration cannot be used.
    """
    with contextlib.ExitStack() as opened:
        opened.enter_context(including(config.include_paths))
        judging = load_judging(Path(config.judge) if config.judge else None)
        tasks = {task.name: load_task(task, judging) for task in config.tasks}
        rank = config.adapter.r if config.adapter else 0
        engines = EngineLoader(config.engine.spec(rank=rank), config.executor.cluster_options())
        opened.callback(engines.close)
        judge = model = rewarder = rewriter = None
        if feedback:
            judge = opened.enter_context(judging.open(open_engine=engines.open_judge))
            model = open_feedback_model(config, engines)
            rewarder = open_rewarder(config.reward, config.engine) if config.reward else None
            rewriter = open_rewriter(config, tasks, judge)
        critics = _open_critics(config, tasks, judge, model)
        yield Services(config, tasks, engines, judge, critics, model, rewarder, rewriter, judging)


def load_task(settings: TaskConfig, judging: Judging) -> Task:
    """Load a task as the configuration and the judging file say.

    Raises:
        UserError: as `Judging.task`.
    """
    task = judging.task(settings.name)
    if settings.max_tokens is None:
        return task
    return replace(task, generation={**task.generation, "max_tokens": settings.max_tokens})


def open_feedback_model(config: Config, engines: EngineLoader) -> FeedbackModel | None:
    """Open the feedback model if a task needs it; `engines` loads it at first use.

    Raises:
        UserError: the model does not exist, or is not a feedback model.
    """
    wanted = any(task.feedback == "model" for task in config.tasks)
    if config.feedback_model is None or not wanted:
        return None
    checkpoint = Checkpoint("the feedback model", model_folder.find(config.feedback_model))
    return FeedbackModel(checkpoint.model, lambda: engines.load(checkpoint))


def _open_critics(
    config: Config, tasks: Mapping[str, Task], judge: Judge | None, model: FeedbackModel | None
) -> dict[str, Critic]:
    """Return task -> critic, for tasks whose feedback is not their own."""
    critics: dict[str, Critic] = {}
    for task in config.tasks:
        if task.feedback == "critique" and judge is not None:
            critics[task.name] = judge_critic(judge, tasks[task.name])
        elif task.feedback == "model" and model is not None:
            critics[task.name] = model_critic(model.critiques, tasks[task.name])
        elif task.feedback == "score":
            critics[task.name] = score_critic(tasks[task.name])
    return critics


def choose_gate_policy(
    config: Config, tasks: Mapping[str, Task], guards: Mapping[str, OpenGuard]
) -> Policy:
    """Return the gate policy of the run, its own or the default, with its promotion rule.

    The policy has a rule for every guard.

    Raises:
        UserError: a rule names a metric that no task measures, or a cluster or tag that items lack;
            or a guard cannot be gated as the configuration says.
    """
    policy = config.gate.policy
    if policy is None:
        policy = default_policy({name: task.metrics for name, task in tasks.items()})
    if config.gate.promotion is not None:
        policy = policy.model_copy(update={"promotion": config.gate.promotion})
    policy = guarded_policy(policy, config, guards)
    _check_rules(
        policy,
        {name: [metric.name for metric in task.metrics] for name, task in tasks.items()}
        | {name: list(guard.metrics) for name, guard in guards.items()},
    )
    grouped = {rule.task for rule in policy.rules if policy.cluster_of(rule) or rule.every}
    data = {task.name: task.data_path for task in config.tasks}
    items = {
        name: guards[name].pools["gate"]
        if name in guards
        else tasks[name].items("gate", data[name])
        for name in sorted(grouped)
    }
    require_clusters(policy, items)
    require_subgroups(policy, items)
    return policy


def _check_rules(policy: Policy, metrics: Mapping[str, list[str]]) -> None:
    """Refuse rules on unknown metrics now rather than after an hour of training."""
    for rule in policy.rules:
        known = metrics[rule.task]
        if rule.metric not in known:
            hint = did_you_mean(rule.metric, known) or f" It has {', '.join(known)}."
            raise UserError(
                f"gate.policy has a rule on {rule.metric}, which {rule.task} does not "
                f"measure.{hint}"
            )
