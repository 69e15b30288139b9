"""Who stands where: what of a board still counts, which numbers compare, and who is ahead of whom.

Pure functions of a board's rows, for whatever renders them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.board.rows import (
    DecisionEntry,
    EvaluationEntry,
    InvalidateEntry,
    PromotionEntry,
    Row,
    SupersedeEntry,
)
from harness.core.errors import UserError
from harness.core.schema import RESPONDED, Evaluation, Metric, MetricResult, digest

Name = tuple[str, str]  # the run, and the model's name in it
RESTS = "it rests on what was withdrawn"
MAX_MISSING = 0.01  # share of values that may be missing for a rank, as in a gate's policy
ROUNDING = 1e-9


@dataclass(frozen=True)
class Withdrawn:
    """A row that no longer counts, and why."""

    row: Row
    entry: str  # its entry's digest
    reason: str
    replaced_by: str = ""  # digest of the evaluation's entry that counts instead


@dataclass(frozen=True)
class Column:
    """The evaluations of one task whose numbers compare: they have one `comparable_key`."""

    task: str
    key: str
    evaluations: dict[Name, Evaluation] = field(default_factory=dict)
    replaced: dict[Name, list[Evaluation]] = field(default_factory=dict)  # earlier, same name

    @property
    def metric(self) -> Metric | None:
        """The task's primary metric."""
        definitions = next(iter(self.evaluations.values())).definitions.values()
        return next((metric for metric in definitions if metric.primary), None)

    def results(self, metric: Metric | None = None) -> dict[Name, MetricResult]:
        """Collect the results by `metric`, the primary one by default, of the models with one."""
        metric = metric or self.metric
        return {
            name: evaluation.metrics[metric.name]
            for name, evaluation in self.evaluations.items()
            if metric and metric.name in evaluation.metrics
        }

    def ranks(self, metric: Metric | None = None) -> dict[Name, int]:
        """Rank by `metric`, the primary one by default; see `ranks` and `unranked`."""
        metric = metric or self.metric
        if metric is None:
            return {}
        without = self.unranked(metric)
        ranked = {name: r for name, r in self.results(metric).items() if name not in without}
        return ranks(ranked, higher_is_better=metric.higher_is_better)

    def unranked(self, metric: Metric | None = None) -> dict[Name, str]:
        """Say why models have no rank: too many of their responses have no value of the metric.

        All models of a column were asked the same items, so the one with the most values shows
        how many items a metric applies to. Items that a model declined do not count where the task
        says which they are.
        """
        metric = metric or self.metric
        if metric is None:
            return {}
        results = self.results(metric)
        most = max((result.n for result in results.values()), default=0)
        reasons = {}
        for name, result in results.items():
            evaluation = self.evaluations[name]
            applies = evaluation.items if metric.kind == "binary" and metric.primary else most
            expected = min(applies, _responded(evaluation, metric))
            asked = evaluation.items * repeats(evaluation)
            if result.n < (1 - MAX_MISSING) * expected - ROUNDING:
                reasons[name] = f"{metric.name} has a value for {result.n} of {expected} items"
            elif result.unscored > MAX_MISSING * asked + ROUNDING:
                reasons[name] = f"{result.unscored} of {asked} responses are unscored"
        return reasons


@dataclass(frozen=True)
class Table:
    """Columns over one split, one for each task."""

    split: str
    columns: dict[str, Column] = field(default_factory=dict)

    @property
    def names(self) -> list[Name]:
        """The models of any column, in the order of the ledger."""
        return list(dict.fromkeys(n for c in self.columns.values() for n in c.evaluations))


def divide(rows: Sequence[Row]) -> tuple[list[Row], list[Withdrawn]]:
    """The evaluations, decisions and promotions that count, and those that no longer do.

    Superseded and invalidated entries do not count, nor what rests on them: a decision one of
    whose evaluations stands under no name any more, a promotion one of whose decisions was
    withdrawn. An invalidation that is itself invalidated has no effect.

    Raises:
        UserError: an entry that is withdrawn is not among the rows.
    """
    reasons = _reasons(rows)
    counting = [
        row
        for row in rows
        if isinstance(row.entry, EvaluationEntry | DecisionEntry | PromotionEntry)
    ]
    if not reasons:
        return counting, []
    digests = {row.digest: digest(row.entry) for row in rows}
    if missing := reasons.keys() - digests.values():
        raise UserError(
            f"The board withdraws {min(missing)[:12]}, which is not on it: run rlrf board verify."
        )
    standing: list[Row] = []
    withdrawn: list[Withdrawn] = []
    for row in counting:
        said = reasons.get(digests[row.digest])
        if said:
            withdrawn.append(Withdrawn(row, digests[row.digest], *said))
        else:
            standing.append(row)
    evaluated, decided, resting = _evaluated(standing), set[str](), set[str]()
    for row in standing:
        holds = True
        if isinstance(row.entry, DecisionEntry):
            decision = row.entry.decision
            holds = evaluated.issuperset(
                [*decision.baseline.values(), *decision.candidate.values()]
            )
            decided |= {digest(decision)} if holds else set()
        elif isinstance(row.entry, PromotionEntry):
            promotion = row.entry.promotion
            holds = decided >= {promotion.vs_incumbent, promotion.vs_anchor}
        if not holds:
            resting.add(row.digest)
            withdrawn.append(Withdrawn(row, digests[row.digest], RESTS))
    standing = [row for row in standing if row.digest not in resting]
    return standing, withdrawn


