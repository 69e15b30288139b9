"""Read a table with a row per item: CSV, JSON lines, a JSON list of objects, or Parquet.

    rlrf gate before.csv after.csv --item id --metric correct

A user names the column of items and the columns to compare. Items are compared by their names,
character by character. Two more columns count if the table has them: `task` divides it into tasks,
and `repeat` numbers several answers to an item. The other columns may name clusters. An empty cell
is unscored; yes and no, true and false, pass and fail are 1 and 0.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.log import say
from harness.core.text import did_you_mean, listed, quote, shorten
from harness.readers.answers import (
    MAX_ANSWERS,
    NOT_TOLD,
    UNIT,
    Answer,
    MetricInfo,
    Results,
    cluster_fields,
)
from harness.readers.json_stream import JsonStream, decoded, open_bytes, open_json
from harness.readers.reader import FileReader, Selection, kind_of

TOOL = "table"
TASK, TASK_COLUMN, REPEAT_COLUMN = "table", "task", "repeat"
CSV, LINES = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
MAX_COLUMNS = 1_000
MAX_LINE_CHARS = 4 * 1024**2
MAX_TASKS = 1_000
MAX_KEPT_COLUMNS = 20  # that may name clusters
MAX_NAME_CHARS = 10_000  # of an item
PARQUET_ROWS = 10_000  # read at once
SEPARATORS = ",;\t|"
WORDS = {
    "true": 1.0, "yes": 1.0, "pass": 1.0, "passed": 1.0, "correct": 1.0,
    "false": 0.0, "no": 0.0, "fail": 0.0, "failed": 0.0, "incorrect": 0.0,
}  # fmt: skip
NO_VALUE = {"", "na", "n/a", "null", "none", "nan"}

Row = Mapping[str, Any]


def recognises(path: Path) -> bool:
    """Tell whether a file is a table; JSON that is one object is what another tool wrote."""
    if kind_of(path) != ".json":
        return True
    with open_json(path) as document:
        return document.kind() == "["


def read(path: Path, selection: Selection) -> Iterable[Results]:
    """Read the results of each task of a table.

    Raises:
        UserError: the table is damaged or too large, lacks a named column, or holds a value that is
            not a number; or no column was named.
    """
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{path} has no row: give one per item, below the names of the columns.")
    place, names, row = first
    item, metrics = _chosen(path, names, selection)
    by_task: dict[str, list[Answer]] = {}
    notes = [name for name in names if name not in (item, *metrics, TASK_COLUMN, REPEAT_COLUMN)]
    notes = notes[:MAX_KEPT_COLUMNS]
    has_task = TASK_COLUMN in names and TASK_COLUMN not in (item, *metrics)
    kinds = _Kinds(path)
    count = 0
    while True:
        count += 1
        if count > MAX_ANSWERS:
            raise UserError(
                f"{path} has more than {MAX_ANSWERS:,} rows, which are not read. A sample of the "
                "items is enough for a gate."
            )
        task = _text(row.get(TASK_COLUMN), f"{path}, {place}") if has_task else TASK
        if not task:
            raise UserError(f"{path}, {place}: the column '{TASK_COLUMN}' is empty.")
        if task not in by_task and len(by_task) == MAX_TASKS:
            raise UserError(f"{path} names more than {MAX_TASKS:,} tasks in the column 'task'.")
        by_task.setdefault(task, []).append(_answer(kinds, place, row, item, metrics, notes))
        following = next(rows, None)
        if following is None:
            break
        place, _, row = following
    return [
        Results(
            tool=TOOL,
            source=str(path),
            task=task,
            model=NOT_TOLD,
            version=NOT_TOLD,
            answers=answers,
            metrics={name: MetricInfo() for name in metrics},
            is_named=True,
        )
        for task, answers in by_task.items()
    ]


def _chosen(path: Path, names: Sequence[str], selection: Selection) -> tuple[str, tuple[str, ...]]:
    """Return the columns of items and of metrics, as the user named them."""
    item, metrics = selection.item, selection.metrics
    if {item, *metrics} - {None, *names} and kind_of(path) in LINES:
        *_, (_, names, _) = _rows(path)  # JSON: a row may lack what others have
    has = f"It has the columns {listed(names, 20)}."
    if item is None:
        raise UserError(
            f"{path} is a table: say which column names the item, and which to compare, such as "
            f"--item id --metric correct. {has}"
        )
    if not metrics:
        raise UserError(f"{path} is a table: say which column to compare with --metric. {has}")
    for name in (item, *metrics):
        if name not in names:
            raise UserError(f"{path} has no column {quote(name)}.{did_you_mean(name, names)} {has}")
    if item in metrics:
        raise UserError(
            f"The column {quote(item)} is named as --item and as --metric: the one names items, "
            "the other holds values."
        )
    return item, metrics


class _Kinds:
    """Reads the values of columns, each of which holds either yes and no, or numbers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._words: dict[str, str] = {}
        self._numbers: dict[str, str] = {}

    def value(self, cell: Any, column: str, place: str) -> float | None:
        """Return the value of a cell, None if it is empty.

        Raises:
            UserError: it is neither, or the column holds both kinds.
        """
        where = f"{self.path}, {place}, column {quote(column)}"
        number, is_word = _number(cell, where)
        if number is not None and (is_word or number not in UNIT):
            seen, other = (self._words, self._numbers) if is_word else (self._numbers, self._words)
            seen.setdefault(column, f"{quote(cell)} ({place})")
            if column in other:
                raise UserError(
                    f"{where}: the column holds yes or no and numbers, {other[column]} and "
                    f"{seen[column]}. Write one kind of value."
                )
        return number


