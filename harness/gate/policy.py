"""Read gate policies, and make the policy that applies where a user wrote none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from harness.core.errors import UserError
from harness.core.schema import RESPONDED, Metric, Policy, Rule, Tier
from harness.core.text import did_you_mean, shorten
from harness.core.yaml import explain, load
from harness.stats.repeats import can_count

POLICIES = Path(__file__).parents[1] / "policies"


def load_policy(path: Path) -> Policy:
    """Read a gate policy: `rules`, each with task, metric, tier and margin; `alpha`, ...

        alpha: 0.05
        rules:
          - {task: gsm8k, metric: accuracy, tier: critical, margin: 0.02}

    A name without a file is one of the policies that come with the harness, such as `gsm8k`.

    Raises:
        UserError: as `harness.core.yaml.load`.
    """
    if path.exists() or len(path.parts) > 1 or path.suffix:
        return load(path, Policy)
    known = sorted(file.stem for file in POLICIES.glob("*.yaml"))
    if path.name not in known:
        raise UserError(
            f"There is neither a file nor a policy called '{path}'.{_hint(path.name, known)}"
        )
    return load(POLICIES / f"{path.name}.yaml", Policy)


def cluster_by(policy: Policy, key: str) -> Policy:
    """Return the policy with items clustered by `key`, except for rules with their own cluster.

    Raises:
        UserError: the key is not a name.
    """
    try:
        return Policy.model_validate(policy.model_dump(mode="json") | {"cluster": key})
    except ValidationError as error:
        raise UserError(f"The policy cannot cluster by that: {explain(error, Policy)}") from error


def default_policy(
    metrics: Mapping[str, Iterable[Metric]],
    margins: Mapping[str, float] | None = None,
    chosen: Iterable[str] = (),
) -> Policy:
    """Make the gate policy for `metrics` (task -> its metrics): no loss of 5 % of a metric's range.

    The primary metric of each task is critical, with one-sided level .05. Where a task says whether
    a model responded, that is a guardrail with the same margin: the primary metric is then a mean
    over the answered items, and a model must not raise it by answering less.

    `margins` name the largest tolerated loss of metrics, by METRIC (on every task that has it) or
    TASK.METRIC; a metric that is named is gated, critical if it is not the guardrail. It may be one
    of several responses per item, such as pass@4. `chosen` metrics are critical instead of the
    primary ones.

    Raises:
        UserError: no task has a primary metric, or a chosen one; the range of a gated metric is not
            known and no margin is named for it; or a margin is for a metric that no task has.
    """
    margins, chosen = margins or {}, dict.fromkeys(chosen)
    unused, unseen = set(margins), set(chosen)
    rules, unknown, has_metrics = [], [], False
    for task, task_metrics in sorted(metrics.items()):
        known = {metric.name: metric for metric in task_metrics}
        has_metrics = has_metrics or bool(known)
        named = dict.fromkeys([*(key.removeprefix(f"{task}.") for key in margins), *chosen])
        counted = [name for name in named if can_count(name, known)]
        for name in (*known, *counted):
            metric = known.get(name) or Metric(name=name, kind="binary")
            keys = [key for key in (f"{task}.{name}", name) if key in margins]
            is_critical = name in chosen if chosen else metric.primary
            if not (is_critical or name == RESPONDED or keys):
                continue
            unseen.discard(name)
            unused -= {*keys}
            if not keys and metric.span is None:
                unknown.append(f"{task}.{name}")
                continue
            margin = margins[keys[0]] if keys else 0.05 * (metric.span or 0)
            is_guardrail = name == RESPONDED and not is_critical
            tier: Tier = "guardrail" if is_guardrail else "critical"
            rules.append(Rule(task=task, metric=name, tier=tier, margin=margin))
    names = {m.name for task_metrics in metrics.values() for m in task_metrics}
    if unseen:
        raise UserError(
            f"No task has the metric '{shorten(min(unseen))}'.{_hint(min(unseen), names)}"
        )
    if unused:
        names |= {f"{task}.{m.name}" for task, found in metrics.items() for m in found}
        raise UserError(
            f"A margin is named for '{min(unused)}', which no task has.{_hint(min(unused), names)}"
        )
    if unknown:
        raise UserError(
            f"The range of {', '.join(unknown[:5])} is not known, so that no margin follows from "
            "it. Name the largest loss to tolerate, in the metric's unit, such as "
            f"--margin '{unknown[0]}=0.02', or write a policy."
        )
    if metrics and not has_metrics:
        raise UserError(
            f"{', '.join(sorted(metrics))}: no metric is a mean over items, so nothing can be "
            "gated. Evaluate other tasks; of a group whose tasks count alike, its tasks."
        )
    if not any(rule.tier == "critical" for rule in rules):
        raise UserError("No task says which metric counts: write a policy that names one.")
    return Policy(rules=rules)


def parse_margins(texts: Iterable[str]) -> dict[str, float]:
    """Read margins from METRIC=VALUE or TASK.METRIC=VALUE.

    Raises:
        UserError: a text has another form, is not a number above 0, or names a metric twice.
    """
    margins: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            margin = float(value)
        except ValueError:
            margin = math.nan
        if not (name and 0 < margin < math.inf):
            raise UserError(
                f"The margin '{text}' is not METRIC=VALUE with a number above 0, such as "
                "--margin acc=0.02 or --margin arc_easy.acc=0.02."
            )
        if name in margins:
            raise UserError(f"Two margins are named for {name}: keep one.")
        margins[name] = margin
    return margins


def _hint(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    return did_you_mean(name, names) or f" Known are {', '.join(names)}."
