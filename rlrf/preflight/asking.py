"""What a run asks, and who says what answers are worth: tasks, gate, judge, other models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from harness.core.errors import UserError
from harness.core.schema import Call, Item
from harness.judges.config import Judging
from harness.stats.power import chance, items_needed
from rlrf.checkpoint import Engines
from rlrf.config import Config
from rlrf.context import choose_gate_policy, open_feedback_model, pick_items
from rlrf.models.reward.source import open_rewarder
from rlrf.preflight.findings import Findings, Said
from rlrf.preflight.start import Model
from rlrf.rlmec.source import open_rewriter
from rlrf.sampling import sampling_for
from tasks.task import Task

SOME = 200  # prompts a task that are measured
DISCORDANCE = 0.1  # that a gate's power is reckoned at
POWER = 0.8


def tasks(looked: Findings, config: Config, judging: Judging, model: Model | None) -> None:
    plugins: dict[str, Task] = {}
    for one in config.tasks:

        def see(name: str = one.name) -> tuple[Task, Said]:
            task = judging.task(name)
            return task, _items(config, task)

        def measure(name: str = one.name) -> tuple[None, Said]:
            assert model is not None  # noqa: S101 (see below)
            return None, _prompts(config, plugins[name], model)

        task = looked.at(f"task {one.name}", see)
        if task is not None:
            plugins[one.name] = task
            if model is not None:
                looked.at(f"prompts of {one.name}", measure)
    if len(plugins) == len(config.tasks):
        looked.at("gate", lambda: (None, _gate(config, plugins)))
        if config.method == "rlmec":
            looked.at("rewriter", lambda: (None, _rewriter(config, plugins, judging)))


def _data(config: Config, task: Task) -> Path | None:
    named = next(one.data for one in config.tasks if one.name == task.name)
    return Path(named) if named else None


def _items(config: Config, task: Task) -> Said:
    """How many items there are of those that the run asks for."""
    prompts = next(one.prompts for one in config.tasks if one.name == task.name)
    asked = {
        "train": (prompts, config.iterations),
        "gate": (config.gate.slice, config.iterations),
        "sealed": (config.gate.sealed, 1),
    }
    found, advice = [], []
    for split, (size, turns) in asked.items():
        pick_items(task, split, size, rotation=0, seed=config.seed, data=_data(config, task))
        there = len(task.items(split, _data(config, task)))
        found.append(
            f"{split} {there:,}, {size:,} x {turns} asked"
            if turns > 1
            else f"{split} {there:,}, {size:,} asked"
        )
        if there < size:
            advice.append(f"{split} has {there:,} items, not {size:,}: all are taken")
        elif there < size * turns:
            fresh = there // size
            advice.append(f"{split} items are asked again after iteration {fresh}")
    if task.judge_prompt is not None and config.judge is None:
        advice.append("some of its metrics need a judge and stay unscored: name one as 'judge'")
    return "; ".join(found), "; ".join(advice)


def _prompts(config: Config, task: Task, model: Model) -> Said:
    """Whether prompts and answers fit in the model's context, and in what training reads."""
    from harness.core.schema import Message
    from harness.engines.template import render
    from harness.engines.text import check_sampling, encode

    settings = [config.explore, *([config.reflect] if _reflects(config) else [])]
    limits = [sampling_for(task, one, 1, config.seed) for one in settings]
    for sampling in limits:
        check_sampling(sampling, model.context)
    items: list[Item] = task.items("train", _data(config, task))[:SOME]
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


def _gate(config: Config, plugins: Mapping[str, Task]) -> Said:
    policy = choose_gate_policy(config, plugins)
    advice = []
    for rule in policy.rules:
        metric = next(m for m in plugins[rule.task].metrics if m.name == rule.metric)
        if rule.tier != "critical" or metric.kind != "binary":
            continue
        n = len(
            pick_items(
                plugins[rule.task],
                "gate",
                config.gate.slice,
                rotation=0,
                seed=config.seed,
                data=_data(config, plugins[rule.task]),
            )
        )
        spread = math.sqrt(DISCORDANCE)
        power = chance(rule.margin, n, spread, policy.alpha, rule.noise)
        if power < POWER:
            needed = items_needed(rule.margin, spread, policy.alpha, POWER, rule.noise)
            advice.append(
                f"{rule.task} {rule.metric}: {n:,} items pass what has not changed with a chance "
                f"of {power:.2f} if {DISCORDANCE:.0%} of them flip; {needed:,} would with {POWER}"
            )
    return f"{len(policy.rules)} rules", "; ".join(advice)


def _rewriter(config: Config, plugins: Mapping[str, Task], judging: Judging) -> Said:
    with judging.open() as judge:
        source = open_rewriter(config, plugins, judge)
    assert source is not None  # noqa: S101 (the method has one)
    return f"{source.trained.model}" if source.trained else f"trained from {source.base.model}"


def judge(judging: Judging, ask: bool) -> Said:
    with judging.open(fresh=ask) as judge:
        assert judge is not None  # noqa: S101 (it is looked at where there is one)
        if not ask:
            return judge.description, "not asked: --ask sends one question"
        (reply,) = judge.ask([Call(prompt="Reply with the word yes.", max_tokens=16)])
        if reply.failure:
            raise UserError(f"The judge {judge.id} gave no reply: {reply.failure}.")
        return f"{judge.description}; it replied"


def reward(config: Config) -> Said:
    assert config.reward is not None  # noqa: S101 (they are looked at where there are any)
    found = open_rewarder(config.reward, config.engine)
    return ", ".join(str(folder) for folder in found.folders)


def feedback_model(config: Config) -> Said:
    open_feedback_model(config, Engines(config.engine))
    return str(config.feedback_model)
