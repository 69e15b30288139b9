"""`rlrf tasks`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.core.log import say, show
from rlrf.cli import options
from rlrf.cli.options import FOLDER
from rlrf.cli.output import print_result


@click.group(invoke_without_command=True)
@click.option("--path", "path_only", is_flag=True, help="Print the folder for lm_eval.")
@options.include_path
@options.as_json
@click.pass_context
def tasks(context: click.Context, path_only: bool) -> None:
    """List the benchmarks, or start a new one.

    \b
    rlrf tasks
    rlrf tasks --include-path benchmarks
    rlrf tasks new capitals --out benchmarks
    lm_eval run --include_path $(rlrf tasks --path) --tasks mini_gsm8k --batch_size 32 ...
    """
    if context.invoked_subcommand:
        return
    import tasks as benchmarks
    from harness.render.table import table

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
