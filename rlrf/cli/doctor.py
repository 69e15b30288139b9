"""`rlrf doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.core.extras import name_missing_extra
from rlrf.cli import options
from rlrf.cli.options import FILE
from rlrf.cli.output import ERROR, print_result


@click.command()
@click.argument("config", type=FILE, required=False)
@options.run_folder
@click.option("--ask", is_flag=True, help="Ask the judge one question; it may cost a little.")
@options.as_json
def doctor(config: Path | None, out: Path | None, ask: bool) -> int:
    """Check the installation, and with CONFIG whether its run would start.

    Exits with 3 if something has to be fixed, and says how. Nothing is trained or generated; a
    model named by its hub id is downloaded, as the run would do. Memory estimates are lower bounds.

    \b
    rlrf doctor
    rlrf doctor configs/one_gpu.yaml
    rlrf doctor configs/one_gpu.yaml --out runs/first --ask --json
    """
    from rlrf.doctor import examine, lines

    findings = examine()
    if config is not None:
        with name_missing_extra("train"):
            from rlrf.preflight import look_ahead

            findings += look_ahead(config, out, ask=ask)
    print_result(findings, lines(findings))
    return 0 if all(finding.ok for finding in findings) else ERROR
