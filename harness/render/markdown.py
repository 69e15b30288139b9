"""Write boards and decisions as GitHub Markdown. Everything that comes from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.board.ledger import DecisionEntry, EvaluationEntry, PromotionEntry, Row
from harness.board.ranking import Cell, Table, Withdrawn
from harness.board.standings import GateVerdict, Standings
from harness.core.schema import Check, Decision, Evaluation, MetricResult
from harness.core.text import markdown as escape
from harness.core.text import short_number

NOTHING = "-"
RANKS = (
    "A model's rank is 1 + how many models of its column have an interval wholly on the better "
    "side of its own; models that share a rank are not told apart.\n"
)
PROMOTED = {
    "": NOTHING,
    "promoted": "yes",
    "rolled back": "no",
    "not enforced": "no, gate not enforced",
}


def board(rows: Sequence[Row]) -> str:
    """Write the board: a row per model, a column per task's primary metric, with 95 % interval.

    All numbers of a column compare. Evaluations that do not (another split, dataset, prompt, judge
    or estimator) are in tables of their own, and below each table is how it was made. If a model
    was evaluated twice in the same way, the later evaluation is shown, and a note says so. Other
    notes say where a policy became looser, a gate was not enforced, or a number has no rank. What
    was superseded or invalidated is listed at the end, with the reason.
    """
    standings = Standings(rows)
    if not standings.tables and not standings.withdrawn:
        return "Nothing has been evaluated yet.\n"
    parts = [_table(table, standings) for table in standings.tables]
    if any(cell.ranked > 1 for column in standings.columns for cell in column.cells().values()):
        parts.append(RANKS)
    if noted := standings.notes():
        parts.append("\n".join(["## Notes", "", *(f"- {escape(note)}" for note in noted)]) + "\n")
    if standings.withdrawn:
        lines = map(_withdrawn, standings.withdrawn)
        parts.append("\n".join(["## Withdrawn", "", *lines]) + "\n")
    return "\n".join(parts)


def _table(table: Table, standings: Standings) -> str:
    columns = table.columns.values()
    with_run = standings.has_several_runs
    titles = [escape(column.title) for column in columns]
    heads = ["model", *(["run"] if with_run else []), *titles, "gate", "promoted"]
    body = [
        [
            *map(escape, [line.name, line.run] if with_run else [line.name]),
            *map(_cell, line.cells),
            ", ".join(map(_verdict, line.verdicts)) or NOTHING,
            PROMOTED[line.outcome],
        ]
        for line in standings.lines(table)
    ]
    made = [f"- {escape(column.task)}: {_made(column.example)}" for column in columns]
    return "\n".join([f"## {escape(table.split)}", "", *_rows(heads, body), "", *made]) + "\n"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return NOTHING
    if cell.rank is None or cell.ranked < 2:
        return _result(cell.result)
    return f"{_result(cell.result)}, rank {cell.rank}"


def _verdict(verdict: GateVerdict) -> str:
    looser = ", looser policy" if verdict.by_looser_policy else ""
    return f"{verdict.verdict} ({verdict.against}{looser})"


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
    text = short_number(result.mean)
    if result.low is not None and result.high is not None:
        text += f" [{short_number(result.low)}, {short_number(result.high)}]"
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


def decision(decision: Decision) -> str:
    """Write a decision: the verdict, the reasons, and a table of its checks.

    A gain above 0 is better, whichever way the metric points. Its interval has level 1 - 2 alpha,
    and the verdict follows from it.
    """
    level = 1 - 2 * decision.policy.alpha
    lines = [f"## Gate: {decision.verdict}", ""]
    lines += [f"- {escape(reason)}" for reason in decision.reasons]
    lines += [
        "",
        *_rows(
            [
                *"check tier verdict change baseline candidate".split(),
                f"gain [{level:.0%} interval]",
                *"margin n p test why".split(),
            ],
            [_check(check) for check in decision.checks],
        ),
        "",
        *(line for check in decision.checks for line in _subgroups(check, decision)),
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


def _check(check: Check) -> list[str]:
    shown = [NOTHING] * 3
    if check.n:
        interval = "[{:+.4g}, {:+.4g}]".format(*check.interval)
        means = (check.baseline_mean, check.candidate_mean)
        shown = [*map(short_number, means), f"{check.delta:+.4g} {interval}"]
    return [
        escape(check.name),
        check.tier,
        check.verdict,
        check.label,
        *shown,
        short_number(check.margin),
        str(check.n) if check.clusters is None else f"{check.n} in {check.clusters} clusters",
        f"{check.p_value:.2g}",
        escape(check.test),
        escape(check.reason),
    ]


def _subgroups(check: Check, decision: Decision) -> list[str]:
    """Lay out the worst subgroups of a check, which itself shows the figures of the worst."""
    found = check.subgroups
    if found is None:
        return []
    heads = [found.by, *"verdict baseline candidate".split(), "gain [interval]", "n", "p"]
    named = [*check.worst_subgroups, ("all items", check.of(found.overall))]
    body = []
    for name, part in named:
        _, _, verdict, _, *figures, _, n, p, _, _ = _check(part)
        decides = verdict if name is not named[-1][0] else NOTHING
        body.append([escape(name), decides, *figures, n, p])
    return [
        f"### {escape(check.name)}: the worst of {len(found.results):,}",
        "",
        *_rows(map(escape, heads), body),
        "",
        (f"{found.others}. " if found.others else "")
        + f"Of each interval the lower end has level {decision.policy.alpha:g} and the upper end "
        f"{found.level:.2g}, corrected for the number of subgroups; p is not corrected.",
        "",
    ]


def _rows(heads: Iterable[str], body: Iterable[Sequence[str]]) -> list[str]:
    titles = [*heads]
    return [f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *body)]
