"""Gather the values of two evaluations for each rule, and say where they are not enough."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.decoding import normalize_decoding
from harness.core.errors import UserError
from harness.core.schema import COMPARED_FIELDS, Evaluation, JudgeRef, Metric, Policy, Rule
from harness.core.scored import ScoredEvaluation
from harness.core.text import did_you_mean, shorten
from harness.gate import claims
from harness.stats.paired import (
    Flags,
    ItemTable,
    Numbers,
    ScoreColumns,
    align,
    columns,
    gather_items,
)
from harness.stats.repeats import with_repeat_metrics

ROUNDING = 1e-9
MAX_DIFFERENCES = 10  # settings in a message
_TASK = operator.attrgetter("task")

Assigned = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Task -> cluster key -> digest of an item -> number of its cluster."""


@dataclass(frozen=True)
class Evidence:
    """Item means of one metric on both sides, shape (items,): the same items in the same order.

    Items that are lost on a side are in neither. NaN says that the metric does not apply; yes/no
    metrics come in whole pairs.
    """

    rule: Rule
    metric: Metric
    items: list[str]  # digests, of the rows
    baseline: Numbers
    candidate: Numbers
    lost: int  # items that were asked, and have no value on a side though the metric applies
    asked: int  # items in all
    inapplicable: int  # of these, items to which the metric applies on neither side
    insufficient_because: str  # empty where the evidence is enough to judge by
    clusters: Sequence[int] | None = None  # cluster of each row; None: rows are independent
    without_value: Sequence[str] = ()  # with `every`: digests of the lost items

    @property
    def signed(self) -> tuple[Numbers, Numbers]:
        """Both sides with the sign at which higher is better."""
        sign = 1 if self.metric.higher_is_better else -1
        return sign * self.baseline, sign * self.candidate


def gather(
    policy: Policy,
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
    clusters: Assigned,
    *,
    examined: bool = False,
) -> list[Evidence]:
    """Gather the evidence on each rule, in the order of the rules; see `harness.gate.decide`.

    `clusters` of items are read from the items that the sides keep unless they are given.
    `examined`: the sides were drawn from evaluations that were examined already.

    Raises:
        UserError: the sides do not match (names what differs), or lack what a rule asks for.
    """
    named = [rule.name for rule in policy.rules]
    for name in named:
        if named.count(name) > 1:
            raise UserError(f"The policy has two rules for {name}: keep one.")
    tasks = policy.tasks
    sides = {
        task: (_side(task, baseline, "baseline"), _side(task, candidate, "candidate"))
        for task in tasks
    }
    found = {
        evidence.rule.name: evidence
        for task in tasks
        for evidence in _on_task(policy, *sides[task], clusters.get(task, {}), examined=examined)
    }
    return [found[name] for name in named]


def _side(task: str, side: Mapping[str, ScoredEvaluation], name: str) -> ScoredEvaluation:
    if task not in side:
        raise UserError(
            f"The {name} has no evaluation of {task}, which the policy asks for; it has "
            f"{', '.join(sorted(side)) or 'none'}. Evaluate it, or take the rule out."
        )
    scored = side[task]
    strangers = {scored.evaluation.task, *map(_TASK, scored.scores)} - {task}
    if strangers:
        raise UserError(f"What is given as the {name}'s {task} holds {min(strangers)}.")
    return scored


