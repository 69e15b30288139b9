"""Say what the guards of a run can see, before anything runs."""

from __future__ import annotations

import math
from pathlib import Path

from harness.core.errors import UserError
from harness.core.schema import Metric, Policy, Rule
from harness.gate.sizing import failing_loss
from harness.judges.config import Judging
from harness.stats.power import power_to_detect
from rlrf.config import Config, load
from rlrf.context import choose_gate_policy, guard_size, open_services, pick_from_guard
from rlrf.doctor import Said
from rlrf.guards import OpenGuard, check_chat_template, guard_rules, open_guard
from tasks.task import Task

DISCORDANCE = 0.1  # share of changed answers that the gate's power is computed for
POWER = 0.8


def guard_finding(
    config: Config, judging: Judging, name: str, model: Path | None
) -> tuple[OpenGuard, Said]:
    """Open the guard of the task `name`; count its items, and say what they can see.

    `model` is the folder of M0, if it was found.
    """
    settings = next(guard for guard in config.guards if guard.task == name)
    guard = open_guard(settings, config, judging)
    if model is not None:
        check_chat_template([guard], model)
    return guard, (items_sentence(guard, config), "; ".join(advice(guard, config)))


def plan_run(
    path: Path, changed: float | None
) -> tuple[Policy, dict[tuple[str, str], Metric], list[str]]:
    """Return the gate policy of a run's configuration, its metrics, and what its guards can see.

    Raises:
        UserError: the configuration cannot be used.
    """
    config = load(path)
    with open_services(config, feedback=False) as services:
        policy = choose_gate_policy(config, services.tasks, services.guards)
        measured = {name: task.metrics for name, task in services.tasks.items()}
        guarded = {name: guard.metrics.values() for name, guard in services.guards.items()}
        metrics = {
            (name, metric.name): metric
            for name, found in {**measured, **guarded}.items()
            for metric in found
        }
        share = changed if changed is not None else DISCORDANCE
        notes = [
            f"guard {name}: {items_sentence(guard, config)}; {told}"
            for name, guard in services.guards.items()
            for told in advice(guard, config, share)
        ]
    return policy, metrics, notes


def items_sentence(guard: OpenGuard, config: Config) -> str:
    """Say by which metrics the guard decides, and on how many items."""
    rules = [f"{r.metric} ({r.tier}, margin {r.margin:g})" for r in _rules(guard, config)]
    n = len(pick_from_guard(guard, "gate", config, 0))
    changes = guard.settings.rotate and n < len(guard.pools["gate"])
    which = "others in each iteration" if changes else "the same in each iteration"
    return (
        f"{', '.join(rules)}; {n:,} of {len(guard.pools['gate']):,} gate items, {which}; "
        f"{len(guard.pools['sealed']):,} sealed"
    )


def advice(guard: OpenGuard, config: Config, changed: float = DISCORDANCE) -> list[str]:
    """Say what the guard's items can see at their margin, and where there are too few.

    `changed` is the share of the answers of an unchanged model that differ between two runs.
    """
    asked, sealed = (guard_size(guard, part, config) for part in guard.pools)
    said = guard.shortage(asked, sealed, config.iterations)
    n = len(pick_from_guard(guard, "gate", config, 0))
    alpha = config.gate.policy.alpha if config.gate.policy else 0.05
    for rule in _rules(guard, config):
        metric = guard.metrics[rule.metric]
        said.append(f"{rule.metric}: {sight(rule, metric, n, alpha, changed)}")
    task = guard.benchmark
    if isinstance(task, Task) and task.judge_prompt is not None and config.judge is None:
        said.append("some of its metrics need a judge and stay unscored: name one as 'judge'")
    return said


def sight(rule: Rule, metric: Metric, n: int, alpha: float, changed: float) -> str:
    """Say what `n` items can see of a loss at the rule's margin."""
    changes = f"if {changed:.0%} of the answers change by chance"
    try:
        loss = failing_loss(rule, metric, n, alpha, changed)
    except UserError as error:
        return str(error).rstrip(".")
    if rule.tier == "critical":
        spread = math.sqrt(changed) * (metric.span or 1.0)
        power = power_to_detect(rule.margin, n, spread, alpha, rule.noise)
        return f"on {n:,} items an unchanged model passes with a chance of {power:.2f} {changes}"
    if loss is None:
        return (
            f"{n:,} items are too few to fail any loss at the margin {rule.margin:g}: raise items"
        )
    return (
        f"on {n:,} items a loss of {loss:.2g} or more fails with a chance of {POWER} {changes}; a "
        "smaller loss may be inconclusive, which does not hold a candidate up"
    )


def _rules(guard: OpenGuard, config: Config) -> list[Rule]:
    """Return the rules on the guard's task: of the gate policy, else of the guards."""
    policy = config.gate.policy
    written = [rule for rule in policy.rules if rule.task == guard.name] if policy else []
    known = [rule for rule in written if rule.metric in guard.metrics]
    return known or guard_rules(guard, config)
