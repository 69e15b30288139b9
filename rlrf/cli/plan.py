"""`rlrf plan`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.core.errors import UserError
from harness.core.log import say
from rlrf.cli import options
from rlrf.cli.options import FILE, PATH
from rlrf.cli.output import print_result

if TYPE_CHECKING:
    from harness.core.schema import Metric, Policy
    from harness.readers import Selection


class ClustersParam(click.ParamType[int | Path]):
    """A number of clusters, or a file that names the cluster of each item."""

    name = "N|FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Path:
        return int(value) if str(value).isdecimal() else Path(value)


@click.command()
@click.argument("policy", type=FILE)
@options.bundle(
    "base",
    click.option("--baseline", type=PATH, help="Evaluations to compare candidates with."),
    options.board_name,
    click.option(
        "--second", type=PATH, help="Another run of the baseline, to measure how much it varies."
    ),
    options.cluster,
)
@options.selection
@options.bundle(
    "spread",
    click.option(
        "--discordance", type=float, help="Share of yes/no items whose answer flips by chance."
    ),
    click.option("--sd", type=float, help="Standard deviation of a graded item's gain."),
    click.option("--icc", type=float, help="Correlation of two items' gains within a cluster."),
)
@click.option(
    "--clusters",
    type=ClustersParam(),
    help="With --baseline: file with each item's cluster. Without: number of clusters.",
)
@click.option(
    "--sequential", is_flag=True, help="Test after every item; stop once the verdict is clear."
)
@click.option(
    "--estimand",
    type=click.Choice(["population", "items"]),
    help="What a sequential verdict is about.  [default: population]",
)
@click.option("--out", type=FILE, help="Write the plan, a JSON file.")
@click.option("--svg", "svg_file", type=FILE, help="Without --baseline: draw power against items.")
@options.include_path
@options.as_json
def plan(
    *,
    policy: Path,
    base: dict[str, Any],
    selection: dict[str, Any],
    spread: dict[str, float | None],
    clusters: int | Path | None,
    sequential: bool,
    estimand: Any,
    out: Path | None,
    svg_file: Path | None,
) -> None:
    """Record how a gate by POLICY will decide, before the candidate has any score.

    POLICY is a file, or a policy that comes with the harness: gsm8k, just_eval, factscore. It may
    be the configuration of a run, for the run's policy and what its guards can see. The plan is
    refused if an unchanged model would pass a critical rule less than 80 % of the time; the
    message says how many items are needed. For a rule with `every: TAG` it also prints what each
    subgroup of the items can show.

    Without --baseline no plan is written: the command prints how many items each margin needs,
    and --svg draws it. For clustered items, give the number of clusters and --icc.

    The verdict of a sequential plan is about all questions of the kind (population), or only about
    the planned items (items), which needs fewer items but claims nothing about other questions.

    \b
    rlrf plan gsm8k --discordance 0.1 --svg items.svg
    rlrf plan configs/guards/forgets.yaml --discordance 0.1 --sd 0.6
    rlrf plan just_eval --sd 0.6 --clusters 40 --icc 0.2
    rlrf plan gsm8k --baseline evaluations/m0 --discordance 0.1 --out plan.json
    rlrf plan policy.yaml --baseline evaluations/m0 --second evaluations/m0_again --out plan.json
    rlrf plan policy.yaml --baseline evaluations/m0 --cluster passage --icc 0.1 --out plan.json
    rlrf plan policy.yaml --baseline before.csv --item id --discordance 0.1 --out plan.json
    rlrf gate --plan plan.json evaluations/m0 evaluations/m1
    """
    rules, metrics, notes = _read_rules(policy, spread["discordance"])
    if estimand is not None and not sequential:
        raise UserError("--estimand is only for sequential plans: add --sequential, or remove it.")
    if base["baseline"] is None:
        needs = {**base, "out": out, "sequential": sequential or None}
        if given := [option for option, value in needs.items() if value is not None]:
            raise UserError(
                f"--{given[0]} needs a --baseline, the evaluations to compare candidates with."
            )
        if isinstance(clusters, Path):
            raise UserError(
                f"Without --baseline there are no items to look up in {clusters}: add --baseline, "
                "or give the number of clusters, --clusters N."
            )
        _count_items(rules, metrics, svg_file, clusters=clusters, **spread)
        for note in notes:
            say(f"Note: {note}.")
        return
    if out is None or svg_file is not None or isinstance(clusters, int):
        raise UserError(
            "With --baseline, name the file for the plan, --out, and name clusters by --cluster or "
            "--clusters FILE. --svg and a number of clusters are only for use without --baseline."
        )
    rule_options = {"sequential": sequential, "estimand": estimand or "population"}
    base |= {"cluster_file": clusters, "selection": options.select(selection)}
    _write_plan(rules, [policy, clusters], out, rule_options, spread, **base)


def _read_rules(
    path: Path, discordance: float | None
) -> tuple[Policy, dict[tuple[str, str], Metric], list[str]]:
    """Read a policy or a run's configuration: its rules, their metrics, what guards can see."""
    from harness.core import yaml
    from harness.gate.policy import load_policy

    if path.is_file() and {"model", "tasks"} <= yaml.read(path).keys():
        from rlrf.preflight.guards import plan_run

        return plan_run(path, discordance)
    policy = load_policy(path)
    return policy, _known_metrics(policy), []


