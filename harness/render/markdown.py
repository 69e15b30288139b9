"""Boards and decisions as GitHub Markdown. Everything that comes from outside is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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

NOTHING = "-"
Name = tuple[str, str]  # the run, and the model's name in it


def board(rows: Sequence[Row]) -> str:
    """The board: a row for each model, a column for each task's primary metric, with 95 % interval.

    All numbers of a column can be compared. Evaluations that cannot (another split, dataset,
    prompt, judge or estimator) stand in tables of their own, and what each was made with is said
    below it. Where a model was evaluated twice in the same way the later one is shown.
    """
    tables = _tables(rows)
    if not tables:
        return "Nothing has been evaluated yet.\n"
    runs = {row.run for row in rows}
    shown = [_table(table, rows, with_run=len(runs) > 1) for table in tables]
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
        f"p is one-sided, of a loss of the margin or more; alpha {decision.policy.alpha:g}, "
        f"policy {decision.policy_digest[:12]}.",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text as Markdown that shows it, on one line: no markup, no HTML, no table cell ends early."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore inside a word is not markup, and names are full of them.
    return re.sub(r"([\\`*\[\]|~#$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)


@dataclass
class _Table:
    """Comparable columns: task -> (key, model -> evaluation)."""

    split: str
    columns: dict[str, tuple[str, dict[Name, Evaluation]]] = field(default_factory=dict)

    @property
    def names(self) -> list[Name]:
        return list(dict.fromkeys(name for _, found in self.columns.values() for name in found))


def _tables(rows: Iterable[Row]) -> list[_Table]:
    """Each kind of comparable evaluation is a column, in the first table that has room for it."""
    tables: list[_Table] = []
    placed: dict[tuple[str, str], _Table] = {}
    for row in rows:
        if not isinstance(row.entry, EvaluationEntry):
            continue
        evaluation = row.entry.evaluation
        task, key, name = evaluation.task, evaluation.comparable_key, (row.run, row.entry.name)
        if (task, key) not in placed:
            table = next(
                (t for t in tables if t.split == evaluation.split and task not in t.columns), None
            )
            if table is None:
                table = _Table(evaluation.split)
                tables.append(table)
            table.columns[task] = key, {}
            placed[task, key] = table
        placed[task, key].columns[task][1][name] = evaluation
    return tables


def _table(table: _Table, rows: Sequence[Row], *, with_run: bool) -> str:
    heads = ["model", *(["run"] if with_run else []), *(_title(table, t) for t in table.columns)]
    heads += ["gate", "promoted"]
    body = []
    for name in table.names:
        found = [evaluations.get(name) for _, evaluations in table.columns.values()]
        body.append(
            [
                escape(name[1]),
                *([escape(name[0])] if with_run else []),
                *(_cell(evaluation) for evaluation in found),
                _verdicts(name, [e for e in found if e], rows),
                _promoted(name, rows),
            ]
        )
    made = [
        f"- {escape(task)}: {_made(next(iter(evaluations.values())))}"
        for task, (_, evaluations) in table.columns.items()
    ]
    return "\n".join([f"## {escape(table.split)}", "", *_rows(heads, body), "", *made]) + "\n"


def _title(table: _Table, task: str) -> str:
    evaluation = next(iter(table.columns[task][1].values()))
    return f"{escape(task)} {escape(_primary(evaluation))}".strip()


def _primary(evaluation: Evaluation) -> str:
    return next((m.name for m in evaluation.definitions.values() if m.primary), "")


def _cell(evaluation: Evaluation | None) -> str:
    result = evaluation and evaluation.metrics.get(_primary(evaluation))
    return _result(result) if result else NOTHING


def _result(result: MetricResult) -> str:
    if result.mean is None:
        return f"{NOTHING} ({result.unscored} unscored)"
    text = _number(result.mean)
    if result.low is not None and result.high is not None:
        text += f" [{_number(result.low)}, {_number(result.high)}]"
    text += f" n={result.n}"
    return text + (f", {result.unscored} unscored" if result.unscored else "")


def _verdicts(name: Name, evaluations: Sequence[Evaluation], rows: Sequence[Row]) -> str:
    """What the gate said of these evaluations, and against whom."""
    own = {evaluation.identity for evaluation in evaluations}
    said = [
        f"{row.entry.decision.verdict} ({row.entry.against})"
        for row in rows
        if isinstance(row.entry, DecisionEntry)
        and row.run == name[0]
        and own & {*row.entry.decision.candidate.values()}
    ]
    return ", ".join(dict.fromkeys(said)) or NOTHING


def _promoted(name: Name, rows: Sequence[Row]) -> str:
    said = [
        "yes" if row.entry.promotion.promoted else "no"
        for row in rows
        if isinstance(row.entry, PromotionEntry) and (row.run, row.entry.candidate) == name
    ]
    return said[-1] if said else NOTHING


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
        interval = f"[{check.low:+.4g}, {check.high:+.4g}]"
        means = (check.baseline_mean, check.candidate_mean)
        shown = [*map(_number, means), f"{check.delta:+.4g} {interval}"]
    return [
        f"{escape(check.task)} {escape(check.metric)}",
        check.tier,
        check.verdict,
        check.label,
        *shown,
        _number(check.margin),
        str(check.n),
        f"{check.p_value:.2g}",
        escape(check.test),
        escape(check.reason),
    ]


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _rows(heads: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *body)]
