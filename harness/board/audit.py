"""Check that a ledger's entries follow from the scores next to it, by computing them again.

Nothing is computed twice: not an entry that another run repeats, nor the scores of an evaluation
that several decisions use.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tasks
from harness.board.ledger import (
    EvaluationEntry,
    InvalidateEntry,
    Line,
    PromotionEntry,
    Row,
    SupersedeEntry,
    loads,
)
from harness.core.errors import UserError
from harness.core.files import parse
from harness.core.schema import Decision, Evaluation, MetricResult, Promotion, Score, digest
from harness.core.scored import ScoredEvaluation
from harness.gate import claims, decide_again, promote
from harness.stats.intervals import aggregate, aggregate_repeats, students_interval

LoadScores = Callable[[EvaluationEntry], list[Score]]
KEPT_EVALUATIONS = 32  # whose scores stay in memory: a loop decides on its latest
KEPT_SCORES = 2_000_000


@dataclass
class Audit:
    """Hold what is on the board so far, to check whether a further entry follows from it."""

    load: LoadScores
    entries: dict[str, str] = field(default_factory=dict)  # digest -> kind, and task
    recorded: dict[str, EvaluationEntry] = field(default_factory=dict)  # identity -> entry
    names: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    decisions: dict[str, Decision] = field(default_factory=dict)  # digest -> decision
    _scores: OrderedDict[str, list[Score]] = field(default_factory=OrderedDict)

    def admit(self, line: Line, *, check: bool) -> list[str]:
        """Add a line's entry; with `check`, return what is wrong with it."""
        name = line.entry_digest
        if name in self.entries:
            return []
        try:
            # Identities are of what was written, so that records may gain fields.
            value = loads(line.entry)
            entry = parse(Row, loads(line.text), "the row").entry
            problems = self.problems(entry) if check else []
            self._index(name, entry, value)
        except (UserError, ValueError, RecursionError) as error:
            return [str(error)]
        return problems

    def problems(self, entry: Any) -> list[str]:
        """List what of an entry does not follow from the entries admitted before."""
        problems: list[str] = []
        try:
            match entry.kind:
                case "evaluation":
                    problems = evaluation_problems(entry.evaluation, self._load(entry))
                case "decision":
                    problems = self._decision_problems(entry.decision)
                case "promotion":
                    problems = self._promotion_problems(entry)
                case "supersede":
                    problems = self._supersede_problems(entry)
                case "invalidate":
                    problems = self._invalidate_problems(entry)
        except UserError as error:
            problems = [str(error)]
        return problems

    def _index(self, name: str, entry: Any, value: Mapping[str, Any]) -> None:
        self.entries[name] = entry.kind
        if entry.kind == "evaluation":
            self.entries[name] += f" of {entry.evaluation.task}"
            identity = digest(value["evaluation"])
            self.recorded[identity] = entry
            self.names[entry.name].add(identity)
        elif entry.kind == "decision":
            self.decisions[digest(value["decision"])] = entry.decision

    def _load(self, entry: EvaluationEntry) -> list[Score]:
        if entry.samples not in self._scores:
            self._scores[entry.samples] = self.load(entry)
            while len(self._scores) > 1 and (
                len(self._scores) > KEPT_EVALUATIONS
                or sum(map(len, self._scores.values())) > KEPT_SCORES
            ):
                self._scores.popitem(last=False)
        self._scores.move_to_end(entry.samples)
        return self._scores[entry.samples]

    def _decision_problems(self, decision: Decision) -> list[str]:
        def side(identities: Mapping[str, str]) -> dict[str, ScoredEvaluation]:
            missing = [task for task, name in identities.items() if name not in self.recorded]
            if missing:
                raise UserError(
                    f"an evaluation of {missing[0]} that it was made from is not on the board; "
                    "add it first"
                )
            entries = {task: self.recorded[identity] for task, identity in identities.items()}
            return {
                task: ScoredEvaluation(entry.evaluation, self._load(entry))
                for task, entry in entries.items()
            }

        if any(check.planned is not None for check in decision.checks):
            return ["a gate that may stop early cannot be recomputed without its plan's order"]
        sides = side(decision.baseline), side(decision.candidate)
        # Alarms and the plan depend on more than the scores: their effect is checked. Identities
        # are taken as written, and their tasks are checked. A board keeps no items, so that the
        # clusters are also those that were recorded.
        again = decide_again(decision, *sides)
        again = again.model_copy(
            update={
                "plan": decision.plan,
                "baseline": {task: decision.baseline[task] for task in again.baseline},
                "candidate": {task: decision.candidate[task] for task in again.candidate},
            }
        )
        if _close(_without_words(decision), _without_words(again)):
            return []
        return [f"the gate decides otherwise on these scores: {again.verdict}, not this decision"]

    def _promotion_problems(self, entry: PromotionEntry) -> list[str]:
        promotion = entry.promotion
        named = (promotion.vs_incumbent, promotion.vs_anchor)
        if not self.decisions.keys() >= {*named}:
            return ["a decision that it was made from is not on the board; add it first"]
        vs_incumbent, vs_anchor = (self.decisions[name] for name in named)
        for name, identities in (
            (entry.candidate, vs_incumbent.candidate),
            (entry.incumbent, vs_incumbent.baseline),
        ):
            if not self.names.get(name, set()).issuperset(identities.values()):
                return [
                    f"its decision is about evaluations that the board has under no name '{name}'"
                ]
        # The digests are of the written decisions, and only which decisions they name matters.
        again = promote(vs_incumbent, vs_anchor).model_copy(
            update={"vs_incumbent": named[0], "vs_anchor": named[1]}
        )
        if _close(_without_words(promotion), _without_words(again)):
            return []
        return [
            f"its decisions give otherwise: promoted is {again.promoted}, z {again.ladder_z:.4g}"
        ]

    def _supersede_problems(self, entry: SupersedeEntry) -> list[str]:
        kinds = [self.entries.get(name, "") for name in (entry.old, entry.new)]
        for name, kind in zip((entry.old, entry.new), kinds, strict=True):
            if not kind.startswith("evaluation"):
                return [f"no evaluation on the board before it has the digest {name[:12]}"]
        if kinds[0] != kinds[1] or entry.old == entry.new:
            return [f"an {kinds[0]} cannot be replaced by {_other(kinds, entry)}"]
        return []

    def _invalidate_problems(self, entry: InvalidateEntry) -> list[str]:
        kind = self.entries.get(entry.entry)
        if kind is None:
            return [f"nothing on the board before it has the digest {entry.entry[:12]}"]
        return ["a merge cannot be withdrawn"] if kind == "merge" else []


