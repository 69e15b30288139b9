"""Kill commands at random moments and start them again: they end with the same bytes.

    OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false python bench/soak.py --kills 20 --out soak.json

Each of the `STORIES`, which are commands in a row, is run once undisturbed. Then they are run again
and again, by turns and in folders of their own, each time killed by SIGKILL (at a random moment, or
before a random change to the file system) and started again, until an attempt gets to the end.
Every file has to be what the undisturbed commands made: ledger, scores, samples, weights, tables;
of the JSON that says how long something took, all but that. Work done twice is counted: responses,
steps of training, calls to the judge. A process is forked from one that has the libraries loaded,
so that a kill takes seconds.
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
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from harness.core.files import write_json
from harness.core.folders import LOCK
from harness.core.log import say
from harness.core.run_status import SPEND
from rlrf import cli
from rlrf.quickstart import seed_policy
from rlrf.run import PROGRESS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.faulty import Act, Asked, FaultyServer, completion

CONFIG = """
model: $model
iterations: 1
board: board
tasks: [{name: mini_gsm8k, prompts: 6}]
explore: {n: 3}
reflect: {m: 1}
pairs: {threshold: 0.05, min_chosen: 0.3}
train: {learning_rate: 1.0e-4, batch_size: 8, max_length: 400, epochs: 6,
        checkpoint_minutes: 1.0e-9}
gate: {slice: 6, sealed: 6}
"""
JUDGED = """
model: $model
iterations: 1
judge: judge.yaml
adapter: {r: 4}
tasks: [{name: mini_just_eval, prompts: 6, feedback: critique}]
explore: {n: 3}
reflect: {m: 1}
pairs: {threshold: 0.05}
train: {learning_rate: 1.0e-4, batch_size: 4, max_length: 400, epochs: 6,
        checkpoint_minutes: 1.0e-9}
