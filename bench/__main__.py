"""Every claim on speed, measured on this machine: one table.

    make bench
    python bench --out runs/bench --page docs/benchmarks.md
    python bench --only dpo,gate --fresh

Each claim is a script of this folder that can be run alone and has rows of the table; what is
there in OUT is not measured again, unless `--fresh`. Both sides of a row run by turns in one
process or, where they need environments of their own, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.progress import say
from harness.store import write_json, write_text
from rlrf.result import table

HERE = Path(__file__).parent
CLAIMS = ("start", "gate", "ledger", "report", "generate", "evaluate", "dpo", "loop", "vllm_cpu")
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
    failed = []
    for name in told.only.split(","):
        if name not in CLAIMS:
            parser.error(f"there is no claim '{name}'; choose from {', '.join(CLAIMS)}")
        out = told.out / f"{name}.json"
        if told.fresh or not out.is_file():
            say(f"bench/{name}.py begins")
            if not measure(name, out):
                failed.append(name)
    found = {name: out for name in CLAIMS if (out := told.out / f"{name}.json").is_file()}
    rows = [row for out in found.values() for row in json.loads(out.read_text())["rows"]]
    machines = sorted({json.loads(out.read_text())["machine"] for out in found.values()})
    text = "\n\n".join(["\n".join(machines), show(rows)])
    print(text)
    if told.page is not None:
        before, _, rest = told.page.read_text().partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        write_text(told.page, f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}")
    if failed:
        say(f"Not measured, see above: {', '.join(failed)}.")
    return bool(failed)


def measure(name: str, out: Path) -> bool:
    """Run a script, one thread a side; whether it gave rows, which are kept with the machine."""
    out.parent.mkdir(parents=True, exist_ok=True)
    made = out.with_suffix(".rows.json")
    command = [sys.executable, str(HERE / f"{name}.py"), "--out", str(made)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False)
    if done.returncode != 0 or not made.is_file():
        return False
    write_json(out, {"machine": machine(), "rows": json.loads(made.read_text())})
    made.unlink()
    return True


def machine() -> str:
    """What the figures were taken on."""
    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    processor = names[0].partition(": ")[2] if names else platform.processor()
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    python = f"Python {platform.python_version()}"
    return f"{processor}, one thread of {os.cpu_count()}; {python}, {versions}"


def show(rows: list[dict[str, Any]]) -> str:
    head = ["claim", "ratio [95 % interval]", "aim", "theirs", "ours"]
    body = [
        [
            row["claim"],
            f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
            f"{row['target']:g}" if "target" in row else "",
            f"{row['theirs_seconds']:.3g} s" if "theirs_seconds" in row else "",
            f"{row['ours_seconds']:.3g} s" if "ours_seconds" in row else "",
        ]
        for row in rows
    ]
    return table([head, *body])


if __name__ == "__main__":
    sys.exit(main())
