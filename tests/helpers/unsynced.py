"""A disk that loses, with the power, all that was not fsynced: a fake, to provoke that fault.

Of a file it keeps what it held at its last fsync. Of a folder it keeps either the names at its
last fsync (the least that a file system may keep) or the newest ones (`eager`: some write names
early, so that a file may be there under its new name, without its content).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest


class PowerLossError(BaseException):
    """The power went."""


class LossyDisk:
    """All under `root`, for as long as `os.fsync` is this one's."""

    def __init__(self, root: Path, *, eager: bool, last: int | None = None) -> None:
        self.root, self.eager, self.last = root, eager, last
        self.fsyncs = 0
        self.contents: dict[int, bytes] = {}
        self.names: dict[int, dict[str, tuple[int, bool]]] = {}
        self.left: dict[str, bytes] | None = None  # after the power loss
        self.held: list[int] = []  # descriptors: a number of a deleted folder is not used again

    def fsync(self, descriptor: int) -> None:
        """Make one thing durable; the power goes before fsync number `last` has done anything."""
        self.fsyncs += 1
        if self.fsyncs == self.last:
            self.left = self.after_power_loss()
            raise PowerLossError
        found = os.fstat(descriptor)
        self.held.append(os.dup(descriptor))
        if stat.S_ISDIR(found.st_mode):
            self.names[found.st_ino] = {
                e.name: (e.inode(), e.is_dir()) for e in os.scandir(descriptor)
            }
        else:
            self.contents[found.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def after_power_loss(self) -> dict[str, bytes]:
        """What is there when the machine comes up: path -> content."""
        if self.eager:
            files = [path for path in self.root.rglob("*") if path.is_file()]
            return {
                str(path.relative_to(self.root)): self.contents.get(path.stat().st_ino, b"")
                for path in files
            }
        return dict(self._durable(self.root.stat().st_ino, ""))

    def _durable(self, folder: int, above: str) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        for name, (inode, is_folder) in self.names.get(folder, {}).items():
            if is_folder:
                found += self._durable(inode, f"{above}{name}/")
            else:
                found.append((above + name, self.contents.get(inode, b"")))
        return found


def survive(root: Path, act: Callable[[Path], None], *, eager: bool, last: int) -> bool:
    """Do `act` in `root`, losing the power at fsync number `last`; then all that was kept is there.

    Returns whether the power went: `act` has so many fsyncs.
    """
    disk = LossyDisk(root, eager=eager, last=last)
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", disk.fsync)
        with contextlib.suppress(PowerLossError):
            act(root)
        left = disk.left if disk.left is not None else disk.after_power_loss()
    for descriptor in disk.held:
        os.close(descriptor)
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for name, content in left.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return disk.left is not None
