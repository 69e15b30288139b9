"""Results of other tools, as the tools wrote them: tests/fixtures/readers, see README.md there."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[1] / "fixtures" / "readers"
# tool -> name of the baseline, with the candidate's and that with an error in the same folder
TOOLS = {
    "inspect": [("inspect-0.3.50", "{}.eval"), ("inspect-0.3.285", "{}.eval")],
    "promptfoo": [("promptfoo-0.91.3", "{}.json"), ("promptfoo-0.123.1", "{}.json")],
    "deepeval": [("deepeval-2.5.0", "{}"), ("deepeval-4.3.1", "{}")],
    "nemo-evaluator": [("nemo-evaluator-0.2.8", "{}")],
}
VERSIONS = [(tool, *place) for tool, places in TOOLS.items() for place in places]


def result(version: str, pattern: str, name: str) -> Path:
    """The result called `name`, such as before, of a tool's version."""
    return FIXTURES / version / pattern.format(name)


def rows(
    items: int = 300, wrong: Iterable[int] = (), **columns: Sequence[Any]
) -> list[dict[str, Any]]:
    """Rows of a table: id q0, q1, ... and whether the answer is correct."""
    bad = set(wrong)
    return [
        {"id": f"q{i}", "correct": int(i not in bad)} | {n: v[i] for n, v in columns.items()}
        for i in range(items)
    ]


def write_csv(path: Path, table: Sequence[Mapping[str, Any]], separator: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*table[0]], delimiter=separator)
        writer.writeheader()
        writer.writerows(table)
    return path


def write_lines(path: Path, table: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return path
