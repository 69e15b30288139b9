"""Memory of exploration and evaluation against the number of prompts: it does not grow with them.

    python bench/memory.py --out memory.json

Each figure is the peak of a process of its own that loads the shipped policy and then explores so
many prompts, eight answers each, or evaluates the model on so many items through lm-eval, 64
answers at a time. What may grow is the records: questions and answers as text.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ratio import most_memory, publish

import tasks
from harness.core.log import say
from harness.engines.hf import HFEngine
from harness.evals.evaluate import EvalOptions, evaluate
from rlrf.config import Explore
from rlrf.quickstart import seed_policy
from rlrf.sampling import explore

COUNTS = (64, 512, 4000)  # as many as two tasks have to train on
AT_A_TIME = 64  # answers: batches are full with the fewest prompts
TOKENS = 4  # of an answer, at most
N = 8
TASKS = ("mini_factscore", "mini_gsm8k")


def peak(stage: str, count: int) -> float:
    """MiB of this process at its peak, after `stage` on `count` prompts."""
    engine = HFEngine(seed_policy(), device="cpu", max_batch=AT_A_TIME)
    each = count // len(TASKS)
    if stage == "explore":
        known = {name: tasks.load(name) for name in TASKS}
        asked = {name: task.items("train")[:each] for name, task in known.items()}
        made = len(explore(engine, asked, known, Explore(n=N, max_tokens=TOKENS), 0))
    else:
        found = evaluate(engine, TASKS, EvalOptions(split="train", limit=each, max_tokens=TOKENS))
        made = N * sum(len(one.samples) for one in found.values())
    if made != N * count:
        sys.exit(f"{stage} gave {made} answers")
    return most_memory()


def rows(counts: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    for stage in ("explore", "evaluate"):
        found = {}
        for count in counts:
            command = [sys.executable, __file__, "--peak", stage, str(count)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found[count] = float(json.loads(done.stdout))
            say(f"{stage} {count:,} prompts: {found[count]:.0f} MiB")
        few, many = found[counts[0]], found[counts[-1]]
        yield {
            "claim": f"memory to {stage} {counts[0]} prompts, over that of {counts[-1]:,}",
            "ratio": few / many,
            "low": None,
            "high": None,
            "target": 0.9,
            "theirs_mib": round(few),
            "ours_mib": round(many),
            "points": found,
            "KiB_a_prompt": 1024 * (many - few) / (counts[-1] - counts[0]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.peak:
        print(peak(told.peak[0], int(told.peak[1])))
    else:
        publish(rows(tuple(told.counts)), told.out)


if __name__ == "__main__":
    main()
