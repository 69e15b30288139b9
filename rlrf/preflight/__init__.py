"""Check what a run would fail at before it is started; nothing is trained or generated.

Everything that `rlrf.context.open_context` refuses is refused here by the same functions, one by
one, so that all faults are reported at once. What shows only later (memory, disk, context, file
locks) is estimated.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import tasks
from harness.core.errors import UserError
from harness.core.schema import Call, Item, Message, Rule
from harness.core.text import plural, quote
from harness.engines.open import EngineLoader
from harness.gate.subgroups import subgroups_of
from harness.judges.config import Judging, load_judging
from harness.stats.power import items_needed, power_to_detect, tango_items_needed
from rlrf.config import Config, RewardSource, TaskConfig, load
from rlrf.context import choose_gate_policy, load_task, open_feedback_model, pick_from_task
from rlrf.doctor import Finding, Findings, Said
from rlrf.guards import OpenGuard
from rlrf.models.reward.rewarder import open_rewarder
from rlrf.objectives.base import check_reporters
from rlrf.objectives.launch import check_launch
from rlrf.preflight import resources
from rlrf.preflight.guards import DISCORDANCE, POWER, guard_finding
from rlrf.preflight.resources import Model
from rlrf.rlmec.rewriter import open_rewriter
from rlrf.sampling import sampling_for
from rlrf.trainable import check_limits, check_parts
from tasks.task import Task

MAX_MEASURED_PROMPTS = 200  # per task


def look_ahead(path: Path, out: Path | None = None, *, ask: bool = False) -> list[Finding]:
    """Check the run of the configuration `path` in the folder `out`.

    With `ask` the judge is asked one question, which may cost something. Models named by hub id are
    downloaded, as in the run.
    """
    findings = Findings()
    config = findings.load("configuration", _configuration, path)
    if config is None:
        return findings.list
    with contextlib.ExitStack() as opened:
        if config.include_paths:
            findings.check("include path", _include_path, config, opened)
        _look_at(findings, config, out or Path("runs") / path.stem, ask=ask)
    return findings.list


def _include_path(config: Config, opened: contextlib.ExitStack) -> Said:
    before = set(tasks.names())
    opened.enter_context(tasks.including(config.include_paths))
    found = sorted({*tasks.names()} - before)
    return f"{', '.join(found) or 'no plugins'} in {', '.join(config.include_paths)}"


def _look_at(findings: Findings, config: Config, folder: Path, *, ask: bool) -> None:
    judging = findings.load("judge's file", _judging, config)
    model = findings.load("model", resources.find_model, config)
    if model is not None:
        findings.check("tokenizer", model.tokens)
        if config.adapter is not None:
            findings.check("adapter", resources.adapter, config.adapter, model)
        findings.check("memory", resources.memory, config, model)
        findings.check("disk", resources.disk, config, model, folder)
    findings.check("training", _training, config)
    findings.check("executor", _executor, config)
    if judging is not None:
        _tasks(findings, config, judging, model)
        if judging.judge is not None:
            findings.check("judge", _judge, judging, ask)
    if config.reward is not None:
        findings.check("reward models", _reward, config, config.reward)
    if any(task.feedback == "model" for task in config.tasks):
        findings.check("feedback model", _feedback_model, config)
    if config.artefacts is not None:
        findings.check("artefacts", resources.artefacts, config.artefacts)
    findings.check("run folder", resources.run_folder, config, folder)
    findings.check("board", resources.board, Path(config.board or folder / "board"))
    if place := os.environ.get("RLRF_METRICS"):
        findings.check("metrics", resources.metrics, place)


def _configuration(path: Path) -> tuple[Config, Said]:
    config = load(path)
    names = ", ".join(task.name for task in config.tasks)
    return (
        config,
        f"{config.method}, {config.iterations} {plural('iteration', config.iterations)} on {names}",
    )


def _judging(config: Config) -> tuple[Judging, Said]:
    judging = load_judging(Path(config.judge) if config.judge else None)
    return judging, config.judge or "none: what needs a judge stays unscored"


def _training(config: Config) -> Said:
    check_reporters(config.train)
    check_launch(config.train, config.engine)
    launch = config.train.launch
    if launch is None:
        return "in this process"
    if launch.accelerate is not None:
        return f"accelerate launch, as {launch.accelerate} says"
    return f"{launch.processes} processes, {launch.strategy}"


def _executor(config: Config) -> Said:
    if config.engine.kind == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "engine.kind is vllm, which is not installed: see docs/engines.md, or leave it at hf."
        )
    executor = config.executor
    if executor.kind == "local":
        return f"{config.engine.kind}, in this process"
    EngineLoader(config.engine.spec(), executor.cluster_options()).close()
    host, _, port = (executor.address or "").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise UserError(
                f"Nothing answers at executor.address, {executor.address} "
                f"({error.strerror or error}): start the cluster, or correct the address."
            ) from error
    return f"{executor.engines} engines on {executor.address or 'a cluster of this machine'}"


def _tasks(findings: Findings, config: Config, judging: Judging, model: Model | None) -> None:
    loaded: dict[str, Task] = {}
    for settings in config.tasks:
        name = settings.name
        task = findings.load(f"task {name}", _task, config, judging, settings)
        if task is not None:
            loaded[name] = task
            if model is not None:
                findings.check(f"prompts of {name}", _prompts, config, task, model)
    guards: dict[str, OpenGuard] = {}
    for name in dict.fromkeys(guard.task for guard in config.guards):
        folder = model.folder if model else None
        guard = findings.load(f"guard {name}", guard_finding, config, judging, name, folder)
        if guard is not None:
            guards[name] = guard
    if len(loaded) == len(config.tasks) and {*guards} == {one.task for one in config.guards}:
        findings.check("gate", _gate, config, loaded, guards)
        if config.method == "rlmec":
            findings.check("rewriter", _rewriter, config, loaded, judging)


def _task(config: Config, judging: Judging, settings: TaskConfig) -> tuple[Task, Said]:
    task = load_task(settings, judging)
    check_parts(config, settings, task)
    return task, _items(config, task)


def _data(config: Config, task: Task) -> Path | None:
    named = next(one.data for one in config.tasks if one.name == task.name)
    return Path(named) if named else None


def _items(config: Config, task: Task) -> Said:
    """Count the items of each split, and compare with what the run asks for."""
    prompts = next(one.prompts for one in config.tasks if one.name == task.name)
    asked = {
        "train": (prompts, config.iterations),
        "gate": (config.gate.slice, config.iterations),
        "sealed": (config.gate.sealed, 1),
    }
    counts, advice = [], []
    for split, (size, rotations) in asked.items():
        pick_from_task(task, split, size, rotation=0, seed=config.seed, data=_data(config, task))
        count = len(task.items(split, _data(config, task)))
        wanted = f"{size:,} x {rotations}" if rotations > 1 else f"{size:,}"
        counts.append(f"{split} {count:,}, {wanted} asked")
        if count < size:
            advice.append(f"{split} has {count:,} items, not {size:,}: all are taken")
        elif count < size * rotations:
            fresh = count // size
            advice.append(f"{split} items are asked again after iteration {fresh}")
    if task.judge_prompt is not None and config.judge is None:
        advice.append("some of its metrics need a judge and stay unscored: name one as 'judge'")
    return "; ".join(counts), "; ".join(advice)


def _prompts(config: Config, task: Task, model: Model) -> Said:
    """Check that prompts and responses fit in the model's context and in `train.max_length`."""

    from harness.engines.prompts import encode, render

    settings = [config.explore, *([config.reflect] if _reflects(config) else [])]
    limits = [sampling_for(task, one, 1, config.seed) for one in settings]
    check_limits(config, task, model.context)
    items: list[Item] = task.items("train", _data(config, task))[:MAX_MEASURED_PROMPTS]
    lengths = [
        len(
            encode(
                model.tokenizer, render(model.tokenizer, [Message(role="user", content=i.prompt)])
            )
        )
        for i in items
    ]
    longest, answer = max(lengths), max(sampling.max_tokens for sampling in limits)
    read = min(config.train.max_length, model.context)
    if min(lengths) >= read:
        raise UserError(
            f"The prompts of {task.name} have {min(lengths):,} tokens and more, and training reads "
            f"{read:,} of prompt and response: raise train.max_length."
        )
    advice = []
    if cut := sum(length + answer > model.context for length in lengths):
        advice.append(f"{cut} of {len(lengths)} prompts lose their beginning: lower max_tokens")
    if _reflects(config) and longest + 2 * answer > model.context:
        advice.append("a long prompt, its answer and the rewrite do not fit together")
    if longest + answer > read:
        advice.append(
            f"the longest pairs do not fit in train.max_length, {read:,}, and are left out"
        )
    found = f"{longest:,} tokens at most, answers {answer:,}, context {model.context:,}"
    return found, "; ".join(advice)