def evaluation_problems(evaluation: Evaluation, scores: Sequence[Score]) -> list[str]:
    """List the claims and metrics of an evaluation that its scores contradict."""
    problems = claims.contradictions(evaluation, scores)
    if missing := claims.missing(evaluation, scores):
        problems.append(missing)
    if task := tasks.installed(evaluation.task, evaluation.task_version):
        problems += claims.redefined(evaluation, {metric.name: metric for metric in task.metrics})
    return [*problems, *metric_problems(evaluation, scores)]


def metric_problems(evaluation: Evaluation, scores: Sequence[Score]) -> list[str]:
    """List the metrics of an evaluation that its scores do not give."""
    recomputed, complete = _recompute(evaluation, scores)
    problems = []
    for name in sorted({*evaluation.metrics, *recomputed}):
        recorded, again = evaluation.metrics.get(name), recomputed.get(name)
        if again is None and not complete and name not in evaluation.definitions:
            continue  # derived by a task that is not installed: see `underived`
        if not _follows(recorded, again):
            problems.append(f"{name} is recorded as {recorded}, and its scores give {again}")
    return problems


def underived(evaluation: Evaluation, scores: Sequence[Score]) -> list[str]:
    """List the metrics that cannot be computed again: their task is not installed."""
    recomputed, complete = _recompute(evaluation, scores)
    if complete:
        return []
    return sorted(evaluation.metrics.keys() - recomputed.keys() - evaluation.definitions.keys())


def lean(evaluation: Evaluation, scores: Sequence[Score]) -> list[Score]:
    """Drop the details (answers, replies) of scores that the metrics do not depend on."""
    kept = list(scores)
    for key in sorted({key for score in scores for key in score.details}):
        fewer = [
            score.model_copy(
                update={"details": {k: v for k, v in score.details.items() if k != key}}
            )
            for score in kept
        ]
        with contextlib.suppress(Exception):  # a task that needs the key may fail without it
            again, _ = _recompute(evaluation, fewer)
            if all(_follows(m, again.get(k)) for k, m in evaluation.metrics.items()):
                kept = fewer
    return kept


def _other(kinds: Sequence[str], entry: SupersedeEntry) -> str:
    return "itself" if entry.old == entry.new else f"an {kinds[1]}"


def _recompute(
    evaluation: Evaluation, scores: Sequence[Score]
) -> tuple[dict[str, MetricResult], bool]:
    """Compute the metrics of `scores`; return them, and whether they are all there can be."""
    task = tasks.installed(evaluation.task, evaluation.task_version)
    results = task.aggregate(scores) if task else aggregate(scores, evaluation.definitions)
    # Versions before these metrics did not record them.
    counted = [name for name in evaluation.metrics if name not in results]
    results |= aggregate_repeats(ScoredEvaluation(evaluation, scores), counted)
    return results, task is not None


def _without_words(value: Decision | Promotion) -> Any:
    """Return a decision or promotion as JSON, without its sentences, which may be reworded."""
    return value.model_dump(
        mode="json", exclude={"reasons": True, "notes": True, "checks": {"__all__": {"reason"}}}
    )


def _follows(recorded: MetricResult | None, again: MetricResult | None) -> bool:
    """Tell whether a recorded result is `again`, with the interval of today or that of before."""
    if recorded is None or again is None:
        return recorded is again
    return any(_close(_plain(recorded), _plain(r)) for r in (again, students_interval(again)))


def _plain(result: MetricResult | None) -> Any:
    return result.model_dump(mode="json") if result else None


def _close(a: Any, b: Any) -> bool:
    """Compare JSON up to the last digits of numbers, which libraries round differently."""
    if isinstance(a, float) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_close(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_close, a, b))
    return bool(a == b)
