"""Check where a command writes, so that nobody else's files are replaced.

A folder may be written if it is new, empty, or of the same kind: it has the file by which the kind
is recognized, and no file that this program does not write there. A file may be written if it is
new, empty, or of the same kind by its content. This is checked before the work begins, and again
before the result replaces anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import TEMPORARY, read_json, write_bytes
from harness.core.folders import LOCK, existing_folder, is_incidental, only_empty
from harness.core.schema import Record

HEAD_BYTES = 256 * 1024  # read of an existing file, to recognize its kind
FOLDER_ADVICE = "Nothing was touched. Choose another folder, or move what is there away."
FILE_ADVICE = "Nothing was touched. Name another file, or move this one away."
SEALED = {  # file -> its keys, in folders whose files are checked by digests
    "manifest.json": {"inputs", "outputs", "seconds"},
    "evaluation.json": {"samples_digest", "scores_digest"},
    "generation.json": {"generation", "samples_digest"},
    "reward_model.json": {"base", "files"},
    "feedback_model.json": {"base", "files"},
}
EXPORTED = re.compile(r"data(/[^/]+){0,3}|data(/[^/]+){3}/[0-9a-f-]{36}\.json")
STREAMS = re.compile(r"/dev/(stdout|stderr|fd/\d+)|/proc/self/fd/\d+")


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that is written as a whole, and recognized by the JSON file `known_by`.

    `written` maps the content of that file to the names of all files that belong to the folder, or
    to None if the folder is of another kind.
    """

    name: str
    known_by: str
    written: Callable[[dict[str, Any]], Collection[str] | None]

    def may_replace(self, old: Path, _new: Path | None = None) -> None:
        """Refuse to replace the folder `old` unless it is empty or of this kind.

        Incidental files (`harness.core.folders`) are ignored.

        Raises:
            UserError: the folder holds something that this program did not write.
        """
        entries = sorted(entry.name for entry in old.iterdir() if not is_incidental(entry))
        if not entries:
            return
        content = _json(old / self.known_by)
        written = self.written(content) if isinstance(content, dict) else None
        if written is None:
            raise UserError(f"{old} holds {entries[0]} and is not {self.name}. {FOLDER_ADVICE}")
        refuse_strangers(old, written)

    def check(self, folder: Path, reads: Iterable[Path | None] = ()) -> None:
        """Check that a command that reads `reads` may write `folder` as a whole.

        Raises:
            UserError: the folder may not be replaced or written.
        """
        real = check_place(folder)
        refuse_inputs(folder, reads)
        if Path.cwd().is_relative_to(real):
            raise UserError(f"{folder} holds the working directory, so it cannot be replaced.")
        if real.exists():
            self.may_replace(real)


@dataclass(frozen=True)
class _NewFolder(FolderKind):
    def may_replace(self, old: Path, _new: Path | None = None) -> None:
        only_empty(old)


def model_kind(name: str, manifest: str) -> FolderKind:
    """Return the kind of a trained model's folder, whose `manifest` lists its files."""

    def written(content: dict[str, Any]) -> set[str] | None:
        files = content.get("files")
        return {manifest, *files} if isinstance(files, dict) and "base" in content else None

    return FolderKind(name, manifest, written)


NEW_FOLDER = _NewFolder("a new folder", "", lambda _: None)


def refuse_strangers(folder: Path, written: Collection[str]) -> None:
    """Check that `folder` holds only the files `written`, given as paths in the folder.

    Raises:
        UserError: the folder holds other files, or links.
    """
    parents = {str(parent) for name in written for parent in Path(name).parents}
    for entry in sorted(folder.rglob("*")):
        name = str(entry.relative_to(folder))
        is_ours = name in written or name in parents or _lies_in_temporary(entry, folder)
        if entry.is_symlink() or not (is_ours or is_negligible(entry)):
            raise UserError(
                f"{folder} holds {name}, which this program did not write. {FOLDER_ADVICE}"
            )