def _reflects(config: Config) -> bool:
    return config.method == "rlrf" and config.reflect.m > 0


def _gate(config: Config, tasks: Mapping[str, Task], guards: Mapping[str, OpenGuard]) -> Said:
    policy = choose_gate_policy(config, tasks, guards)
    advice = []
    for rule in policy.rules:
        if rule.task in guards:
            continue
        metric = next(m for m in tasks[rule.task].metrics if m.name == rule.metric)
        if (rule.tier != "critical" and not rule.every) or metric.kind != "binary":
            continue
        items = pick_from_task(
            tasks[rule.task],
            "gate",
            config.gate.slice,
            rotation=0,
            seed=config.seed,
            data=_data(config, tasks[rule.task]),
        )
        if rule.every:
            advice += _small_subgroups(rule, rule.every, items, policy.alpha)
            continue
        n = len(items)
        spread = math.sqrt(DISCORDANCE)
        power = power_to_detect(rule.margin, n, spread, policy.alpha, rule.noise)
        if power < POWER:
            needed = items_needed(rule.margin, spread, policy.alpha, POWER, rule.noise)
            advice.append(
                f"{rule.task} {rule.metric}: on {n:,} items an unchanged model passes with a "
                f"chance of {power:.2f} if {DISCORDANCE:.0%} of the answers change by chance, on "
                f"{needed:,} with {POWER}"
            )
    return f"{len(policy.rules)} {plural('rule', len(policy.rules))}", "; ".join(advice)