def _on_task(
    policy: Policy,
    before: ScoredEvaluation,
    after: ScoredEvaluation,
    clusters: Mapping[str, Mapping[str, int]],
    *,
    examined: bool,
) -> Iterator[Evidence]:
    task, asked = before.evaluation.task, before.evaluation.items
    _require_comparable(before.evaluation, after.evaluation, policy.allow_different)
    rules = [rule for rule in policy.rules if rule.task == task]
    names = [rule.metric for rule in rules]
    tables = [
        columns(side.scores, names if examined else [*side.evaluation.definitions])
        for side in (before, after)
    ]
    if not examined:
        _require_consistent(before, tables[0], "baseline")
        _require_consistent(after, tables[1], "candidate")
    counted = [with_repeat_metrics(side, names) for side in (before, after)]
    if counted[0] is not before or counted[1] is not after:
        before, after = counted
        tables = [columns(side.scores, names) for side in counted]
    metrics = [_metric(rule, before.evaluation, after.evaluation) for rule in rules]
    old, new = align(gather_items(tables[0], names), gather_items(tables[1], names), asked)
    for k, (rule, metric) in enumerate(zip(rules, metrics, strict=True)):
        reasons = [
            *_unanswered(policy, old, "baseline", asked),
            *_unanswered(policy, new, "candidate", asked),
            *_unscored(policy, old, "baseline", k),
            *_unscored(policy, new, "candidate", k),
            *_one_sided(policy, (old, new), rules, k, metric.kind),
        ]
        applies = [~np.isnan(table.values[:, k]) for table in (old, new)]
        kept = applies[0] & applies[1] if metric.kind == "binary" else applies[0] | applies[1]
        lost = old.lost[:, k] | new.lost[:, k]
        kept &= ~lost
        items = _digests(old, kept)
        key = policy.cluster_of(rule)
        group = _clusters_of(items, rule, key, clusters) if key else None
        if group is not None and len(items) > 1 and len(set(group)) == 1:
            reasons.append(
                f"all {len(items)} items have one value of '{key}': one cluster shows no spread, "
                "so name something that divides the items"
            )
        yield Evidence(
            rule,
            metric,
            items=items,
            baseline=old.values[kept, k],
            candidate=new.values[kept, k],
            lost=int(lost.sum()) + asked - max(old.answered, new.answered, len(old.items)),
            asked=asked,
            inapplicable=int((~applies[0] & ~applies[1] & ~lost).sum()),
            insufficient_because="; ".join(reasons),
            clusters=group,
            without_value=(
                _digests(old, ~kept & (applies[0] | applies[1] | lost)) if rule.every else ()
            ),
        )


def _digests(table: ItemTable, chosen: Flags) -> list[str]:
    return list(itertools.compress(table.items, chosen.tolist()))


def _clusters_of(
    items: Sequence[str], rule: Rule, key: str, clusters: Mapping[str, Mapping[str, int]]
) -> list[int] | None:
    """Return the cluster of each item; None where each is alone in its own: no clusters.

    Raises:
        UserError: an item has none.
    """
    numbers = clusters.get(key, {})
    group = [numbers.get(item, -1) for item in items]
    if -1 in group:
        absent = items[group.index(-1)]
        raise UserError(
            f"Item {absent[:12]} of {rule.task} has no cluster by '{key}' in what was recorded: it "
            "was not among the items that the clusters were assigned to. Plan or decide anew."
        )
    return group if len(set(group)) < len(items) else None


def _require_consistent(scored: ScoredEvaluation, table: ScoreColumns, side: str) -> None:
    if problems := claims.contradictions(scored.evaluation, scored.scores, table):
        raise UserError(
            f"The {side}'s evaluation of {scored.evaluation.task} contradicts itself: "
            f"{problems[0].rstrip('.')}. Evaluate it again."
        )


def difference_notes(
    policy: Policy,
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
) -> list[str]:
    """Say what differs between the sides of a decision without being a reason to refuse it."""
    said = []
    for task in sorted({rule.task for rule in policy.rules}):
        before, after = baseline[task].evaluation, candidate[task].evaluation
        differences = [
            (name, getattr(before, name), getattr(after, name))
            for name in ("engine", "code_version")
        ]
        differences += decoding_differences(before, after)
        said += [
            f"{task}: {shorten(name)} is {_shown(old)} for the baseline and {_shown(new)} for the "
            "candidate"
            for name, old, new in differences
            if old != new
        ]
    return said


def decoding_differences(before: Evaluation, after: Evaluation) -> list[tuple[str, object, object]]:
    """List the settings that the sides were generated with differently: name, old and new value."""
    old, new = normalize_decoding(before.decoding), normalize_decoding(after.decoding)
    return [
        (f"decoding.{key}", old.get(key, "not given"), new.get(key, "not given"))
        for key in sorted({*old, *new})
        if old.get(key, "not given") != new.get(key, "not given")
    ]