def _count_items(
    policy: Policy,
    metrics: Mapping[tuple[str, str], Metric],
    svg_file: Path | None,
    **spread: Any,
) -> None:
    """Print items against margin and power for the rules of `policy`; draw them on request."""
    from harness.core.outputs import PICTURE, check_optional_file
    from harness.gate import sizing
    from harness.render import sizing as render

    drawn = check_optional_file(svg_file, PICTURE, [])
    found, unanswered = sizing.size_tables(policy, metrics, **spread)
    if drawn:
        drawn.write(render.draw(found))
    print_result({"tables": found, "unanswered": unanswered}, render.tables(found))
    for rule in unanswered:
        say(f"Not counted: {rule}.")


def _known_metrics(policy: Policy) -> dict[tuple[str, str], Metric]:
    """Return the metrics of the policy's tasks that are installed, by task and name."""
    import tasks

    installed = {rule.task for rule in policy.rules} & set(tasks.names())
    return {
        (name, metric.name): metric for name in installed for metric in tasks.load(name).metrics
    }


def _write_plan(
    policy: Policy,
    reads: list[Path | None],
    out: Path,
    how: dict[str, Any],
    spread: dict[str, float | None],
    *,
    baseline: Path,
    second: Path | None,
    name: str | None,
    selection: Selection,
    **clustering: Any,
) -> None:
    """Plan the gate for a baseline, write the plan, and print what it can show."""
    from harness.core.files import json_text
    from harness.core.outputs import check_file, json_of
    from harness.evals import inputs
    from harness.gate import plan as planning
    from harness.gate.clusters import notes
    from harness.gate.evidence import gather
    from harness.gate.planned_rule import AssumedSpread
    from harness.gate.subgroups import Groups
    from harness.render import sizing as render
    from rlrf.gating import name_clusters, select

    kind = json_of("a plan of `rlrf plan`", planning.Plan)
    written = check_file(out, kind, [baseline, second, *reads])
    again, selection = None, select(policy, selection)
    if second:
        before, again = inputs.load_both(baseline, second, name, policy.tasks, selection)
    else:
        before = inputs.load(baseline, name, policy.tasks, selection)
    file = clustering["cluster_file"]
    columns = inputs.read_clusters(file) if file else None
    policy = name_clusters(policy, clustering["cluster"], columns)
    groups = Groups.find(policy, before, again or before, columns)
    assumed = AssumedSpread(**spread)
    made = planning.make_plan(policy, before, second=again, assumed=assumed, groups=groups, **how)
    written.write(json_text(made))
    print_result(made.model_dump(mode="json") | {"identity": made.identity}, render.plan(made))
    sequential = made.mode == "sequential"
    if sequential and made.about == "items":
        say(
            "The verdict will be about the planned items alone: a candidate that passes may well "
            "be worse by the margin on other questions of the kind."
        )
    for rule in made.rules:
        if rule.note:
            say(f"Note: {rule.name}: {rule.note}.")
    gathered = gather(policy, before, again or before, groups.clusters)
    for note in notes(policy, gathered, before, again):
        say(f"Note: {note}.")
    about = f" about the {made.about}" if sequential else ""
    say(f"{out} is plan {made.identity[:12]}, {made.mode}{about}.")
