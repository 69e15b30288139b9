"""A run on disk: `RUN/iter_k/STAGE/`; a stage is whole or absent, and skipped when it is there.

A stage is written to a temporary folder, fsynced and renamed; its `manifest.json` holds what it
was made from and what it made. The same command on the same folder goes on where it stopped and
ends with the same artefacts, wherever it was killed. What a stage in progress has generated, and
how far it has trained, waits in `RUN/.parts/`; `RUN/.progress.json` says how far a run is that is
open.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from harness.engines import Engine
from harness.errors import UserError
from harness.kept import PARTS, Kept
from harness.memory import OutOfMemoryError
from harness.progress import published, say, within
from harness.schema import Record, digest
from harness.store import (
    LOCK,
    TEMPORARY,
    file_digest,
    new_folder,
    parse,
    read_json,
    read_records,
    sole_user,
    told_when_full,
    write_json,
    write_jsonl,
)

if TYPE_CHECKING:
    from rlrf.artefacts import Artefacts

MANIFEST = "manifest.json"
IDENTITY = "run.json"
PROGRESS = ".progress.json"
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
    """An open run folder; `common` is what every stage depends on (JSON).

    Finished stages are kept in `artefacts` too, if there are any, and fetched from there.
    """

    folder: Path
    common: Mapping[str, Any]
    artefacts: Artefacts | None = None

    def stage(self, name: str, reads: Sequence[Any], make: Callable[[Path], None]) -> Stage:
        """The stage `name` (a path in the run), made by `make(folder)` unless it is there already.

        It is there, in the run or among the artefacts, when it was made from the same `reads`
        (JSON, records, or what has a `digest`: stages, checkpoints) and its files are what they
        were.
        """
        folder = self.folder / name
        inputs = self._inputs(reads)
        if is_whole(folder, inputs):
            say(f"{name}: done before")
        elif self.artefacts is None or not self.artefacts.fetch(name, inputs, folder):
            self._make(name, inputs, make)
        if self.artefacts is not None:
            self.artefacts.put(name, inputs, folder)
        return Stage(folder, digest(parse(Manifest, read_json(folder / MANIFEST), name).outputs))

    def _make(self, name: str, inputs: str, make: Callable[[Path], None]) -> None:
        started = time.monotonic()
        with within(name), new_folder(self.folder / name) as new:
            try:
                with told_when_full(self.folder):
                    make(new)
            except OutOfMemoryError as error:
                raise UserError(f"{name}: {error} What is finished is kept.") from error
            seal(new, inputs, round(time.monotonic() - started, 3))
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)

    def records(
        self, name: str, kind: type[R], reads: Sequence[Any], make: Callable[[], Sequence[R]]
    ) -> Records[R]:
        """`stage` for a list of records."""

        def write(folder: Path) -> None:
            write_jsonl(folder / RECORDS, make())

        stage = self.stage(name, reads, write)
        return Records(read_records(stage.folder / RECORDS, kind), stage.digest)

    def in_progress(self, name: str, reads: Sequence[Any]) -> Path:
        """Where the stage `name`, made from `reads`, may leave what it goes on from when it is
        killed: gone when it is made. The folder's own name is a digest of both."""
        return self.folder / PARTS / digest([name, self._inputs(reads)])

    def _inputs(self, reads: Sequence[Any]) -> str:
        return digest([dict(self.common), [_identity(read) for read in reads]])

    def keeping(self, engine: Engine) -> Kept:
        """`engine`, whose answers are kept while a stage is in progress: it goes on from them."""
        return Kept(engine, self.folder / PARTS)

    def seconds(self, name: str) -> float:
        """What the stages under `name` took when they were made."""
        manifests = sorted((self.folder / name).rglob(MANIFEST))
        return sum(parse(Manifest, read_json(path), str(path)).seconds for path in manifests)


@contextlib.contextmanager
def open_run(
    folder: Path,
    common: Mapping[str, Any],
    *,
    fresh: bool = False,
    artefacts: Artefacts | None = None,
) -> Iterator[Run]:
    """Lock `folder` and yield it as the `Run` of what `common` (JSON) describes.

    `fresh` deletes what an earlier run left there, and nothing of `artefacts`.

    Raises:
        UserError: another process works there, it holds a run of something else, or it holds
            things that are no run.
    """
    holds_run(folder)
    with sole_user(folder):
        _prepare(folder, common, fresh)
        with published(folder / PROGRESS):
            yield Run(folder, common, artefacts)


def _prepare(folder: Path, common: Mapping[str, Any], fresh: bool) -> None:
    """See that the folder is this run's."""
    if fresh:
        # What says that this is a run goes last: a deletion that is cut short can be repeated.
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == IDENTITY):
            if entry.name != LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if (folder / IDENTITY).exists():
        check_identity(folder, common)
    else:
        write_json(folder / IDENTITY, dict(common))


def holds_run(folder: Path) -> bool:
    """Whether a run is in `folder`; not so if that is new or empty.

    Raises:
        UserError: it is a file, or holds things that are no run.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the run with --out.")
    entries = {entry.name for entry in folder.iterdir()}
    if IDENTITY in entries:
        return True
    if any(name != LOCK and not name.endswith(TEMPORARY) for name in entries):
        raise UserError(f"{folder} holds other things than a run; choose another with --out.")
    return False


def check_identity(folder: Path, known: Mapping[str, Any], *, partly: bool = False) -> None:
    """See that the run in `folder` is of what is `known` (JSON), of which `partly` names some.

    Raises:
        UserError: it is of something else.
    """
    found = read_json(folder / IDENTITY)
    before = found if isinstance(found, dict) else {}
    names = known if partly else {**known, **before}
    differs = [name for name in names if before.get(name) != known.get(name)]
    if differs:
        said = {
            "config": "configuration",
            "code": f"version of this program ({before.get('code')}, this is {known.get('code')})",
        }
        others = [said.get(name, name) for name in sorted(differs, key=said.__contains__)]
        raise UserError(
            f"{folder} holds a run of another {' and '.join(others)}. "
            "Choose another folder with --out, or start over with --fresh, which deletes it."
        )


def _identity(read: Any) -> Any:
    if isinstance(read, Record):
        return read.model_dump(mode="json")
    return getattr(read, "digest", read)


def seal(folder: Path, inputs: str, seconds: float = 0.0) -> None:
    """Say in `folder` what it was made from and what it holds."""
    found = Manifest(inputs=inputs, outputs=_outputs(folder), seconds=seconds)
    write_json(folder / MANIFEST, found)


def is_whole(folder: Path, inputs: str) -> bool:
    """Whether `folder` is a stage that was made from `inputs`, and its files are what they were."""
    found = _read_manifest(folder)
    return found is not None and found.inputs == inputs and _outputs(folder) == found.outputs


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
