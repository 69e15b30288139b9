"""`rlrf simulate`, `rlrf certify`, `rlrf noise`: what a gate does, before it matters."""

from __future__ import annotations

from pathlib import Path

import click

from harness.core.log import show
from rlrf.cli.common import EXIT, FILE, FOLDER, as_json, print_json


@click.command()
@click.argument("evaluations", nargs=-1, type=FOLDER, metavar="[BASELINE CANDIDATE]")
@click.option("--task", help="Which task of the two folders.  [default: the only one]")
@click.option("--items", type=int, help="Items of the gate.  [default: of the folders, else 1319]")
@click.option("--discordance", type=float, help="Share of items on which two models differ.  [0.1]")
@click.option("--accuracy", type=float, help="Accuracy of the first model.  [0.5]")
@click.option("--iterations", type=int, help="Candidates per loop.  [20]")
@click.option("--effect-mean", type=float, help="Mean true gain of a candidate.  [-0.003]")
@click.option("--effect-sd", type=float, help="Standard deviation of true gains.  [0.01]")
@click.option("--margin", type=float, help="Largest tolerated loss.  [0.02]")
@click.option("--alpha", type=float, help="One-sided level.  [0.05]")
@click.option("--slices", type=int, help="Parts that 'rotating' divides the items into.  [4]")
@click.option("--loops", type=int, help="Loops to simulate.  [10000]")
@click.option("--seed", type=int, help="Random seed.  [0]")
@click.option(
    "--threshold",
    "thresholds",
    type=float,
    multiple=True,
    help="Promotion threshold, in standard errors; repeat it.  [0, 1, 1.645, 2, 3]",
)
@click.option("--svg", "svg_file", type=FILE, help="Draw the outcomes.")
@as_json
def simulate(
    *,
    evaluations: tuple[Path, ...],
    task: str | None,
    thresholds: tuple[float, ...],
    svg_file: Path | None,
    json_: bool,
    **options: float | None,
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

    from harness.core.errors import UserError
    from harness.core.outputs import PICTURE, check_optional_file
    from harness.core.yaml import explain
    from harness.evals import evaluation
    from harness.gate.lab import simulate as simulation
    from harness.render import simulation as render

    drawn = check_optional_file(svg_file, PICTURE, evaluations)
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = simulation.Settings.model_validate(given)
    except ValidationError as error:
        raise UserError(explain(error, simulation.Settings)) from error
    if evaluations:
        if len(evaluations) != 2:
            raise UserError(f"{len(evaluations)} folders are given: two are needed, or none.")
        before, after = (evaluation.load(folder) for folder in evaluations)
        name = task or _only(set(before) & set(after))
        if name not in before or name not in after:
            raise UserError(f"There is no evaluation of {name} in both folders.")
        found = simulation.like(before[name], after[name], settings)
        settings = found.model_copy(update=given)
    outcomes = simulation.simulate(settings)
    by_threshold = simulation.compare_thresholds(settings, thresholds or simulation.THRESHOLDS)
    if drawn:
        drawn.write(render.picture(outcomes))
    if json_:
        print_json(
            {
                "settings": settings.model_dump(mode="json"),
                "outcomes": [outcome.model_dump(mode="json") for outcome in outcomes],
                "thresholds": [one.model_dump(mode="json") for one in by_threshold],
            }
        )
    else:
        show(render.table(settings, outcomes))
        show("\n" + render.thresholds(settings, by_threshold))


@click.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@click.option(
    "--policy", type=FILE, help="Gate policy, YAML or JSON.  [default: that of `rlrf gate`]"
)
@click.option("--cluster", help="Tag or field that items share, such as passage.")
@click.option(
    "--by",
    type=click.Choice(["answers", "runs"]),
    default="answers",
    show_default=True,
    help="Gate shuffled answers, or whole runs.",
)
@click.option("--gates", type=int, default=400, show_default=True, help="Number of gates.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the shuffling.")
@as_json
def certify(
    *,
    runs: tuple[Path, ...],
    policy: Path | None,
    cluster: str | None,
    by: str,
    gates: int,
    seed: int,
    json_: bool,
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
    from typing import cast

    from harness.core.progress import track
    from harness.evals import evaluation
    from harness.gate.lab import certify as certification
    from harness.gate.policy import cluster_by, default_policy, load_policy
    from harness.render import simulation as render

    loaded = [evaluation.load(folder) for folder in runs]
    metrics = {task: one.evaluation.definitions.values() for task, one in loaded[0].items()}
    asked = load_policy(policy) if policy else default_policy(metrics)
    if cluster is not None:
        asked = cluster_by(asked, cluster)
    with track("certify", gates * (1 + len(asked.rules)), "gates") as advance:
        found = certification.certify(
            asked,
            loaded,
            by=cast(certification.By, by),
            gates=gates,
            seed=seed,
            on_done=advance,
        )
    if json_:
        print_json(found.model_dump(mode="json"))
    else:
        show(f"{'certified' if found.certified else 'not certified'}: {found.reason}")
        show(
            f"{found.inconclusive} were inconclusive, so at most {found.inconclusive_bound:.1%}; "
            f"{found.runs} run{'s' * (found.runs > 1)}, gated by {found.by}, seed {found.seed}"
        )
        show(render.rates(found))
    return EXIT["pass" if found.certified else "fail"]


@click.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@click.option("--policy", type=FILE, help="File or name.  [default: as of `rlrf gate`]")
@click.option("--out", type=FILE, help="Write the policy with what was measured, for the gate.")
@as_json
def noise(*, runs: tuple[Path, ...], policy: Path | None, out: Path | None, json_: bool) -> None:
    """Measure what runs of one model differ by, and give it to the gate.

    RUNS are five or more evaluation folders of one model that were made in the same way: what
    differs between them is kernels, servers, judges, seeds. The policy that is written to OUT makes
    `rlrf gate` and `rlrf plan` reckon with what whole runs differ by, which items do not show.

    \b
    rlrf noise evaluations/m0_1 evaluations/m0_2 ... --policy gsm8k --out policy.json
    rlrf gate --policy policy.json evaluations/m0_1 evaluations/m1
    """
    from harness.core.files import json_text
    from harness.core.log import say
    from harness.core.outputs import check_optional_file, json_of
    from harness.core.schema import Policy
    from harness.evals import evaluation
    from harness.gate.lab import noise as measuring
    from harness.gate.policy import default_policy, load_policy
    from harness.render.table import table

    written = check_optional_file(out, json_of("a policy", Policy), [*runs, policy])
    loaded = [evaluation.load(folder) for folder in runs]
    metrics = {task: one.evaluation.definitions.values() for task, one in loaded[0].items()}
    asked = load_policy(policy) if policy else default_policy(metrics)
    found = measuring.measure_noise(asked, loaded)
    if written:
        written.write(json_text(measuring.with_noise(asked, found)))
    if json_:
        print_json([one.model_dump(mode="json") for one in found])
        return
    heads = ["rule", "margin", "runs", "items", "mean", "items that differ", "sd of a run"]
    rows = [
        [
            f"{one.task} {one.metric}",
            *(f"{one.margin:g}", f"{one.runs}", f"{one.items:,}", f"{one.mean:.4g}"),
            *(f"{one.differing:.2%}", f"{one.total_sd:.3g}", f"{one.shared_sd:.3g}"),
            *(f"{one.p_value:.2g}", f"{one.reach:.3g}"),
        ]
        for one in found
    ]
    show(table([[*heads, "beyond its items", "p", "two runs differ by"], *rows]))
    for one in found:
        if one.reach >= one.margin:
            say(
                f"The margin of {one.task} {one.metric}, {one.margin:g}, is within what two runs "
                f"of this model differ by, {one.reach:.3g}: what has not changed would not pass. "
                "Raise it, or make runs differ less."
            )


def _only(tasks: set[str]) -> str:
    from harness.core.errors import UserError

    if len(tasks) != 1:
        raise UserError(
            f"The folders share {', '.join(sorted(tasks)) or 'no task'}: name one with --task."
        )
    return next(iter(tasks))
