"""Commands as a user types them, each a process; and what stock lm-eval writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(sys.executable).parent


def type_in(*words: object) -> str:
    """Run a command of this environment; what it printed.

    Raises:
        SystemExit: it failed.
    """
    command = [str(HERE / str(words[0])), *map(str, words[1:])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} failed: {done.stderr[-2000:]}")
    return done.stdout


def lm_eval_answers(folder: Path, tasks: Iterable[str]) -> dict[str, list[str]]:
    """Task -> the answers, in the order of its items, that `lm_eval run --log_samples` wrote."""
    found = {}
    for file in folder.rglob("samples_*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        lines.sort(key=lambda line: line["doc_id"])
        name = next(name for name in tasks if f"_{name}_" in file.name)
        found[name] = [line["filtered_resps"][0] for line in lines]
    return found
