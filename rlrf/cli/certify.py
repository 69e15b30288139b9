"""`rlrf certify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rlrf.cli import options
from rlrf.cli.options import PATH
from rlrf.cli.output import EXIT, print_result


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@options.policy
@options.cluster
@options.selection
@click.option(
    "--by",
    type=click.Choice(["answers", "runs"]),
    default="answers",
    show_default=True,
    help="Gate shuffled answers, or whole runs.",
)
@click.option("--gates", type=int, default=400, show_default=True, help="Number of gates.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the shuffling.")
@options.as_json
def certify(
    *,
    runs: tuple[Path, ...],
    policy: Path | None,
    cluster: str | None,
    selection: dict[str, Any],
    by: Any,
    gates: int,
    seed: int,
) -> int:
    """Measure the gate's error rates on your model, by gating it against itself many times.

    RUNS are evaluations of one model that sampled its answers with different seeds, or one with
    several answers per item: folders, or results of another tool as for `rlrf gate`. Exits with 0
    if the gate is certified (at 95 % confidence, its false alarms are at most twice its level),
    else with 1.

    The table also shows for each rule how often a candidate exactly at the margin passes, which
    should be at most the level (.05: 5 %). Such candidates are resampled from the same answers:
    with losses as the answers show them, and with a few answers that collapse to the worst value.

    \b
    rlrf certify evaluations/seed_0 evaluations/seed_1
    rlrf certify evaluations/four_answers --policy policy.yaml --gates 1000
    rlrf certify seed_0.csv seed_1.csv --item id --metric correct
    """
    from harness.core.progress import track
    from harness.evals import inputs
    from harness.gate.lab import certify as certification
    from harness.render import simulation as render
    from rlrf.gating import read_rules

    how = read_rules(policy, cluster=cluster, selection=options.select(selection))
    loaded = inputs.load_runs(runs, how.tasks, how.selection)
    rules = how.policy_for(loaded[0])
    with track("certify", gates * (1 + len(rules.rules)), "gates") as advance:
        found = certification.certify(rules, loaded, by=by, gates=gates, seed=seed, on_done=advance)
    print_result(found, render.certificate(found))
    return EXIT["pass" if found.certified else "fail"]
