"""Read what a gate is given: two sides to compare, and a file that groups their items.

A side is a folder of evaluations, a model on a board, or results of another tool: lm-eval, or one
that `harness.readers` reads.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from harness.gate import claims
from harness.gate.clusters import Columns, plain
from harness.readers import ACCEPTED, Reader, Selection, Side, table
from harness.readers import READERS as READERS_OF_FILES
from harness.readers.answers import NOT_TOLD
from harness.readers.json_stream import first_keys
from harness.readers.reader import FileReader

# lm-eval's is asked last: any JSON file that no other reader recognises may be its results.
READERS: tuple[Reader, ...] = (*READERS_OF_FILES, lm_eval_results.READER)
NOTHING_SELECTED = Selection()
LEDGER = "ledger.jsonl"
MAX_CLUSTER_FILE_BYTES = 64 * 1024**2
MAX_COLUMNS = 100
NAMES_ITEMS = ("item", "index", "task")


def load(
    path: Path,
    name: str | None = None,
    wanted: Collection[str] | None = None,
    selection: Selection = NOTHING_SELECTED,
) -> Side:
    """Load one side as task -> evaluation; `name` is the model's, if `path` is a board.

    Of stock lm-eval's output, which may also be a results file, only the `wanted` tasks and groups
    of tasks are read, if they are given. `selection` says what other tools' results do not.

    Raises:
        UserError: nothing that can be compared is there, or it is malformed, changed or too large.
    """
    side = _load(path, name, wanted, selection)
    if selection.lower_is_better and not any(
        isinstance(_reader_of(scored), FileReader) for scored in side.values()
    ):
        raise UserError(
            f"{path} says itself of each metric whether a higher value is better. Leave out "
            "--lower-is-better."
        )
    return side


def _load(
    path: Path, name: str | None, wanted: Collection[str] | None, selection: Selection
) -> Side:
    if (path / LEDGER).exists():
        return _from_board(path, name)
    ours = [file for at in ("", "*/") for file in path.glob(f"{at}{evaluation.EVALUATION}")]
    # Next to evaluations of rlrf, results of other tools are searched for no deeper than these.
    found = _find(path, depth=1 if ours else lm_eval_results.READER.depth)
    if not found and not path.is_dir():
        raise UserError(_nothing_at(path))
    if name is not None:
        raise UserError(
            f"There is no leaderboard in {path}, where '{name}' could be. Leave out --name."
        )
    if not found:
        if not ours and path.is_dir() and selection.item is not None:
            raise UserError(f"{path} is a folder: with --item, name the file of a table in it.")
        return _examined(evaluation.load(path), path)
    (tool, (reader, files)), *others = found.items()
    if others:
        shown = listed(f"{files[0]} of {tool}" for tool, (_, files) in found.items())
        raise UserError(f"{path} holds results of several tools: {shown}. Name one of the files.")
    side = reader.load(path, files, wanted, selection)
    if ours:
        raise UserError(
            f"{path} holds evaluations of rlrf ({ours[0]}) and results of {tool} "
            f"({files[0]}). Name the folder of one of the two."
        )
    return side


def load_runs(
    paths: Sequence[Path],
    wanted: Collection[str] | None = None,
    selection: Selection = NOTHING_SELECTED,
) -> list[Side]:
    """Load several runs of one model, with the same definitions of their metrics.

    Raises:
        UserError: as `load_both`.
    """
    runs = [load(path, wanted=wanted, selection=selection) for path in paths]
    for _ in range(2):  # a metric that is not yes/no in the last run is so in none
        for number in range(1, len(runs)):
            names = str(paths[0]), str(paths[number])
            runs[0], runs[number] = align_metrics(runs[0], runs[number], *names)
    return runs


def _find(path: Path, depth: int) -> dict[str, tuple[Reader, list[Path]]]:
    """Find the files of other tools at `path`: tool -> its reader and files."""
    found: dict[str, tuple[Reader, list[Path]]] = {}
    for reader in READERS:
        if reader is lm_eval_results.READER and _is_of_unknown_origin(path):
            continue
        if files := reader.find(path, depth):
            found[reader.tool] = reader, files
            if path.is_file():
                break
    return found


def _is_of_unknown_origin(path: Path) -> bool:
    """Tell whether a file, which no other reader recognises, is not lm-eval's results either."""
    if not path.is_file() or path.name.startswith("results_"):
        return False
    return not first_keys(path) & {"results", "configs"}


