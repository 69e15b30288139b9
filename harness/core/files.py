"""Write files that survive a crash, and read JSON files with clear errors.

A file is written to a temporary name in the same folder, fsynced and renamed, and the folder is
fsynced. A reader therefore sees the old content or the new content, also after a power loss. What a
killed process left under a temporary name is removed by `harness.core.folders.sweep`.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import hashlib
import json
import os
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from harness.core.errors import UserError, explain_full_disk
from harness.core.schema import Record, canonical_json

R = TypeVar("R", bound=Record)

MAX_LINE_BYTES = 64 * 1024 * 1024  # of JSON at a time, a line or a file
MAX_UNPACKED_BYTES = 512 * 1024 * 1024  # of a gzip file, which may unpack to a thousand times that
BLOCK_BYTES = 1024 * 1024
MIN_ROW_BYTES = 100  # that even an empty row takes in memory
MAX_FIELD_CHARS = 200  # shown of a field's name
TEMPORARY = ".rlrf.tmp"


@contextlib.contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    try:
        with explain_full_disk(path.parent):
            yield
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. "
            "Nothing was lost: free some space or choose another folder, and start again."
        ) from error


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create `path` and its parents durably."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        fsync(folder.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, atomically and durably.

    Raises:
        UserError: the file system refused, for example because the disk is full.
    """
    with explain_disk_errors(path):
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(TEMPORARY, f".{path.name}.", path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.chmod(name, 0o644)
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        fsync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 to `path`, as `write_bytes`; lone surrogates, which models emit, become '?'."""
    write_bytes(path, text.encode("utf-8", "replace"))


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def json_text(value: Any) -> str:
    """Write a value or a record as indented, sorted JSON."""
    text = json.dumps(_plain(value), indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return text + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a value or a record to `path` as indented JSON."""
    write_text(path, json_text(value))


def jsonl_bytes(values: Iterable[Any]) -> bytes:
    """Write values as canonical JSON lines; a lone surrogate becomes its escape."""
    lines = []
    for value in values:
        line = canonical_json(_plain(value))
        try:
            lines.append(line.encode())
        except UnicodeEncodeError:
            lines.append(json.dumps(json.loads(line), sort_keys=True).encode())
    return b"".join(line + b"\n" for line in lines)


def records_digest(records: Iterable[Any]) -> str:
    """Return the digest of the JSONL file of `records`, which need not exist."""
    return hashlib.sha256(jsonl_bytes(records)).hexdigest()


def write_jsonl(path: Path, values: Iterable[Any]) -> str:
    """Write canonical JSON lines (gzipped if the name ends in .gz); return their sha256."""
    data = jsonl_bytes(values)
    packed = gzip.compress(data, compresslevel=6, mtime=0) if path.suffix == ".gz" else data
    write_bytes(path, packed)
    return hashlib.sha256(data).hexdigest()


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object from the pairs that a JSON parser read, as its `object_pairs_hook`.

    Raises:
        ValueError: a key is there twice; JSON parsers silently keep the last one.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:MAX_FIELD_CHARS]!r} is there twice: keep one")
    return made


_JSON = json.JSONDecoder(object_pairs_hook=unique_keys)  # made once, to save time


def _loads(data: bytes) -> Any:
    return _JSON.decode(data.decode(json.detect_encoding(data), "surrogatepass"))


def open_plain(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one; a pipe is not waited for, a device is not read.

    Raises:
        UserError: something else is there.
        OSError: nothing is there, or it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(
                f"{path} is not a regular file, and is not read. Check where the folder comes from."
            )
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def require_plain(
    path: Path,
    max_bytes: int,
    max_lines: int | None = None,
    *,
    advice: str = "Evaluate fewer items or repeats at once.",
) -> None:
    """Check that a file of unknown origin can be read whole: a regular file, and not too large.

    Raises:
        UserError: the file is missing, not regular, or too large; the message ends with `advice`
            on how to get a smaller file.
    """
    try:
        with open_plain(path) as file:
            size, lines = os.fstat(file.fileno()).st_size, 0
            if size > max_bytes:
                raise UserError(
                    f"{path} is larger than {max_bytes / 1024**3:g} GiB, which is not read. "
                    f"{advice}"
                )
            while max_lines is not None and (block := file.read(BLOCK_BYTES)):
                lines += block.count(b"\n")
                if lines > max_lines:
                    raise UserError(f"{path} has more than {max_lines:,} lines, and is not read.")
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror or error}).") from error


def without_bom(data: bytes) -> bytes:
    """Remove the byte-order mark that some editors and spreadsheets write before UTF-8 text."""
    return data.removeprefix(codecs.BOM_UTF8)


def read_text(path: Path, max_bytes: int, expected: str) -> str:
    """Read a text file that a user wrote, with or without a byte-order mark.

    Raises:
        UserError: missing, a folder, larger than `max_bytes`, or not UTF-8. The message says that
            `expected` is expected.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise UserError(f"{path} is larger than {max_bytes:,} bytes; {expected} are expected.")
        return without_bom(data).decode()
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, where a text file is expected.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} does not hold {expected}: it is not UTF-8 text. Save it as UTF-8."
        ) from error


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: missing, larger than `MAX_LINE_BYTES`, malformed (the message names line and
            column), or with a key twice in one object.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_LINE_BYTES + 1)
        if len(data) > MAX_LINE_BYTES:
            raise UserError(f"{path} is larger than {MAX_LINE_BYTES:,} bytes: not read.")
        return _loads(without_bom(data))
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, where a JSON file is expected.") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})."
        ) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, a number without end, too deep
        raise UserError(f"{path} is not JSON text ({error}).") from error


def read_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Parse JSON lines into (line number, object) pairs; blank lines are skipped.

    Raises:
        UserError: missing, larger than `MAX_UNPACKED_BYTES` when unpacked, or a line is not a JSON
            object, has a key twice in one object, or is longer than `MAX_LINE_BYTES`. The message
            names file, line and fault.
    """
    return list(iterate_jsonl(path))


def iterate_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Parse JSON lines into (line number, object) pairs, one at a time, as `read_jsonl` does."""
    unpacked = 0
    try:
        opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            # Bounded while it is read: a small gzip file may unpack to a line without end.
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(f"{path}, line {number}: longer than {MAX_LINE_BYTES:,} bytes.")
                unpacked += max(len(line), MIN_ROW_BYTES)
                if path.suffix == ".gz" and unpacked > MAX_UNPACKED_BYTES:
                    raise UserError(
                        f"{path} unpacks to more than {MAX_UNPACKED_BYTES:,} bytes: not read. "
                        "If you trust it, unpack it yourself and name what comes out."
                    )
                content = without_bom(line)  # also where files were joined
                if not content.strip():
                    continue
                try:
                    value = _loads(content)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}, line {number}: not JSON ({error}).") from error
                if not isinstance(value, dict):
                    raise UserError(
                        f"{path}, line {number}: an object {{...}} is expected, "
                        f"this is a {type(value).__name__}."
                    )
                yield number, value
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, where a JSONL file is expected.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}).") from error


def parse(model: type[R], value: Any, where: str) -> R:
    """Validate `value` as a record.

    Raises:
        UserError: the value does not fit. The message names `where`, the field and the fault.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])[:MAX_FIELD_CHARS] or "the whole"
        said = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {field}: {said}.") from error


def read_records(path: Path, model: type[R]) -> list[R]:
    """Parse JSON lines into records; errors name the file and the line."""
    return [parse(model, row, f"{path}, line {number}") for number, row in read_jsonl(path)]


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
