"""Boards and decisions as GitHub Markdown. Everything that comes from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.board.loosened import loosened, not_enforced
from harness.board.ranking import Column, Name, Table, Withdrawn, divide, reused_names, tables
from harness.board.rows import DecisionEntry, EvaluationEntry, PromotionEntry, Row
from harness.core.schema import Check, Decision, Evaluation, Metric, MetricResult
from harness.core.text import markdown as escape

NOTHING = "-"
RANKS = (
    "A model's rank is 1 + how many models of its column have an interval wholly on the better "
    "side of its own; models that share a rank are not told apart.\n"
)


def board(rows: Sequence[Row]) -> str:
    """The board: a row for each model, a column for each task's primary metric, with 95 % interval.

    All numbers of a column can be compared. Evaluations that cannot (another split, dataset,
    prompt, judge or estimator) stand in tables of their own, and what each was made with is said
    below it. Where a model was evaluated twice in the same way the later one is shown, and a note
    says so; so do notes where a policy became looser, a gate was not enforced, or a number has no
    rank. What was superseded or invalidated is listed at the end, with the reason.
    """
    standing, withdrawn = divide(rows)
    found = tables(standing)
    if not found and not withdrawn:
        return "Nothing has been evaluated yet.\n"
    runs = {row.run for row in standing}
    said = _Said(standing, rows)
    shown = [_table(table, said, with_run=len(runs) > 1) for table in found]
    if any(len(column.ranks()) > 1 for table in found for column in table.columns.values()):
        shown.append(RANKS)
    if noted := notes(rows):
        shown.append("\n".join(["## Notes", "", *(f"- {escape(note)}" for note in noted)]) + "\n")
    if withdrawn:
        shown.append("\n".join(["## Withdrawn", "", *map(_withdrawn, withdrawn)]) + "\n")
    return "\n".join(shown)


def notes(rows: Sequence[Row]) -> list[str]:
    """Say what a reader of the tables would not see in the numbers, a sentence each."""
    standing, _ = divide(rows)
    looser = loosened(rows)
    counting = [row for row in standing if row.digest in looser]
    names = _names(rows)
    said = [
        f"Looser policy: {names.get(looser[row.digest].candidate, 'a candidate')} against the "
        f"{row.entry.against}, run {row.run}: {'; '.join(looser[row.digest].differences)}."
        for row in counting
        if isinstance(row.entry, DecisionEntry)
    ]
    said += [
        f"The gate was not enforced: {name} (run {run}) was not promoted, and is the incumbent "
        "afterwards."
        for run, name in sorted(not_enforced(standing))
    ]
    for table in tables(standing):
        for column in table.columns.values():
            said += _of_column(column)
    said += [
        f"{name} (run {run}) stands for {count} models with different weights."
        for (run, name), count in reused_names(standing).items()
    ]
    return said


def _of_column(column: Column) -> list[str]:
    metric = column.metric
    said = []
    for name, earlier in column.replaced.items():
        shown = column.evaluations[name]
        numbers = [_mean(one, metric) for one in (*earlier, shown)]
        said.append(
            f"{name[1]} (run {name[0]}) was evaluated {len(numbers)} times on {column.task}, "
            f"{shown.split}; the last is shown: {', then '.join(numbers)}."
        )
    said += [
        f"{name[1]} (run {name[0]}) has no rank on {column.task}, "
        f"{column.evaluations[name].split}: {why}."
        for name, why in column.unranked().items()
    ]
    return said


def _mean(evaluation: Evaluation, metric: Metric | None) -> str:
    result = evaluation.metrics.get(metric.name) if metric else None
    return NOTHING if result is None or result.mean is None else _number(result.mean)


def _names(rows: Sequence[Row]) -> dict[str, str]:
    """Identity of an evaluation -> the first name it stands under."""
    return {
        row.entry.evaluation.identity: row.entry.name
        for row in reversed(rows)
        if isinstance(row.entry, EvaluationEntry)
    }


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
        *(f"- Note, {escape(note)}" for note in decision.notes),
        *([""] if decision.alarms or decision.notes else []),
        f"p is one-sided, of a loss of the margin or more; alpha {decision.policy.alpha:g}, "
        f"policy {decision.policy_digest[:12]}"
        + (f", plan {decision.plan[:12]}." if decision.plan else "."),
    ]
    return "\n".join(lines) + "\n"


class _Said:
    """What the gate said of each evaluation of a run, and of each model that was to be promoted."""

    def __init__(self, rows: Sequence[Row], all_rows: Sequence[Row]) -> None:
        looser, ignored = loosened(all_rows), not_enforced(rows)
        self._verdicts: dict[Name, list[tuple[int, str]]] = {}  # (run, identity) -> place, words
        self._promoted: dict[Name, str] = {}
        for place, row in enumerate(rows):
            if isinstance(row.entry, DecisionEntry):
                mark = ", looser policy" if row.digest in looser else ""
                words = f"{row.entry.decision.verdict} ({row.entry.against}{mark})"
                for identity in row.entry.decision.candidate.values():
                    self._verdicts.setdefault((row.run, identity), []).append((place, words))
            elif isinstance(row.entry, PromotionEntry):
                promoted = "yes" if row.entry.promotion.promoted else "no"
                name = row.run, row.entry.candidate
                self._promoted[name] = "no, gate not enforced" if name in ignored else promoted

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
    if any(m.primary and not m.higher_is_better for m in evaluation.definitions.values()):
        parts.append("lower is better")
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