def tables(rows: Iterable[Row]) -> list[Table]:
    """Each kind of comparable evaluation is a column, in the first table that has room for it.

    Where a model was evaluated twice in the same way the later one stands, and its column keeps the
    earlier ones as `replaced`. Give the rows that
    count, as `divide` says.
    """
    found: list[Table] = []
    placed: dict[tuple[str, str], Column] = {}
    for row in rows:
        if not isinstance(row.entry, EvaluationEntry):
            continue
        evaluation = row.entry.evaluation
        task, key = evaluation.task, evaluation.comparable_key
        if (task, key) not in placed:
            table = next(
                (t for t in found if t.split == evaluation.split and task not in t.columns), None
            )
            if table is None:
                table = Table(evaluation.split)
                found.append(table)
            placed[task, key] = table.columns[task] = Column(task, key)
        column, name = placed[task, key], (row.run, row.entry.name)
        if column.evaluations.get(name, evaluation) != evaluation:
            column.replaced.setdefault(name, []).append(column.evaluations[name])
        column.evaluations[name] = evaluation
    return found


def reused_names(rows: Iterable[Row]) -> dict[Name, int]:
    """Count the models that stand under one name, by their weights, where they are several."""
    weights: dict[Name, set[str]] = {}
    for row in rows:
        if isinstance(row.entry, EvaluationEntry) and row.entry.evaluation.model.digest:
            name = row.run, row.entry.name
            weights.setdefault(name, set()).add(row.entry.evaluation.model.digest)
    return {name: len(digests) for name, digests in weights.items() if len(digests) > 1}


def repeats(evaluation: Evaluation) -> int:
    """How often each item was answered."""
    n = evaluation.decoding.get("n")
    return n if isinstance(n, int) and n > 0 else 1


def _responded(evaluation: Evaluation, metric: Metric) -> int:
    """How many items the model did not decline, as far as its task says so."""
    result = evaluation.metrics.get(RESPONDED)
    if result is None or result.mean is None or metric.name == RESPONDED:
        return evaluation.items
    return evaluation.items - result.n + math.ceil(result.mean * result.n - ROUNDING)


def ranks(
    results: Mapping[Name, MetricResult], *, higher_is_better: bool = True
) -> dict[Name, int]:
    """A model's rank: 1 + how many models have an interval that lies wholly on its better side.

    Models whose intervals overlap are not told apart by it. A model without an interval (one item,
    or nothing scored) has no rank and takes none away.
    """
    sign = 1 if higher_is_better else -1
    ends = {
        name: sorted((sign * result.low, sign * result.high))
        for name, result in results.items()
        if result.low is not None and result.high is not None
    }
    lows = sorted(low for low, _ in ends.values())
    return {
        name: 1 + len(lows) - bisect.bisect_right(lows, high + _slack(high))
        for name, (_, high) in ends.items()
    }


def _evaluated(rows: Iterable[Row]) -> set[str]:
    return {row.entry.evaluation.identity for row in rows if isinstance(row.entry, EvaluationEntry)}


def _slack(value: float) -> float:
    """Ends that touch but for rounding do not lie apart."""
    return 1e-9 * max(1.0, math.fabs(value))


def _reasons(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Digest of a withdrawn entry -> why, and what replaces it."""
    reasons: dict[str, tuple[str, str]] = {}
    cancelled: set[str] = set()
    for row in reversed(rows):
        entry = row.entry
        if not isinstance(entry, SupersedeEntry | InvalidateEntry) or digest(entry) in cancelled:
            continue
        if isinstance(entry, InvalidateEntry):
            cancelled.add(entry.entry)
            reasons[entry.entry] = entry.reason, ""
        else:
            reasons[entry.old] = entry.reason, entry.new
    return reasons
