"""`rlrf certify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rlrf.cli import options
from rlrf.cli.options import FOLDER
from rlrf.cli.output import EXIT, print_result


@click.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@options.policy
@options.cluster
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
    by: Any,
    gates: int,
    seed: int,
) -> int:
    """Measure the gate's error rates on your model, by gating it against itself many times.

    RUNS are evaluation folders of one model that sampled its answers with different seeds, or one
    folder with several answers per item. Exits with 0 if the gate is certified (at 95 % confidence,
    its false alarms are at most twice its level), else with 1.

    The table also shows for each rule how often a candidate exactly at the margin passes, which
    should be at most the level (.05: 5 %). Such candidates are resampled from the same answers:
    with losses as the answers show them, and with a few answers that collapse to the worst value.

    \b
    rlrf certify evaluations/seed_0 evaluations/seed_1
    rlrf certify evaluations/four_answers --policy policy.yaml --gates 1000
    """
    from harness.core.progress import track
    from harness.evals import evaluation
    from harness.gate.lab import certify as certification
    from harness.render import simulation as render
    from rlrf.gating import read_rules

    loaded = [evaluation.load(folder) for folder in runs]
    rules = read_rules(policy, cluster=cluster).policy_for(loaded[0])
    with track("certify", gates * (1 + len(rules.rules)), "gates") as advance:
        found = certification.certify(rules, loaded, by=by, gates=gates, seed=seed, on_done=advance)
    print_result(found, render.certificate(found))
    return EXIT["pass" if found.certified else "fail"]