def _answer(
    kinds: _Kinds, place: str, row: Row, item: str, metrics: Iterable[str], notes: Iterable[str]
) -> Answer:
    where = f"{kinds.path}, {place}"
    name = _text(row.get(item), where)
    if not name.strip():
        raise UserError(f"{where}: the column {quote(item)} is empty, so no item is named.")
    if len(name) > MAX_NAME_CHARS:
        raise UserError(
            f"{where}: the name of the item has more than {MAX_NAME_CHARS:,} characters. Is it the "
            "right column?"
        )
    answer = Answer(name, place, repeat=_repeat(row.get(REPEAT_COLUMN, 0), where))
    for metric in metrics:
        value = kinds.value(row.get(metric), metric, place)
        if value is None:
            answer.unscored[metric] = "the table has no value"
        else:
            answer.values[metric] = value
    answer.document = cluster_fields({name: row.get(name) for name in notes})
    return answer


def _repeat(value: Any, where: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{where}: the column '{REPEAT_COLUMN}' numbers the answers to an item, and has "
            f"{quote(value)}."
        ) from error


def _number(cell: Any, where: str) -> tuple[float | None, bool]:
    """Read a cell: a number, or None if it is empty; and whether it says yes or no."""
    text = cell.strip().lower() if isinstance(cell, str) else cell
    if text is None or (isinstance(text, str) and text in NO_VALUE):
        return None, False
    if isinstance(text, str) and text in WORDS:
        return WORDS[text], True
    number = _parse(text)
    if number is not None and math.isnan(number):
        return None, False
    if number is None or math.isinf(number):
        hint = " Write decimals with a point." if "," in str(cell) else ""
        raise UserError(f"{where}: {quote(cell)} is not a number.{hint}")
    return number, isinstance(cell, bool)


