"""Compare two models on a page: their numbers, the gate's verdict, and every response."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import tasks
from harness.core.errors import UserError
from harness.core.schema import (
    Check,
    Decision,
    Evaluation,
    Item,
    Metric,
    MetricResult,
    Policy,
    Score,
    canonical_json,
    over_all_items,
)
from harness.core.scored import ScoredEvaluation
from harness.gate import gate
from harness.gate.claims import redefined
from harness.gate.clusters import restore_clusters
from harness.gate.plan import Plan
from harness.render import html, numbers
from harness.render.html.report import (
    Answer,
    Gate,
    JudgeFinding,
    Measured,
    Model,
    Question,
    Report,
)
from harness.stats.intervals import (
    aggregate_by_policy,
    item_values,
    only_metric,
    subgroups,
)
from tasks.task import Task

Evaluations = Mapping[str, ScoredEvaluation]
"""Task -> evaluation of one model, as `harness.evals` loads it."""

MAX_TAGS = 40  # of one kind; nobody reads a longer table
TITLES = {
    "pass": "The candidate is no worse than the baseline",
    "fail": "The candidate is worse than the baseline",
    "inconclusive": "The evidence does not say whether the candidate is worse",
}
SENTENCES = {
    "pass": "Every critical check passes: its interval lies above the largest tolerated loss.",
    "fail": "At least one check fails: its interval lies below the largest tolerated loss.",
    "inconclusive": "No check fails, and at least one cannot be decided on this evidence.",
}
BLOCKED = "Every critical check passes, and an alarm holds the pass up, as the policy asks."


def compare(
    policy: Policy,
    baseline: Evaluations,
    candidate: Evaluations,
    judge: Sequence[JudgeFinding] = (),
    *,
    plan: Plan | None = None,
    doubts: Mapping[tuple[str, str], str] | None = None,
) -> str:
    """Render the page on `candidate` against `baseline`, gated by `policy`.

    A side from a leaderboard has scores but no responses.

    Args:
        judge: findings about the judge, from `harness.render.html.judge_findings.read`.
        plan: as in `harness.gate.gate`.
        doubts: as in `harness.gate.gate`.

    Raises:
        UserError: the evaluations do not match, as in `harness.gate.gate`.
    """
    decision = gate(baseline, candidate, policy, plan=plan, doubts=doubts)
    sentence = SENTENCES[decision.verdict]
    decisive = {check.verdict for check in decision.checks if check.tier != "advisory"}
    if decision.verdict == "inconclusive" and decisive <= {"pass"}:
        sentence = BLOCKED
    critical = [check for check in decision.checks if check.tier == "critical"]
    shown = over_all_items(critical or decision.checks)
    measured = measure([baseline, candidate], decision)
    definitions = {task.task: task.evaluations[0].definitions for task in measured}
    return html.report(
        Report(
            kind="Comparison",
            title=TITLES[decision.verdict],
            verdict=decision.verdict,
            sentence=sentence,
            findings=gains(shown, decision, definitions),
            split=", ".join(sorted({task.evaluations[0].split for task in measured})),
            models=[
                Model("baseline", note=_ids(baseline)),
                Model("candidate", note=_ids(candidate), outcome=decision.verdict),
            ],
            headline=[(check.task, check.metric) for check in shown],
            measured=measured,
            questions=questions([baseline, candidate]),
            judge=list(judge),
            gates=[
                Gate(
                    title="The candidate",
                    outcome=decision.verdict,
                    reasons=decision.reasons,
                    decisions=[("the baseline", decision)],
                )
            ],
        )
    )


def gains(
    checks: Sequence[Check], decision: Decision, definitions: Mapping[str, Mapping[str, Metric]]
) -> list[str]:
    """Describe the gain in each of `checks` on one line."""
    level = f"{100 - 200 * decision.policy.alpha:g} %"
    lines = []
    for check in checks:
        metric = definitions.get(check.task, {}).get(check.metric)
        name = f"{check.task} {check.metric}"
        if not check.n:
            lines.append(f"{name}: nothing to compare")
            continue
        old, new = check.baseline_mean, check.candidate_mean
        gain = numbers.number(check.delta, metric, signed=True)
        ends = numbers.interval(*check.interval, metric, signed=True)
        lines.append(
            f"{name}: {numbers.number(old, metric)} → {numbers.number(new, metric)}, "
            f"gain {gain} {ends}, {level} interval, n\u00a0=\u00a0{check.n:,}"
        )
    return lines


def measure(models: Sequence[Evaluations], decision: Decision | None = None) -> list[Measured]:
    """Collect the results of every task that all of `models` were evaluated on.

    If the policy of `decision`, a decision on some of the models, clusters items, the intervals
    allow for its clusters.

    Raises:
        UserError: the evaluations of a task do not compare.
    """
    results = []
    clusters = restore_clusters(decision.clusters, *models) if decision else {}
    for task in _shared(models):
        scored = [model[task] for model in models]
        if len({model.evaluation.comparable_key for model in scored}) > 1:
            raise UserError(
                f"The evaluations of {task} cannot stand on one page: their dataset, prompt, judge "
                "or estimator differ. Evaluate all models in the same way."
            )
        of_task = clusters.get(task, {})
        measured = Measured(
            evaluations=[_clustered(model, decision, of_task) for model in scored],
            subgroups={},
            reasons=[_reasons(model.scores) for model in scored],
            truncated=[sum(s.finish_reason == "length" for s in m.samples) for m in scored],
            responses=[len(model.scores) for model in scored],
        )
        of_metric = _clusters_of(task, measured.primary, decision, of_task)
        subgroups = _subgroups(scored, measured.primary, of_metric)
        results.append(dataclasses.replace(measured, subgroups=subgroups))
    return results


def _clustered(
    scored: ScoredEvaluation, decision: Decision | None, clusters: Mapping[str, Mapping[str, int]]
) -> Evaluation:
    """Return the evaluation with intervals that allow for the clusters of the decision's policy."""
    if decision is None:
        return scored.evaluation
    results = aggregate_by_policy(scored.evaluation, scored.scores, decision.policy, clusters)
    return scored.evaluation.model_copy(update={"metrics": results})


