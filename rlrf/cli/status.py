"""`rlrf status`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from harness.core.log import show
from rlrf.cli.common import FOLDER, as_json, print_json

WATCH_EVERY_SECONDS = 2.0


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--watch", is_flag=True, help="Show it again and again, until the run is over.")
@as_json
def status(run: Path, watch: bool, json_: bool) -> None:
    """Show how far RUN is: what is under way, its rate and time left, the verdicts so far.

    \b
    rlrf status runs/quickstart
    rlrf status runs/quickstart --watch
    """
    from rlrf import status as reading

    while True:
        found = reading.status(run)
        print_json(found.model_dump(mode="json")) if json_ else show(reading.markdown(found))
        sys.stdout.flush()
        nobody_reads = bool(getattr(sys.stdout, "error", ""))  # see `rlrf.cli.streams`
        if not watch or nobody_reads or found.state != "running":
            return
        time.sleep(WATCH_EVERY_SECONDS)
        click.clear()
