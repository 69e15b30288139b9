"""Guards: benchmarks that a run measures and gates, and never trains on.

The items of a guard are divided before the run: the gate part serves decisions, the sealed part is
opened once, at the end. Everything that can be refused is refused when the guards are opened, so
that no run fails at a guard after an hour of training.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tasks
from harness.core.errors import UserError
from harness.core.schema import Item, Metric, Policy, Rule, digest
from harness.core.scored import ScoredEvaluation
from harness.core.text import did_you_mean, listed, plural
from harness.engines import Engine
from harness.evals.evaluate import EvalOptions, evaluate
from harness.evals.lm_eval_metrics import base
from harness.evals.stock_tasks import StockTask, find_benchmarks
from harness.judges.config import Judging
from rlrf.code_digests import Code, tasks_code
from rlrf.config import Config
from rlrf.guard_config import Guard
from rlrf.stock_guards import (
    describe,
    first_documents,
    measured_metrics,
    prompts,
    questions,
    with_fixed_kinds,
)
from tasks.data import fold, halves
from tasks.task import Judge, Task

Part = Literal["gate", "sealed"]
PARTS: tuple[Part, ...] = ("gate", "sealed")
MARGIN_SHARE = 0.05  # of a metric's range: the default margin, as `harness.gate.policy` has it


@dataclass(frozen=True)
class OpenGuard:
    """The benchmark of a guard, with its items divided.

    Attributes:
        settings: the guard, or the first of several guards of one benchmark.
        metrics: those that the gate can compare.
        not_compared: those that are measured, but have no value per item.
        pools: the items of each part.
    """

    settings: Guard
    benchmark: Task | StockTask
    metrics: Mapping[str, Metric]
    not_compared: Sequence[str]
    pools: Mapping[Part, list[Item]]

    @property
    def name(self) -> str:
        return self.settings.task

    @property
    def code(self) -> Code:
        """Digests of the code and the prompts that shape the guard's evaluations."""
        if isinstance(self.benchmark, Task):
            return tasks_code({self.name: self.benchmark})
        return {f"lm-eval's task {self.name}": digest(describe(self.benchmark))}

    @property
    def identity(self) -> list[Any]:
        """Return what results depend on besides the configuration."""
        items = {part: [item.digest for item in pool] for part, pool in self.pools.items()}
        task = self.benchmark
        if isinstance(task, Task):
            return [task.version, task.judge_prompt, task.estimator, digest(items)]
        return [digest(items)]

    @cached_property
    def held_out(self) -> list[Item]:
        """All items, with each text by which training examples may repeat them."""
        items = [item for pool in self.pools.values() for item in pool]
        if isinstance(self.benchmark, Task):
            return items
        texts = prompts(self.benchmark, items)
        rendered = [
            item.model_copy(update={"prompt": texts[item.index]})
            for item in items
            if texts[item.index] != item.prompt
        ]
        return items + rendered

    def shortage(self, asked: int, sealed: int, iterations: int) -> list[str]:
        """Say where the guard has fewer items than a run of so many iterations asks for."""
        gate, rest = (len(self.pools[part]) for part in PARTS)
        said = []
        if gate < asked:
            said.append(f"{gate:,} items can decide, not {asked:,}: all are taken")
        elif self.settings.rotate and gate < asked * iterations:
            said.append(f"its items are asked again after iteration {gate // asked}")
        if rest < sealed:
            said.append(f"{rest:,} items are sealed, not {sealed:,}: all are taken")
        return said

    def reuse(self, measured: Iterable[Path], out: Path) -> None:
        """Copy the model's evaluation in an earlier iteration to `out`, if its items are the same.

        `measured` are folders of evaluations of the model.
        """
        for folder in measured:
            if not (self.settings.rotate or (out / self.name).exists()):
                shutil.copytree(folder / self.name, out / self.name)

    def evaluate(
        self,
        engine: Engine,
        part: Part,
        items: Sequence[Item],
        *,
        seed: int,
        judge: Judge | None,
        out: Path,
    ) -> ScoredEvaluation:
        """Evaluate the engine's model on `items`, which are of one part.

        The folder `out` keeps what an interrupted evaluation resumes from. An equal evaluation in
        it is not made again.

        Raises:
            UserError: as `harness.evals.evaluate.evaluate`.
        """
        settings, task = self.settings, self.benchmark
        options = EvalOptions(
            split=_split(task, part) if isinstance(task, Task) else None,
            indices={self.name: [item.index for item in items]},
            data=Path(settings.data) if settings.data else None,
            num_fewshot=settings.num_fewshot,
            apply_chat_template=settings.apply_chat_template,
            seed=seed,
        )
        scored = evaluate(engine, [task], options, judge=judge, out=out)[self.name]
        return scored if isinstance(task, Task) else with_fixed_kinds(scored)


