"""Parsers and lines of 100 MB, in a process whose address space is limited.

    python tests/fuzz/huge.py store_jsonl ledger --lines packed

The process ends with exit status 0 when everything was refused, or read, within the limit. For each
line it prints parser, line, seconds of CPU and the bytes by which the largest resident size grew.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where `helpers` lies

import material
from parsers import PARSERS, SPLIT

SIZE = 100_000_000  # bytes
ROOM = 4 * 1024**3  # bytes of address space beyond what the process has before
LINES: dict[str, Callable[[], bytes]] = {
    "one word": lambda: b"a" * SIZE,
    "an open string": lambda: b'{"id": "' + b"x" * SIZE,
    "brackets": lambda: b"[" * SIZE,
    "empty lists": lambda: b'{"id": [' + b"[]," * (SIZE // 3) + b"[]]}",
    "digits": lambda: b"9" * SIZE,
    "NUL": lambda: b"\0" * SIZE,
    "spaces": lambda: b" " * SIZE,
    "surrogates": lambda: "\ud800".encode("utf-8", "surrogatepass") * (SIZE // 3),
    "packed": lambda: gzip.compress(b'{"id": "' + b"x" * (10 * SIZE), compresslevel=1, mtime=0),
    "packed lines": lambda: gzip.compress(b"{}\n" * (3 * SIZE), compresslevel=1, mtime=0),
}


def inputs(parser: str, line: bytes) -> Iterator[bytes]:
    """The line alone, and in the place of each file of an input that is whole."""
    files = material.whole()[parser][0].split(SPLIT)
    for place in range(len(files)):
        yield SPLIT.join([*files[:place], line, *files[place + 1 :]])


def status(field: str) -> int:
    """VmSize is the address space, VmRSS the resident size, VmHWM its largest; bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    told.add_argument("parsers", nargs="+", choices=sorted(PARSERS))
    told.add_argument("--lines", nargs="+", choices=LINES, default=list(LINES))
    given = told.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    for parser in given.parsers:
        for data in material.whole()[parser]:
            PARSERS[parser](data)  # what is imported late is no part of what a line takes
    limit = status("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name in given.lines:
        line = LINES[name]()
        for parser in given.parsers:
            for data in inputs(parser, line):
                Path("/proc/self/clear_refs").write_text("5")
                before, started = status("VmRSS"), time.process_time()
                PARSERS[parser](data)
                seconds, grown = time.process_time() - started, status("VmHWM") - before
                print(json.dumps([parser, name, round(seconds, 2), grown]), flush=True)


if __name__ == "__main__":
    main()
