"""Merge two boards that people appended to apart, one file at a time, as a git merge driver.

A ledger's rows name the rows they follow, so the lines of two ledgers are put into one file
unchanged; HEAD names the last row of each branch. Each file is merged without the other: a lost row
or a branch that HEAD does not name is noticed when the board is read. Scores are files named by
their content, which git merges by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from harness.board.ledger import Reading
from harness.core.errors import UserError
from harness.core.files import write_bytes

_HEADS = re.compile(rb"(?:[0-9a-f]{64}\n)*")


def merge(base: Path, ours: Path, theirs: Path, name: str) -> None:
    """Merge two versions of a board's file `name`, with the common ancestor `base`, into `ours`.

    Raises:
        UserError: a version is damaged, or lacks a row of `base`; nothing is changed then.
    """
    file = Path(name).name
    if file == "ledger.jsonl":
        merged = _ledgers(base, ours, theirs)
    elif file == "HEAD":
        merged = _heads(base, ours, theirs)
    else:
        raise UserError(f"{name} is not a file of a board that needs merging.")
    write_bytes(ours, merged)


def _ledgers(base: Path, ours: Path, theirs: Path) -> bytes:
    """Return our lines, then those lines of theirs that we lack."""
    before, mine, other = (dict(_lines(path)) for path in (base, ours, theirs))
    for side, rows in (("ours", mine), ("theirs", other)):
        if before.keys() - rows.keys():
            raise UserError(
                f"A row was taken away on one side of the merge ({side}), and a ledger only grows. "
                "Restore it there from the commit before, and merge again."
            )
    return b"".join(text + b"\n" for text in (mine | other).values())


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    reading = Reading(path, None)
    for line in reading:
        yield line.digest, line.text
    if reading.damage or reading.torn:
        why = reading.damage or "its last line is unfinished."
        raise UserError(f"The ledgers cannot be merged: one of them is damaged. {why}")


def _heads(base: Path, ours: Path, theirs: Path) -> bytes:
    """Return the branches of both sides, without those that a side has appended to."""
    before, mine, other = (_names(path) for path in (base, ours, theirs))
    gone = (before.keys() - mine.keys()) | (before.keys() - other.keys())
    return b"".join(name + b"\n" for name in mine | other if name not in gone)


def _names(path: Path) -> dict[bytes, None]:
    text = path.read_bytes()
    if not _HEADS.fullmatch(text):
        raise UserError("HEAD cannot be merged: one of its versions is not a list of digests.")
    return dict.fromkeys(text.splitlines())
