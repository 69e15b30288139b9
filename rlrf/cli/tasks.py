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
@options.as_json
@click.pass_context
def tasks(context: click.Context, path_only: bool) -> None:
    """List the benchmarks, or start a new one.

    \b
    rlrf tasks
    rlrf tasks new capitals
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


@tasks.command()
@click.argument("name")
@click.option("--judged", is_flag=True, help="Grade responses by a judge instead of by code.")
@click.option("--out", type=FOLDER, help="Folder for NAME/.  [default: tasks/ of this checkout]")
@options.as_json
def new(name: str, judged: bool, out: Path | None) -> None:
    """Write a new benchmark NAME that works at once, with tests, for you to change.

    It asks for capitals of countries. The folder has the YAML for lm-eval, items, scoring and
    feedback; docs/recipes says what to change in each.

    \b
    rlrf tasks new capitals
    rlrf tasks new essays --judged
    """
    from rlrf.new_task import new_task
    from tasks import FOLDER as INSTALLED

    written = new_task(name, out, judged=judged)
    print_result(written, "\n".join(map(str, written)))
    if written[0].parent.parent.resolve() != INSTALLED:
        say(f"Benchmarks are found in {INSTALLED} only: move {written[0].parent} there.")
    say(f"Test it: pytest {written[-1]}")
