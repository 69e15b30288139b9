"""`rlrf plan`, `rlrf gate`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import UserError
from harness.progress import annotate, say, show
from rlrf.cli.common import EXIT, FILE, FOLDER, PATH, as_json, margins, print_json

if TYPE_CHECKING:
    from harness.gate.plan import Plan
    from harness.outputs import OutputFile
    from harness.schema import Decision, Policy
    from harness.sides import Side

SUMMARY = "GITHUB_STEP_SUMMARY"


@click.command()
@click.argument("policy", type=FILE)
@click.option("--baseline", type=PATH, required=True, help="What candidates will be held to.")
@click.option("--name", help="The model's name, where BASELINE is a leaderboard.")
@click.option("--second", type=PATH, help="Another run of the baseline, to see how it varies.")
@click.option("--discordance", type=float, help="Share of yes/no items expected to flip.")
@click.option(
    "--sequential", is_flag=True, help="Look after every item, and stop when it is clear."
)
@click.option("--out", type=FILE, required=True, help="The plan, a JSON file.")
@as_json
def plan(
    *,
    policy: Path,
    baseline: Path,
    name: str | None,
    second: Path | None,
    discordance: float | None,
    sequential: bool,
    out: Path,
    json_: bool,
) -> None:
    """Write down what a gate by POLICY will decide by, before the candidate has any score.

    POLICY is a file, or one that comes with the harness: gsm8k, just_eval, factscore. A critical
    rule that could not tell an unchanged candidate with power .8 is refused, with the number of
    items that it takes.

    \b
    rlrf plan gsm8k --baseline evaluations/m0 --discordance 0.1 --out plan.json
    rlrf plan policy.yaml --baseline evaluations/m0 --second evaluations/m0_again --out plan.json
    rlrf gate --plan plan.json evaluations/m0 evaluations/m1
    """
    from harness import sides
    from harness.gate import plan as planning
    from harness.outputs import check_file, json_of
    from harness.settings import load_policy
    from harness.store import json_text
    from rlrf.result import table

    kind = json_of("a plan of `rlrf plan`", planning.Plan)
    written = check_file(out, kind, [policy, baseline, second])
    again, rules = None, load_policy(policy)
    if second:
        before, again = sides.load_both(baseline, second, name, rules.tasks)
    else:
        before = sides.load(baseline, name, rules.tasks)
    made = planning.make(
        rules,
        before,
        sequential=sequential,
        second=again,
        discordance=discordance,
    )
    written.write(json_text(made))
    if json_:
        print_json(made.model_dump(mode="json") | {"identity": made.identity})
        return
    heads = ["rule", "tier", "margin", "test", "n", "spread", "from", "power", "detectable"]
    rows = [
        [
            f"{rule.task} {rule.metric}",
            rule.tier,
            f"{rule.margin:g}",
            rule.test,
            f"{rule.n:,}",
            f"{rule.spread:.3g}",
            rule.spread_from,
            f"{rule.power:.2f}",
            f"{rule.minimum_detectable:.3g}",
            *([f"{rule.expected_items:,}"] if rule.expected_items is not None else []),
        ]
        for rule in made.rules
    ]
    show(table([[*heads, *(["items if unchanged"] if sequential else [])], *rows]))
    say(f"{out} is plan {made.identity[:12]}, {made.mode}.")


@click.command()
@click.argument("baseline", type=PATH)
@click.argument("candidate", type=PATH, required=False)
@click.option("--policy", type=FILE, help="File or name: gsm8k, ...  [default: see above]")
@margins
@click.option("--plan", "plans", type=FILE, multiple=True, help="What `rlrf plan` wrote.")
@click.option("--name", help="The model's name, where BASELINE is a leaderboard.")
@click.option("--drift", type=FILE, help="What `rlrf judge drift --json` printed.")
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

    Exits 0 pass, 1 regression, 2 inconclusive, 3 error. Both are folders of evaluations, or what
    stock lm-eval wrote with --log_samples; BASELINE may be a model on a leaderboard. Without a
    policy, the primary metric of every task is critical: it may not lose 5 % of its range, or the
    --margin that you name, at level .05.

    With --model the candidate is evaluated now, on the items of BASELINE; by a sequential plan
    only until the verdict is clear.

    \b
    rlrf gate evaluations/m0 evaluations/m1
    rlrf gate evaluations/m0 evaluations/m1 --policy gsm8k --junit gate.xml
    rlrf gate --plan plan.json evaluations/m0 --model runs/first/iter_1/train/model
    rlrf gate leaderboards/mine --name M1 evaluations/m2
    rlrf gate results/before results/after --margin rougeL_max=2
    """
    from harness import evaluation, outputs, sides
    from harness.gate import gate as decide
    from harness.gate import plan as planning

    if (candidate is None) == (model is None):
        raise UserError("Name either the folder CANDIDATE, or a model to evaluate with --model.")
    if len(plans) > 1:
        raise UserError("A gate follows one plan, which was written before: name one.")
    reads = [baseline, candidate, policy, *plans, drift, judge_file, data]
    markdown = outputs.check_optional_file(markdown_file, outputs.DECISION, reads)
    junit = outputs.check_optional_file(junit_file, outputs.JUNIT, reads)
    planned, written = read_rules(plans[0] if plans else None, policy, margin_texts)
    wanted = written.tasks if written else None
    doubts = read_doubts(drift)
    if candidate is not None:
        before, after = sides.load_both(baseline, candidate, name, wanted)
        rules = written or policy_for(before, margin_texts)
        decision = decide(before, after, rules, plan=planned, doubts=doubts)
    else:
        from harness import watch
        from harness.engines.hf import HFEngine
        from harness.judge.config import load_judging

        before = sides.load(baseline, name, wanted)
        sides.require_ours(before, baseline)
        rules = written or policy_for(before, margin_texts)
        if planned:
            planning.orders(planned, before)
        judging = load_judging(judge_file)
        tasks = [judging.task(task) for task in sorted({rule.task for rule in rules.rules})]
        if out is not None:
            reads += [Path(str(model)), adapter]
            evaluation.check_out(out, [task.name for task in tasks], reads)
        with judging.open() as judge:
            asked = HFEngine(
                str(model), adapter=adapter, device=device, dtype=dtype, max_batch=max_batch
            )
            if planned and planned.mode == "sequential":
                decision, _ = watch.watch(
                    asked, planned, before, tasks, data=data, judge=judge, out=out, doubts=doubts
                )
            else:
                found = watch.evaluate_like(asked, before, tasks, data=data, judge=judge, out=out)
                decision = decide(before, found, rules, plan=planned, doubts=doubts)
    _tell(decision, markdown, junit, github=github, json_=json_)
    return EXIT[decision.verdict]


