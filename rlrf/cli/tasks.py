"""`rlrf tasks`."""

from __future__ import annotations

import click

from harness.core.log import show
from rlrf.cli import options
from rlrf.cli.output import print_result


@click.group(invoke_without_command=True)
@click.option("--path", "path_only", is_flag=True, help="Print the folder for lm_eval.")
@options.as_json
@click.pass_context
def tasks(context: click.Context, path_only: bool) -> None:
    """List the benchmarks, or start a new one.

    \b
    rlrf tasks
    lm_eval run --include_path $(rlrf tasks --path) --tasks mini_gsm8k --batch_size 32 ...
    """
    import tasks as benchmarks
    from harness.render.table import table

    if context.invoked_subcommand:
        return
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
