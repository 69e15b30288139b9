"""`rlrf quickstart`, `rlrf train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.progress import say
from rlrf.cli.common import FILE, FOLDER, as_json, print_json

if TYPE_CHECKING:
    from rlrf.result import RunResult


@click.command()
@click.option("--out", type=FOLDER, default=Path("runs/quickstart"), show_default=True)
@click.option("--fresh", is_flag=True, help="Delete the run in OUT and start over.")
@as_json
def quickstart(out: Path, fresh: bool, json_: bool) -> None:
    """Train, gate and publish on the embedded benchmarks: a few minutes on two cores.

    \b
    rlrf quickstart
    rlrf quickstart --fresh --out runs/again
    """
    from rlrf import quickstart as package

    _show_run(package.quickstart(out, fresh=fresh), json_)


@click.command()
@click.argument("config", type=FILE)
@click.option("--out", type=FOLDER, help="The run's folder.  [default: runs/NAME-OF-CONFIG]")
@click.option("--fresh", is_flag=True, help="Delete the run in OUT and start over.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="A dry run: one iteration on at most N prompts and items, in runs/NAME-OF-CONFIG-limit.",
)
@as_json
def train(config: Path, out: Path | None, fresh: bool, limit: int | None, json_: bool) -> None:
    """Train by CONFIG (YAML); a run that exists is resumed.

    \b
    rlrf train configs/cpu.yaml --limit 4
    rlrf train configs/cpu.yaml
    rlrf train configs/one_gpu.yaml --out runs/first
    """
    from rlrf import loop
    from rlrf.config import load

    asked, name = load(config), config.stem
    if limit is not None:
        asked, name = asked.limited(limit), f"{name}-limit"
    _show_run(loop.train(asked, out or Path("runs") / name, fresh=fresh), json_)
    if limit is not None:
        say(f"A dry run on at most {limit} prompts and items a task: its verdicts decide nothing.")


def _show_run(result: RunResult, json_: bool) -> None:
    from rlrf.result import markdown

    print_json(result.model_dump(mode="json")) if json_ else print(markdown(result))
