"""What the commands share: kinds of paths, exit codes, and how they speak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from harness.core.log import write_out
from harness.core.text import json_text

ERROR, OUT_OF_TIME, HUNG_UP, INTERRUPTED, TERMINATED = 3, 75, 129, 130, 143
EXIT = {"pass": 0, "fail": 1, "inconclusive": 2}

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
PATH = click.Path(path_type=Path)
margins = click.option(
    "--margin",
    "margin_texts",
    metavar="METRIC=VALUE",
    multiple=True,
    help="Largest tolerated loss of a metric, or of TASK.METRIC, without a policy; repeatable.",
)
as_json = click.option("--json", "json_", is_flag=True, help="Print JSON for programs.")


def print_json(value: Any) -> None:
    """A result, for programs: JSON that any parser takes, on stdout."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
    write_out(json_text(text) + "\n")
