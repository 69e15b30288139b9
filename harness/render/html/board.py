"""Render a leaderboard as a page: a ranking for each set of evaluations that compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.board.ledger import EvaluationEntry, PromotionEntry, Row
from harness.board.ranking import Cell, Column, Name, Withdrawn
from harness.board.standings import Standings
from harness.core.schema import Evaluation, Metric, MetricResult
from harness.render import numbers
from harness.render.html import bars
from harness.render.html.page import render


@dataclass(frozen=True)
class Place:
    """A model in a ranking: its result, and what the gate decided about it."""

    rank: str  # "=2" if it is shared, "" if there is none
    run: str
    name: str
    result: MetricResult
    verdicts: list[tuple[str, str]]  # verdict, against whom
    outcome: str
    bar: bars.Bar | None


@dataclass(frozen=True)
class Ranking:
    """Evaluations that compare, the best mean first."""

    evaluation: Evaluation  # the first of them: how all of them were made
    metric: Metric
    places: list[Place]


def board(rows: Sequence[Row]) -> str:
    """Render the page of a board: HTML, the same bytes for the same rows.

    Models that the data cannot tell apart share a rank (`harness.board.ranking.ranks`).
    Evaluations that do not compare (another split, dataset, prompt, judge or estimator) are ranked
    apart; if a model was evaluated twice in the same way, the later evaluation counts. At the end
    are notes on what the numbers do not show, and what was superseded or invalidated, with the
    reason.

    Raises:
        UserError: an entry that is withdrawn is not among the rows.
    """
    standings = Standings(rows)
    return render(
        "board.html.jinja",
        rankings=_rankings(standings),
        notes=standings.notes(),
        withdrawn=[(withdrawn, _title(withdrawn)) for withdrawn in standings.withdrawn],
        with_run=standings.has_several_runs,
        head=rows[-1].digest if rows else "",
        rows=len(rows),
        numbers=numbers,
    )


def _rankings(standings: Standings) -> list[Ranking]:
    rankings = [
        _ranking(column, column.metric, standings) for column in standings.columns if column.metric
    ]
    # The gate chose on what it saw: the splits that nobody chose on come first.
    return sorted(rankings, key=lambda ranking: ranking.evaluation.split == "gate")


def _ranking(column: Column, metric: Metric, standings: Standings) -> Ranking:
    cells, unranked = column.cells(), column.unranked()
    sign = -1 if metric.higher_is_better else 1

    def order(name: Name) -> tuple[bool, bool, float]:
        mean = cells[name].result.mean
        return name in unranked, mean is None, sign * (mean or 0.0)

    names = sorted(cells, key=order)
    drawn = bars.of_results([cells[name].result for name in names])
    return Ranking(
        column.example,
        metric,
        [
            Place(
                rank=_rank(cells[name]),
                run=name[0],
                name=name[1],
                result=cells[name].result,
                verdicts=_verdicts(standings, name, column.evaluations[name]),
                outcome=standings.outcome(name).replace("not enforced", "rolled back"),
                bar=bar,
            )
            for name, bar in zip(names, drawn, strict=True)
        ],
    )


def _rank(cell: Cell) -> str:
    if cell.rank is None:
        return ""
    return f"={cell.rank}" if cell.is_shared else str(cell.rank)


def _verdicts(standings: Standings, name: Name, evaluation: Evaluation) -> list[tuple[str, str]]:
    verdicts = standings.verdicts(name[0], [evaluation])
    return list(dict.fromkeys((verdict.verdict, verdict.against) for verdict in verdicts))


def _title(withdrawn: Withdrawn) -> str:
    entry = withdrawn.row.entry
    if isinstance(entry, EvaluationEntry):
        title = f"{entry.name} on {entry.evaluation.task} ({entry.evaluation.split})"
    elif isinstance(entry, PromotionEntry):
        title = f"the promotion of {entry.candidate}"
    else:
        title = f"a {entry.kind}"
    by = withdrawn.replaced_by
    return f"{title}, superseded by {by[:12]}" if by else title
