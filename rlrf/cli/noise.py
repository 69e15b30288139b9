"""`rlrf noise`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.core.log import say
from rlrf.cli import options
from rlrf.cli.options import FILE, PATH
from rlrf.cli.output import print_result


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@options.policy
@options.selection
@click.option("--out", type=FILE, help="Write the policy with the measured noise, for the gate.")
@options.as_json
def noise(
    runs: tuple[Path, ...], policy: Path | None, selection: dict[str, Any], out: Path | None
) -> None:
    """Measure how much runs of one model differ, for a gate that allows for it.

    RUNS are five or more evaluations of one model, made in the same way: kernels, servers, judges
    and seeds make them differ. They are folders, or results of another tool as for `rlrf gate`.
    With the policy that is written to OUT, `rlrf gate` and `rlrf plan` allow for differences
    between whole runs, which single items do not show.

    \b
    rlrf noise evaluations/m0_1 evaluations/m0_2 ... --policy gsm8k --out policy.json
    rlrf gate --policy policy.json evaluations/m0_1 evaluations/m1
    """
    from harness.core.files import json_text
    from harness.core.outputs import check_optional_file, json_of
    from harness.core.schema import Policy
    from harness.evals import inputs
    from harness.gate.lab import noise as measuring
    from harness.render import simulation as render
    from rlrf.gating import read_rules

    written = check_optional_file(out, json_of("a policy", Policy), [*runs, policy])
    how = read_rules(policy, selection=options.select(selection))
    loaded = inputs.load_runs(runs, how.tasks, how.selection)
    rules = how.policy_for(loaded[0])
    found = measuring.measure_noise(rules, loaded)
    if written:
        written.write(json_text(measuring.with_noise(rules, found)))
    print_result(found, render.noise(found))
    for one in found:
        if one.reach >= one.margin:
            say(
                f"The margin of {one.task} {one.metric}, {one.margin:g}, is within the difference "
                f"of two runs of this model, {one.reach:.3g}: an unchanged model would not pass. "
                "Raise it, or make runs differ less."
            )