def open_guards(config: Config, judging: Judging) -> dict[str, OpenGuard]:
    """Open the guards of a configuration: task -> guard. Plugins are found as `tasks.including`.

    Raises:
        UserError: there is no such benchmark, its data cannot be had, it has no metric that the
            gate can compare, or too few items.
    """
    guards: dict[str, OpenGuard] = {}
    for settings in config.guards:
        if settings.task not in guards:
            guards[settings.task] = open_guard(settings, config, judging)
    return guards


def open_guard(settings: Guard, config: Config, judging: Judging) -> OpenGuard:
    """Open one guard of a configuration; see `open_guards`.

    Raises:
        UserError: as `open_guards`.
    """
    try:
        return _open(settings, config, judging)
    except UserError as error:
        raise UserError(f"The guard {settings.task} cannot be used. {error}") from error


def _open(settings: Guard, config: Config, judging: Judging) -> OpenGuard:
    benchmark = _find(settings, config, judging)
    not_compared: Sequence[str] = ()
    if isinstance(benchmark, Task):
        metrics = {metric.name: metric for metric in benchmark.metrics}
    elif settings.data is not None:
        raise UserError("It is a task of lm-eval, whose YAML names its data: leave out 'data'.")
    else:
        metrics, not_compared = measured_metrics(
            benchmark, settings.num_fewshot, settings.apply_chat_template
        )
    pools = _divide(benchmark, settings, config.seed)
    if not all(pools.values()):
        total = sum(map(len, pools.values()))
        raise UserError(
            f"It has {total} different {plural('item', total)}, and at least 2 are needed: one "
            "for decisions, one to measure at the end. Raise its limit, or leave the guard out."
        )
    return OpenGuard(settings, benchmark, metrics, not_compared, pools)


def check_chat_template(guards: Iterable[OpenGuard], model: Path) -> None:
    """Check that the model in the folder `model` has the chat template that guards ask for.

    Raises:
        UserError: it has none.
    """
    from harness.engines.loading import load_tokenizer

    asking = [guard.name for guard in guards if guard.settings.apply_chat_template]
    if asking and load_tokenizer(model).chat_template is None:
        raise UserError(
            f"The guard {asking[0]} has apply_chat_template: true, and the model in {model} has no "
            "chat template: leave it out."
        )


def guarded_policy(policy: Policy, config: Config, guards: Mapping[str, OpenGuard]) -> Policy:
    """Return the gate policy with a rule for each guard, which is marked as one.

    Rules that the policy has for a guard's task stay as they are, except for the mark.

    Raises:
        UserError: a guard's metric does not exist, has no value per item or has no known range,
            or its margin is not below that range.
    """
    if not guards:
        return policy
    written = {rule.task for rule in policy.rules}
    rules = [
        rule.model_copy(update={"guard": True}) if rule.task in guards else rule
        for rule in policy.rules
    ]
    added = [rule for guard in guards.values() for rule in guard_rules(guard, config)]
    added = [rule for rule in added if rule.task not in written]
    if policy.cluster is not None and added:  # it names a tag of the items of the written rules
        rules = [rule.model_copy(update={"cluster": policy.cluster_of(rule)}) for rule in rules]
        policy = policy.model_copy(update={"cluster": None})
    return policy.model_copy(update={"rules": [*rules, *added]})


def guard_rules(guard: OpenGuard, config: Config) -> list[Rule]:
    """Return the rules that the guards of one task in the configuration stand for.

    Raises:
        UserError: as `guarded_policy`.
    """
    rules: dict[str, Rule] = {}
    for settings in config.guards:
        if settings.task == guard.name:
            rule = _rule(settings, guard)
            if rule.metric in rules:
                raise UserError(
                    f"{guard.name} is guarded twice by {rule.metric}: leave one of the two out."
                )
            rules[rule.metric] = rule
    return list(rules.values())