gate: {slice: 6, sealed: 6}
"""
JUDGE = """
judge: {base_url: "$server", model: critic, cache: judge.sqlite, max_concurrency: $at_once}
"""
REWARDED = """
model: $model
method: reward_only
iterations: 1
tasks: [{name: mini_gsm8k, prompts: 6}]
reward: {models: [reward]}
explore: {n: 3}
pairs: {threshold: 0.0}
train: {learning_rate: 1.0e-4, batch_size: 4, max_length: 400}
gate: {slice: 6, sealed: 6}
"""
PAIRS = "".join(
    json.dumps({"prompt": f"{n} + 1?", "chosen": f"{n + 1}", "rejected": f"{n}"}) + "\n"
    for n in range(10)
)
MADE = "evaluations/m0/mini_gsm8k"


class Story(NamedTuple):
    """Files that a user wrote, and the commands that are run beside them, in this order."""

    files: dict[str, str]
    commands: tuple[str, ...]


STORIES = {
    "rlrf": Story(
        {"config.yaml": CONFIG},
        (
            "train config.yaml --out run",
            "eval --model $model --tasks mini_gsm8k --split gate --limit 8 --out evaluations/m0",
            f"score mini_gsm8k {MADE} --out evaluations/scored",
            "board add board evaluations/scored --name scored",
        ),
    ),
    "judged": Story(  # by a server, and with LoRA
        {"config.yaml": JUDGED, "judge.yaml": JUDGE}, ("train config.yaml --out run",)
    ),
    "rewarded": Story(  # by a model of its own
        {"config.yaml": REWARDED, "reward.yaml": "batch_size: 4", "pairs.jsonl": PAIRS},
        (
            "reward-model train pairs.jsonl --base $model --out reward --settings reward.yaml",
            "train config.yaml --out run",
        ),
    ),
    "quickstart": Story({}, ("quickstart --out run",)),  # minutes, so only when it is named
}
SHORT = "rlrf,judged,rewarded"
PART = 12  # responses kept together, in place of `resume.RESPONSES_PER_PART`
AT_ONCE = 4  # calls to the judge
IN_A_RUN = 8  # kills at most; what is left of the story gets shorter with each
ASPECTS = ("readability", "completeness", "factuality")
GROUPS = ("board", "reward-model")  # commands of two words
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"}
TIMED = ("manifest.json", "result.json")  # their `seconds` are clocks
# The order of a cache is that of the replies, and a bill counts what was repeated.
UNCOMPARED = (LOCK, SPEND, "judge.sqlite")
WORK = "work"  # a line for each piece of work that was begun, whoever did it


class Kill(NamedTuple):
    """When a process is killed: after so many seconds, or before so many changes to files."""

    seconds: float | None = None
    changes: int | None = None


class Whole(NamedTuple):
    """What undisturbed commands made, and what it took."""

    contents: dict[str, bytes]
    seconds: float
    changes: int
    work: Counter[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stories", default=SHORT, help=f"of {', '.join(STORIES)}, by comma")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warm_up()
    with tempfile.TemporaryDirectory() as scratch, critic(Path(scratch)) as server:
        soak = Soak(Path(scratch), server, options.seed)
        found = soak.run(options.stories.split(","), options.kills)
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


@contextmanager
def critic(root: Path) -> Iterator[str]:
    """The address of a chat server, in a process of its own, that chooses and grades aspects."""

    def say_what_is_wrong(_: int, asked: Asked) -> Act:
        note(root, "calls to the judge")
        if "The three aspects:" in asked.prompt:
            places = dict(zip(("first", "second", "third"), ASPECTS, strict=True))
            return Act(body=completion(json.dumps({"reason": "r"} | places)))
        length = len(asked.prompt.rpartition("[answered ")[2])
        grade = ("poor", "fair", "good")[length % 3]
        said = {"sentence": "", "justification": "Say more.", "grade": grade}
        return Act(body=completion(json.dumps(dict.fromkeys(ASPECTS, said))))

    server = FaultyServer(say_what_is_wrong)
    if not (child := os.fork()):
        with server.running():
            signal.pause()
    try:
        yield server.base_url
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def note(root: Path, work: str, amount: int = 1) -> None:
    """Count work that begins, so that it counts after a kill as well."""
    descriptor = os.open(root / WORK, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{amount} {work}\n".encode())
    os.close(descriptor)


def noted(root: Path) -> Counter[str]:
    """What was counted since the last time."""
    found: Counter[str] = Counter()
    for line in (root / WORK).read_text().splitlines():
        amount, _, work = line.partition(" ")
        found[work] += int(amount)
    (root / WORK).write_text("")
    return found


class Soak:
    """Stories that are run, killed and compared in the folder `root`."""

    def __init__(self, root: Path, server: str, seed: int) -> None:
        self.root, self.server, self.dice = root, server, random.Random(seed)

    def run(self, stories: list[str], most: int) -> dict[str, Any]:
        """Kill `most` times, in each story by turns; returns what was seen.

        Raises:
            SystemExit: a command failed, or made other bytes than when it was left alone.
        """
        wholes = {name: self.undisturbed(name) for name in stories}
        in_a_run = min(IN_A_RUN, -(-most // len(stories)))
        kills: Counter[str] = Counter()  # by where they hit
        runs: Counter[str] = Counter()
        needed: Counter[str] = Counter()
        done: Counter[str] = Counter()
        while kills.total() < most:
            name = stories[runs.total() % len(stories)]
            whole, folder = wholes[name], self.root / f"{name}_{runs[name]}"
            before, left = kills.total(), 1.0
            while kills.total() < min(most, before + in_a_run):
                share = left * self.dice.random()
                place = self.attempt(folder, name, self.draw(whole, share))
                if place is None:
                    break
                kills[place] += 1
                left -= share
            else:
                self.attempt(folder, name, Kill())
            compare(contents(folder), whole.contents)
            shutil.rmtree(folder)
            runs[name] += 1
            needed += whole.work
            done += noted(self.root)
            say(f"{kills.total()} kills, {runs.total()} runs that ended alike")
        sizes = {name: sum(map(len, whole.contents.values())) for name, whole in wholes.items()}
        return {
            "kills": kills.total(),
            "kills by place": dict(sorted(kills.items())),
            "runs": dict(runs),
            "files compared": sum(runs[name] * len(wholes[name].contents) for name in stories),
            "bytes compared": sum(runs[name] * sizes[name] for name in stories),
            "work needed": dict(needed),
            "work repeated": dict(done - needed),
            "files": {name: len(whole.contents) for name, whole in wholes.items()},
            "bytes": sizes,
            "seconds undisturbed": {name: round(one.seconds, 1) for name, one in wholes.items()},
            "changes to files undisturbed": {name: one.changes for name, one in wholes.items()},
        }

    def undisturbed(self, name: str) -> Whole:
        folder = self.root / name
        started = time.monotonic()
        self.attempt(folder, name, Kill())
        seconds = time.monotonic() - started
        changes = int(beside(folder, "changes").read_text())
        return Whole(contents(folder), seconds, changes, noted(self.root))

    def draw(self, whole: Whole, share: float) -> Kill:
        """When a `share` of the undisturbed run is over, by either clock."""
        if self.dice.random() < 0.25:  # most of the time goes into loading
            return Kill(seconds=share * whole.seconds)
        return Kill(changes=1 + int(share * whole.changes))

    def attempt(self, folder: Path, name: str, kill: Kill) -> str | None:
        """Run the commands of a story in `folder`; returns where they were killed, if they were.

        Raises:
            SystemExit: a command failed.
        """
        child = os.fork()
        if not child:
            try:
                self.commands(folder, STORIES[name], kill.changes)
            finally:
                os._exit(1)
        until = time.monotonic() + (kill.seconds if kill.seconds is not None else 3600)
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() >= until:
                os.kill(child, signal.SIGKILL)
                ended = os.waitpid(child, 0)
                break
            time.sleep(0.005)
        code = os.waitstatus_to_exitcode(ended[1])
        if code == -signal.SIGKILL:
            return place_of(folder, child)
        if code:
            log = beside(folder, "log").read_text()
            sys.exit(f"After a kill a command ended with {code}:\n{log}")
        return None

    def commands(self, folder: Path, story: Story, most_changes: int | None) -> None:
        """In a process of its own: every command, until that many changes to files."""
        folder.mkdir(exist_ok=True)
        log = os.open(beside(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        names = {"model": seed_policy(), "server": self.server, "at_once": AT_ONCE}
        for file, text in story.files.items():
            Path(file).write_text(Template(text).substitute(names))
        count_work(self.root)
        changes = count_changes(most_changes)
        for command in story.commands:
            words = Template(command).substitute(names).split()
            beside(folder, "command").write_text(" ".join(words[: 1 + (words[0] in GROUPS)]))
            if code := cli.run(words):
                os._exit(code)
        beside(folder, "changes").write_text(str(changes[0]))
        os._exit(0)


def beside(folder: Path, what: str) -> Path:
    return folder.with_suffix(f".{what}")


def place_of(folder: Path, pid: int) -> str:
    """Where the process `pid` was killed: the command, and of a run the stage."""
    file = beside(folder, "command")
    command = (file.read_text() if file.exists() else "") or "before the first command"
    for file in folder.glob(f"*/{PROGRESS}"):
        progress = json.loads(file.read_text())
        if progress["pid"] == pid:
            return f"{command}: {progress['stage'].rpartition('/')[2] or 'between stages'}"
    return command


def count_work(root: Path) -> None:
    """Let this process count its work, and keep answers in small parts, so that there are some."""
    import transformers

    import harness.engines.resume
    from harness.engines.hf import HFEngine

    harness.engines.resume.RESPONSES_PER_PART = PART
    generate, step = HFEngine.generate, transformers.Trainer.training_step

    def noted_generate(self: Any, prompts: Any, sampling: Any, *rest: Any, **more: Any) -> Any:
        note(root, "responses", len(prompts) * sampling.n)
        return generate(self, prompts, sampling, *rest, **more)

    def noted_step(*arguments: Any, **more: Any) -> Any:
        note(root, "passes of training")
        return step(*arguments, **more)

    HFEngine.generate = noted_generate  # type: ignore[method-assign]
    transformers.Trainer.training_step = noted_step


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


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is compared, without the clocks."""
    return {
        str(path.relative_to(folder)): without_clocks(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in UNCOMPARED
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
