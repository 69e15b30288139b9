"""`rlrf doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.core.log import show
from rlrf.cli.common import ERROR, FILE, FOLDER, as_json, print_json


@click.command()
@click.argument("config", type=FILE, required=False)
@click.option("--out", type=FOLDER, help="The run's folder.  [default: runs/NAME-OF-CONFIG]")
@click.option("--ask", is_flag=True, help="Ask the judge one question; it may cost a little.")
@as_json
def doctor(config: Path | None, out: Path | None, ask: bool, json_: bool) -> int:
    """Say what is missing and how to get it; with CONFIG, what its run would fail at.

    Exits 3 if something has to be mended. Nothing is trained or generated; a model named by hub id
    is fetched, as the run would. Estimates of memory are from below.

    \b
    rlrf doctor
    rlrf doctor configs/one_gpu.yaml
    rlrf doctor configs/one_gpu.yaml --out runs/first --ask --json
    """
    from rlrf.doctor import examine, lines

    findings = examine()
    if config is not None:
        from rlrf.preflight import look_ahead

        findings += look_ahead(config, out, ask=ask)
    if json_:
        print_json([finding.model_dump(mode="json") for finding in findings])
    else:
        show(lines(findings))
    return 0 if all(finding.ok for finding in findings) else ERROR
