"""Every claim on speed, measured on this machine: one table.

    make bench
    python bench --out runs/bench --page docs/benchmarks.md
    python bench --only dpo,gate --fresh
    python bench --only loop_more,loop_stages      # an hour more

Each claim is a script of this folder that can be run alone and has rows of the table; what is
there in OUT is not measured again, unless `--fresh`. Both sides of a row run by turns in one
process or, where they need environments of their own, one after the other. A script that fails
leaves the rows that it had, and is run again by the next call; one that lacks what it compares with
says so; in both cases the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ratio import shown

from harness.core.files import write_json, write_text
from harness.core.log import say
from harness.render.table import table

HERE = Path(__file__).parent
CLAIMS = (
    "start",
    "gate",
    "ledger",
    "report",
    "generate",
    "evaluate",
    "loglikelihood",
    "dpo",
    "memory",
    "loop",
    "vllm_cpu",
)
# Only if they are named.
LONG = {"loop_more": ("loop", "--more"), "loop_stages": ("loop", "--stages")}
LIBRARIES = ("torch", "transformers", "trl", "lm-eval", "numpy")
MARKS = "<!-- table -->", "<!-- /table -->"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--only", default=",".join(CLAIMS), help="scripts, with commas between")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--page", type=Path, help=f"put the table between {' and '.join(MARKS)}")
    told = parser.parse_args()
    names = told.only.split(",")
    if strangers := sorted({*names} - {*CLAIMS, *LONG}):
        known = ", ".join([*CLAIMS, *LONG])
        parser.error(f"there is no claim '{strangers[0]}'; choose from {known}")
    started, failed = time.monotonic(), []
    for number, name in enumerate(names, 1):
        out = told.out / f"{name}.json"
        if out.is_file() and not told.fresh:
            continue
        say(f"{name} begins, {number} of {len(names)}")
        began = time.monotonic()
        reason = measure(name, out)
        say(f"{name}: {reason or 'done'}, {minutes(began)}")
        if reason:
            failed.append(f"{name} ({reason})")
    say(f"{minutes(started)} in all")
    text = page(told.out)
    print(text)
    if told.page is not None:
        before, _, rest = told.page.read_text().partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        write_text(told.page, f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}")
    if failed:
        say(f"Not measured, or not all of it, see above: {'; '.join(failed)}.")
    return bool(failed)


def minutes(since: float) -> str:
    return f"{(time.monotonic() - since) / 60:.1f} minutes"


def measure(name: str, out: Path) -> str | None:
    """Run a script, one thread a side, and keep its rows with the machine; why there are not all.

    Of a script that failed the rows are kept beside `out`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for old in (out, unfinished(out)):
        old.unlink(missing_ok=True)
    made = unfinished(out).with_suffix(".new")
    script, *options = LONG.get(name, (name,))
    command = [sys.executable, str(HERE / f"{script}.py"), *options, "--out", str(made)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False)
    rows = json.loads(made.read_text()) if made.is_file() else []
    made.unlink(missing_ok=True)
    if rows:
        kept = out if done.returncode == 0 else unfinished(out)
        write_json(kept, {"machine": machine(), "rows": rows})
    if done.returncode:
        return f"failed after {len(rows)} rows"
    return None if rows else "lacks its peer"


def unfinished(out: Path) -> Path:
    """Where the rows of a script that failed are."""
    return out.with_suffix(".unfinished.json")


def machine() -> str:
    """What the figures were taken on."""
    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    processor = names[0].partition(": ")[2] if names else platform.processor()
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    python = f"Python {platform.python_version()}"
    return f"{processor}, one thread of {os.cpu_count()}; {python}, {versions}"


def page(folder: Path) -> str:
    """What is found in `folder`: the machines, and the table."""
    files = [
        file
        for name in (*CLAIMS, *LONG)
        for file in (folder / f"{name}.json", unfinished(folder / f"{name}.json"))
        if file.is_file()
    ]
    found = [json.loads(file.read_text()) for file in files]
    machines = sorted({one["machine"] for one in found})
    rows = [row for one in found for row in one["rows"]]
    return "\n\n".join(["\n".join(machines), show(rows)])


def show(rows: list[dict[str, Any]]) -> str:
    head = ["claim", "ratio [95 % interval]", "aim", "theirs", "ours"]
    body = [
        [
            row["claim"],
            shown(row),
            f"{row['target']:g}" if "target" in row else "",
            amount(row, "theirs"),
            amount(row, "ours"),
        ]
        for row in rows
    ]
    return table([head, *body])


def amount(row: dict[str, Any], side: str) -> str:
    """A side's seconds or MiB."""
    if f"{side}_mib" in row:
        return f"{row[f'{side}_mib']:,} MiB"
    return f"{row[f'{side}_seconds']:.3g} s"


if __name__ == "__main__":
    sys.exit(main())
