"""A run on disk: `RUN/iter_k/STAGE/`; a stage is whole or absent, and skipped when it is there.

A stage is written to a temporary folder, fsynced and renamed; its `manifest.json` holds what it
was made from and what it made. The same command on the same folder goes on where it stopped and
ends with the same artefacts, wherever it was killed. What a stage in progress has generated, and
how far it has trained, waits in `RUN/.parts/`; `RUN/.progress.json` says how far a run is that is
open.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import Field

from harness.core.errors import OutOfMemoryError, UserError, explain_full_disk
from harness.core.files import (
    TEMPORARY,
    file_digest,
    parse,
    read_json,
    read_records,
    write_json,
    write_jsonl,
)
from harness.core.folders import LOCK, existing_folder, is_incidental, new_folder, sole_user
from harness.core.log import say
from harness.core.outputs import check_place, is_negligible, refuse_strangers
from harness.core.run_status import SPEND, publish_to, within_stage
from harness.core.schema import Record, digest
from harness.engines import Engine
from harness.engines.resume import PARTS, ResumableEngine

if TYPE_CHECKING:
    from rlrf.artefacts import Artefacts

MANIFEST = "manifest.json"
IDENTITY = "run.json"
PROGRESS = ".progress.json"
RECORDS = "records.jsonl"
NO_CODE: Mapping[str, str] = MappingProxyType({})
GATE_FILES = {"gate.json", "gate.md"}  # of an iteration, beside its stages
RUN_FILES = {
    *(IDENTITY, PROGRESS, f"{PROGRESS}{TEMPORARY}", SPEND, f"{SPEND}{TEMPORARY}"),
    *("metrics.jsonl", "result.json", "result.md", "report.html"),
}
RUN_FOLDERS = {  # those that hold no stages -> what is written in them
    PARTS: re.compile(r"[0-9a-f]{64}(/.*)?", re.DOTALL),
    "references": re.compile(r"[0-9a-f]{64}\.jsonl\.gz"),
    "logs": re.compile(r"iter_\d+(/.*)?", re.DOTALL),
    "board": re.compile(r"HEAD|ledger\.jsonl|board\.md|\.lock|samples(/[0-9a-f]{64}\.jsonl\.gz)?"),
}

R = TypeVar("R", bound=Record)


class Manifest(Record):
    """What a stage was made from (`inputs`, a digest) and what it made (file -> sha256)."""

    inputs: str
    outputs: dict[str, str]
    seconds: float
    code: dict[str, str] = Field(
        default={},
        exclude_if=lambda code: not code,
        description="code and words that shaped it -> digest; empty where that was not recorded",
    )


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

    def stage(
        self,
        name: str,
        reads: Sequence[Any],
        make: Callable[[Path], None],
        code: Mapping[str, str] = NO_CODE,
    ) -> Stage:
        """The stage `name` (a path in the run), made by `make(folder)` unless it is there already.

        It is there, in the run or among the artefacts, when it was made from the same `reads`
        (JSON, records, or what has a `digest`: stages, checkpoints) by the same `code`
        (`rlrf.code_digests`), and its files are what they were. A stage made before code was
        recorded counts as made by the same; that is said.
        """
        folder = self.folder / name
        inputs = self._inputs(reads)
        if folder.exists():
            may_replace_stage(existing_folder(folder))
        is_there = is_whole(folder, inputs)
        if is_there and (changed := changed_code(folder, code)):
            say(f"{name}: {' and '.join(changed)} changed since it was made: it is made again")
            is_there = False
        if is_there:
            say(f"{name}: done before{_unrecorded(folder, code)}")
        elif self.artefacts is None or not self.artefacts.fetch(name, inputs, folder, code):
            self._make(name, inputs, make, code)
        if self.artefacts is not None:
            self.artefacts.put(name, inputs, folder)
        return Stage(folder, digest(parse(Manifest, read_json(folder / MANIFEST), name).outputs))

    def _make(
        self, name: str, inputs: str, make: Callable[[Path], None], code: Mapping[str, str]
    ) -> None:
        started = time.monotonic()
        with within_stage(name), new_folder(self.folder / name, may_replace_stage) as new:
            try:
                with explain_full_disk(self.folder):
                    make(new)
            except OutOfMemoryError as error:
                raise UserError(f"{name}: {error} What is finished is kept.") from error
            seal(new, inputs, round(time.monotonic() - started, 3), code)
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)

    def records(
        self,
        name: str,
        kind: type[R],
        reads: Sequence[Any],
        make: Callable[[], Sequence[R]],
        code: Mapping[str, str] = NO_CODE,
    ) -> Records[R]:
        """`stage` for a list of records."""

        def write(folder: Path) -> None:
            write_jsonl(folder / RECORDS, make())

        stage = self.stage(name, reads, write, code)
        return Records(read_records(stage.folder / RECORDS, kind), stage.digest)

    def in_progress(
        self, name: str, reads: Sequence[Any], code: Mapping[str, str] = NO_CODE
    ) -> Path:
        """The folder where the stage `name`, made from `reads` by `code`, may leave what it
        resumes from when it is killed: gone when it is made. Its name is a digest of the three."""
        made_by = [dict(code)] if code else []
        return self.folder / PARTS / digest([name, self._inputs(reads), *made_by])

    def _inputs(self, reads: Sequence[Any]) -> str:
        return digest([dict(self.common), [_identity(read) for read in reads]])

    def keeping(self, engine: Engine) -> ResumableEngine:
        """`engine`, whose answers are kept while a stage is in progress: it goes on from them."""
        return ResumableEngine(engine, self.folder / PARTS)

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
    if holds_run(folder) and fresh:
        refuse_strangers_in_run(folder)
    with sole_user(folder):
        _prepare(folder, common, fresh)
        with publish_to(folder / PROGRESS):
            yield Run(folder, common, artefacts)


def _prepare(folder: Path, common: Mapping[str, Any], fresh: bool) -> None:
    """See that the folder is this run's."""
    if fresh:
        # What says that this is a run goes last: a deletion that is cut short can be repeated.
        refuse_strangers_in_run(folder)
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == IDENTITY):
            if entry.is_dir():
                # Half deleted it would hold files of which no manifest says whose they are.
                doomed = entry.with_name(f".{entry.name}{TEMPORARY}")
                os.replace(entry, doomed)
                shutil.rmtree(doomed)
            elif entry.name != LOCK and not is_incidental(entry):
                entry.unlink()
    if (folder / IDENTITY).exists():
        check_identity(folder, common)
    else:
        write_json(folder / IDENTITY, dict(common))


