"""Files of 1 GB are read, or refused, within a limit of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.foreign import FIXTURES

GIB = 1024**3
READ = """
import resource, sys
import rlrf
from harness.core.errors import UserError
from rlrf.gating import load_evaluation

def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

limit = status("VmSize") + 2 * 1024**3
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    side = load_evaluation(sys.argv[1], selection=rlrf.Selection("id", ("correct",)))
    print(*(scored.evaluation.items for scored in side.values()))
except UserError as error:
    print(error)
"""


def wide_table() -> Iterator[str]:
    yield "id,correct,transcript\n"
    text = "x" * 20_000
    yield from (f"q{i},{i % 2},{text}\n" for i in range(GIB // 20_000))


def long_table() -> Iterator[str]:
    yield "id,correct\n"
    yield from (f"q{i},1\n" for i in range(GIB // 12))


def log_of_inspect() -> Iterator[str]:
    log = json.loads((FIXTURES / "inspect-0.3.50" / "before.json").read_text())
    sample, count = log.pop("samples")[0], GIB // 500_000
    log["results"]["total_samples"] = count
    sample["events"] = [{"event": "x" * 500_000}]
    yield json.dumps(log)[:-1] + ', "samples": ['
    for i in range(count):
        sample |= {"id": i, "input": f"What is {i}?"}
        yield ("," if i else "") + json.dumps(sample)
    yield "]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("wide.csv", wide_table, str(GIB // 20_000)),
        ("long.csv", long_table, "more than 500,000 rows"),
        ("log.json", log_of_inspect, str(GIB // 500_000)),
    ],
)
def test_a_file_of_a_gigabyte_takes_bounded_memory(
    name: str, make: Callable[[], Iterator[str]], said: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    with path.open("w") as file:
        file.writelines(make())
    assert path.stat().st_size > 0.9 * GIB
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    path.unlink()
    assert done.returncode == 0, done.stderr[-2000:]
    assert said in done.stdout