def is_negligible(entry: Path) -> bool:
    """Tell whether an entry is a lock, an unfinished file of a killed process, or incidental."""
    is_ours = entry.name == LOCK or entry.name.endswith(TEMPORARY)
    return is_incidental(entry) or (is_ours and not entry.is_symlink())


def _lies_in_temporary(entry: Path, folder: Path) -> bool:
    return any(part.endswith(TEMPORARY) for part in entry.relative_to(folder).parts[:-1])


def check_place(folder: Path) -> Path:
    """Check that `folder` is, or can become, a writable folder; return its resolved path.

    Raises:
        UserError: `folder` is a file or a broken link, is inside a file or among files that are
            checked by digests, or is not writable.
    """
    real = existing_folder(folder)
    _refuse_sealed(folder, real)
    _require_permission(folder, real)
    return real


def refuse_inputs(output: Path, reads: Iterable[Path | None]) -> None:
    """Check that `output` neither is nor contains one of the files and folders `reads`.

    Raises:
        UserError: writing would destroy an input.
    """
    real = output.resolve()
    for read in reads:
        if read is not None and read.exists() and read.resolve().is_relative_to(real):
            raise UserError(
                f"{output} would be written over {read}, which this command reads. Name another "
                "place with --out."
            )


def _refuse_sealed(path: Path, real: Path) -> None:
    for parent in real.parents:
        for name, keys in SEALED.items():
            content = _json(parent / name)
            if isinstance(content, dict) and keys <= content.keys():
                raise UserError(
                    f"{path} lies in {parent}, whose files are checked by their digests: writing "
                    "there would spoil it. Name another place."
                )


def _json(path: Path) -> Any:
    """Read a JSON file, or return None if it is missing or unreadable."""
    if not path.is_file():
        return None
    with contextlib.suppress(UserError, OSError):
        return read_json(path)
    return None


def _require_permission(path: Path, real: Path) -> None:
    nearest = next(place for place in (real, *real.parents) if place.exists())
    place = nearest if nearest.is_dir() else nearest.parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: no permission to write in {place}.")


@dataclass(frozen=True)
class FileKind:
    """A kind of file that this program writes, recognized by its beginning."""

    name: str
    is_of_kind: Callable[[bytes], bool]


@dataclass(frozen=True)
class OutputFile:
    """A file that a command may write, as checked before the work began."""

    path: Path
    kind: FileKind

    def write(self, content: bytes | str) -> None:
        """Write the file as a whole or not at all; pipes, terminals and /dev/null directly.

        Lone surrogates in text, which models emit, become '?'.

        Raises:
            UserError: the path has become something else, or the file system refuses.
        """
        data = content.encode("utf-8", "replace") if isinstance(content, str) else content
        if _is_stream(self.path):
            _write_stream(self.path, data)
        else:
            write_bytes(_check_file(self.path, self.kind), data)


def check_file(path: Path, kind: FileKind, reads: Iterable[Path | None] = ()) -> OutputFile:
    """Check that a command that reads `reads` may write `path`: new, empty, or of `kind`.

    If `path` is a link, its target is written. /dev/stdout, pipes, terminals and /dev/null are
    written directly.

    Raises:
        UserError: the file may not be written.
    """
    if not _is_stream(path):
        real = _check_file(path, kind)
        _refuse_sealed(path, real)
        _require_permission(path, real)
        refuse_inputs(path, reads)
    return OutputFile(path, kind)


def check_optional_file(
    path: Path | None, kind: FileKind, reads: Iterable[Path | None] = ()
) -> OutputFile | None:
    """Check the file as `check_file`, or return None if none was named."""
    return None if path is None else check_file(path, kind, reads)


