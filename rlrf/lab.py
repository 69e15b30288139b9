"""What a run works with: opened, checked and locked before anything is trained."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness import evaluation, models
from harness.errors import UserError
from harness.judge.config import load_judging
from harness.leaderboard import Board
from harness.schema import Item, Policy, digest
from harness.settings import default_policy
from rlrf.checkpoint import Checkpoint, Engines
from rlrf.config import Config
from rlrf.explore import pick
from rlrf.feedback import Critic, by_judge, by_score
from rlrf.reward_model.source import Rewarder, open_rewarder
from rlrf.run import Run, open_run
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
    critics: Mapping[str, Critic]
    rewarder: Rewarder | None
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
class Turn:
    """One iteration, from the policy that it starts from."""

    lab: Lab
    policy: Checkpoint
    number: int

    @property
    def place(self) -> str:
        """Its folder in the run."""
        return f"iter_{self.number}"

    @property
    def candidate(self) -> str:
        """The name of what it trains."""
        return f"M{self.number}"

    def seed(self, place: str) -> int:
        return self.lab.seed(self.number, place)

    @cached_property
    def asked(self) -> dict[str, list[Item]]:
        """The train items of this turn, task by task."""
        return self.lab.pick("train", None, self.number - 1)

    @cached_property
    def items(self) -> dict[str, Item]:
        """The same by digest."""
        return {item.digest: item for found in self.asked.values() for item in found}


@contextlib.contextmanager
def open_lab(config: Config, out: Path, fresh: bool) -> Iterator[Lab]:
    """What the run in `out` works with: all that can be refused is refused here.

    Raises:
        UserError: the configuration, a model or the folder cannot be used.
    """
    judging = load_judging(Path(config.judge) if config.judge else None)
    plugins = {task.name: judging.task(task.name) for task in config.tasks}
    policy = config.gate.policy or default_policy({n: t.metrics for n, t in plugins.items()})
    _check_rules(policy, plugins)
    anchor = Checkpoint("M0", models.find(config.model, config.revision))
    rewarder = open_rewarder(config.reward, config.engine) if config.reward else None
    with judging.open() as judge:
        common = {
            "config": config.identity,
            "model": anchor.digest,
            "tasks": {n: [t.version, t.judge_prompt, t.estimator] for n, t in plugins.items()},
            "judge": [judge.id, judge.digest] if judge else None,
            "reward": rewarder.digest if rewarder else None,
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
                critics=critics(config, plugins, judge),
                rewarder=rewarder,
                board=Board(Path(config.board) if config.board else out / "board"),
                name=digest(common)[:12],
            )


def critics(config: Config, plugins: Mapping[str, Task], judge: Judge | None) -> dict[str, Critic]:
    """Who says what is wrong with answers, where that is not the task itself."""
    found: dict[str, Critic] = {}
    for task in config.tasks:
        if task.feedback == "critique" and judge is not None:
            found[task.name] = by_judge(judge)
        elif task.feedback == "score":
            found[task.name] = by_score(plugins[task.name])
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
