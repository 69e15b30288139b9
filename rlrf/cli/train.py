"""`rlrf quickstart`, `rlrf train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.core.log import say
from rlrf.cli import options
from rlrf.cli.options import COUNT, FILE, FOLDER
from rlrf.cli.output import print_result
from rlrf.cli.stopping import Duration, deadline

if TYPE_CHECKING:
    from rlrf.result import RunResult

stop_after = click.option(
    "--deadline",
    "seconds",
    type=Duration(),
    help="Stop after this time (2h, 90m) and exit with 75; run the same command to resume.",
)


@click.command()
@click.option(
    "--out", type=FOLDER, default=Path("runs/quickstart"), show_default=True, help="Run folder."
)
@options.fresh
@stop_after
@options.as_json
def quickstart(out: Path, fresh: bool, seconds: int | None) -> None:
    """Train, gate and publish on the embedded benchmarks, in a few minutes on two cores.

    \b
    rlrf quickstart
    rlrf quickstart --fresh --out runs/again
    """
    with deadline(seconds):
        from rlrf import quickstart as package

        result = package.quickstart(out, fresh=fresh)
    _print_run(result)


@click.command()
@click.argument("config", type=FILE)
@options.run_folder
@options.fresh
@click.option(
    "--limit",
    type=COUNT,
    help="A dry run: one iteration on at most N prompts and items, in runs/NAME-OF-CONFIG-limit.",
)
@stop_after
@options.as_json
def train(
    config: Path, out: Path | None, fresh: bool, limit: int | None, seconds: int | None
) -> None:
    """Train as the file CONFIG (YAML) says. Run the same command again to resume a run.

    \b
    rlrf train configs/cpu.yaml --limit 4
    rlrf train configs/cpu.yaml
    rlrf train configs/one_gpu.yaml --out runs/first --deadline 4h
    """
    with deadline(seconds):
        import rlrf

        result = rlrf.train(config, out, fresh=fresh, limit=limit)
    _print_run(result)
    if limit is not None:
        say(
            f"A dry run on at most {limit} prompts and items per task: its verdicts decide nothing."
        )


def _print_run(result: RunResult) -> None:
    from rlrf.result import markdown

    print_result(result, markdown(result))
