"""Read a file that says which item is in which cluster: CSV with a header, or JSON lines."""

from __future__ import annotations

import csv
import io
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import read_jsonl
from harness.core.text import one_line
from harness.gate.clusters import Columns, plain

MAX_BYTES = 64 * 1024**2
MAX_COLUMNS = 100
NAMES_ITEMS = ("item", "index", "task")


def read_columns(path: Path) -> Columns:
    """Read the columns of `path`, of which one names items: `item` (digest) or `index` (number).

    A column `task` says which task a row is about; without it every row is about each task. All
    other columns can name clusters.

    Raises:
        UserError: missing, no regular file, too large, neither CSV nor JSON lines, no column that
            names items, or none that names clusters.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is not a regular file: give a CSV or JSONL file.")
        if found.st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES:,} bytes, which is not read.")
        lines = path.suffix in (".jsonl", ".ndjson") or path.name.endswith(".jsonl.gz")
        rows = list(_of_jsonl(path) if lines else _of_csv(path))
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    if not rows:
        raise UserError(f"{path} has no row: give one per item.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    keys = tuple(name for name in names if name not in NAMES_ITEMS)
    if not {"item", "index"} & set(names):
        raise UserError(
            f"{path} has no column that says which item a row is about: call it 'item' (the "
            f"item's digest) or 'index' (its number). It has {_list(names)}."
        )
    if not keys:
        raise UserError(
            f"{path} has no column that names clusters: add one next to 'index', for example "
            "'passage'."
        )
    return Columns(str(path), keys, rows)


def _list(names: list[str]) -> str:
    return one_line(", ".join(names))[:300] or "none"


def _of_csv(path: Path) -> Iterator[dict[str, str]]:
    reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(header) > MAX_COLUMNS or len({*header}) < len(header) or "" in header:
            raise UserError(
                f"{path}: the first line has to name the columns, each once and at most "
                f"{MAX_COLUMNS}. It has {_list(header)}."
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


def _of_jsonl(path: Path) -> Iterator[dict[str, str]]:
    for number, row in read_jsonl(path):
        yield {
            name: _cell(value, f"{path}, line {number}, {name!r}") for name, value in row.items()
        }


def _cell(value: Any, where: str) -> str:
    if isinstance(value, list | Mapping):
        raise UserError(f"{one_line(where)}: one value is expected, not a list or an object.")
    return plain(value) or ""
