"""A line of 100 MB is refused or cut, within a limit of memory, wherever it stands."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

HUGE = Path(__file__).with_name("huge.py")
GROWTH = 512 * 1024**2  # bytes
# One for each way of reading files; `huge.py` takes any.
READERS = [
    "store_jsonl",
    "store_json",
    "yaml_run",
    "factscore_items",
    "ledger",
    "run_folder",
    "kept_parts",
    "table_csv",
    "table_json_lines",
    "promptfoo_results",
]


@pytest.mark.slow
def test_lines_of_100_mb_are_read_in_bounded_memory() -> None:
    lines = ["an open string", "empty lists", "packed"]
    command = [sys.executable, str(HUGE), *READERS, "--lines", *lines]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(parser, line) for parser, line, _, _ in found} == {*product(READERS, lines)}
    assert all(grown < GROWTH for *_, grown in found)
