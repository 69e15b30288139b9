"""A board as LaTeX: tables for a paper, with booktabs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.board.ranking import Column, Name, Table, divide, tables
from harness.board.rows import Row
from harness.core.schema import MetricResult
from harness.core.text import latex as escape


def board(rows: Sequence[Row]) -> str:
    r"""The board as `tabular`s, a table for each set of evaluations that compare.

    Means stand with their 95 % interval; the best of a column is bold, and whatever its interval
    does not tell from the best is bold, too. The preamble needs \usepackage{booktabs} and, for
    pdfLaTeX, \usepackage[T1]{fontenc}.
    """
    standing, _ = divide(rows)
    found = tables(standing)
    with_run = len({row.run for row in standing}) > 1
    heads = ["% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}."]
    return "\n".join([*heads, *(_table(table, with_run=with_run) for table in found)])


def _table(table: Table, *, with_run: bool) -> str:
    columns = list(table.columns.values())
    words = 2 if with_run else 1
    heads = ["model", *(["run"] if with_run else []), *map(_title, columns)]
    results, ranks = [c.results() for c in columns], [c.ranks() for c in columns]
    lines = [
        f"% split {escape(table.split)}; 95 % intervals; bold: the best, and what its interval "
        "does not tell from it",
        f"\\begin{{tabular}}{{{'l' * words}{'r' * len(columns)}}}",
        "\\toprule",
        _line(heads),
        "\\midrule",
    ]
    for name in table.names:
        cells = [_cell(*each, name) for each in zip(results, ranks, strict=True)]
        lines.append(_line([escape(name[1]), *([escape(name[0])] if with_run else []), *cells]))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _line(cells: Sequence[str]) -> str:
    # A line that begins with a bracket would be the argument of the break before it.
    return " & ".join("{" + cell + "}" if cell.startswith("[") else cell for cell in cells) + r" \\"


def _title(column: Column) -> str:
    return escape(f"{column.task} {column.metric.name if column.metric else ''}".strip())


def _cell(results: Mapping[Name, MetricResult], ranks: Mapping[Name, int], name: Name) -> str:
    result = results.get(name)
    if result is None or result.mean is None:
        return "--"
    mean = f"{result.mean:.3f}"
    if len(ranks) > 1 and ranks.get(name) == 1:
        mean = f"\\textbf{{{mean}}}"
    if result.low is None or result.high is None:
        return mean
    return f"{mean} [{result.low:.3f}, {result.high:.3f}]"