def _check_file(path: Path, kind: FileKind) -> Path:
    """Resolve `path` to the file that it names, which is new, empty or of `kind`."""
    existing_folder(path.parent)
    if path.name == LOCK or path.name.endswith(TEMPORARY):
        raise UserError(f"{path} is a name that this program uses itself: name another file.")
    try:
        real = path.resolve()
        if path.is_symlink() and not real.exists():
            raise UserError(f"{path} is a link to {real}, which is not there. Remove the link.")
        if not real.exists():
            return real
        if real.is_dir():
            raise UserError(f"{path} is a folder, where a file is expected: name a file.")
        if not real.is_file():
            raise UserError(f"{path} is a device or a socket. Name a file.")
        with open(real, "rb") as file:
            head = file.read(HEAD_BYTES)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} cannot be used: {error}. Name another place.") from error
    if head and not kind.is_of_kind(head):
        raise UserError(f"{path} is there already and is not {kind.name}. {FILE_ADVICE}")
    return real


def _is_stream(path: Path) -> bool:
    if STREAMS.fullmatch(str(path)):
        return True
    try:
        status = os.stat(path)
    except OSError:
        return False
    if stat.S_ISFIFO(status.st_mode):
        return True
    if not stat.S_ISCHR(status.st_mode):
        return False
    with open(path, "rb", buffering=0) as device:
        return device.isatty() or status.st_rdev == os.stat(os.devnull).st_rdev


def _write_stream(path: Path, data: bytes) -> None:
    named = STREAMS.fullmatch(str(path))
    try:
        if named:
            number = {"stdout": 1, "stderr": 2}.get(path.name)
            descriptor = os.dup(int(path.name) if number is None else number)
        else:
            descriptor = os.open(path, os.O_WRONLY)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
    except OSError as error:
        raise UserError(f"Cannot write to {path}: {error.strerror or error}.") from error


def json_lines_of(name: str, *kinds: type[Record]) -> FileKind:
    """Return the kind of JSON lines whose first line is a record of one of `kinds`."""
    return FileKind(
        name,
        lambda head: any(_has_fields(_first_object(head.split(b"\n", 1)[0]), k) for k in kinds),
    )


def json_of(name: str, kind: type[Record]) -> FileKind:
    """Return the kind of a JSON file with one record of `kind`, as `write_json` writes it."""
    keys = [f'\n  "{key}":'.encode() for key, f in kind.model_fields.items() if f.is_required()]

    def is_of_kind(head: bytes) -> bool:
        return head.startswith(b"{\n") and all(key in head for key in keys)

    return FileKind(name, is_of_kind)


def check_export(folder: Path) -> None:
    """Check that an export for Every Eval Ever may be written to `folder`/data.

    Raises:
        UserError: the folder holds other files than such exports.
    """
    real = check_place(folder)
    for entry in sorted(real.rglob("*")) if real.exists() else ():
        name = str(entry.relative_to(real))
        if entry.is_symlink() or not (EXPORTED.fullmatch(name) or is_incidental(entry)):
            raise UserError(f"{folder} holds {name}, which is not an export. {FOLDER_ADVICE}")


def _first_object(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _has_fields(content: Any, kind: type[Record]) -> bool:
    fields = kind.model_fields
    needed = {name for name, field in fields.items() if field.is_required()}
    return isinstance(content, dict) and needed <= content.keys() <= fields.keys()


def _is_page(head: bytes) -> bool:
    return b"Content-Security-Policy" in head[:2000] and b'class="skip" href="#main"' in head


def _is_picture(head: bytes) -> bool:
    ours = b"matplotlib" in head or b'role="img" aria-label=' in head
    return head.startswith((b"<svg", b"<?xml")) and b"<svg" in head and ours


PAGE = FileKind("a page that this program made", _is_page)
PICTURE = FileKind("a picture that this program made", _is_picture)
DECISION = FileKind("a decision of `rlrf gate`", lambda head: head.startswith(b"## Gate: "))
JUNIT = FileKind(
    "a JUnit file of `rlrf gate`", lambda head: b'<testsuites name="gate"' in head[:200]
)
