"""`rlrf status`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from rlrf.cli import options
from rlrf.cli.options import FOLDER
from rlrf.cli.output import print_result

WATCH_EVERY_SECONDS = 2.0


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--watch", is_flag=True, help="Show it every 2 seconds until the run is over.")
@options.as_json
def status(run: Path, watch: bool) -> None:
    """Show the progress of RUN: current stage, rate, time left, and the verdicts so far.

    \b
    rlrf status runs/quickstart
    rlrf status runs/quickstart --watch
    """
    from rlrf import status as reading

    while True:
        found = reading.status(run)
        print_result(found, reading.markdown(found))
        sys.stdout.flush()
        nobody_reads = bool(getattr(sys.stdout, "error", ""))  # see `rlrf.cli.output`
        if not watch or nobody_reads or found.state != "running":
            return
        time.sleep(WATCH_EVERY_SECONDS)
        click.clear()
