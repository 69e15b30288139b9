"""Every method on the embedded world at equal budget: one table, one board, recomputable.

    python bench/methods --out runs/methods --jobs 2
    python bench/methods --out runs/methods --only "RLRF; reward only" --seeds 0

Each row of the table is a configuration of `rlrf train`, kept as YAML in OUT/configs and run in
OUT/runs; started again, everything goes on where it stopped. The rows of a start explore the same
prompts of their seed, sample eight responses a prompt and iteration (RLRF: six, and up to two
rewrites), are gated on the same slices and measured on the same sealed items, which nothing was
trained or chosen on. Reward models learn from preferences between M0's own answers that the
verifier ordered: from all labels, or by self-evolved learning from 15 % of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import rows
import table
import yaml
from prepare import prepare

from harness.core.errors import UserError
from harness.core.files import write_json, write_text
from harness.core.log import say

MARKS = "<!-- table -->", "<!-- /table -->"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--starts", default=",".join(rows.ROWS))
    parser.add_argument("--only", default="", help="rows by name, with semicolons between")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--page", type=Path, help=f"put the tables between {' and '.join(MARKS)}")
    told = parser.parse_args()
    wanted = {name.strip().lower() for name in told.only.split(";") if name.strip()}
    places = prepare(told.out)
    runs = [
        (start, row, int(seed))
        for start in told.starts.split(",")
        for row in rows.ROWS[start]
        if not wanted or row.lower() in wanted
        for seed in told.seeds.split(",")
    ]
    with ThreadPoolExecutor(told.jobs) as pool:
        list(pool.map(lambda run: train(told.out, *run, places), runs))
    report(told.out, told.page)


def train(out: Path, start: str, row: str, seed: int, places: dict[str, Any]) -> None:
    """One run in a process of its own, unless it is finished."""
    name = rows.slug(start, row, seed)
    own = {
        **places,
        "model": places[start],
        rows.ALL: [places[rows.ALL][seed % len(places[rows.ALL])]],
        rows.SER: [places[rows.SER][seed % len(places[rows.SER])]],
    }
    config = out / "configs" / f"{name}.yaml"
    change = rows.ROWS[start][row]
    write_text(config, yaml.safe_dump(rows.fill(change, seed, own), sort_keys=False))
    folder = out / "runs" / name
    if (folder / "result.json").is_file():
        return
    log = out / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"{name}: begins; progress is in {log}")
    command = [sys.executable, "-c", "from rlrf.cli import main; main()", "train", str(config)]
    with log.open("w") as told:
        done = subprocess.run(
            [*command, "--out", str(folder)],
            stdout=told,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
    say(f"{name}: done" if done.returncode == 0 else f"{name} failed: {log} says why")


def report(out: Path, page: Path | None) -> None:
    """The board and the tables of all runs that are finished."""
    found = table.finished(out)
    if not found:
        raise UserError("No run is finished yet.")
    table.publish(out, found)
    made = {start: table.lines(out, start, named) for start, named in found.items()}
    write_json(out / "table.json", {s: [line.model_dump() for line in m] for s, m in made.items()})
    parts = []
    for start, lines in made.items():
        parts += [f"From {start}:", table.markdown(lines), table.compared(lines)]
    text = "\n\n".join(part for part in parts if part)
    write_text(out / "table.md", text + "\n")
    print(text)
    if page is not None:
        before, _, rest = page.read_text().partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        write_text(page, f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
