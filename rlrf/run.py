"""A run on disk: stages in `RUN/iter_k/STAGE/`, each whole or absent, and made only once.

A stage is written to a temporary folder, fsynced and renamed. Run the same command again to resume
wherever it was killed: it ends with the same artefacts. What a stage in progress has generated, and
the state of its training, waits in `RUN/.parts/`; `RUN/.progress.json` holds its progress.
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
from typing import Any, Generic, TypeVar

from harness.core.errors import OutOfMemoryError, UserError, explain_full_disk
from harness.core.files import (
    TEMPORARY,
    parse,
    read_json,
    read_records,
    write_json,
    write_jsonl,
)
from harness.core.folders import LOCK, existing_folder, is_incidental, new_folder, sole_user
from harness.core.log import say
from harness.core.outputs import check_place, is_negligible
from harness.core.run_status import SPEND, publish_to, within_stage
from harness.core.schema import Record, digest
from harness.engines import Engine
from harness.engines.resume import PARTS, ResumableEngine
from harness.evals.scoring import code_version
from rlrf.artefacts import Artefacts
from rlrf.stage_folder import (
    MANIFEST,
    NO_CODE,
    Manifest,
    changed_code,
    is_whole,
    may_replace_stage,
    read_manifest,
    seal,
    unrecorded_code,
)

IDENTITY = "run.json"
PROGRESS = ".progress.json"
RECORDS = "records.jsonl"
GATE_FILES = {"gate.json", "gate.md"}  # of an iteration, next to its stages
RUN_FILES = {
    *(IDENTITY, PROGRESS, f"{PROGRESS}{TEMPORARY}", SPEND, f"{SPEND}{TEMPORARY}"),
    *("metrics.jsonl", "result.json", "result.md", "report.html"),
}
RUN_FOLDERS = {  # folders without stages -> names of the files in them
    PARTS: re.compile(r"[0-9a-f]{64}(/.*)?", re.DOTALL),
    "references": re.compile(r"[0-9a-f]{64}\.jsonl\.gz"),
    "logs": re.compile(r"iter_\d+(/.*)?", re.DOTALL),
    "board": re.compile(r"HEAD|ledger\.jsonl|board\.md|\.lock|samples(/[0-9a-f]{64}\.jsonl\.gz)?"),
}

R = TypeVar("R", bound=Record)


def iteration_name(number: int) -> str:
    """Name the folder of iteration `number` (from 1) in a run."""
    return f"iter_{number}"


@dataclass(frozen=True)
class Stage:
    """A finished stage: its folder, and the digest of its outputs."""

    folder: Path
    digest: str


@dataclass(frozen=True)
class Records(Generic[R]):
    """The records that a finished stage made, and the digest of its outputs."""

    records: list[R]
    digest: str


@dataclass(frozen=True)
class Run:
    """An open run folder.

    Args:
        common: what every stage depends on (JSON).
        artefacts: a second place where finished stages are kept and fetched from.
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
        """Return the stage `name` (a path in the run); `make(folder)` makes it if necessary.

        It is reused, from the run or the artefacts, if it was made from the same `reads` (JSON,
        records, or objects with a `digest` such as stages and checkpoints) by the same `code`
        (`rlrf.code_digests`) and its files are unchanged. Older stages that did not record their
        code are reused too, and a log line says so.
        """
        folder = self.folder / name
        inputs = self._inputs(reads)
        if folder.exists():
            may_replace_stage(existing_folder(folder))
        reuse = is_whole(folder, inputs)
        if reuse and (changed := changed_code(folder, code)):
            say(f"{name}: {' and '.join(changed)} changed since it was made: it is made again")
            reuse = False
        if reuse:
            unseen = ", ".join(unrecorded_code(folder, code))
            by = (
                f" by a version that did not record {unseen}, so that a change since cannot be seen"
            )
            say(f"{name}: done before{by if unseen else ''}")
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
                raise UserError(f"{name}: {error} Finished stages are kept.") from error
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
        """Return the records of the stage `name`; `make()` makes them if necessary."""

        def write(folder: Path) -> None:
            write_jsonl(folder / RECORDS, make())

        stage = self.stage(name, reads, write, code)
        return Records(read_records(stage.folder / RECORDS, kind), stage.digest)

    def in_progress(
        self, name: str, reads: Sequence[Any], code: Mapping[str, str] = NO_CODE
    ) -> Path:
        """Return where a stage may save what it resumes from; deleted once the stage is made."""
        made_by = [dict(code)] if code else []
        return self.folder / PARTS / digest([name, self._inputs(reads), *made_by])

    def _inputs(self, reads: Sequence[Any]) -> str:
        return digest([dict(self.common), [_identity(read) for read in reads]])

    def keeping(self, engine: Engine) -> ResumableEngine:
        """Wrap `engine` so that interrupted generation resumes from `RUN/.parts`."""
        return ResumableEngine(engine, self.folder / PARTS)

    def seconds(self, name: str) -> float:
        """Sum the seconds that the stages under `name` took."""
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
    """Lock `folder` and open the run that `common` (JSON) describes.

    `fresh` deletes an earlier run in the folder first, but none of its `artefacts`.

    Raises:
        UserError: another process works in the folder, or it holds another run or other files.
    """
    if holds_run(folder) and fresh:
        refuse_strangers_in_run(folder)
    with sole_user(folder):
        _prepare(folder, common, fresh)
        with publish_to(folder / PROGRESS):
            yield Run(folder, common, artefacts)


