"""Write a board as LaTeX: tables for a paper, with booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from harness.board.ledger import Row
from harness.board.ranking import Cell, Table
from harness.board.standings import Standings
from harness.core.text import latex as escape
from harness.render.numbers import mean_and_interval


def board(rows: Sequence[Row]) -> str:
    r"""Write the board as `tabular`s, one for each set of evaluations that compare.

    Means are shown with their 95 % interval. The best mean of a column is bold, and so is every
    mean that its interval does not tell from the best. The preamble needs \usepackage{booktabs}
    and, for pdfLaTeX, \usepackage[T1]{fontenc}.
    """
    standings = Standings(rows)
    head = "% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}."
    return "\n".join([head, *(_table(table, standings) for table in standings.tables)])


def _table(table: Table, standings: Standings) -> str:
    with_run = standings.has_several_runs
    columns = table.columns.values()
    heads = ["model", *(["run"] if with_run else []), *(escape(c.title) for c in columns)]
    lines = [
        f"% split {escape(table.split)}; 95 % intervals; bold: the best, and what its interval "
        "does not tell from it",
        f"\\begin{{tabular}}{{{'l' * (2 if with_run else 1)}{'r' * len(columns)}}}",
        "\\toprule",
        _line(heads),
        "\\midrule",
    ]
    for line in standings.lines(table):
        words = [line.name, line.run] if with_run else [line.name]
        lines.append(_line([*map(escape, words), *map(_cell, line.cells)]))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _line(cells: Sequence[str]) -> str:
    # A line that begins with a bracket would be the argument of the break before it.
    return " & ".join("{" + cell + "}" if cell.startswith("[") else cell for cell in cells) + r" \\"


def _cell(cell: Cell | None) -> str:
    if cell is None or cell.result.mean is None:
        return "--"
    mean, *interval = mean_and_interval(cell.result).split(" ", 1)
    if cell.rank == 1 and cell.ranked > 1:
        mean = f"\\textbf{{{mean}}}"
    return " ".join([mean, *interval])