def _parse(value: Any) -> float | None:
    try:
        is_plain = not isinstance(value, str) or "_" not in value
        return float(value) if is_plain and not isinstance(value, list | dict) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _text(value: Any, where: str) -> str:
    """Write a name as text; a number as its digits, so that JSON's 1 is the 1 of a CSV file."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict):
        raise UserError(f"{where}: a list or an object cannot name an item: {shorten(value, 40)}.")
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


# ---- formats ----------------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[tuple[str, list[str], Row]]:
    """Read rows as (place, names of all columns, cells)."""
    suffix = kind_of(path)
    read_format: Callable[[Path], Iterator[tuple[str, list[str], Row]]]
    read_format = _parquet if suffix in PARQUET else _json if suffix in LINES else _csv
    return read_format(path)


def _csv(path: Path) -> Iterator[tuple[str, list[str], Row]]:
    with open_bytes(path) as file:
        lines = _lines(file, path)
        first = next(lines, "")
        separator = max(SEPARATORS, key=first.count) if path.suffix != ".tsv" else "\t"
        reader = csv.reader(_chained(first, lines), delimiter=separator, strict=True)
        if separator != "," and path.suffix != ".tsv":
            say(f"The columns of {path} are separated by {separator!r}.")
        try:
            header = [name.strip() for name in next(reader, [])]
            _check_header(header, path)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise UserError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells, where the first line "
                        f"names {len(header)} columns (separated by {separator!r})."
                    )
                row = dict(zip(header, cells, strict=True))
                yield f"line {reader.line_num}", header, row
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: not CSV ({error}).") from error


def _lines(file: Any, path: Path) -> Iterator[str]:
    """Read lines of bounded length, whichever way they end."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    number = 0
    try:
        while line := text.readline(MAX_LINE_CHARS):
            number += 1
            if len(line) == MAX_LINE_CHARS:
                raise UserError(
                    f"{path}, line {number}: longer than {MAX_LINE_CHARS:,} characters."
                )
            yield line
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    finally:
        with contextlib.suppress(ValueError):  # the file is closed already
            text.detach()


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _check_header(header: list[str], path: Path) -> None:
    if len(header) > MAX_COLUMNS or len({*header}) < len(header) or not any(header):
        raise UserError(
            f"{path}: the first line has to name the columns, each once and at most {MAX_COLUMNS}. "
            f"It has {listed(header) or 'none'}."
        )


def _json(path: Path) -> Iterator[tuple[str, list[str], Row]]:
    """Read JSON lines, or the objects of one list."""
    with open_bytes(path) as file:
        stream = JsonStream(decoded(file), str(path))
        is_list = stream.kind() == "["
        places = stream.elements() if is_list else _until_end(stream)
        names: dict[str, None] = {}
        for number, _ in enumerate(places, 1):
            place = f"{'object' if is_list else 'line'} {number}"
            row = stream.value()
            if not isinstance(row, dict):
                raise UserError(
                    f"{path}, {place}: an object {{...}} with a value per column is expected, not "
                    f"{shorten(row, 40)}."
                )
            names |= dict.fromkeys(row)
            if len(names) > MAX_COLUMNS:
                raise UserError(f"{path} has more than {MAX_COLUMNS} columns.")
            yield place, [*names], row


def _until_end(stream: JsonStream) -> Iterator[None]:
    while stream.kind():
        yield


def _parquet(path: Path) -> Iterator[tuple[str, list[str], Row]]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"{path} is a Parquet file. Install what reads it, pip install 'rlrf-harness[parquet]',"
            " or write the table as CSV."
        ) from error
    with open_bytes(path) as file:
        try:
            table = parquet.ParquetFile(file)
            names = list(table.schema_arrow.names)
            _check_header(names, path)
            count = 0
            for batch in table.iter_batches(batch_size=PARQUET_ROWS):
                columns = {name: batch.column(name).to_pylist() for name in names}
                for position in range(batch.num_rows):
                    count += 1
                    row = {name: values[position] for name, values in columns.items()}
                    yield f"row {count}", names, row
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{path} is not a whole Parquet file ({shorten(error)}).") from error


READER = FileReader(TOOL, (*CSV, *LINES, *PARQUET), recognises, read, in_folders=False)
