"""`rlrf simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.core.errors import UserError
from rlrf.cli import options
from rlrf.cli.options import FILE, FOLDER
from rlrf.cli.output import print_result


@click.command()
@click.argument("evaluations", nargs=-1, type=FOLDER, metavar="[BASELINE CANDIDATE]")
@click.option("--task", help="Task of the two folders.  [default: the only one]")
@options.bundle(
    "settings",
    click.option(
        "--items", type=int, help="Items of the gate.  [default: of the folders, else 1319]"
    ),
    click.option(
        "--discordance", type=float, help="Share of items on which two models differ.  [0.1]"
    ),
    click.option("--accuracy", type=float, help="Accuracy of the first model.  [0.5]"),
    click.option("--iterations", type=int, help="Candidates per loop.  [20]"),
    click.option("--effect-mean", type=float, help="Mean true gain of a candidate.  [-0.003]"),
    click.option("--effect-sd", type=float, help="Standard deviation of true gains.  [0.01]"),
    click.option("--margin", type=float, help="Largest tolerated loss.  [0.02]"),
    click.option("--alpha", type=float, help="One-sided level.  [0.05]"),
    click.option("--slices", type=int, help="Parts that 'rotating' divides the items into.  [4]"),
    click.option("--loops", type=int, help="Loops to simulate.  [10000]"),
    click.option("--seed", type=int, help="Random seed.  [0]"),
)
@click.option(
    "--threshold",
    "thresholds",
    type=float,
    multiple=True,
    help="Promotion threshold, in standard errors; repeat it.  [0, 1, 1.645, 2, 3]",
)
@click.option("--svg", "svg_file", type=FILE, help="Draw the outcomes.")
@options.as_json
def simulate(
    *,
    evaluations: tuple[Path, ...],
    task: str | None,
    settings: dict[str, Any],
    thresholds: tuple[float, ...],
    svg_file: Path | None,
) -> None:
    """Compare promotion rules in a simulated training loop.

    Two evaluation folders of a yes/no task set the number of items, the discordance and the
    accuracy; options override them. Write shares as fractions: 2 points are 0.02.

    A second table shows what each promotion threshold of the gate costs in true gain, and how
    many candidates that are only noise it promotes: on fresh items up to 16 % at the default of
    1. Set it in the gate policy: `promotion: {threshold: 2}`.

    \b
    rlrf simulate
    rlrf simulate --threshold 1 --threshold 2.5
    rlrf simulate evaluations/m0 evaluations/m1 --task mini_gsm8k --svg policies.svg
    rlrf simulate --items 500 --discordance 0.2 --effect-sd 0.02
    """
    from pydantic import ValidationError

    from harness.core.outputs import PICTURE, check_optional_file
    from harness.core.yaml import explain
    from harness.evals import evaluation
    from harness.gate.lab import simulate as simulation
    from harness.render import simulation as render

    drawn = check_optional_file(svg_file, PICTURE, evaluations)
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        loop = simulation.Settings.model_validate(given)
    except ValidationError as error:
        raise UserError(explain(error, simulation.Settings)) from error
    if evaluations:
        if len(evaluations) != 2:
            raise UserError(f"{len(evaluations)} folders are given: two are needed, or none.")
        before, after = (evaluation.load(folder) for folder in evaluations)
        name = task or _only(set(before) & set(after))
        if name not in before or name not in after:
            raise UserError(f"There is no evaluation of {name} in both folders.")
        loop = simulation.like(before[name], after[name], loop).model_copy(update=given)
    outcomes = simulation.simulate(loop)
    by_threshold = simulation.compare_thresholds(loop, thresholds or simulation.THRESHOLDS)
    if drawn:
        drawn.write(render.picture(outcomes))
    print_result(
        {"settings": loop, "outcomes": outcomes, "thresholds": by_threshold},
        f"{render.table(loop, outcomes)}\n\n{render.thresholds(loop, by_threshold)}",
    )


def _only(tasks: set[str]) -> str:
    if len(tasks) != 1:
        raise UserError(
            f"The folders share {', '.join(sorted(tasks)) or 'no task'}: name one with --task."
        )
    return next(iter(tasks))
