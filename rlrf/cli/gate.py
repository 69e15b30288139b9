"""`rlrf gate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.core.errors import UserError
from harness.core.log import annotate, say
from rlrf.cli import options
from rlrf.cli.options import COUNT, FILE, FOLDER, PATH
from rlrf.cli.output import EXIT, print_result

if TYPE_CHECKING:
    from harness.core.outputs import OutputFile
    from harness.core.schema import Decision

SUMMARY = "GITHUB_STEP_SUMMARY"


@click.command()
@click.argument("baseline", type=PATH)
@click.argument("candidate", type=PATH, required=False)
@options.rules
@options.board_name
@options.selection
@options.bundle(
    "clusters",
    options.cluster,
    click.option(
        "--clusters",
        "cluster_file",
        type=FILE,
        help="CSV or JSONL: clusters and subgroups of each item.",
    ),
)
@options.bundle(
    "engine",
    click.option("--model", help="Evaluate this candidate now: folder or hub id."),
    click.option(
        "--engine",
        "kind",
        type=click.Choice(["hf"]),
        default="hf",
        show_default=True,
        help="What runs --model.",
    ),
    options.adapter,
    click.option(
        "--device", default="auto", show_default=True, help="cpu or cuda; auto: cuda if available."
    ),
    click.option(
        "--dtype", default="auto", show_default=True, help="float32, bfloat16 or float16."
    ),
    click.option(
        "--max-batch", type=COUNT, default=256, show_default=True, help="Responses per batch."
    ),
)
@options.bundle(
    "evaluation",
    options.judge_file,
    options.data,
    click.option("--out", type=FOLDER, help="Keep the evaluations of --model here."),
)
@options.bundle(
    "written",
    click.option("--markdown", type=FILE, help="Write the decision as Markdown."),
    click.option("--junit", type=FILE, help="Write the decision as JUnit XML."),
    click.option(
        "--github", is_flag=True, help="Annotate the workflow run; fill the job's summary."
    ),
)
@options.include_path
@options.as_json
def gate(
    *,
    baseline: Path,
    candidate: Path | None,
    rules: dict[str, Any],
    name: str | None,
    selection: dict[str, Any],
    clusters: dict[str, Any],
    engine: dict[str, Any],
    evaluation: dict[str, Path | None],
    written: dict[str, Any],
) -> int:
    """Decide whether the evaluations in CANDIDATE are no worse than those in BASELINE.

    Exits with 0 for pass, 1 for a regression, 2 for inconclusive, 3 for an error. BASELINE and
    CANDIDATE are folders of evaluations, or results of another tool: lm-eval (with --log_samples),
    Inspect, promptfoo, DeepEval, NeMo Evaluator, or a table with a row per item (CSV, JSON lines,
    Parquet), whose columns --item and --metric name. docs/results.md says what is read of each.
    BASELINE can also be a leaderboard, with --name. Without a policy, the primary metric of every
    task, or each --metric, is critical: the gate tests at level .05 that it lost less than 5 % of
    its range, or than --margin.

    With --model the candidate is evaluated now, on the items of BASELINE. With a sequential plan
    the evaluation stops once the verdict is clear.

    If items share a passage, entity or template, name what they share: --cluster is a tag, a field
    of the reference, or a field of lm-eval's documents (doc.FIELD); --clusters is a file with a
    column 'item' or 'index' and a column of clusters.

    A rule with `every: TAG` asks that no subgroup of items (topic, difficulty, subtask) loses more
    than the margin: {task: gsm8k, metric: accuracy, margin: 0.1, tier: guardrail, every: topic}.

    \b
    rlrf gate evaluations/m0 evaluations/m1
    rlrf gate evaluations/m0 evaluations/m1 --policy gsm8k --junit gate.xml
    rlrf gate --plan plan.json evaluations/m0 --model runs/first/iter_1/train/model
    rlrf gate leaderboards/mine --name M1 evaluations/m2
    rlrf gate results/old results/new --cluster doc.passage
    rlrf gate results/before results/after --margin rougeL_max=2
    rlrf gate before.csv after.csv --item id --metric correct
    rlrf gate logs/before.eval logs/after.eval
    """
    from harness.core import outputs
    from harness.engines.open import EngineSpec
    from rlrf import gating

    if (candidate is None) == (engine["model"] is None):
        raise UserError("Name either CANDIDATE, or a model to evaluate with --model.")
    reads = [baseline, candidate, rules["policy"], *rules["plans"], rules["drift"]]
    reads += [clusters["cluster_file"], evaluation["judge_file"], evaluation["data"]]
    markdown = outputs.check_optional_file(written["markdown"], outputs.DECISION, reads)
    junit = outputs.check_optional_file(written["junit"], outputs.JUNIT, reads)
    how = options.read_rules(rules, selection=options.select(selection), **clusters)
    if candidate is not None:
        source = gating.load_evaluation(baseline, name) if name else baseline
        sides = gating.load_sides(source, candidate, how.tasks, how.selection)
        decision = how.decide(*sides)
    else:
        asked = EngineSpec(**engine)
        decision = gating.gate_model(baseline, name, asked, how, reads=reads, **evaluation)
    _publish(decision, markdown, junit, github=written["github"])
    return EXIT[decision.verdict]


def _publish(
    decision: Decision,
    markdown_file: OutputFile | None,
    junit_file: OutputFile | None,
    *,
    github: bool,
) -> None:
    """Print the decision and write it where asked; it stands where that fails."""
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
    print_result(decision, text)


def _write(file: OutputFile, text: str) -> None:
    try:
        file.write(text)
    except UserError as error:
        say(f"{error} The verdict stands.", "error")
