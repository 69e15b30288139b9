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
    asked = {
        "import rlrf, harness, tasks": "import rlrf, harness, tasks",
        "rlrf --help": "from rlrf.cli import run; run(['--help'])",
        "rlrf gate --help": "from rlrf.cli import run; run(['gate', '--help'])",
    }

    def start(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

    rows = [
        ratio.within(
            f"{name} within {LIMIT:g} s", LIMIT, lambda c=code: start(c), rounds=told.rounds
        )
        for name, code in asked.items()
    ]
    ratio.publish(rows, told.out)


if __name__ == "__main__":
    main()
