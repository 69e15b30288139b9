"""A leaderboard as a page: a ranking for each set of evaluations that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.render.html import bars, numbers
from harness.render.html.page import render
from harness.schema import (
    DecisionEntry,
    Evaluation,
    EvaluationEntry,
    InvalidateEntry,
    Metric,
    MetricResult,
    PromotionEntry,
    Row,
    SupersedeEntry,
    digest,
)


@dataclass(frozen=True)
class Place:
    """A model in a ranking: who, what it reached, and what the gate said of it."""

    rank: str
    run: str
    name: str
    result: MetricResult
    verdicts: list[tuple[str, str]]  # verdict, against whom
    promoted: str
    bar: bars.Bar | None


@dataclass(frozen=True)
class Ranking:
    """Evaluations that may stand in one ranking, the best mean first."""

    evaluation: Evaluation  # the first of them: how all of them were made
    metric: Metric
    places: list[Place]


@dataclass(frozen=True)
class Withdrawn:
    """An entry that no longer counts, and why."""

    what: str
    entry: str
    reason: str


def board(rows: Sequence[Row]) -> str:
    """The page of a board; HTML, the same bytes for the same rows.

    A model's rank in a ranking is 1 + the number of models whose 95 % interval lies wholly above
    its own, so that models which the data cannot tell apart share a rank. Evaluations that cannot
    be compared (another split, dataset, prompt, judge or estimator) are ranked apart; where a
    model was evaluated twice in the same way the later one counts.
    """
    gone = _withdrawn(rows)
    rankings = _rankings([row for row in rows if digest(row.entry) not in gone])
    return render(
        "board.html.jinja",
        rankings=rankings,
        withdrawn=list(gone.values()),
        with_run=len({row.run for row in rows}) > 1,
        head=rows[-1].digest if rows else "",
        rows=len(rows),
        numbers=numbers,
    )


def ranks(results: Sequence[MetricResult], metric: Metric) -> list[str]:
    """The rank of each result; "=2" where it is shared, nothing where there is no mean."""
    ends = [_ends(result, metric) for result in results]
    placed = [
        None if own is None else 1 + sum(other[0] > own[1] for other in ends if other)
        for own in ends
    ]
    return [
        "" if rank is None else f"={rank}" if placed.count(rank) > 1 else str(rank)
        for rank in placed
    ]


def _ends(result: MetricResult, metric: Metric) -> tuple[float, float] | None:
    """The worse and the better end of an interval, as numbers of which more is better."""
    if result.mean is None:
        return None
    low = result.mean if result.low is None else result.low
    high = result.mean if result.high is None else result.high
    return (low, high) if metric.higher_is_better else (-high, -low)


def _rankings(rows: Sequence[Row]) -> list[Ranking]:
    kinds: dict[str, dict[tuple[str, str], Evaluation]] = {}
    for row in rows:
        if isinstance(row.entry, EvaluationEntry):
            evaluation = row.entry.evaluation
            models = kinds.setdefault(evaluation.comparable_key, {})
            models.pop((row.run, row.entry.name), None)
            models[row.run, row.entry.name] = evaluation
    found = [ranking for models in kinds.values() if (ranking := _ranking(models, rows))]
    # What a gate saw was chosen by it: the splits that nobody chose on come first.
    return sorted(found, key=lambda ranking: ranking.evaluation.split == "gate")


def _ranking(models: dict[tuple[str, str], Evaluation], rows: Sequence[Row]) -> Ranking | None:
    first = next(iter(models.values()))
    metric = next((m for m in first.definitions.values() if m.primary), None)
    if metric is None:
        return None
    nothing = MetricResult(mean=None, n=0)
    found = [(who, one, one.metrics.get(metric.name, nothing)) for who, one in models.items()]
    sign = -1 if metric.higher_is_better else 1
    found.sort(key=lambda entry: (entry[2].mean is None, sign * (entry[2].mean or 0.0)))
    results = [result for _, _, result in found]
    placed = zip(found, ranks(results, metric), bars.of_results(results), strict=True)
    return Ranking(
        first,
        metric,
        [
            Place(
                rank=rank,
                run=run,
                name=name,
                result=result,
                verdicts=_verdicts(run, evaluation, rows),
                promoted=_promoted(run, name, rows),
                bar=bar,
            )
            for ((run, name), evaluation, result), rank, bar in placed
        ],
    )


def _verdicts(run: str, evaluation: Evaluation, rows: Sequence[Row]) -> list[tuple[str, str]]:
    said = [
        (row.entry.decision.verdict, row.entry.against)
        for row in rows
        if isinstance(row.entry, DecisionEntry)
        and row.run == run
        and evaluation.identity in row.entry.decision.candidate.values()
    ]
    return list(dict.fromkeys(said))


def _promoted(run: str, name: str, rows: Sequence[Row]) -> str:
    said = [
        "promoted" if row.entry.promotion.promoted else "rolled back"
        for row in rows
        if isinstance(row.entry, PromotionEntry) and (row.run, row.entry.candidate) == (run, name)
    ]
    return said[-1] if said else ""


def _withdrawn(rows: Sequence[Row]) -> dict[str, Withdrawn]:
    """Digest of an entry -> why it no longer counts."""
    names = {digest(row.entry): _name(row) for row in rows}
    gone: dict[str, Withdrawn] = {}
    for row in rows:
        if isinstance(row.entry, SupersedeEntry):
            old, by = row.entry.old, names.get(row.entry.new, row.entry.new[:12])
            what = f"{names.get(old, 'an entry')}, superseded by {by} {row.entry.new[:12]}"
        elif isinstance(row.entry, InvalidateEntry):
            old = row.entry.entry
            what = f"{names.get(old, 'an entry')}, withdrawn"
        else:
            continue
        gone[old] = Withdrawn(what, old, row.entry.reason)
    return gone


def _name(row: Row) -> str:
    if isinstance(row.entry, EvaluationEntry):
        return f"{row.entry.name} on {row.entry.evaluation.task} ({row.entry.evaluation.split})"
    return f"a {row.entry.kind}"
