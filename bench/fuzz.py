"""Feed every parser spoiled input until the time is up: no crash, no hang, bounded memory.

    python bench/fuzz.py --seconds 900 --data ../shared/data --out fuzz.json

The parsers, what they promise, and the ways to spoil an input are those of `tests/fuzz`; with
`--data`, real replies and data sets are spoiled too. First every bomb of 100 KB is thrown at every
parser, then spoiled inputs, and now and then a bomb of 1 MB, for its share of the seconds. An input
that crashes a parser, or takes more than a second of CPU although it is no longer than 100 KB, is
kept in the folder `faults` beside the report. Exit status 1 where there is one.

    python bench/fuzz.py --guided 100000 --only gsm8k_answer

lets Atheris choose the inputs by the code that they reach. It has to be installed, or lie in an
environment of its own that sees this one's packages by PYTHONPATH.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import logging
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

from harness.core.files import write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fuzz"))

import material
from parsers import PARSERS

SLOW = 1.0  # seconds of CPU, for what is no longer than MODERATE
MODERATE, LARGE = 100_000, 1_000_000  # bytes
OFTEN = 0.002  # chance of a bomb of LARGE size
HANGING = 20.0  # seconds of CPU
MEMORY = 8 * 1024**3  # bytes of address space


class HangError(Exception):
    """An input took longer than `HANGING`."""


@dataclass
class Found:
    """What a parser did."""

    executions: int = 0
    seconds: float = 0.0  # of CPU
    slowest: float = 0.0
    memory: int = 0  # bytes by which the largest resident size grew
    faults: dict[str, int] = field(default_factory=dict)  # what was raised, and where -> inputs


def resident(field: str) -> int:
    """Bytes: VmRSS is the resident size, VmHWM its largest since `forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def forget() -> None:
    """Let the largest resident size be the present one."""
    Path("/proc/self/clear_refs").write_text("5")


def feed(parser: Callable[[bytes], None], data: bytes, found: Found, keep: Path) -> None:
    """Run `parser` on one input, and note what came of it."""
    started = time.process_time()
    fault = ""
    signal.setitimer(signal.ITIMER_VIRTUAL, HANGING)
    try:
        parser(data)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/fuzz" not in f.filename]
        place = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    took = time.process_time() - started
    if not fault and took > SLOW and len(data) <= MODERATE:
        fault = "slow"
    found.executions += 1
    found.seconds += took
    found.slowest = max(found.slowest, took if len(data) <= MODERATE else 0.0)
    if fault:
        if fault not in found.faults:
            keep.mkdir(parents=True, exist_ok=True)
            name = hashlib.sha256(data).hexdigest()[:12]
            (keep / f"{parser.__name__}-{fault.split()[0]}-{name}").write_bytes(data)
        found.faults[fault] = found.faults.get(fault, 0) + 1


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Within a limit of memory, and with a clock that can interrupt."""

    def hang(*_: Any) -> None:
        raise HangError

    signal.signal(signal.SIGVTALRM, hang)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.cache
def bombs(size: int) -> list[bytes]:
    """Every bomb of `size`; made once, as making one may take more memory than reading it."""
    return [make(size)[:size] for make in material.BOMBS.values()]


def storm(name: str, inputs: list[bytes], seconds: float, seed: int, keep: Path) -> Found:
    """All bombs of `MODERATE` size; then, for `seconds` of wall clock, spoiled `inputs`."""
    parser, found, rng = PARSERS[name], Found(), random.Random(f"{seed} {name}")
    parser(inputs[0])  # what is imported late is no part of an input's time
    rare = bombs(LARGE)
    frequent = bombs(MODERATE)
    forget()
    before = resident("VmRSS")
    for bomb in frequent:
        feed(parser, bomb, found, keep)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        large = rng.random() < OFTEN
        feed(parser, rng.choice(rare) if large else material.spoiled(rng, inputs), found, keep)
    found.memory = resident("VmHWM") - before
    return found


def functions() -> Iterator[FunctionType]:
    """The functions and methods of this project that are loaded, each once."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("harness", "tasks", "rlrf"):
            here = [one for one in vars(module).values() if getattr(one, "__module__", "") == name]
            classes = [vars(one).values() for one in here if isinstance(one, type)]
            for one in [*here, *(method for methods in classes for method in methods)]:
                if isinstance(one, FunctionType):
                    yield one


def guided(name: str, inputs: list[bytes], runs: int, folder: Path) -> None:
    """Let Atheris look for inputs that reach new code; it ends the process at the first fault."""
    import atheris

    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    for function in functions():
        atheris.instrument_func(function)
    options = [f"-runs={runs}", "-timeout=20", "-max_len=20000", "-rss_limit_mb=4096", str(folder)]
    atheris.Setup([sys.argv[0], *options], PARSERS[name])
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("fuzz.json"))
    parser.add_argument("--seconds", type=float, default=900, help="shared by the parsers")
    parser.add_argument("--data", type=Path, help="folder of real benchmark data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=sorted(PARSERS), default=sorted(PARSERS))
    parser.add_argument("--guided", type=int, metavar="RUNS", help="by Atheris, of one parser")
    given = parser.parse_args()
    inputs = {name: list(material.whole()[name]) for name in given.only}
    for name in given.only if given.data else []:
        inputs[name] += material.real(given.data, name)
    keep = given.out.parent / "faults"
    if given.guided:
        logging.disable()
        guided(given.only[0], inputs[given.only[0]], given.guided, keep / "corpus" / given.only[0])
        return
    report = {}
    with bounded():
        for name in given.only:
            found = storm(name, inputs[name], given.seconds / len(given.only), given.seed, keep)
            report[name] = vars(found)
            total = sum(found["executions"] for found in report.values())
            write_json(given.out, {"seed": given.seed, "executions": total, "parsers": report})
            print(
                f"{name:26} {found.executions:9,} executions, slowest {found.slowest:6.3f} s, "
                f"{found.memory / 2**20:5.0f} MiB  {found.faults or ''}",
                flush=True,
            )
    faults = sum(len(found["faults"]) for found in report.values())
    print(f"{total:,} executions, {faults} kinds of faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
