"""Files that survive a crash: atomic, content-addressed, and read back with clear errors.

Everything is written to a temporary name in the same folder, fsynced and renamed, and the folder
is fsynced, so that a reader sees the old content or the new, never a half, after a power loss too.
What a killed process left under a temporary name is for the next one to `sweep`. Like
`harness.core.schema`, this module imports nothing of the project but the vocabulary.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import errno
import fcntl
import glob
import gzip
import hashlib
import json
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from harness.core.errors import UserError
from harness.core.incidental import is_incidental, move_incidental
from harness.core.schema import Record, canonical_json

R = TypeVar("R", bound=Record)

MAX_LINE_BYTES = 64 * 1024 * 1024  # of JSON at a time, a line or a file
MAX_UNPACKED_BYTES = 512 * 1024 * 1024  # of a gzip file, which may unpack to a thousand times that
BLOCK_BYTES = 1024 * 1024
ROW_BYTES = 100  # that a row takes in memory, however short it is
MAX_FIELD = 200  # characters shown of a field's name
LOCK = ".lock"
TEMPORARY = ".rlrf.tmp"
# What the file system, and libraries that are not written in Python, say.
FULL = {errno.ENOSPC, errno.EDQUOT}
SAID_FULL = ("No space left on device", "Disk quota exceeded")


@contextlib.contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """Say what to do where there is no room left in `folder`.

    Raises:
        UserError: there is none.
    """
    try:
        yield
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno in FULL
        if isinstance(error, UserError) or not (
            is_full or any(said in str(error) for said in SAID_FULL)
        ):
            raise
        raise UserError(
            f"No space left in {folder}: free some, and run the same command again. "
            "What is finished is kept."
        ) from error


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        with told_when_full(path.parent):
            yield
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. "
            "Nothing was lost: free some space or choose another folder, and start again."
        ) from error


def _fsync(path: Path) -> None:
    """Of a folder: its entries, not what they hold."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make `path` and the folders that it lies in, durably."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _fsync(folder.parent)


def sweep(folder: Path) -> None:
    """Remove what a killed process was writing in `folder`, in which nobody else may be writing."""
    for entry in list(folder.rglob(f".*{TEMPORARY}")):
        if entry.is_symlink():
            continue  # no command makes such a link
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)  # it lay in such a folder


@contextlib.contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Keep other processes from working in `folder`, which is made if it is missing and swept.

    Raises:
        UserError: one does already, or the folder cannot be made or written to.
    """
    import filelock

    with contextlib.ExitStack() as held:
        try:
            make_folder(folder)
            # `is_in_use` holds the lock for a moment.
            held.enter_context(filelock.FileLock(folder / LOCK, timeout=1))
        except filelock.Timeout as error:
            raise UserError(
                f"Another process works in {folder}. Wait for it, or choose another with --out."
            ) from error
        except OSError as error:
            raise UserError(f"Cannot write to {folder} ({error.strerror}).") from error
        sweep(folder)
        yield


def is_in_use(folder: Path) -> bool:
    """Whether a process is the `sole_user` of `folder`; one that was killed is not."""
    return (folder / LOCK).exists() and _is_locked(folder / LOCK)


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, atomically and durably.

    Raises:
        UserError: the file system refused (full disk, no permission).
    """
    with _disk_errors(path):
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
        _fsync(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8; lone surrogates, which models do emit, become '?'."""
    write_bytes(path, text.encode("utf-8", "replace"))


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def json_text(value: Any) -> str:
    """Indented, sorted JSON of a value or a record."""
    text = json.dumps(_plain(value), indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return text + "\n"


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by the `json_text` of a value or a record."""
    write_text(path, json_text(value))


def jsonl_bytes(values: Iterable[Any]) -> bytes:
    """Canonical JSON lines; a lone surrogate survives as its escape."""
    lines = []
    for value in values:
        line = canonical_json(_plain(value))
        try:
            lines.append(line.encode())
        except UnicodeEncodeError:
            lines.append(json.dumps(json.loads(line), sort_keys=True).encode())
    return b"".join(line + b"\n" for line in lines)


def write_jsonl(path: Path, values: Iterable[Any]) -> str:
    """Write canonical JSON lines (gzipped if the name ends in .gz); return their sha256."""
    data = jsonl_bytes(values)
    packed = gzip.compress(data, compresslevel=6, mtime=0) if path.suffix == ".gz" else data
    write_bytes(path, packed)
    return hashlib.sha256(data).hexdigest()


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of the pairs that a JSON parser read: its `object_pairs_hook`.

    Raises:
        ValueError: a key is there twice, of which readers of JSON silently keep the last.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:MAX_FIELD]!r} is there twice: keep one")
    return made


_JSON = json.JSONDecoder(object_pairs_hook=unique_keys)  # made once, so that it costs no time


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


