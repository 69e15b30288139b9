"""Read the texts of files, evaluations, runs and benchmarks, to compare them with each other."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from harness.core.errors import UserError, first_line
from harness.core.files import MAX_LINE_BYTES, iterate_jsonl, open_plain, read_json
from harness.core.schema import Item
from harness.core.text import listed
from harness.evals import evaluation
from harness.gate.contamination import WORD

MAX_TEXT_CHARS = 1_000_000  # of a text; a longer one is read as several
MAX_ROW_TEXTS = 10_000
MAX_DEPTH = 32  # of nested lists and objects
MAX_PARQUET_GROUP_BYTES = 4 * 1024**3
BATCH_ROWS = 256
EXAMPLES = ("pairs", "responses", "rankings", "rewrites")  # files with a run's training examples
RUN = "run.json"


@dataclass(frozen=True)
class Row:
    """The texts of an item, a line or a row, by field; `label` says where it stands."""

    label: str
    texts: Mapping[str, str]


Read = Callable[[], Iterator[tuple[str, Any]]]


@dataclass(frozen=True)
class Texts:
    """Rows of texts from one source; each iteration reads the source again.

    Attributes:
        name: what the user called the source.
        read: yields (label, value); texts are looked for in the value, however nested.
        fields: fields to read, such as `question` or `messages.content`; none: all that have text.
    """

    name: str
    read: Read
    fields: Sequence[str] = ()

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows that have text.

        Raises:
            UserError: the source cannot be read, no row has text, or none has the fields.
        """
        met, seen = False, dict[str, None]()
        for label, value in self.read():
            texts: dict[str, str] = {}
            for name, text in itertools.islice(_leaves(value), MAX_ROW_TEXTS):
                plain = ".".join(part for part in name if not part.isdigit())
                if len(seen) < MAX_ROW_TEXTS:
                    seen[plain] = None
                if self.fields and name:  # a line of a text file has no fields
                    wanted = any(plain == f or plain.startswith(f"{f}.") for f in self.fields)
                else:
                    wanted = _is_text(text)
                if wanted:
                    for at in range(0, max(len(text), 1), MAX_TEXT_CHARS):
                        piece = f"{'.'.join(name)}" + (f" from {at}" if at else "")
                        texts[piece] = text[at : at + MAX_TEXT_CHARS]
            if texts:
                met = True
                yield Row(label, texts)
        if not met:
            known = listed(name or "the text itself" for name in seen) or "none"
            if self.fields:
                raise UserError(
                    f"{self.name} has no text in the field {listed(self.fields)}. Fields with "
                    f"text: {known}."
                )
            raise UserError(f"{self.name} has no texts to compare. Fields with text: {known}.")


def _is_text(text: str) -> bool:
    """Tell a text from a label or an id, which has only one word."""
    return len(list(itertools.islice(WORD.finditer(text), 2))) > 1 and not _is_id(text)


def _is_id(text: str) -> bool:
    return len(text) <= 200 and not any(c.isspace() for c in text) and text.isascii()


def _leaves(value: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the strings in a value, with the names of the fields that lead there."""
    if isinstance(value, str):
        yield name, value
    elif len(name) < MAX_DEPTH and isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*name, str(key)))
    elif len(name) < MAX_DEPTH and isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*name, str(number)))


def find_file_texts(path: Path) -> Read:
    """Return the reader of a file or folder.

    A file of JSON, JSON lines (also gzipped), CSV, TSV or Parquet has a text per row; any other
    file has one per paragraph, or one per line if no blank line divides it. A folder is an
    evaluation, a run, or one with training examples of a run.

    Raises:
        UserError: there is nothing of the kind at `path`.
    """
    if path.is_dir():
        return _folder(path)
    suffix = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if suffix in ("jsonl", "ndjson"):
        return lambda: ((f"line {number}", row) for number, row in iterate_jsonl(path))
    readers = {"json": _json, "csv": _csv, "tsv": _csv, "parquet": _parquet}
    return lambda: readers.get(suffix, _plain_text)(path)


def _folder(path: Path) -> Read:
    if (path / RUN).is_file() or any((path / f"{kind}.jsonl").is_file() for kind in EXAMPLES):
        places = [path, *sorted(path.glob("iter_*/*"))]
        files = [f for p in places for k in EXAMPLES if (f := p / f"{k}.jsonl").is_file()]
        if not files:
            raise UserError(f"The run {path} has no training examples yet.")

        def examples() -> Iterator[tuple[str, Any]]:
            for file in files:
                for number, row in iterate_jsonl(file):
                    yield f"{file.relative_to(path)}, line {number}", row

        return examples

    def items() -> Iterator[tuple[str, Any]]:
        for name, scored in evaluation.load(path).items():
            for item in scored.items:
                yield f"{name} {item.split} {item.index}", _content(item)

    return items


def _content(item: Item) -> Mapping[str, Any]:
    return {"prompt": item.prompt, "reference": item.reference, "document": item.document}


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    value = read_json(path)
    if isinstance(value, Mapping):
        rows = [rows for rows in value.values() if isinstance(rows, list)]
        value = rows[0] if len(value) == 1 and rows else [value]
    if not isinstance(value, list):
        raise UserError(f"{path}: a list of objects or texts is expected.")
    return ((f"row {number}", row) for number, row in enumerate(value, 1))


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with open_plain(path) as file:
        reader = csv.DictReader(_lines(path, file), delimiter=delimiter)
        try:
            for row in reader:
                yield f"line {reader.line_num}", {n: v for n, v in row.items() if n is not None}
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: not CSV ({error}).") from error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with open_plain(path) as source, pyarrow.parquet.ParquetFile(source) as file:
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).total_byte_size
                if size > MAX_PARQUET_GROUP_BYTES:
                    raise UserError(
                        f"{path} unpacks to {size:,} bytes at a time: not read. Write it with "
                        "smaller row groups."
                    )
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a Parquet file ({first_line(error)}).") from error


def _plain_text(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the paragraphs of a text, or its lines if it has only one paragraph."""
    with open_plain(path) as file:
        by_paragraph = _has_paragraphs(file)
        file.seek(0)
        paragraph: list[str] = []
        start = chars = 0
        for number, text in enumerate(_lines(path, file), 1):
            if not by_paragraph:
                yield f"line {number}", text
                continue
            if paragraph and (not text.strip() or chars > MAX_TEXT_CHARS):
                yield f"line {start}", "".join(paragraph)
                paragraph, chars = [], 0
            if text.strip():
                start = start if paragraph else number
                paragraph.append(text)
                chars += len(text)
        if paragraph:
            yield f"line {start}", "".join(paragraph)


def _has_paragraphs(file: BinaryIO) -> bool:
    """Tell whether a blank line stands between two lines with text."""
    met_text = met_blank = False
    for line in iter(lambda: file.readline(MAX_LINE_BYTES), b""):
        if not line.strip():
            met_blank = met_text
        elif met_blank:
            return True
        else:
            met_text = True
    return False


def _lines(path: Path, file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not UTF-8 text. Save the file as UTF-8."
            ) from error
