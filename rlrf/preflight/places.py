"""Where a run leaves what it makes: disk, folder, file locks, board, artefacts, metrics."""

from __future__ import annotations

import errno
import fcntl
import shutil
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from harness.board import Board
from harness.core.errors import UserError
from harness.core.folders import is_in_use
from harness.evals.scoring import code_version
from rlrf.artefacts import open_artefacts
from rlrf.config import Config
from rlrf.preflight.findings import Said, gib
from rlrf.preflight.start import Model, adapter_weights
from rlrf.run import check_identity, holds_run

SKEW_SECONDS = 5.0


def disk(config: Config, model: Model, out: Path) -> Said:
    candidate = 4 * adapter_weights(config, model) if config.adapter else model.size
    needed = config.iterations * candidate
    free = shutil.disk_usage(_existing(out)).free
    said = f"{gib(needed)} for {config.iterations} candidates; {gib(free)} free for {out}"
    if needed > free:
        raise UserError(f"{said}. Free some, or choose another folder with --out.")
    return said


def _existing(path: Path) -> Path:
    """The nearest folder above `path`, or itself, that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def artefacts(url: str) -> Said:
    open_artefacts(url)
    return url


def run_folder(config: Config, out: Path) -> Said:
    is_there = holds_run(out)
    advice = _file_system(_existing(out))
    if out.is_dir() and is_in_use(out):
        raise UserError(
            f"Another process works in {out}. Wait for it, or choose another with --out."
        )
    if not is_there:
        return f"{out} is {'empty' if out.is_dir() else 'new'}", advice
    check_identity(out, {"config": config.identity, "code": code_version()}, partly=True)
    return f"{out} holds this run, which is resumed", advice


def _file_system(folder: Path) -> str:
    """Whether files can be locked in `folder`, and its clock is this machine's.

    Raises:
        UserError: nothing can be written there, or locks keep nobody out.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".rlrf-doctor-", dir=folder) as scratch:
            file = Path(scratch) / "lock"
            file.write_bytes(b"")
            skew = abs(file.stat().st_mtime - time.time())
            with ExitStack() as opened:
                one, other = (opened.enter_context(open(file, "rb")) for _ in range(2))
                fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass
                else:
                    raise UserError(
                        f"File locks keep nobody out in {folder}: two processes could spoil one "
                        "run. Choose a folder on another file system."
                    )
    except OSError as error:
        what = "lock files" if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP) else "write"
        raise UserError(
            f"Cannot {what} in {folder} ({error.strerror}). Choose another folder with --out."
        ) from error
    if skew > SKEW_SECONDS:
        return f"its file server's clock differs from this machine's by {skew:.0f} s: set one"
    return ""


def board(folder: Path) -> Said:
    Board(folder).check_place()
    rows = Board(folder).rows()
    return f"{folder}: {len(rows):,} rows" if rows else f"{folder} is new"


def metrics(place: str) -> Said:
    from rlrf.monitoring import address, require_package

    require_package()
    host, port = address(place)
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise UserError(
            f"RLRF_METRICS asks for {host}:{port}, which cannot be used "
            f"({error.strerror or error}): name another port."
        ) from error
    return f"{host}:{port} is free"
