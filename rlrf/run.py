"""A run on disk: `RUN/iter_k/STAGE/`; a stage is whole or absent, and skipped when it is there.

A stage is written to a temporary folder, fsynced and renamed; its `manifest.json` holds what it
was made from and what it made. The same command on the same folder goes on where it stopped and
ends with the same artefacts, wherever it was killed.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.errors import UserError
from harness.memory import OutOfMemoryError
from harness.progress import say
from harness.schema import Record, digest
from harness.store import (
    file_digest,
    new_folder,
    parse,
    read_json,
    read_records,
    write_json,
    write_jsonl,
)

MANIFEST = "manifest.json"
IDENTITY = "run.json"
LOCK = ".lock"
RECORDS = "records.jsonl"

R = TypeVar("R", bound=Record)


class Manifest(Record):
    """What a stage was made from (`inputs`, a digest) and what it made (file -> sha256)."""

    inputs: str
    outputs: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class Stage:
    """A finished stage: its folder, and the digest of what it made."""

    folder: Path
    digest: str


@dataclass(frozen=True)
class Records(Generic[R]):
    """A finished stage that made a list of records."""

    records: list[R]
    digest: str


@dataclass(frozen=True)
class Run:
    """An open run folder; `common` is what every stage depends on (JSON)."""

    folder: Path
    common: Mapping[str, Any]

    def stage(self, name: str, reads: Sequence[Any], make: Callable[[Path], None]) -> Stage:
        """The stage `name` (a path in the run), made by `make(folder)` unless it is there already.

        It is there when it was made from the same `reads` (JSON, records, or what has a `digest`:
        stages, checkpoints) and its files are what they were.
        """
        folder = self.folder / name
        inputs = digest([dict(self.common), [_identity(read) for read in reads]])
        found = _read_manifest(folder)
        if found is None or found.inputs != inputs or _outputs(folder) != found.outputs:
            started = time.monotonic()
            with new_folder(folder) as new:
                try:
                    make(new)
                except OutOfMemoryError as error:
                    raise UserError(f"{name}: {error} What is finished is kept.") from error
                seconds = round(time.monotonic() - started, 3)
                found = Manifest(inputs=inputs, outputs=_outputs(new), seconds=seconds)
                write_json(new / MANIFEST, found)
        else:
            say(f"{name}: done before")
        return Stage(folder, digest(found.outputs))

    def records(
        self, name: str, kind: type[R], reads: Sequence[Any], make: Callable[[], Sequence[R]]
    ) -> Records[R]:
        """`stage` for a list of records."""

        def write(folder: Path) -> None:
            write_jsonl(folder / RECORDS, make())

        stage = self.stage(name, reads, write)
        return Records(read_records(stage.folder / RECORDS, kind), stage.digest)

    def seconds(self, name: str) -> float:
        """What the stages under `name` took when they were made."""
        manifests = sorted((self.folder / name).rglob(MANIFEST))
        return sum(parse(Manifest, read_json(path), str(path)).seconds for path in manifests)


@contextlib.contextmanager
def open_run(folder: Path, common: Mapping[str, Any], *, fresh: bool = False) -> Iterator[Run]:
    """Lock `folder` and yield it as the `Run` of what `common` (JSON) describes.

    `fresh` deletes what an earlier run left there.

    Raises:
        UserError: another process works there, it holds a run of something else, or it holds
            things that are no run.
    """
    import filelock

    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the run with --out.")
    entries = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    if entries - {LOCK} and IDENTITY not in entries:
        raise UserError(f"{folder} holds other things than a run; choose another with --out.")
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(filelock.FileLock(folder / LOCK, blocking=False))
        except filelock.Timeout as error:
            raise UserError(
                f"Another process works in {folder}. Wait for it, or choose another with --out."
            ) from error
        except OSError as error:
            raise UserError(f"Cannot write to {folder} ({error.strerror}).") from error
        _prepare(folder, common, fresh)
        yield Run(folder, common)


def _prepare(folder: Path, common: Mapping[str, Any], fresh: bool) -> None:
    """Remove what a killed process left half done, and see that the folder is this run's."""
    doomed = [entry for entry in folder.iterdir() if fresh and entry.name != LOCK]
    for entry in doomed or [*folder.glob(".*.*"), *folder.glob("*/.*.*")]:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    path = folder / IDENTITY
    if not path.exists():
        write_json(path, dict(common))
    elif read_json(path) != dict(common):
        raise UserError(
            f"{folder} holds a run of another configuration, model or version. "
            "Choose another folder with --out, or start over with --fresh, which deletes it."
        )


def _identity(read: Any) -> Any:
    if isinstance(read, Record):
        return read.model_dump(mode="json")
    return getattr(read, "digest", read)


def _read_manifest(folder: Path) -> Manifest | None:
    """The manifest, or None where there is none that can be read: the stage is then made again."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return parse(Manifest, read_json(path), str(path))
    except UserError:
        return None


def _outputs(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): file_digest(path) for path in files if path.name != MANIFEST
    }
