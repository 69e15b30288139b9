"""How soon the command line answers: heavy imports are where they are used.

python bench/start.py --out start.json
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import ratio

LIMIT = 0.3  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    told = parser.parse_args()
    rlrf = str(Path(sys.executable).with_name("rlrf"))
    asked = {
        "import rlrf, harness, tasks": [sys.executable, "-c", "import rlrf, harness, tasks"],
        "rlrf --help": [rlrf, "--help"],
        "rlrf gate --help": [rlrf, "gate", "--help"],
    }

    def start(command: list[str]) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    rows = [
        ratio.within(
            f"{name} within {LIMIT:g} s", LIMIT, lambda c=command: start(c), rounds=told.rounds
        )
        for name, command in asked.items()
    ]
    ratio.publish(rows, told.out)


if __name__ == "__main__":
    main()
