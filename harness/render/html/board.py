"""A leaderboard as a page: a ranking for each set of evaluations that can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.board.ranking import Column, Name, Withdrawn, divide, tables
from harness.board.rows import DecisionEntry, EvaluationEntry, PromotionEntry, Row
from harness.core.schema import Evaluation, Metric, MetricResult
from harness.render import markdown
from harness.render.html import bars, numbers
from harness.render.html.page import render


@dataclass(frozen=True)
class Place:
    """A model in a ranking: who, what it reached, and what the gate said of it."""

    rank: str
    run: str
    name: str
    result: MetricResult
    verdicts: list[tuple[str, str]]  # verdict, against whom
    outcome: str
    bar: bars.Bar | None


@dataclass(frozen=True)
class Ranking:
    """Evaluations that may stand in one ranking, the best mean first."""

    evaluation: Evaluation  # the first of them: how all of them were made
    metric: Metric
    places: list[Place]


class _Said:
    """What the gate said of each evaluation of a run, and of each model that was to be promoted."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._verdicts: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self._promoted: dict[Name, str] = {}
        for row in rows:
            if isinstance(row.entry, DecisionEntry):
                said = (row.entry.decision.verdict, row.entry.against)
                for identity in row.entry.decision.candidate.values():
                    self._verdicts.setdefault((row.run, identity), []).append(said)
            elif isinstance(row.entry, PromotionEntry):
                outcome = "promoted" if row.entry.promotion.promoted else "rolled back"
                self._promoted[row.run, row.entry.candidate] = outcome

    def verdicts(self, run: str, evaluation: Evaluation) -> list[tuple[str, str]]:
        """(verdict, against whom), each once, in the order of the ledger."""
        return list(dict.fromkeys(self._verdicts.get((run, evaluation.identity), [])))

    def outcome(self, name: Name) -> str:
        return self._promoted.get(name, "")


def board(rows: Sequence[Row]) -> str:
    """The page of a board; HTML, the same bytes for the same rows.

    Models that the data cannot tell apart share a rank (`harness.board.ranking.ranks`).
    Evaluations that
    cannot be compared (another split, dataset, prompt, judge or estimator) are ranked apart; where
    a model was evaluated twice in the same way the later one counts. What was superseded or
    invalidated stands at the end, with the reason, after notes on what the numbers do not show.

    Raises:
        UserError: an entry that is withdrawn is not among the rows.
    """
    standing, withdrawn = divide(rows)
    return render(
        "board.html.jinja",
        rankings=_rankings(standing),
        notes=markdown.notes(rows),
        withdrawn=[(one, _what(one)) for one in withdrawn],
        with_run=len({row.run for row in standing}) > 1,
        head=rows[-1].digest if rows else "",
        rows=len(rows),
        numbers=numbers,
    )


def _rankings(rows: Sequence[Row]) -> list[Ranking]:
    columns = [column for table in tables(rows) for column in table.columns.values()]
    said = _Said(rows)
    found = [_ranking(column, column.metric, said) for column in columns if column.metric]
    # What a gate saw was chosen by it: the splits that nobody chose on come first.
    return sorted(found, key=lambda ranking: ranking.evaluation.split == "gate")


def _ranking(column: Column, metric: Metric, said: _Said) -> Ranking:
    results, ranks, unranked = column.results(), column.ranks(), column.unranked()
    sign = -1 if metric.higher_is_better else 1

    def place(name: Name) -> tuple[bool, bool, float]:
        mean = results[name].mean
        return name in unranked, mean is None, sign * (mean or 0.0)

    names = sorted(results, key=place)
    return Ranking(
        next(iter(column.evaluations.values())),
        metric,
        [
            Place(
                rank=_rank(name, ranks),
                run=name[0],
                name=name[1],
                result=results[name],
                verdicts=said.verdicts(name[0], column.evaluations[name]),
                outcome=said.outcome(name),
                bar=bar,
            )
            for name, bar in zip(
                names, bars.of_results([results[name] for name in names]), strict=True
            )
        ],
    )


def _rank(name: Name, ranks: Mapping[Name, int]) -> str:
    """The rank as it is shown: "=2" where it is shared, nothing where there is none."""
    if name not in ranks:
        return ""
    shared = sum(rank == ranks[name] for rank in ranks.values()) > 1
    return f"={ranks[name]}" if shared else str(ranks[name])


def _what(found: Withdrawn) -> str:
    entry = found.row.entry
    if isinstance(entry, EvaluationEntry):
        said = f"{entry.name} on {entry.evaluation.task} ({entry.evaluation.split})"
    elif isinstance(entry, PromotionEntry):
        said = f"the promotion of {entry.candidate}"
    else:
        said = f"a {entry.kind}"
    return f"{said}, superseded by {found.replaced_by[:12]}" if found.replaced_by else said