def require_plain(path: Path, max_bytes: int, max_lines: int | None = None) -> None:
    """Check that a file of someone else can be read whole: a regular file, and not too large.

    Raises:
        UserError: it is missing, not a regular file, or larger than it may be.
    """
    try:
        with open_plain(path) as file:
            size, lines = os.fstat(file.fileno()).st_size, 0
            if size > max_bytes:
                raise UserError(
                    f"{path} is larger than {max_bytes / 1024**3:g} GiB, which is not read. "
                    "Evaluate fewer items or repeats at once."
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
        UserError: missing, a folder, larger than `max_bytes`, or not UTF-8. The message names
            `expected`, what the file should hold.
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
        UserError: missing, larger than `MAX_LINE_BYTES`, or malformed (names the line and column),
            or a key is there twice in one object.
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
    """Parse JSON lines into (line number, object) pairs; blank lines are passed over.

    Raises:
        UserError: missing, or a line is not a JSON object (names file, line and fault), has a key
            twice in one object, or is longer than `MAX_LINE_BYTES`, or the file unpacks to more
            than `MAX_UNPACKED_BYTES`.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    unpacked = 0
    try:
        opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            # Bounded while it is read: a small gzip file may unpack to a line without end.
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(f"{path}, line {number}: longer than {MAX_LINE_BYTES:,} bytes.")
                unpacked += max(len(line), ROW_BYTES)
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
                rows.append((number, value))
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, where a JSONL file is expected.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}).") from error
    return rows


def parse(model: type[R], value: Any, where: str) -> R:
    """Validate `value` as a record.

    Raises:
        UserError: it does not fit; names `where`, the field and the fault.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])[:MAX_FIELD] or "the whole"
        said = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {field}: {said}.") from error


def read_records(path: Path, model: type[R]) -> list[R]:
    """Parse JSON lines into records, with the file and line in every error."""
    return [parse(model, row, f"{path}, line {number}") for number, row in read_jsonl(path)]


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Says no, as a `UserError`, where an existing folder may not be replaced by the new one, which is
# None before there is one.
MayReplace = Callable[[Path, Path | None], None]


def only_empty(old: Path, _new: Path | None = None) -> None:
    """Refuse to replace a folder that holds anything but incidental files.

    Raises:
        UserError: it does.
    """
    if held := sorted(entry.name for entry in old.iterdir() if not is_incidental(entry)):
        raise UserError(
            f"{old} is there already and is not empty: it holds {held[0]}. Nothing was touched. "
            "Choose another folder, or move what is there away."
        )


@contextlib.contextmanager
def new_folder(path: Path, may_replace: MayReplace = only_empty) -> Iterator[Path]:
    """Yield a temporary sibling that becomes `path` when the block succeeds.

    A folder that is there already is replaced only if `may_replace` lets it, which is asked first
    and again when the new one is ready. A link is written through: the folder that it leads to is
    replaced, and the link stays, as do incidental files. If the block raises, nothing of the new
    folder remains and `path` stays as it was; what a killed process left of it is removed.

    Raises:
        UserError: `path` may not be replaced, is a file or a broken link, or cannot be written.
    """
    path = existing_folder(path)
    if path.exists():
        may_replace(path, None)
    with _disk_errors(path):
        make_folder(path.parent)
        for other in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
            if other.is_dir() and not other.is_symlink() and not _is_locked(other):
                shutil.rmtree(other)
        temporary = Path(tempfile.mkdtemp(TEMPORARY, f".{path.name}.", path.parent))
        at_work = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(at_work, fcntl.LOCK_EX)
        yield temporary
        with _disk_errors(path):
            os.chmod(temporary, 0o755)
            for entry in (*temporary.rglob("*"), temporary):
                _fsync(entry)
            if existing_folder(path).exists():
                may_replace(path, temporary)
                move_incidental(path, temporary)
                _exchange(temporary, path)
            else:
                os.replace(temporary, path)
            _fsync(path.parent)
    finally:  # what is left there is half done, or was replaced
        os.close(at_work)
        shutil.rmtree(temporary, ignore_errors=True)


def existing_folder(path: Path) -> Path:
    """The folder that `path` names, through links, whether or not it is there yet.

    Raises:
        UserError: it is a file, a broken link, or lies in something that is not a folder.
    """
    if path.parts[:1] == ("~",):
        raise UserError(f"{path}: the shell did not expand '~'. Write the path in full.")
    try:
        real = path.resolve()
        if real.is_dir():
            return real
        if path.is_symlink():
            raise UserError(
                f"{path} is a link to {real}, which is not a folder. Remove the link, or name "
                "another folder."
            )
        if real.exists():
            raise UserError(f"{path} is a file, where a folder is expected: name another.")
        nearest = next(parent for parent in real.parents if os.path.lexists(parent))
    except (OSError, RuntimeError) as error:  # a loop of links, a name too long, no permission
        raise UserError(f"{path} cannot be used: {error}. Name another place.") from error
    if not nearest.is_dir():
        raise UserError(
            f"{path} cannot be made, because {nearest} is not a folder. Name another place."
        )
    return real


def _exchange(new: Path, old: Path) -> None:
    """Let two folders change places: at once on Linux, so that one is there at any moment."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if exchange and exchange(here, os.fsencode(new), here, os.fsencode(old), both) == 0:
        return
    # Another system, or a file system that cannot: for a moment neither is there.
    aside = new.with_name(f"{new.stem}.old{TEMPORARY}")
    os.replace(old, aside)
    os.replace(new, old)
    os.replace(aside, new)