def holds_run(folder: Path) -> bool:
    """Whether a run is in `folder`; not so if that is new or empty.

    Raises:
        UserError: it is a file, or holds things that are no run.
    """
    real = check_place(folder)
    if not real.exists():
        return False
    if (real / IDENTITY).exists():
        return True
    if strangers := sorted(entry.name for entry in real.iterdir() if not is_negligible(entry)):
        raise UserError(
            f"{folder} holds other things than a run: {strangers[0]}. Choose another folder with "
            "--out, or move what is there away."
        )
    return False


def refuse_strangers_in_run(folder: Path) -> None:
    """See that the run in `folder` holds nothing but what runs write, so that it can be deleted.

    Raises:
        UserError: it holds other things; links count as such.
    """
    for entry in sorted(folder.iterdir()) if folder.exists() else ():
        if is_negligible(entry):
            continue
        if entry.is_symlink() or (entry.is_file() and entry.name not in RUN_FILES):
            raise _stranger(folder, entry)
        if entry.is_dir():
            _refuse_strangers_in(folder, entry)


def _refuse_strangers_in(run: Path, folder: Path) -> None:
    """See that a folder of a run holds stages, or what runs write beside them."""
    if folder.name in RUN_FOLDERS and folder.parent == run:
        pattern = RUN_FOLDERS[folder.name]
        for entry in folder.rglob("*"):
            name = str(entry.relative_to(folder))
            if entry.is_symlink() or not (pattern.fullmatch(name) or is_incidental(entry)):
                raise _stranger(run, entry)
    elif (folder / MANIFEST).exists():
        may_replace_stage(folder, folder if _read_manifest(folder) is None else None)
    else:
        for entry in sorted(folder.iterdir()):
            if is_negligible(entry):
                continue
            if entry.is_symlink() or (entry.is_file() and entry.name not in GATE_FILES):
                raise _stranger(run, entry)
            if entry.is_dir():
                _refuse_strangers_in(run, entry)


def _stranger(run: Path, entry: Path) -> UserError:
    return UserError(
        f"{run} holds {entry.relative_to(run)}, which this program did not write, so the run is "
        "not deleted. Nothing was touched: move that file away, or choose another folder with "
        "--out."
    )


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


def may_replace_stage(old: Path, new: Path | None = None) -> None:
    """See that the folder `old` holds nothing but what a stage wrote.

    Where its manifest cannot be read, that shows when the stage is made again: then what it holds
    has to have the names of what is in `new`.

    Raises:
        UserError: it holds other things.
    """
    manifest = _read_manifest(old)
    written = {MANIFEST} | (set(manifest.outputs) if manifest else set())
    if new is not None:
        written |= _outputs(new).keys()
    if manifest is not None or new is not None:
        refuse_strangers(old, written)


def _identity(read: Any) -> Any:
    if isinstance(read, Record):
        return read.model_dump(mode="json")
    return getattr(read, "digest", read)


def changed_code(folder: Path, code: Mapping[str, str]) -> list[str]:
    """What of `code` is known to be another than when the stage in `folder` was made."""
    manifest = _read_manifest(folder)
    recorded = manifest.code if manifest else {}
    return [name for name in code if name in recorded and recorded[name] != code[name]]


def _unrecorded(folder: Path, code: Mapping[str, str]) -> str:
    """What to add where it cannot be seen whether `code` changed since a stage was made."""
    manifest = _read_manifest(folder)
    recorded = manifest.code if manifest else {}
    if unseen := [name for name in code if name not in recorded]:
        return (
            f" by a version that did not record {', '.join(unseen)}, so that a change since "
            "cannot be seen"
        )
    return ""


def seal(
    folder: Path, inputs: str, seconds: float = 0.0, code: Mapping[str, str] = NO_CODE
) -> None:
    """Say in `folder` what it was made from and what it holds."""
    found = Manifest(inputs=inputs, outputs=_outputs(folder), seconds=seconds, code=dict(code))
    write_json(folder / MANIFEST, found)


def is_whole(folder: Path, inputs: str | None = None) -> bool:
    """Whether `folder` is a stage that was made from `inputs`, and its files are what they were.

    None: whatever it was made from.
    """
    found = _read_manifest(folder)
    if found is None or inputs not in (None, found.inputs):
        return False
    return _outputs(folder) == found.outputs


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
        str(path.relative_to(folder)): file_digest(path)
        for path in files
        if path.name != MANIFEST and not is_incidental(path)
    }