def _nothing_at(path: Path) -> str:
    if path.is_file():
        return f"{path} is not a file that can be read here. What can: {ACCEPTED}."
    if path.suffix:
        return f"There is no file and no folder {path}."
    return f"There is no folder {path}."


def require_ours(side: Mapping[str, ScoredEvaluation], path: Path) -> None:
    """Refuse a baseline that a candidate cannot be evaluated like: not every prompt is recorded.

    Raises:
        UserError: another tool scored the baseline; or lm-eval did, in `rlrf eval`.
    """
    for scored in side.values():
        if reader := _reader_of(scored):
            raise UserError(
                f"{path} holds {_kind(reader)}. Evaluate the candidate in the same way, with the "
                "same options, and give its results as CANDIDATE."
            )


def require_model_names(side: Mapping[str, ScoredEvaluation], path: Path) -> None:
    """Refuse results that do not say of which model they are.

    Raises:
        UserError: the results of a task do not name their model.
    """
    if any(scored.evaluation.model.id == NOT_TOLD for scored in side.values()):
        raise UserError(f"{path} does not say of which model it is. Name the model with --name.")


def load_both(
    baseline: Path,
    candidate: Path,
    name: str | None = None,
    wanted: Collection[str] | None = None,
    selection: Selection = NOTHING_SELECTED,
) -> tuple[Side, Side]:
    """Load both sides, with the same definitions of their metrics; arguments as for `load`.

    `name` is of the baseline's model.

    Raises:
        UserError: as `load`; or the two were made by different tools.
    """
    before = load(baseline, name, wanted, selection)
    after = load(candidate, wanted=wanted, selection=selection)
    return align_metrics(before, after, str(baseline), str(candidate))


def align_metrics(
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
    baseline_name: str,
    candidate_name: str,
) -> tuple[Side, Side]:
    """Give two sides of another tool the same definitions of their metrics; keep other sides.

    Raises:
        UserError: the two sides were written by different tools, or cannot be compared.
    """
    before, after, names = dict(baseline), dict(candidate), (baseline_name, candidate_name)
    shared = sorted(before.keys() & after.keys())
    for task in shared:
        old, new = before[task], after[task]
        if (reader := _require_one_tool(old, new, names, f"their {task}")) is not None:
            before[task], after[task] = reader.align(old, new, names)
    if before and after and not shared:
        old, new = next(iter(before.values())), next(iter(after.values()))
        _require_one_tool(old, new, names, "they")
    return before, after


def _require_one_tool(
    old: ScoredEvaluation, new: ScoredEvaluation, names: tuple[str, str], what: str
) -> Reader | None:
    """Return the reader of the tool that made both evaluations; None if we did.

    Raises:
        UserError: they were made by different tools.
    """
    readers = _reader_of(old), _reader_of(new)
    if readers[0] is readers[1]:
        return readers[0]
    raise UserError(
        f"{names[0]} holds {_kind(readers[0])} and {names[1]} {_kind(readers[1])}, so that {what} "
        "cannot be compared item by item. Evaluate both in the same way."
    )


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


def _reader_of(scored: ScoredEvaluation) -> Reader | None:
    """Return the reader of the tool that scored an evaluation; None for our own."""
    tool = scored.evaluation.engine.partition(" ")[0]
    return next((reader for reader in READERS if reader.tool == tool), None)


def _kind(reader: Reader | None) -> str:
    if reader is None:
        return "benchmarks of rlrf"
    if reader is lm_eval_results.READER:
        return "results of lm-eval, by `lm_eval run` or by `rlrf eval` on its tasks"
    return "a table" if reader is table.READER else f"results of {reader.tool}"


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