def _small_subgroups(rule: Rule, every: str, items: Sequence[Item], alpha: float) -> list[str]:
    """Say which subgroups of the gate items an unchanged candidate would often not pass."""
    sizes = Counter(
        name for names in subgroups_of(rule.task, every, items).values() for name in names
    )
    needed = tango_items_needed(DISCORDANCE, rule.margin, alpha, POWER)
    small = sorted((n, name) for name, n in sizes.items() if n < needed)
    if not small:
        return []
    n, name = small[0]
    return [
        f"{rule.name}: {len(small)} of {len(sizes)} subgroups have fewer than the {needed:,} items "
        f"with which they pass what has not changed with {POWER} if {DISCORDANCE:.0%} of them "
        f"flip; the smallest is {quote(name)} with {n:,}"
    ]


def _rewriter(config: Config, tasks: Mapping[str, Task], judging: Judging) -> Said:
    with judging.open() as judge:
        source = open_rewriter(config, tasks, judge)
    if source is None:
        return "none"
    return f"{source.trained.model}" if source.trained else f"trained from {source.base.model}"


def _judge(judging: Judging, ask: bool) -> Said:
    with judging.open(fresh=ask) as judge:
        if judge is None:
            return "none"
        if not ask:
            return judge.description, "not asked: --ask sends one question"
        (reply,) = judge.ask([Call(prompt="Reply with the word yes.", max_tokens=16)])
        if reply.failure:
            raise UserError(f"The judge {judge.id} gave no reply: {reply.failure}.")
        return f"{judge.description}; it replied"


def _reward(config: Config, reward: RewardSource) -> Said:
    return ", ".join(str(folder) for folder in open_rewarder(reward, config.engine).folders)


def _feedback_model(config: Config) -> Said:
    open_feedback_model(config, EngineLoader(config.engine.spec()))
    return str(config.feedback_model)