def _prepare(folder: Path, common: Mapping[str, Any], fresh: bool) -> None:
    """Delete an earlier run if `fresh`, and check or record the identity of this one."""
    if fresh:
        # The identity file goes last, so that an interrupted deletion can be repeated.
        refuse_strangers_in_run(folder)
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == IDENTITY):
            if entry.is_dir():
                # Renamed first: half deleted, it would hold files that no manifest accounts for.
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
    """Return whether `folder` holds a run; a new or empty folder does not.

    Raises:
        UserError: it is a file, or holds other files than a run.
    """
    real = check_place(folder)
    if not real.exists():
        return False
    if (real / IDENTITY).exists():
        return True
    if strangers := sorted(entry.name for entry in real.iterdir() if not is_negligible(entry)):
        raise UserError(
            f"{folder} holds other things than a run: {strangers[0]}. Choose another folder with "
            "--out, or move them away."
        )
    return False


def refuse_strangers_in_run(folder: Path) -> None:
    """Refuse to delete a run whose folder holds files or links that runs do not write.

    Raises:
        UserError: it does.
    """
    for entry in sorted(folder.iterdir()) if folder.exists() else ():
        if is_negligible(entry):
            continue
        if entry.is_symlink() or (entry.is_file() and entry.name not in RUN_FILES):
            raise _stranger(folder, entry)
        if entry.is_dir():
            _refuse_strangers_in(folder, entry)


def _refuse_strangers_in(run: Path, folder: Path) -> None:
    """Refuse a folder of a run with other files than stages and what runs write next to them."""
    if folder.name in RUN_FOLDERS and folder.parent == run:
        pattern = RUN_FOLDERS[folder.name]
        for entry in folder.rglob("*"):
            name = str(entry.relative_to(folder))
            if entry.is_symlink() or not (pattern.fullmatch(name) or is_incidental(entry)):
                raise _stranger(run, entry)
    elif (folder / MANIFEST).exists():
        may_replace_stage(folder, folder if read_manifest(folder) is None else None)
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
        "not deleted. Nothing was changed: move that file away, or choose another folder with "
        "--out."
    )


def check_identity(folder: Path, known: Mapping[str, Any], *, partly: bool = False) -> None:
    """Refuse a folder whose run does not have the identity `known`, or differs in its part.

    Args:
        known: the identity (JSON), or with `partly` some of its entries.

    Raises:
        UserError: the folder holds another run.
    """
    recorded = read_json(folder / IDENTITY)
    before = recorded if isinstance(recorded, dict) else {}
    names = known if partly else {**known, **before}
    differs = [name for name in names if before.get(name) != known.get(name)]
    if differs:
        said = {
            "config": "configuration",
            "guards": "set of guards or their items",
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


@contextlib.contextmanager
def explain_other_version(run: Path) -> Iterator[None]:
    """Add to errors about files of `run` that another version of this program wrote them.

    Raises:
        UserError: a file cannot be read.
    """
    try:
        yield
    except UserError as error:
        version = written_by(run)
        if version in (None, code_version()):
            raise
        raise UserError(
            f"{run} is a run of version {version} of this program, this is {code_version()}, and "
            f"not all of it can be read ({error}) Its board and its evaluations can. For the rest "
            f"install that version, pip install 'rlrf-harness=={version}', or start the run over "
            "with --fresh, which deletes it."
        ) from error


def written_by(run: Path) -> str | None:
    """Return the version that started the run; None if that is not recorded."""
    try:
        identity = read_json(run / IDENTITY)
    except UserError:
        return None
    version = identity.get("code") if isinstance(identity, dict) else None
    return version if isinstance(version, str) else None
