"""`rlrf tasks`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.core.log import say, show
from rlrf.cli import options
from rlrf.cli.options import FOLDER
from rlrf.cli.output import ERROR, EXIT, print_json, print_result, wants_json


@click.group(invoke_without_command=True)
@click.option("--path", "path_only", is_flag=True, help="Print the folder for lm_eval.")
@options.include_path
@options.as_json
@click.pass_context
def tasks(context: click.Context, path_only: bool) -> None:
    """List the benchmarks, check them, or start a new one.

    \b
    rlrf tasks
    rlrf tasks --include-path benchmarks
    rlrf tasks check mini_gsm8k
    rlrf tasks new capitals --out benchmarks
    lm_eval run --include_path $(rlrf tasks --path) --tasks mini_gsm8k --batch_size 32 ...
    """
    if context.invoked_subcommand:
        return
    import tasks as benchmarks
    from harness.core.text import listed
    from harness.render.table import table
    from tasks.plugins import included

    if path_only:
        show(benchmarks.FOLDER)
        return
    known = [benchmarks.load(name) for name in benchmarks.names()]
    records = [
        {
            "name": task.name,
            "version": task.version,
            "splits": list(task.splits),
            "metrics": list(task.metrics),
        }
        for task in known
    ]
    rows = [[task.name, task.primary.name, ", ".join(task.splits), task.version] for task in known]
    print_result(records, table([["task", "primary metric", "splits", "version"], *rows]))
    for problem in benchmarks.problems():
        say(problem)
    if included():
        from harness.evals.stock_tasks import names_in_yaml

        if others := sorted({*names_in_yaml()} - {*benchmarks.names()}):
            say(f"In YAML files for lm-eval: {listed(others)}.")


@tasks.command()
@click.argument("name")
@click.option("--judged", is_flag=True, help="Grade responses by a judge instead of by code.")
@click.option("--out", type=FOLDER, help="Folder for NAME/.  [default: benchmarks]")
@options.as_json
def new(name: str, judged: bool, out: Path | None) -> None:
    """Write a new benchmark NAME that works at once, with a test, for you to change.

    It asks for capitals of countries. OUT/NAME has the YAML for lm-eval, items, scoring and
    feedback; docs/recipes says what to change in each. Commands know it with --include-path OUT.
    In a checkout of this project the default is its tasks/ folder, which needs no --include-path.

    \b
    rlrf tasks new capitals --out benchmarks
    rlrf tasks new essays --judged --out benchmarks
    """
    from rlrf.new_task import new_task
    from tasks import FOLDER as INSTALLED

    written = new_task(name, out, judged=judged)
    print_result(written, "\n".join(map(str, written)))
    say(f"Test it: pytest {written[-1]}")
    folder = written[0].parent.parent
    included = "" if folder.resolve() == INSTALLED.resolve() else f"--include-path {folder} "
    say(f"Evaluate a model: rlrf eval {included}--tasks {name} --split gate --model MODEL")


@tasks.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--model", type=FOLDER, help="Render prompts for this model; check their length.")
@click.option(
    "--limit",
    type=options.COUNT,
    default=200,
    show_default=True,
    help="Items whose answers are scored and whose prompts are rendered.",
)
@click.option(
    "--confirm-run-unsafe-code",
    is_flag=True,
    help="Score tasks whose scoring runs code, such as humaneval.",
)
@options.include_path
@options.data
@options.as_json
def check(
    names: tuple[str, ...],
    model: Path | None,
    limit: int,
    confirm_run_unsafe_code: bool,
    data: Path | None,
) -> int:
    """Check benchmarks: their items, their scoring, their prompts.

    NAME is a benchmark of `rlrf tasks`, or a task, group or tag of lm-eval. Reference answers have
    to score full marks; empty and copied answers must not. No item may be there twice, or in two
    splits. Prompts have to render, and to fit the model. Exits 1 if a check fails, 3 if a benchmark
    could not be checked, for example because its data are not here, and else 0.

    \b
    rlrf tasks check mini_gsm8k mini_factscore
    rlrf tasks check my_benchmark --include-path benchmarks --model MODEL
    rlrf tasks check arc_easy truthfulqa_mc1 --json
    """
    import tasks as benchmarks
    from harness.evals.task_checks import check_tasks

    reports = []
    for report in check_tasks(
        names,
        include_path=benchmarks.plugins.included(),
        data=data,
        model=model,
        limit=limit,
        run_unsafe_code=confirm_run_unsafe_code,
    ):
        reports.append(report)
        if not wants_json():
            show(report.text())
    if wants_json():
        print_json([{"outcome": report.outcome, **dict(report)} for report in reports])
    outcomes = [report.outcome for report in reports]
    if len(reports) > 1:
        counts = ", ".join(f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes))
        say(f"{len(reports)} benchmarks: {counts}")
    if "fail" in outcomes:
        return EXIT["fail"]
    return ERROR if "not checked" in outcomes else EXIT["pass"]
