"""`rlrf rlmec`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.core import log
from rlrf.cli import options
from rlrf.cli.options import COUNT, FILE, PATH
from rlrf.cli.output import print_json, wants_json


@click.group()
def rlmec() -> None:
    """Inspect what RLMEC learns from: token rewards and edits.

    \b
    rlrf rlmec show runs/rlmec/iter_1 --html rewrites.html
    """


@rlmec.command()
@click.argument("iteration", type=PATH)
@click.option("--task", help="Only responses to this benchmark.")
@click.option("--right/--wrong", "right", default=None, help="Only right or only wrong responses.")
@click.option(
    "--limit", type=COUNT, default=20, show_default=True, help="Number of responses to show."
)
@click.option("--html", "html_", type=FILE, help="Write a page to this file, and print its name.")
@options.as_json
def show(
    iteration: Path, task: str | None, right: bool | None, limit: int, html_: Path | None
) -> None:
    """Show responses of ITERATION (RUN/iter_k) with a reward per token, and their rewrites.

    In a right response [+text with a positive reward+] is marked, in a wrong one [-text with a
    negative reward-], and in a rewrite {+an edit+}. The page holds prompts and answers, so check
    who may read them before you share it.

    \b
    rlrf rlmec show runs/rlmec/iter_1 --wrong --limit 5
    rlrf rlmec show runs/rlmec/iter_1 --limit 200 --html rewrites.html
    """
    from harness.core.outputs import PAGE, check_optional_file
    from rlrf.rlmec import show as view

    written = check_optional_file(html_, PAGE, [iteration])
    found, agreement = view.load(iteration)
    shown = view.choose(found, task=task, right=right)[:limit]
    if written is not None:
        written.write(view.page(shown, len(found), agreement))
    if wants_json():
        print_json({"rewrites": shown, "count": len(found), "agreement": agreement})
    elif html_ is not None:
        log.show(html_)
    else:
        from rich.console import Console

        console = Console(highlight=False)
        for one in shown:
            console.print(view.text(one), soft_wrap=True)  # `text` makes hidden characters visible
        log.show(f"{len(shown)} of {len(found)} rewrites")
        if agreement is not None:
            log.show(f"the rewriter on what it did not learn from: {agreement.sentence()}")
