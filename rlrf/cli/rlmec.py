"""`rlrf rlmec`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.core import log
from rlrf.cli.common import FILE, PATH, as_json, print_json


@click.group()
def rlmec() -> None:
    """Look at what RLMEC learns from: token rewards and edits.

    \b
    rlrf rlmec show runs/rlmec/iter_1 --html rewrites.html
    """


@rlmec.command()
@click.argument("iteration", type=PATH)
@click.option("--task", help="Only of this benchmark.")
@click.option("--right/--wrong", "right", default=None, help="Only responses that are so.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--html", "html_", type=FILE, help="Write a page there, and print where it lies.")
@as_json
def show(
    *,
    iteration: Path,
    task: str | None,
    right: bool | None,
    limit: int,
    html_: Path | None,
    json_: bool,
) -> None:
    """Show the responses of ITERATION (RUN/iter_k) with a reward a token, and their rewrites.

    Of a right response [+what earns+] is marked, of a wrong one [-what loses-], and in the rewrite
    {+an edit+}. The page holds prompts and answers; mind who may read them before you share it.

    \b
    rlrf rlmec show runs/rlmec/iter_1 --wrong --limit 5
    rlrf rlmec show runs/rlmec/iter_1 --limit 200 --html rewrites.html
    """
    from harness.core.outputs import PAGE, check_optional_file
    from rlrf.rlmec import show as view

    written = check_optional_file(html_, PAGE, [iteration])
    found, agreement = view.load(iteration)
    chosen = view.choose(found, task=task, right=right)
    shown = chosen[:limit]
    if written is not None:
        written.write(view.page(shown, len(found), agreement))
    if json_:
        measured = agreement.model_dump(mode="json") if agreement else None
        rows = [one.model_dump(mode="json") for one in shown]
        print_json({"rewrites": rows, "count": len(found), "agreement": measured})
    elif html_ is not None:
        log.show(html_)
    else:
        from rich.console import Console

        console = Console(highlight=False)
        for one in shown:
            console.print(view.text(one), soft_wrap=True)  # which spells out what is hidden
        log.show(f"{len(shown)} of {len(found)} rewrites")
        if agreement is not None:
            log.show(f"the rewriter on what it did not learn from: {agreement.sentence()}")
