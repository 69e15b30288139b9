"""`rlrf doctor`."""

from __future__ import annotations

import click

from rlrf.cli.common import ERROR, as_json, print_json


@click.command()
@as_json
def doctor(json_: bool) -> int:
    """Say what is installed, what is missing, and how to get it; exits 3 if something must be.

    \b
    rlrf doctor
    """
    from rlrf.doctor import examine, markdown

    findings = examine()
    if json_:
        print_json([finding.model_dump(mode="json") for finding in findings])
    else:
        print(markdown(findings))
    return 0 if all(finding.ok for finding in findings) else ERROR
