"""`rlrf plan`, `rlrf gate`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.core.errors import UserError
from harness.core.log import annotate, say, show
from rlrf.cli.common import EXIT, FILE, FOLDER, PATH, as_json, margins, print_json

if TYPE_CHECKING:
    from harness.core.outputs import OutputFile
    from harness.core.schema import Decision, Estimand, Policy
    from harness.gate.plan import Plan

SUMMARY = "GITHUB_STEP_SUMMARY"


class ClustersParam(click.ParamType[int | Path]):
    """A number of clusters, or a file that names the cluster of each item."""

    name = "N|FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Path:
        return int(value) if str(value).isdecimal() else Path(value)


@click.command()
@click.argument("policy", type=FILE)
@click.option("--baseline", type=PATH, help="Evaluations that candidates will be compared with.")
@click.option("--name", help="The model's name, where BASELINE is a leaderboard.")
@click.option(
    "--second", type=PATH, help="Another run of the baseline, to measure how much it varies."
)
@click.option(
    "--discordance", type=float, help="Share of yes/no items whose answer flips by chance."
)
@click.option("--sd", type=float, help="Standard deviation of a graded item's gain.")
@click.option("--cluster", help="Tag or field that items share, such as passage.")
@click.option(
    "--clusters",
    type=ClustersParam(),
    help="With --baseline: file with each item's cluster. Without: number of clusters.",
)
@click.option("--icc", type=float, help="Correlation of two items' gains within a cluster.")
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
@as_json
def plan(
    *,
    policy: Path,
    baseline: Path | None,
    name: str | None,
    second: Path | None,
    discordance: float | None,
    sd: float | None,
    cluster: str | None,
    clusters: int | Path | None,
    icc: float | None,
    sequential: bool,
    estimand: str | None,
    out: Path | None,
    svg_file: Path | None,
    json_: bool,
) -> None:
    """Record how a gate by POLICY will decide, before the candidate has any score.

    POLICY is a file, or a policy that comes with the harness: gsm8k, just_eval, factscore. The plan
    is refused if an unchanged model would pass a critical rule less than 80 % of the time; the
    message says how many items are needed.

    Without --baseline no plan is written: the command prints how many items each margin needs,
    and --svg draws it. For clustered items, give the number of clusters and --icc.

    The verdict of a sequential plan is about all questions of the kind (population), or only about
    the planned items (items), which needs fewer items but claims nothing about other questions.

    \b
    rlrf plan gsm8k --discordance 0.1 --svg items.svg
    rlrf plan just_eval --sd 0.6 --clusters 40 --icc 0.2
    rlrf plan gsm8k --baseline evaluations/m0 --discordance 0.1 --out plan.json
    rlrf plan policy.yaml --baseline evaluations/m0 --second evaluations/m0_again --out plan.json
    rlrf plan policy.yaml --baseline evaluations/m0 --cluster passage --icc 0.1 --out plan.json
    rlrf gate --plan plan.json evaluations/m0 evaluations/m1
    """
    from harness.gate.policy import load_policy
    from rlrf.cli.sizing import count_items

    rules = load_policy(policy)
    if estimand is not None and not sequential:
        raise UserError("--estimand is only for sequential plans: add --sequential, or remove it.")
    if baseline is None:
        needs = {"--name": name, "--second": second, "--cluster": cluster, "--out": out}
        needs["--sequential"] = "yes" if sequential else None
        if given := [option for option, value in needs.items() if value is not None]:
            raise UserError(
                f"{given[0]} needs a --baseline, the evaluations to compare candidates with."
            )
        if isinstance(clusters, Path):
            raise UserError(
                f"Without --baseline there are no items to look up in {clusters}: add --baseline, "
                "or give the number of clusters, --clusters N."
            )
        count_items(
            rules,
            discordance=discordance,
            sd=sd,
            clusters=clusters,
            icc=icc,
            svg_file=svg_file,
            json_=json_,
        )
        return
    if out is None or svg_file is not None or isinstance(clusters, int):
        raise UserError(
            "With --baseline, name the file for the plan, --out, and name clusters by --cluster or "
            "--clusters FILE. --svg and a number of clusters are only for use without --baseline."
        )
    _write_plan(
        rules,
        (policy, baseline, name, second),
        out,
        discordance=discordance,
        sd=sd,
        clustering=(cluster, clusters),
        icc=icc,
        sequential=sequential,
        estimand="items" if estimand == "items" else "population",
        json_=json_,
    )


def _write_plan(
    rules: Policy,
    source: tuple[Path, Path, str | None, Path | None],
    out: Path,
    *,
    discordance: float | None,
    sd: float | None,
    clustering: tuple[str | None, Path | None],
    icc: float | None,
    sequential: bool,
    estimand: Estimand,
    json_: bool,
) -> None:
    """Plan for the baseline in `source`: policy, folder, name, second run; say what it shows."""
    from harness.core.files import json_text
    from harness.core.outputs import check_file, json_of
    from harness.evals import inputs
    from harness.gate import plan as planning
    from harness.gate.clusters import assign, notes
    from harness.gate.evidence import gather
    from rlrf.gating import name_clusters

    policy, baseline, name, second = source
    kind = json_of("a plan of `rlrf plan`", planning.Plan)
    written = check_file(out, kind, [policy, baseline, second, clustering[1]])
    again = None
    if second:
        before, again = inputs.load_both(baseline, second, name, rules.tasks)
    else:
        before = inputs.load(baseline, name, rules.tasks)
    rules, columns = name_clusters(rules, *clustering)
    assigned = assign(rules, before, again or before, columns)
    made = planning.make_plan(
        rules,
        before,
        sequential=sequential,
        estimand=estimand,
        second=again,
        discordance=discordance,
        sd=sd,
        icc=icc,
        clusters=assigned,
    )
    written.write(json_text(made))
    if json_:
        print_json(made.model_dump(mode="json") | {"identity": made.identity})
    else:
        _show_plan(made)
    for rule in made.rules:
        if rule.note:
            say(f"Note: {rule.task} {rule.metric}: {rule.note}.")
    for note in notes(rules, gather(rules, before, again or before, assigned), before, again):
        say(f"Note: {note}.")
    about = f" about the {made.about}" if sequential else ""
    say(f"{out} is plan {made.identity[:12]}, {made.mode}{about}.")


def _show_plan(made: Plan) -> None:
    from harness.render.table import table

    sequential, clustered = made.mode == "sequential", bool(made.clusters)
    heads = ["rule", "tier", "margin", "test", "n", "spread", "from", "power", "detectable"]
    heads += ["about", "items if unchanged"] if sequential else []
    heads += ["clusters", "icc", "design effect"] if clustered else []
    rows = []
    for rule in made.rules:
        row = [
            f"{rule.task} {rule.metric}",
            rule.tier,
            f"{rule.margin:g}",
            rule.test,
            f"{rule.n:,}",
            f"{rule.spread:.3g}",
            rule.spread_from,
            f"{rule.power:.2f}",
            f"{rule.minimum_detectable:.3g}",
        ]
        if sequential:
            row += [made.about, f"{rule.expected_items or 0:,}"]
        if clustered and rule.clusters is not None:
            row += [f"{rule.clusters}", f"{rule.icc:.2g} ({rule.icc_from})"]
            row += [f"{rule.design_effect:.3g}"]
        elif clustered:
            row += ["-"] * 3
        rows.append(row)
    show(table([heads, *rows]))
    if sequential and made.about == "items":
        say(
            "The verdict will be about the planned items alone: a candidate that passes may well "
            "be worse by the margin on other questions of the kind."
        )


@click.command()
@click.argument("baseline", type=PATH)
@click.argument("candidate", type=PATH, required=False)
@click.option("--policy", type=FILE, help="Gate policy: file, or gsm8k, ...  [default: see above]")
@margins
@click.option("--plan", "plans", type=FILE, multiple=True, help="What `rlrf plan` wrote.")
@click.option("--name", help="The model's name, where BASELINE is a leaderboard.")
@click.option("--drift", type=FILE, help="What `rlrf judge drift --json` printed.")
@click.option("--cluster", help="Tag or field that items share, such as passage.")
@click.option("--clusters", type=FILE, help="CSV or JSONL: the cluster of each item.")
@click.option("--model", help="Evaluate this candidate now: folder or hub id.")
@click.option("--engine", type=click.Choice(["hf"]), default="hf", show_default=True)
@click.option("--adapter", type=FOLDER, help="LoRA adapter on the model.")
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--max-batch", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--judge", "judge_file", type=FILE, help="YAML that says how answers are judged.")
@click.option("--data", type=PATH, help="Folder or file of the benchmark's data.")
@click.option("--out", type=FOLDER, help="Keep the evaluations of --model here.")
@click.option("--markdown", "markdown_file", type=FILE, help="Write the decision as Markdown.")
@click.option("--junit", "junit_file", type=FILE, help="Write the decision as JUnit XML.")
@click.option("--github", is_flag=True, help="Annotate the workflow run; fill the job's summary.")
@as_json
def gate(
    *,
    baseline: Path,
    candidate: Path | None,
    policy: Path | None,
    margin_texts: Sequence[str],
    plans: tuple[Path, ...],
    name: str | None,
    drift: Path | None,
    cluster: str | None,
    clusters: Path | None,
    model: str | None,
    engine: str,
    adapter: Path | None,
    device: str,
    dtype: str,
    max_batch: int,
    judge_file: Path | None,
    data: Path | None,
    out: Path | None,
    markdown_file: Path | None,
    junit_file: Path | None,
    github: bool,
    json_: bool,
) -> int:
    """Decide whether the evaluations in CANDIDATE are no worse than those in BASELINE.

    Exits with 0 for pass, 1 for a regression, 2 for inconclusive, 3 for an error. BASELINE and
    CANDIDATE are folders of evaluations, or what stock lm-eval wrote with --log_samples; BASELINE
    can also be a leaderboard, with --name. Without a policy, the primary metric of every task is
    critical: the gate tests at level .05 that it lost less than 5 % of its range, or than --margin.

    With --model the candidate is evaluated now, on the items of BASELINE. With a sequential plan
    the evaluation stops once the verdict is clear.

    If items share a passage, entity or template, name what they share: --cluster is a tag, a field
    of the reference, or a field of lm-eval's documents (doc.FIELD); --clusters is a file with a
    column 'item' or 'index' and a column of clusters.

    \b
    rlrf gate evaluations/m0 evaluations/m1
    rlrf gate evaluations/m0 evaluations/m1 --policy gsm8k --junit gate.xml
    rlrf gate --plan plan.json evaluations/m0 --model runs/first/iter_1/train/model
    rlrf gate leaderboards/mine --name M1 evaluations/m2
    rlrf gate results/old results/new --cluster doc.passage
    rlrf gate results/before results/after --margin rougeL_max=2
    """
    from harness.core import outputs
    from harness.evals import evaluation, inputs
    from harness.gate.policy import parse_margins
    from rlrf import gating

    if (candidate is None) == (model is None):
        raise UserError("Name either the folder CANDIDATE, or a model to evaluate with --model.")
    if len(plans) > 1:
        raise UserError("A gate follows one plan, which was written before: name one.")
    reads = [baseline, candidate, policy, *plans, drift, clusters, judge_file, data]
    markdown = outputs.check_optional_file(markdown_file, outputs.DECISION, reads)
    junit = outputs.check_optional_file(junit_file, outputs.JUNIT, reads)
    rules = gating.read_rules(
        policy,
        plans[0] if plans else None,
        parse_margins(margin_texts),
        cluster=cluster,
        cluster_file=clusters,
        drift=drift,
    )
    if candidate is not None:
        source = gating.load_evaluation(baseline, name) if name else baseline
        decision = rules.decide(*gating.load_sides(source, candidate, rules.tasks))
    else:
        from harness.engines.open import EngineSpec, open_engine
        from harness.evals.until_decided import CandidateModel
        from harness.judges.config import load_judging

        before = inputs.load(baseline, name, rules.tasks)
        inputs.require_ours(before, baseline)
        rules.check(before)
        judging = load_judging(judge_file)
        tasks = [judging.task(task) for task in sorted(rules.policy_for(before)[0].tasks)]
        if out is not None:
            reads += [Path(str(model)), adapter]
            evaluation.check_out(out, [task.name for task in tasks], reads)
        with judging.open() as judge:
            loaded = open_engine(
                EngineSpec(
                    str(model), adapter=adapter, device=device, dtype=dtype, max_batch=max_batch
                )
            )
            asked = CandidateModel(loaded, tasks, data, judge)
            if rules.plan and rules.plan.mode == "sequential":
                decision, _ = asked.evaluate_until_decided(rules.plan, before, out, rules.doubts)
            else:
                decision = rules.decide(before, asked.evaluate_like(before, out))
    _tell(decision, markdown, junit, github=github, json_=json_)
    return EXIT[decision.verdict]


def _tell(
    decision: Decision,
    markdown_file: OutputFile | None,
    junit_file: OutputFile | None,
    *,
    github: bool,
    json_: bool,
) -> None:
    """Show the decision wherever it was asked for; it stands where that cannot be written."""
    from harness.render import github as actions
    from harness.render import junit, markdown

    text = markdown.decision(decision)
    if markdown_file:
        _write(markdown_file, text)
    if junit_file:
        _write(junit_file, junit.decision(decision))
    if github:
        annotate(actions.commands(decision))
        if summary := os.environ.get(SUMMARY):
            try:
                with open(summary, "a", encoding="utf-8") as file:  # GitHub's own, of the step
                    file.write(actions.summary(text, actions.MAX_SUMMARY_BYTES - file.tell()))
            except OSError as error:
                say(
                    f"The job summary {summary} could not be written ({error.strerror}). The "
                    "verdict stands.",
                    "error",
                )
    print_json(decision.model_dump(mode="json")) if json_ else show(text)


def _write(file: OutputFile, text: str) -> None:
    try:
        file.write(text)
    except UserError as error:
        say(f"{error} The verdict stands.", "error")