def choose_metric(guard: OpenGuard, wanted: str | None) -> Metric:
    """Return the metric called `wanted`, also without lm-eval's filter; None: the primary metric.

    Raises:
        UserError: there is no such metric, or several, or it has no value per item.
    """
    name, metrics = guard.name, guard.metrics
    if wanted is None:
        return next((m for m in metrics.values() if m.primary), next(iter(metrics.values())))
    if wanted in metrics:
        return metrics[wanted]
    filtered = [metric for metric in metrics if base(metric) == wanted]
    if len(filtered) == 1:
        return metrics[filtered[0]]
    if filtered:
        quoted = " or ".join(f'"{metric}"' for metric in filtered)
        raise UserError(
            f"The guard {name} measures {wanted} after {len(filtered)} filters: choose metric: "
            f"{quoted}."
        )
    known = ", ".join(f'"{metric}"' if "," in metric else metric for metric in metrics)
    if wanted in {base(metric) for metric in guard.not_compared}:
        raise UserError(
            f"The guard {name} is to be gated by {wanted}, which lm-eval does not average over "
            f"the items: there is no value per item to compare. Choose one of {known}."
        )
    hint = did_you_mean(wanted, metrics) or f" It has {known}."
    raise UserError(f"The guard {name} has no metric '{wanted}'.{hint}")


def _rule(settings: Guard, guard: OpenGuard) -> Rule:
    metric = choose_metric(guard, settings.metric)
    margin = settings.margin
    if margin is None and metric.span is None:
        raise UserError(
            f"The range of {metric.name}, by which {guard.name} guards, is not known, so that no "
            "margin follows from it. Add the largest loss to tolerate, in the metric's unit, as "
            "'margin'."
        )
    if margin is not None and metric.span is not None and margin >= metric.span:
        raise UserError(
            f"The guard {guard.name} has the margin {margin:g}, and {metric.name} runs from "
            f"{metric.low:g} to {metric.high:g}: nothing could fail. Give the margin in the "
            "metric's unit; 2 points of a share are 0.02."
        )
    if margin is None:
        margin = MARGIN_SHARE * (metric.span or 0.0)
    return Rule(task=guard.name, metric=metric.name, tier=settings.tier, margin=margin, guard=True)


def _find(settings: Guard, config: Config, judging: Judging) -> Task | StockTask:
    """Load the benchmark of a guard; one of ours is scored as the judging file says."""
    name = settings.task
    if name in tasks.names():
        return judging.task(name)
    found = find_benchmarks([name], config.include_paths)
    if [benchmark.name for benchmark in found] != [name]:
        members = [benchmark.name for benchmark in found]
        raise UserError(
            f"It stands for {len(members)} {plural('task', len(members))} ({listed(members, 3)}) "
            "and has no result of its own: name the tasks themselves as guards."
        )
    return found[0]


def _split(task: Task, part: Part) -> str:
    """Return the split of a task in which the items of a part are."""
    if set(PARTS) <= set(task.splits):
        return part
    return next((split for split in ("test", *PARTS) if split in task.splits), task.splits[0])


def _divide(benchmark: Task | StockTask, settings: Guard, seed: int) -> dict[Part, list[Item]]:
    """Divide the items into parts; equal questions are in one part, and each is asked once.

    A benchmark of ours that has a gate and a sealed split is divided already. Of others, half of
    the questions decide, and the other half are sealed.
    """
    limit = settings.limit
    if isinstance(benchmark, Task):
        data = Path(settings.data) if settings.data else None
        if set(PARTS) <= set(benchmark.splits):
            return {part: _distinct(benchmark.items(part, data)[:limit]) for part in PARTS}
        items = _distinct(benchmark.items(_split(benchmark, "gate"), data)[:limit])
        texts = {item.index: item.prompt for item in items}
    else:
        items = _distinct(first_documents(benchmark, benchmark.items(), limit))
        texts = questions(benchmark, items)
    half_of = halves(texts.values(), [seed, settings.task])
    return {
        part: [item for item in items if half_of[fold(texts[item.index])] == part] for part in PARTS
    }


def _distinct(items: Sequence[Item]) -> list[Item]:
    return list({item.digest: item for item in reversed(items)}.values())[::-1]
