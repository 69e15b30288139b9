"""Rank the models of a board: what still counts, which numbers compare, and who is ahead of whom.

Pure functions of a board's rows.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.board.ledger import (
    DecisionEntry,
    EvaluationEntry,
    InvalidateEntry,
    PromotionEntry,
    Row,
    SupersedeEntry,
)
from harness.core.errors import UserError
from harness.core.schema import RESPONDED, Evaluation, Metric, MetricResult, digest

Name = tuple[str, str]
"""A run, and a model's name in it."""

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
class Cell:
    """A model's result in a column, with its rank: None where it has no rank."""

    result: MetricResult
    rank: int | None
    is_shared: bool  # whether other models have the same rank
    ranked: int  # models of the column that have a rank


@dataclass(frozen=True)
class Column:
    """The evaluations of one task whose numbers compare: they have one `comparable_key`."""

    task: str
    key: str
    evaluations: dict[Name, Evaluation] = field(default_factory=dict)
    replaced: dict[Name, list[Evaluation]] = field(default_factory=dict)  # earlier, same name

    @property
    def example(self) -> Evaluation:
        """Return the first evaluation, which says how all of them were made."""
        return next(iter(self.evaluations.values()))

    @property
    def metric(self) -> Metric | None:
        """Return the task's primary metric."""
        return next(
            (metric for metric in self.example.definitions.values() if metric.primary), None
        )

    @property
    def title(self) -> str:
        """Return the task and its primary metric."""
        return f"{self.task} {self.metric.name if self.metric else ''}".strip()

    def cells(self, metric: Metric | None = None) -> dict[Name, Cell]:
        """Rank the models that have a result by `metric`, by default the primary one."""
        metric = metric or self.metric
        if metric is None:
            return {}
        results, without = self._results(metric), self.unranked(metric)
        places = ranks(
            {name: result for name, result in results.items() if name not in without},
            higher_is_better=metric.higher_is_better,
        )
        sharing: Counter[int | None] = Counter(places.values())
        return {
            name: Cell(result, places.get(name), sharing[places.get(name)] > 1, len(places))
            for name, result in results.items()
        }

    def unranked(self, metric: Metric | None = None) -> dict[Name, str]:
        """Explain which models have no rank: too many of their responses have no value.

        All models of a column were asked the same items, so the one with the most values shows
        how many items a metric applies to. Items that a model declined do not count where the task
        says which they are.
        """
        metric = metric or self.metric
        if metric is None:
            return {}
        results = self._results(metric)
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

    def _results(self, metric: Metric) -> dict[Name, MetricResult]:
        return {
            name: evaluation.metrics[metric.name]
            for name, evaluation in self.evaluations.items()
            if metric.name in evaluation.metrics
        }


@dataclass(frozen=True)
class Table:
    """Columns over one split, one for each task."""

    split: str
    columns: dict[str, Column] = field(default_factory=dict)

    @property
    def names(self) -> list[Name]:
        """List the models of any column, in the order of the ledger."""
        return list(dict.fromkeys(n for c in self.columns.values() for n in c.evaluations))


def divide(rows: Sequence[Row]) -> tuple[list[Row], list[Withdrawn]]:
    """Divide evaluations, decisions and promotions into those that count and those that do not.

    Superseded and invalidated entries do not count, nor does what rests on them: a decision one of
    whose evaluations no longer counts under any name, a promotion one of whose decisions was
    withdrawn. An invalidation that is itself invalidated has no effect.

    Raises:
        UserError: an entry that is withdrawn is not among the rows.
    """
    reasons = _reasons(rows)
    recorded = [
        row
        for row in rows
        if isinstance(row.entry, EvaluationEntry | DecisionEntry | PromotionEntry)
    ]
    if not reasons:
        return recorded, []
    digests = {row.digest: digest(row.entry) for row in rows}
    if missing := reasons.keys() - digests.values():
        raise UserError(
            f"The board withdraws {min(missing)[:12]}, which is not on it: run rlrf board verify."
        )
    withdrawn = [
        Withdrawn(row, digests[row.digest], *reasons[digests[row.digest]])
        for row in recorded
        if digests[row.digest] in reasons
    ]
    remaining = [row for row in recorded if digests[row.digest] not in reasons]
    evaluated = {
        row.entry.evaluation.identity for row in remaining if isinstance(row.entry, EvaluationEntry)
    }
    decided: set[str] = set()
    counting = []
    for row in remaining:
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
        if holds:
            counting.append(row)
        else:
            withdrawn.append(Withdrawn(row, digests[row.digest], RESTS))
    return counting, withdrawn


def tables(rows: Iterable[Row]) -> list[Table]:
    """Arrange the evaluations among `rows`, which count, in tables.

    Each kind of comparable evaluation is a column, in the first table that has room for it. Where
    a model was evaluated twice in the same way, the later evaluation is in the column, which keeps
    the earlier ones as `replaced`.
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


def repeats(evaluation: Evaluation) -> int:
    """Return the number of responses per item."""
    n = evaluation.decoding.get("n")
    return n if isinstance(n, int) and n > 0 else 1


def _responded(evaluation: Evaluation, metric: Metric) -> int:
    """Count the items that the model did not decline, as far as its task says so."""
    result = evaluation.metrics.get(RESPONDED)
    if result is None or result.mean is None or metric.name == RESPONDED:
        return evaluation.items
    return evaluation.items - result.n + math.ceil(result.mean * result.n - ROUNDING)


def ranks(
    results: Mapping[Name, MetricResult], *, higher_is_better: bool = True
) -> dict[Name, int]:
    """Rank models: 1 + the number of models whose interval lies wholly on the better side.

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
        # Ends that touch but for rounding do not lie apart.
        name: 1 + len(lows) - bisect.bisect_right(lows, high + ROUNDING * max(1.0, abs(high)))
        for name, (_, high) in ends.items()
    }


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