def _require_comparable(before: Evaluation, after: Evaluation, allowed: Sequence[str]) -> None:
    for field in (*COMPARED_FIELDS, "items"):
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            raise UserError(
                f"The evaluations of {before.task} cannot be compared: {field} is "
                f"{_shown(old)} for the baseline and {_shown(new)} for the candidate. "
                "Evaluate both in the same way."
            )
    differences = [d for d in decoding_differences(before, after) if d[0] not in allowed]
    if differences:
        named = [
            f"{shorten(n)} is {_shown(a)} for the baseline and {_shown(b)} for the candidate"
            for n, a, b in differences[:MAX_DIFFERENCES]
        ]
        if len(differences) > MAX_DIFFERENCES:
            named.append(f"and {len(differences) - MAX_DIFFERENCES} settings more")
        names = ", ".join(shorten(name) for name, _, _ in differences[:MAX_DIFFERENCES])
        raise UserError(
            f"The evaluations of {before.task} cannot be compared, as their responses were "
            f"generated differently: {'; '.join(named)}. Evaluate both in the same way, or write "
            f"allow_different: [{names}] into the policy if the difference is meant."
        )


def _shown(value: object) -> str:
    if isinstance(value, JudgeRef):
        return f"'{value.id}' with prompt {value.prompt_digest}"
    return shorten(repr(value))


def _metric(rule: Rule, before: Evaluation, after: Evaluation) -> Metric:
    known = before.definitions
    if rule.metric not in known and rule.metric in before.metrics:
        raise UserError(
            f"'{rule.metric}' of {rule.task} is not a mean over items (as perplexity and BLEU are "
            "not, nor the score of a group whose tasks count alike), so it is shown and cannot be "
            f"gated. {_instead(rule.task, known)}"
        )
    if rule.metric not in known:
        raise UserError(
            f"{rule.task} has no metric '{rule.metric}' with a value per item."
            f"{did_you_mean(rule.metric, known)} It has {', '.join(sorted(known))}."
        )
    metric = known[rule.metric]
    theirs = after.definitions.get(rule.metric)
    if theirs is None or theirs.meaning != metric.meaning:
        raise UserError(
            f"The evaluations of {rule.task} cannot be compared: they define '{rule.metric}' in "
            "two ways. Evaluate both with the same version."
        )
    if metric.span is not None and rule.margin >= metric.span:
        raise UserError(
            f"The margin of {rule.task} {rule.metric} is {rule.margin:g}, but the metric runs from "
            f"{metric.low:g} to {metric.high:g}, so that nothing could fail. Give the margin in "
            "the metric's unit: 2 points of a share are 0.02."
        )
    return metric


def _instead(task: str, known: Mapping[str, Metric]) -> str:
    if known:
        return f"Gate {', '.join(sorted(known))} instead, or take the rule out."
    return (
        f"{task} has no metric that can be gated: evaluate the tasks of a group, or another task."
    )


def _unanswered(policy: Policy, table: ItemTable, side: str, asked: int) -> Iterator[str]:
    if table.answered < policy.min_completeness * asked - ROUNDING or asked == 0:
        yield (
            f"the {side} answered {table.answered} of {asked} items, "
            f"{policy.min_completeness:.1%} are needed"
        )


def _unscored(policy: Policy, table: ItemTable, side: str, k: int) -> Iterator[str]:
    if table.unscored[k] > policy.max_unscored:
        why = " ".join(table.reasons[k].split())[:200]
        yield (
            f"{table.unscored[k]:.1%} of the {side}'s answers are unscored ({why}), "
            f"at most {policy.max_unscored:.1%} may be"
        )


def _one_sided(
    policy: Policy, tables: tuple[ItemTable, ItemTable], rules: Sequence[Rule], k: int, kind: str
) -> Iterator[str]:
    """Say if the metric applies to too many items on one side only, unseen by a gated metric."""
    old, new = tables
    usable = ~(old.lost[:, k] | new.lost[:, k])
    applies_old = usable & ~np.isnan(old.values[:, k])
    applies_new = usable & ~np.isnan(new.values[:, k])
    differs = applies_old != applies_new
    count = int(differs.sum())
    if count <= (1 - policy.min_completeness) * len(old.items) + ROUNDING:
        return
    found = f"it applies to {count} of {len(old.items)} items on one side only"
    if kind == "binary":
        yield f"{found}: let the task score such an answer as 0"
        return
    gained = applies_new.astype(int) - applies_old.astype(int)
    for j, rule in enumerate(rules):
        moved = np.sign(new.values[:, j] - old.values[:, j])  # NaN where it has no value: no move
        if (
            j != k
            and rule.tier != "advisory"
            and not rule.every
            and (moved[differs] == gained[differs]).all()
        ):
            return
    yield (
        f"{found}, and no critical or guardrail rule sees it: add one on the metric that says "
        "whether it applies"
    )
