"""Recognise files that desktops and git keep in any folder, and leave them where they are."""

from __future__ import annotations

import os
from pathlib import Path

INCIDENTAL = {".DS_Store", ".localized", ".directory", "Thumbs.db", "desktop.ini", ".gitkeep"}


def is_incidental(entry: Path) -> bool:
    """Whether an entry of a folder is a file that desktops or git keep in folders of any kind."""
    return entry.name in INCIDENTAL and entry.is_file() and not entry.is_symlink()


def move_incidental(old: Path, new: Path) -> None:
    """Move the incidental files of the folder `old` to the same places in `new`."""
    for entry in [entry for entry in old.rglob("*") if is_incidental(entry)]:
        target = new / entry.relative_to(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(entry, target)
