"""Commands of an installation without the packages of any extra."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import tasks
from harness.core.extras import EXTRAS
from harness.core.schema import ModelRef
from harness.evals import evaluation
from helpers.build import build_evaluation, sample_of

# Wrong answers among 200 of each folder: against m0, the gate passes, fails and cannot tell.
WRONG = {"m0": 20, "good": 10, "bad": 90, "unsure": 29}


def write_evaluations(folder: Path) -> None:
    """Write the evaluations of `WRONG`, scored for real."""
    task = tasks.load("mini_gsm8k")
    items = task.items("gate", None)[:200]
    for name, wrong in WRONG.items():
        samples = [
            sample_of(item, "#### 1000" if i < wrong else item.reference["answer"])
            for i, item in enumerate(items)
        ]
        made = build_evaluation(
            task, items, samples, model=ModelRef(id=name), engine="recorded", decoding={},
            split="gate", prompt_digest="p",
        )  # fmt: skip
        evaluation.save(made, folder / name)


def run_lightly(
    folder: Path, code: str, *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run Python `code` in `folder` where no package of an extra can be imported."""
    absent = sorted({package for packages in EXTRAS.values() for package in packages})
    block = (
        f"import json, sys; sys.modules.update(dict.fromkeys(json.loads({json.dumps(absent)!r})))"
    )
    return subprocess.run(
        [sys.executable, "-c", f"{block}\n{code}", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def rlrf_lightly(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `rlrf`, in words, where no package of an extra can be imported."""
    return run_lightly(folder, "from rlrf.cli import main; main()", *command.split())
