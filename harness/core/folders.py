"""Create, replace and lock folders: a folder is replaced as a whole or not at all.

A new folder is written under a temporary name, fsynced, and then exchanged for the old one.
Incidental files, which desktops and git keep in any folder, stay where they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import TEMPORARY, explain_disk_errors, fsync, make_folder

LOCK = ".lock"
INCIDENTAL = {".DS_Store", ".localized", ".directory", "Thumbs.db", "desktop.ini", ".gitkeep"}


def is_incidental(entry: Path) -> bool:
    """Tell whether a file is one that desktops or git keep in folders of any kind."""
    return entry.name in INCIDENTAL and entry.is_file() and not entry.is_symlink()


def move_incidental(old: Path, new: Path) -> None:
    """Move the incidental files of the folder `old` to the same places in `new`."""
    for entry in [entry for entry in old.rglob("*") if is_incidental(entry)]:
        target = new / entry.relative_to(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(entry, target)


def sweep(folder: Path) -> None:
    """Remove unfinished files of a killed process; nobody else may be writing in `folder`."""
    for entry in list(folder.rglob(f".*{TEMPORARY}")):
        if entry.is_symlink():
            continue  # not ours
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)  # it may have been in a folder removed above


@contextlib.contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder` while the block runs; create and sweep the folder.

    Raises:
        UserError: another process works in the folder, or it cannot be created or written to.
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
    """Tell whether a running process is the `sole_user` of `folder`."""
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


# Raises `UserError` if the existing folder may not be replaced by the new one, which is None
# before it is written.
MayReplace = Callable[[Path, Path | None], None]


def only_empty(old: Path, _new: Path | None = None) -> None:
    """Refuse to replace a folder that holds anything but incidental files.

    Raises:
        UserError: the folder holds other files.
    """
    if held := sorted(entry.name for entry in old.iterdir() if not is_incidental(entry)):
        raise UserError(
            f"{old} is there already and is not empty: it holds {held[0]}. Nothing was touched. "
            "Choose another folder, or move what is there away."
        )


@contextlib.contextmanager
def new_folder(path: Path, may_replace: MayReplace = only_empty) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `path` when the block succeeds.

    `may_replace` is called for an existing folder first, and again when the new one is ready. If
    `path` is a link, its target is replaced. The link and incidental files stay. If the block
    raises, `path` stays as it was. What killed processes left of it is removed.

    Raises:
        UserError: `path` may not be replaced, is a file or a broken link, or cannot be written.
    """
    path = existing_folder(path)
    if path.exists():
        may_replace(path, None)
    with explain_disk_errors(path):
        make_folder(path.parent)
        for other in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
            if other.is_dir() and not other.is_symlink() and not _is_locked(other):
                shutil.rmtree(other)
        temporary = Path(tempfile.mkdtemp(TEMPORARY, f".{path.name}.", path.parent))
        at_work = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(at_work, fcntl.LOCK_EX)
        yield temporary
        with explain_disk_errors(path):
            os.chmod(temporary, 0o755)
            for entry in (*temporary.rglob("*"), temporary):
                fsync(entry)
            if existing_folder(path).exists():
                may_replace(path, temporary)
                move_incidental(path, temporary)
                _exchange(temporary, path)
            else:
                os.replace(temporary, path)
            fsync(path.parent)
    finally:  # `temporary` is now unfinished, or the folder that was replaced
        os.close(at_work)
        shutil.rmtree(temporary, ignore_errors=True)


def existing_folder(path: Path) -> Path:
    """Resolve `path` to the folder that it names, which need not exist yet.

    Raises:
        UserError: `path` is a file, a broken link, or inside something that is not a folder.
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
    """Exchange two folders, on Linux in one step, so that there is a folder at any moment."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if exchange and exchange(here, os.fsencode(new), here, os.fsencode(old), both) == 0:
        return
    # Elsewhere, or on a file system without exchange, the folder is missing for a moment.
    aside = new.with_name(f"{new.stem}.old{TEMPORARY}")
    os.replace(old, aside)
    os.replace(new, old)
    os.replace(aside, new)