def _clusters_of(
    task: str, metric: str, decision: Decision | None, clusters: Mapping[str, Mapping[str, int]]
) -> Mapping[str, int] | None:
    if decision is not None:
        for rule in decision.policy.rules:
            key = decision.policy.cluster_of(rule)
            if key and (rule.task, rule.metric) == (task, metric):
                return clusters.get(key)
    return None


def questions(models: Sequence[Evaluations]) -> list[Question]:
    """Collect every item of the shared tasks, with the response of each of `models`."""
    found = []
    for task in _shared(models):
        items = next((model[task].items for model in models if model[task].items), [])
        answers = [_answers(model[task], items) for model in models]
        for item in items:
            found.append(
                Question(
                    task=task,
                    index=item.index,
                    prompt=item.prompt,
                    reference=_reference(item),
                    tags=item.tags,
                    answers=[known.get(item.digest) for known in answers],
                )
            )
    return found


def _ids(evaluations: Evaluations) -> str:
    return ", ".join(sorted({scored.evaluation.model.id for scored in evaluations.values()}))


def _shared(models: Sequence[Evaluations]) -> list[str]:
    return [task for task in models[0] if all(task in model for model in models)]


def _reasons(scores: Sequence[Score]) -> dict[str, dict[str, int]]:
    """Count why responses are unscored: metric -> reason -> responses, the most frequent first."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for score in scores:
        for metric, reason in score.unscored.items():
            counted[metric][reason] += 1
    return {metric: dict(counter.most_common()) for metric, counter in sorted(counted.items())}


def _subgroups(
    scored: Sequence[ScoredEvaluation], primary: str, clusters: Mapping[str, int] | None
) -> dict[str, dict[str, list[MetricResult]]]:
    """Compute the primary metric by each kind of tag, over the most frequent tags of the kind."""
    by_kind = {}
    items = scored[0].items
    lean = [[only_metric(score, primary) for score in model.scores] for model in scored]
    for key in sorted({key for item in items for key in item.tags}):
        counted = Counter(tag for item in items for tag in item.tags.get(key, []))
        kept = {tag for tag, _ in counted.most_common(MAX_TAGS)}
        fewer = [
            item.model_copy(update={"tags": {key: [t for t in item.tags[key] if t in kept]}})
            for item in items
            if key in item.tags
        ]
        by_model = [
            subgroups(fewer, scores, key, model.evaluation.definitions, clusters)
            for model, scores in zip(scored, lean, strict=True)
        ]
        shown = {
            tag: [by_tag[tag][primary] for by_tag in by_model]
            for tag in by_model[0]
            if all(primary in by_tag[tag] for by_tag in by_model)
        }
        more = (
            f", the {MAX_TAGS} most frequent of {len(counted)}" if len(counted) > len(kept) else ""
        )
        if shown:
            by_kind[key + more] = shown
    return by_kind


def _answers(scored: ScoredEvaluation, items: Sequence[Item]) -> dict[str, Answer]:
    """Collect what is shown of the responses: item digest -> the first response."""
    task = _installed(scored.evaluation)
    asked = {item.digest: item for item in items}
    means = {metric: item_values(scored.scores, metric) for metric in scored.evaluation.definitions}
    repeats = Counter(score.item for score in scored.scores)
    samples = {(sample.item, sample.repeat): sample for sample in scored.samples}
    found: dict[str, Answer] = {}
    for score in scored.scores:
        if score.item in found or score.item not in asked:
            continue
        sample = samples.get((score.item, score.repeat))
        notes = [] if sample else ["a leaderboard keeps scores, not answers"]
        if sample and sample.finish_reason == "length":
            notes.append("ended by the length limit")
        if sample and sample.unanswered:
            notes.append(f"no response: {sample.unanswered}")
        if repeats[score.item] > 1:
            notes.append(f"the first of {repeats[score.item]} answers; values are their means")
        found[score.item] = Answer(
            response=sample.response if sample else "",
            values={name: by[score.item] for name, by in means.items() if score.item in by},
            unscored=score.unscored,
            feedback=task.feedback(asked[score.item], sample, score).aspects
            if task and sample and not sample.unanswered
            else [],
            notes=notes,
        )
    return found


def _installed(evaluation: Evaluation) -> Task | None:
    """Return the task that made the scores, if this version of it is installed."""
    if evaluation.task not in tasks.names():
        return None
    task = tasks.load(evaluation.task)
    same = not redefined(evaluation, {metric.name: metric for metric in task.metrics})
    return task if same and task.version == evaluation.task_version else None


def _reference(item: Item) -> str:
    """List what the response is scored by, one field per line."""
    return "\n".join(
        f"{key}: {value if isinstance(value, str) else canonical_json(value)}"
        for key, value in sorted(item.reference.items())
    )