def read_rules(
    plan: Path | None, policy: Path | None, margin_texts: Sequence[str]
) -> tuple[Plan | None, Policy | None]:
    """Read the plan and the policy that are named; of a plan, its policy.

    Raises:
        UserError: two of plan, policy and margins are named; or one cannot be read.
    """
    from harness.gate.plan import Plan
    from harness.settings import load_policy
    from harness.store import parse, read_json

    if plan and (policy or margin_texts):
        raise UserError("A plan has its policy in it: give either --plan or --policy, or --margin.")
    if policy and margin_texts:
        raise UserError("A policy has its margins in it: give either --policy or --margin.")
    if plan:
        planned = parse(Plan, read_json(plan), str(plan))
        return planned, planned.policy
    return None, load_policy(policy) if policy else None


def policy_for(baseline: Mapping[str, Side], margin_texts: Sequence[str]) -> Policy:
    """The default policy for the tasks of the baseline, with the margins that are named.

    Raises:
        UserError: as `harness.settings.default_policy` and `parse_margins`.
    """
    from harness.settings import default_policy, parse_margins

    definitions = {task: one.evaluation.definitions.values() for task, one in baseline.items()}
    return default_policy(definitions, parse_margins(margin_texts))


def read_doubts(drift: Path | None) -> dict[tuple[str, str], str]:
    """Read which metrics the judge may not grade as it did, from what `judge drift` printed."""
    from harness.judge.drift import Drift
    from harness.store import parse, read_json

    if drift is None:
        return {}
    found = parse(Drift, read_json(drift), str(drift))
    return {
        (found.task, metric.metric): f"the judge's drift is {metric.verdict}"
        for metric in found.metrics
        if metric.verdict != "stable"
    }


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
                    file.write(actions.summary(text, actions.SUMMARY_BYTES - file.tell()))
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
