"""`rlrf quickstart`, `rlrf train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.core.log import say, show
from rlrf.cli.common import FILE, FOLDER, as_json, print_json
from rlrf.cli.stopping import Duration, deadline

if TYPE_CHECKING:
    from rlrf.result import RunResult

stop_after = click.option(
    "--deadline",
    "seconds",
    type=Duration(),
    help="Stop after so long (2h, 90m) and exit with 75; the same command goes on.",
)


@click.command()
@click.option("--out", type=FOLDER, default=Path("runs/quickstart"), show_default=True)
@click.option("--fresh", is_flag=True, help="Delete the run in OUT and start over.")
@stop_after
@as_json
def quickstart(out: Path, fresh: bool, seconds: int | None, json_: bool) -> None:
    """Train, gate and publish on the embedded benchmarks: a few minutes on two cores.

    \b
    rlrf quickstart
    rlrf quickstart --fresh --out runs/again
    """
    with deadline(seconds):
        from rlrf import quickstart as package

        result = package.quickstart(out, fresh=fresh)
    _show_run(result, json_)


@click.command()
@click.argument("config", type=FILE)
@click.option("--out", type=FOLDER, help="The run's folder.  [default: runs/NAME-OF-CONFIG]")
@click.option("--fresh", is_flag=True, help="Delete the run in OUT and start over.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="A dry run: one iteration on at most N prompts and items, in runs/NAME-OF-CONFIG-limit.",
)
@stop_after
@as_json
def train(
    *,
    config: Path,
    out: Path | None,
    fresh: bool,
    limit: int | None,
    seconds: int | None,
    json_: bool,
) -> None:
    """Train by CONFIG (YAML); a run that exists is resumed.

    \b
    rlrf train configs/cpu.yaml --limit 4
    rlrf train configs/cpu.yaml
    rlrf train configs/one_gpu.yaml --out runs/first --deadline 4h
    """
    with deadline(seconds):
        import rlrf

        result = rlrf.train(config, out, fresh=fresh, limit=limit)
    _show_run(result, json_)
    if limit is not None:
        say(
            f"A dry run on at most {limit} prompts and items per task: its verdicts decide nothing."
        )


def _show_run(result: RunResult, json_: bool) -> None:
    from rlrf.result import markdown

    print_json(result.model_dump(mode="json")) if json_ else show(markdown(result))
