"""Whether `verify` finds every random change to a board: bytes, lines, files.

    python bench/ledger_tamper.py --changes 12000 --out tamper.json

A small board of two loops is changed in one way, verified, and put back, again and again; changes
that leave the same bytes are drawn anew. Exits 1 if any change is not found.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from ledger import loop

from harness.board import Board

Files = dict[Path, bytes]


def change(kind: str, data: bytes, rng: random.Random) -> bytes:
    """`data` changed at random; lines are changed in the ledger only."""
    at = rng.randrange(len(data))
    lines = data.splitlines(keepends=True)
    line, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    exchanged = dict(enumerate(lines)) | {line: lines[other], other: lines[line]}
    return {
        "byte changed": data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :],
        "byte deleted": data[:at] + data[at + 1 :],
        "byte added": data[:at] + bytes([rng.randrange(256)]) + data[at:],
        "cut short": data[:at],
        "line deleted": b"".join(lines[:line] + lines[line + 1 :]),
        "lines exchanged": b"".join(exchanged.values()),
        "line repeated": b"".join([*lines[:line], lines[other], *lines[line:]]),
        "last lines cut": b"".join(lines[:line]),
    }[kind]


BYTES = ("byte changed", "byte deleted", "byte added", "cut short")
LINES = ("line deleted", "lines exchanged", "line repeated", "last lines cut")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    made: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    shared = Path("/dev/shm")  # noqa: S108 - memory, where there is one: fsync costs nothing there
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        board = Board(Path(folder))
        for k in range(2):
            loop(board, k, items=10)
        files = {p: p.read_bytes() for p in board.folder.rglob("*") if p.suffix != ".lock"
                 and p.is_file() and p.name != ".lock"}  # fmt: skip
        ledger = board.folder / "ledger.jsonl"
        while made.total() < options.changes:
            kind = rng.choice(BYTES + LINES)
            path = ledger if kind in LINES else rng.choice([ledger, ledger, *files])
            changed = change(kind, files[path], rng)
            if changed == files[path]:
                continue
            where = path.name if path.parent == board.folder else "scores"
            made[f"{where}: {kind}"] += 1
            path.write_bytes(changed)
            missed[f"{where}: {kind}"] += not board.verify()
            path.write_bytes(files[path])
    for name, count in sorted(made.items()):
        print(f"{name:32} {count:>7,} made {missed[name]:>5,} missed")
    print(f"{'all':32} {made.total():>7,} made {missed.total():>5,} missed")
    if options.out:
        figures = {"seed": options.seed, "made": dict(made), "missed": dict(+missed)}
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    return int(missed.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
