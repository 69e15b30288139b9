"""Kill a run, an evaluation, a scoring and a board at random moments: they end alike.

    OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false python bench/soak.py --kills 20 --out soak.json

The commands are run once undisturbed. Then they are run again and again in folders of their own,
each time killed by SIGKILL (at a random moment, or before a random change to the file system) and
started again, until an attempt gets to the end. Every file has to be what the undisturbed commands
made: ledger, scores, samples, weights, tables; of the JSON that says how long something took, all
but that. A process is forked from one that has the libraries loaded, so that a kill takes seconds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from harness.progress import say
from harness.store import LOCK, write_json
from rlrf import cli
from rlrf.quickstart import seed_policy

CONFIG = """
model: {model}
iterations: 1
board: board
tasks: [{{name: mini_gsm8k, prompts: 6}}]
explore: {{n: 3}}
reflect: {{m: 1}}
pairs: {{threshold: 0.05, min_chosen: 0.3}}
train: {{learning_rate: 1.0e-4, batch_size: 8, max_length: 400}}
gate: {{slice: 6, sealed: 6}}
"""
MADE = "evaluations/m0/mini_gsm8k"
COMMANDS = (
    "train config.yaml --out run",
    "eval --model {model} --tasks mini_gsm8k --split gate --limit 8 --out evaluations/m0",
    f"score mini_gsm8k {MADE} --out evaluations/scored",
    "board add board evaluations/scored --name scored",
)
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"}
TIMED = ("manifest.json", "result.json")  # their `seconds` are clocks


class Kill(NamedTuple):
    """When a process is killed: after so many seconds, or before so many changes to files."""

    seconds: float | None = None
    changes: int | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warm_up()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        started = time.monotonic()
        attempt(root / "whole", Kill())
        most_seconds = time.monotonic() - started
        most_changes = int((root / "changes").read_text())
        whole = contents(root / "whole")
        kills = runs = 0
        while kills < options.kills:
            folder = root / f"run_{runs}"
            while attempt(folder, draw(dice, most_seconds, most_changes, options.kills - kills)):
                kills += 1
            compare(contents(folder), whole)
            shutil.rmtree(folder)
            runs += 1
            say(f"{kills} kills, {runs} runs that ended alike")
    found = {
        "kills": kills,
        "runs": runs,
        "files": len(whole),
        "bytes": sum(map(len, whole.values())),
        "seconds undisturbed": round(most_seconds, 1),
        "changes to files undisturbed": most_changes,
    }
    if options.out:
        write_json(options.out, found)
    print(json.dumps(found, indent=2))


def warm_up() -> None:
    """Load what the commands need, and start no thread of Python's: only so a process may fork."""
    for name in ("lm_eval.tasks", "peft", "trl.trainer.dpo_trainer", "harness.engines.hf"):
        importlib.import_module(name)
    importlib.import_module("rlrf.loop")
    if threading.active_count() > 1:
        sys.exit("Threads run before anything was started: they do not survive a fork.")


def draw(dice: random.Random, seconds: float, changes: int, left: int) -> Kill:
    """A moment of the undisturbed run, by either clock; never, where no kill is `left`."""
    if left <= 0:
        return Kill()
    if dice.random() < 0.5:
        return Kill(seconds=dice.uniform(0, seconds))
    return Kill(changes=dice.randint(1, changes))


def attempt(folder: Path, kill: Kill) -> bool:
    """Run the commands in `folder`; returns whether that was killed.

    Raises:
        SystemExit: a command failed.
    """
    child = os.fork()
    if not child:
        try:
            run_commands(folder, kill.changes)
        finally:
            os._exit(1)
    until = time.monotonic() + (kill.seconds if kill.seconds is not None else 600)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(ended[1])
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"After a kill a command ended with {code}:\n{log_of(folder).read_text()}")
    return code != 0


def run_commands(folder: Path, most_changes: int | None) -> None:
    """In a process of its own: every command, until that many changes to files."""
    model = seed_policy()
    folder.mkdir(exist_ok=True)
    log = os.open(log_of(folder), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    Path("config.yaml").write_text(CONFIG.format(model=model))
    changes = count_changes(most_changes)
    for command in COMMANDS:
        if code := cli.run(command.format(model=model).split()):
            os._exit(code)
    (folder.parent / "changes").write_text(str(changes[0]))
    os._exit(0)


def count_changes(most: int | None) -> list[int]:
    """Count, in the one place of a list, what changes the file system; die before number `most`."""
    changes = [0]

    def count() -> None:
        changes[0] += 1
        if changes[0] == most:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, args: Any) -> None:
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        if event in CHANGES or (event == "open" and args[2] & writes):
            count()

    fsync = os.fsync

    def counted_fsync(descriptor: int) -> None:
        count()
        fsync(descriptor)

    os.fsync = counted_fsync
    sys.addaudithook(audit)
    return changes


def log_of(folder: Path) -> Path:
    return folder.with_suffix(".log")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the locks, without the clocks."""
    return {
        str(path.relative_to(folder)): without_clocks(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK
    }


def without_clocks(path: Path) -> bytes:
    if path.name not in TIMED:
        return path.read_bytes()
    return json.dumps(json.loads(path.read_bytes(), object_hook=untimed)).encode()


def untimed(value: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name != "seconds"}


def compare(found: dict[str, bytes], whole: dict[str, bytes]) -> None:
    """See that a folder holds what the undisturbed commands made.

    Raises:
        SystemExit: it does not.
    """
    differ = sorted(
        name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name)
    )
    if differ:
        sys.exit(f"After kills these files are others: {', '.join(differ)}")


if __name__ == "__main__":
    main()
