"""Boards and decisions as GitHub Markdown. Everything that comes from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.ranking import Column, Name, Table, Withdrawn, divide, tables
from harness.schema import (
    Check,
    Decision,
    DecisionEntry,
    Evaluation,
    EvaluationEntry,
    MetricResult,
    PromotionEntry,
    Row,
)
from harness.text import markdown as escape

NOTHING = "-"
RANKS = (
    "A model's rank is 1 + how many models of its column have an interval wholly on the better "
    "side of its own; models that share a rank are not told apart.\n"
)


def board(rows: Sequence[Row]) -> str:
    """The board: a row for each model, a column for each task's primary metric, with 95 % interval.

    All numbers of a column can be compared. Evaluations that cannot (another split, dataset,
    prompt, judge or estimator) stand in tables of their own, and what each was made with is said
    below it. Where a model was evaluated twice in the same way the later one is shown; what was
    superseded or invalidated is listed at the end, with the reason.
    """
    standing, withdrawn = divide(rows)
    found = tables(standing)
    if not found and not withdrawn:
        return "Nothing has been evaluated yet.\n"
    runs = {row.run for row in standing}
    said = _Said(standing)
    shown = [_table(table, said, with_run=len(runs) > 1) for table in found]
    if any(len(column.ranks()) > 1 for table in found for column in table.columns.values()):
        shown.append(RANKS)
    if withdrawn:
        shown.append("\n".join(["## Withdrawn", "", *map(_withdrawn, withdrawn)]) + "\n")
    return "\n".join(shown)


def decision(decision: Decision) -> str:
    """A decision: the verdict, why, and a table of its checks.

    A gain above 0 is better whichever way the metric points; its interval is the one the verdict
    was read from, of 1 - 2 alpha.
    """
    level = 1 - 2 * decision.policy.alpha
    lines = [f"## Gate: {decision.verdict}", ""]
    lines += [f"- {escape(reason)}" for reason in decision.reasons]
    lines += [
        "",
        *_rows(
            [
                "check",
                "tier",
                "verdict",
                "change",
                "baseline",
                "candidate",
                f"gain [{level:.0%} interval]",
                "margin",
                "n",
                "p",
                "test",
                "why",
            ],
            [_check(check) for check in decision.checks],
        ),
        "",
        *(
            f"- Alarm, {escape(alarm.task)} {alarm.kind}: {escape(alarm.message)}"
            for alarm in decision.alarms
        ),
        *(f"- Note: {escape(note)}" for note in decision.notes),
        *([""] if decision.alarms or decision.notes else []),
        f"p is one-sided, of a loss of the margin or more; alpha {decision.policy.alpha:g}, "
        f"policy {decision.policy_digest[:12]}"
        + (f", plan {decision.plan[:12]}." if decision.plan else "."),
    ]
    return "\n".join(lines) + "\n"


class _Said:
    """What the gate said of each evaluation of a run, and of each model that was to be promoted."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._verdicts: dict[Name, list[tuple[int, str]]] = {}  # (run, identity) -> place, words
        self._promoted: dict[Name, str] = {}
        for place, row in enumerate(rows):
            if isinstance(row.entry, DecisionEntry):
                words = f"{row.entry.decision.verdict} ({row.entry.against})"
                for identity in row.entry.decision.candidate.values():
                    self._verdicts.setdefault((row.run, identity), []).append((place, words))
            elif isinstance(row.entry, PromotionEntry):
                promoted = "yes" if row.entry.promotion.promoted else "no"
                self._promoted[row.run, row.entry.candidate] = promoted

    def verdicts(self, run: str, evaluations: Iterable[Evaluation]) -> str:
        said = {v for e in evaluations for v in self._verdicts.get((run, e.identity), [])}
        return ", ".join(dict.fromkeys(words for _, words in sorted(said))) or NOTHING

    def promoted(self, name: Name) -> str:
        return self._promoted.get(name, NOTHING)


def _table(table: Table, said: _Said, *, with_run: bool) -> str:
    columns = table.columns.values()
    heads = ["model", *(["run"] if with_run else []), *map(_title, columns), "gate", "promoted"]
    results = [column.results() for column in columns]
    ranks = [column.ranks() for column in columns]
    body = []
    for name in table.names:
        found = [column.evaluations[name] for column in columns if name in column.evaluations]
        body.append(
            [
                escape(name[1]),
                *([escape(name[0])] if with_run else []),
                *(_cell(*each, name) for each in zip(results, ranks, strict=True)),
                said.verdicts(name[0], found),
                said.promoted(name),
            ]
        )
    made = [
        f"- {escape(column.task)}: {_made(next(iter(column.evaluations.values())))}"
        for column in columns
    ]
    return "\n".join([f"## {escape(table.split)}", "", *_rows(heads, body), "", *made]) + "\n"


def _title(column: Column) -> str:
    return f"{escape(column.task)} {escape(column.metric.name if column.metric else '')}".strip()


def _cell(results: Mapping[Name, MetricResult], ranks: Mapping[Name, int], name: Name) -> str:
    result = results.get(name)
    if result is None:
        return NOTHING
    if len(ranks) < 2 or name not in ranks:
        return _result(result)
    return f"{_result(result)}, rank {ranks[name]}"


def _withdrawn(found: Withdrawn) -> str:
    row, by = found.row, f"; {found.replaced_by[:12]} replaces it" if found.replaced_by else ""
    return f"- {_what(row)} ({found.entry[:12]}, run {escape(row.run)}): {escape(found.reason)}{by}"


def _what(row: Row) -> str:
    entry = row.entry
    if isinstance(entry, EvaluationEntry):
        return f"{escape(entry.name)} on {escape(entry.evaluation.task)}"
    if isinstance(entry, DecisionEntry):
        return f"a decision against the {entry.against}, {entry.decision.verdict}"
    if isinstance(entry, PromotionEntry):
        return f"the promotion of {escape(entry.candidate)}"
    return entry.kind


def _result(result: MetricResult) -> str:
    if result.mean is None:
        return f"{NOTHING} ({result.unscored} unscored)"
    text = _number(result.mean)
    if result.low is not None and result.high is not None:
        text += f" [{_number(result.low)}, {_number(result.high)}]"
    text += f" n={result.n}"
    return text + (f", {result.unscored} unscored" if result.unscored else "")


def _made(evaluation: Evaluation) -> str:
    parts = [
        f"version {evaluation.task_version}",
        f"{evaluation.items} items {evaluation.dataset_digest[:12]}",
        f"prompt {evaluation.prompt_digest[:12]}",
    ]
    if evaluation.judge:
        prompt = (evaluation.judge.prompt_digest or "")[:12]
        parts.append(f"judge {evaluation.judge.id} {prompt}".strip())
    if evaluation.estimator:
        parts.append(f"estimator {evaluation.estimator}")
    return escape(", ".join(parts))


def _check(check: Check) -> list[str]:
    shown = [NOTHING] * 3
    if check.n:
        interval = "[{:+.4g}, {:+.4g}]".format(*check.interval)
        means = (check.baseline_mean, check.candidate_mean)
        shown = [*map(_number, means), f"{check.delta:+.4g} {interval}"]
    return [
        f"{escape(check.task)} {escape(check.metric)}",
        check.tier,
        check.verdict,
        check.label,
        *shown,
        _number(check.margin),
        str(check.n) if check.clusters is None else f"{check.n} in {check.clusters} clusters",
        f"{check.p_value:.2g}",
        escape(check.test),
        escape(check.reason),
    ]


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _rows(heads: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *body)]
