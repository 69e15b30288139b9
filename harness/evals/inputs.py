"""Read what a gate is given: two sides to compare, and a file that groups their items.

A side is a folder of evaluations, the output folder of stock lm-eval, or a model on a board.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import tasks
from harness.board import Board
from harness.board.ledger import EvaluationEntry
from harness.board.ranking import divide
from harness.core.errors import UserError
from harness.core.files import read_jsonl, require_plain
from harness.core.log import say
from harness.core.scored import ScoredEvaluation
from harness.core.text import listed, one_line
from harness.evals import evaluation, lm_eval_results
from harness.evals.lm_eval_metrics import with_baseline_definitions
from harness.evals.lm_eval_runs import MAX_DEPTH, find
from harness.gate import claims
from harness.gate.clusters import Columns, plain

LEDGER = "ledger.jsonl"
MAX_CLUSTER_FILE_BYTES = 64 * 1024**2
MAX_COLUMNS = 100
NAMES_ITEMS = ("item", "index", "task")


def load(
    folder: Path, name: str | None = None, wanted: Collection[str] | None = None
) -> dict[str, ScoredEvaluation]:
    """Load one side as task -> evaluation; `name` is the model's, if `folder` is a board.

    Of stock lm-eval's output, which may also be a results file, only the `wanted` tasks and groups
    of tasks are read, if they are given.

    Raises:
        UserError: nothing that can be compared is there, or it is malformed, changed or too large.
    """
    if (folder / LEDGER).exists():
        return _from_board(folder, name)
    ours = [path for at in ("", "*/") for path in folder.glob(f"{at}{evaluation.EVALUATION}")]
    # Next to evaluations of rlrf, results of lm-eval are searched for no deeper than these.
    stock = find(folder, depth=1 if ours else MAX_DEPTH)
    if not stock and not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    if name is not None:
        raise UserError(
            f"There is no leaderboard in {folder}, where '{name}' could be. Leave out --name."
        )
    if not stock:
        return _examined(evaluation.load(folder), folder)
    side = lm_eval_results.load(folder, wanted)
    if ours:
        raise UserError(
            f"{folder} holds evaluations of rlrf ({ours[0]}) and results of lm-eval "
            f"({stock[0]}). Name the folder of one of the two."
        )
    return side


def require_ours(side: Mapping[str, ScoredEvaluation], folder: Path) -> None:
    """Refuse a baseline of lm-eval's tasks, whose prompts no evaluation records in full.

    Raises:
        UserError: lm-eval scored the baseline, in `lm_eval run` or in `rlrf eval`.
    """
    if any(_is_stock(scored) for scored in side.values()):
        raise UserError(
            f"{folder} was written by stock lm-eval, or by `rlrf eval` on tasks of lm-eval. "
            "Evaluate the candidate in the same way, too, with the same options, and give its "
            "output folder as CANDIDATE."
        )


def load_both(
    baseline: Path,
    candidate: Path,
    name: str | None = None,
    wanted: Collection[str] | None = None,
) -> tuple[dict[str, ScoredEvaluation], dict[str, ScoredEvaluation]]:
    """Load both sides, with the same definitions of lm-eval's metrics; arguments as for `load`.

    `name` is of the baseline's model.

    Raises:
        UserError: as `load`; or only one of the two was made by stock lm-eval.
    """
    before, after = load(baseline, name, wanted), load(candidate, wanted=wanted)
    return align_metrics(before, after, str(baseline), str(candidate))


def align_metrics(
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
    baseline_name: str,
    candidate_name: str,
) -> tuple[dict[str, ScoredEvaluation], dict[str, ScoredEvaluation]]:
    """Give two sides of stock lm-eval the same definitions of their metrics; keep other sides.

    Raises:
        UserError: only one of the two was written by stock lm-eval.
    """
    before, after = dict(baseline), dict(candidate)
    for task in sorted(before.keys() & after.keys()):
        old, new = before[task], after[task]
        if _is_stock(old) and _is_stock(new):
            before[task], after[task] = with_baseline_definitions(old, new)
        elif _is_stock(old) or _is_stock(new):
            stock, other = (
                (baseline_name, candidate_name)
                if _is_stock(old)
                else (candidate_name, baseline_name)
            )
            raise UserError(
                f"{stock} holds lm-eval's {task} and {other} holds a benchmark of that name that "
                "is not lm-eval's, so they cannot be compared item by item. Evaluate both in the "
                "same way."
            )
    return before, after


def _from_board(folder: Path, name: str | None) -> dict[str, ScoredEvaluation]:
    board = Board(folder)
    standing, _ = divide(board.rows())
    entries = [row.entry for row in standing if isinstance(row.entry, EvaluationEntry)]
    names = list(dict.fromkeys(entry.name for entry in entries))
    if name not in names:
        fault = f"has no model '{name}'" if name else "is a leaderboard: say which model is meant"
        raise UserError(f"{folder} {fault}. It has {listed(names, 20) or 'none'}; use --name.")
    entries = [entry for entry in entries if entry.name == name]
    newest = {entry.evaluation.task: entry for entry in entries}
    side = {}
    for task, entry in sorted(newest.items()):
        made = entry.evaluation
        same = {e.evaluation.identity for e in entries if e.evaluation.task == task}
        if len(same) > 1:
            say(
                f"{folder} has {len(same)} evaluations of {task} called {name}; the one added last "
                f"is taken ({made.split}, {made.items} items, weights "
                f"{(made.model.digest or 'unknown')[:12]})"
            )
        side[task] = ScoredEvaluation(made, board.scores(entry))
    return _examined(side, folder)


def _examined(side: dict[str, ScoredEvaluation], folder: Path) -> dict[str, ScoredEvaluation]:
    """Return the side if its claims agree with its own scores and with the installed tasks."""
    for task, scored in side.items():
        installed = tasks.installed(task, scored.evaluation.task_version)
        problems = claims.misstated(scored.evaluation, scored.scores)
        if installed is not None:
            defined = {metric.name: metric for metric in installed.metrics}
            problems += claims.redefined(scored.evaluation, defined)
        if problems:
            raise UserError(
                f"The evaluation of {task} in {folder} cannot be used: {problems[0]}. Evaluate "
                "again."
            )
    return side


def _is_stock(scored: ScoredEvaluation) -> bool:
    return scored.evaluation.is_lm_eval


def read_clusters(path: Path) -> Columns:
    """Read the clusters of items from a CSV file with a header, or from JSON lines.

    A column `item` (digest) or `index` (number) says which item a row is about. A column `task`
    says which task; without it every row is about each task. All other columns can name clusters.

    Raises:
        UserError: the file is missing, not regular, too large, or neither CSV nor JSON lines; no
            column names items, or none names clusters.
    """
    require_plain(path, MAX_CLUSTER_FILE_BYTES, advice="Give a CSV or JSONL file with few columns.")
    try:
        is_jsonl = path.suffix in (".jsonl", ".ndjson") or path.name.endswith(".jsonl.gz")
        rows = list(_jsonl_rows(path) if is_jsonl else _csv_rows(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    if not rows:
        raise UserError(f"{path} has no row: give one per item.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    keys = tuple(name for name in names if name not in NAMES_ITEMS)
    if not {"item", "index"} & set(names):
        raise UserError(
            f"{path} has no column that says which item a row is about: call it 'item' (the "
            f"item's digest) or 'index' (its number). It has {listed(names) or 'none'}."
        )
    if not keys:
        raise UserError(
            f"{path} has no column that names clusters: add one next to 'index', for example "
            "'passage'."
        )
    return Columns(str(path), keys, rows)


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(header) > MAX_COLUMNS or len({*header}) < len(header) or "" in header:
            raise UserError(
                f"{path}: the first line has to name the columns, each once and at most "
                f"{MAX_COLUMNS}. It has {listed(header) or 'none'}."
            )
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(row)} cells, where the first line names "
                    f"{len(header)} columns."
                )
            yield {name: cell.strip() for name, cell in zip(header, row, strict=True)}
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error}).") from error


def _jsonl_rows(path: Path) -> Iterator[dict[str, str]]:
    for number, row in read_jsonl(path):
        yield {n: _cell(value, f"{path}, line {number}, {n!r}") for n, value in row.items()}


def _cell(value: Any, where: str) -> str:
    if isinstance(value, list | Mapping):
        raise UserError(f"{one_line(where)}: one value is expected, not a list or an object.")
    return plain(value) or ""
