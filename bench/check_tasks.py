"""Check every task of the installed lm-eval whose data can be had here, offline.

    HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 python -P bench/check_tasks.py OUT.jsonl

Writes a report per task, and prints how many load, how many pass, and what the others fail at. Run
it again to resume. With -P no script of this folder hides a module that tasks import (evaluate).
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path

from harness.evals.task_checks import check_tasks


def kind_of(reason: str) -> str:
    """Shorten a reason so that equal causes count together."""
    if package := re.search(r"needs the Python package '([\w.]+)", reason):
        return f"package {package[1]} is not installed"
    if "data of" in reason:
        return "data cannot be had offline"
    return re.sub(r"^\S+( \(\S+\))? ", "", reason)[:90]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--first", type=int, default=10**6)
    arguments = parser.parse_args()
    from lm_eval.tasks import TaskManager

    names = TaskManager().all_subtasks
    rows = {}
    if arguments.out.exists():
        rows = {r["task"]: r for r in map(json.loads, arguments.out.read_text().splitlines())}
    with arguments.out.open("a") as file:
        for name in [name for name in names if name not in rows][: arguments.first]:
            report = next(check_tasks([name], limit=arguments.limit))
            rows[name] = {**report.model_dump(), "task": name, "outcome": report.outcome}
            file.write(json.dumps(rows[name]) + "\n")
            file.flush()
    print(f"{len(names)} tasks, {len(rows)} tried")
    print(Counter(row["outcome"] for row in rows.values()))
    faults = Counter(
        (check["outcome"], check["name"], kind_of(check["finding"]))
        for row in rows.values()
        for check in row["checks"]
        if check["outcome"] != "pass"
    )
    for (outcome, name, reason), count in faults.most_common():
        print(f"{count:6}  {outcome} {name}: {reason}")


if __name__ == "__main__":
    main()
