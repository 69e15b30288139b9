"""`rlrf knowledge`."""

from __future__ import annotations

from pathlib import Path

import click

from rlrf.cli import options
from rlrf.cli.options import FILE
from rlrf.cli.output import print_result


@click.group()
def knowledge() -> None:
    """Knowledge sources for FActScore: titled pages in a SQLite file.

    \b
    rlrf knowledge build pages.jsonl wiki.db
    rlrf knowledge show wiki.db "Marie Curie"
    """


@knowledge.command("build")
@click.argument("pages", type=FILE)
@click.argument("db", type=FILE)
@options.as_json
def knowledge_build(pages: Path, db: Path) -> None:
    """Build the knowledge source DB from PAGES, JSONL with one {"title", "text"} per line.

    \b
    rlrf knowledge build pages.jsonl wiki.db
    """
    from tasks.factscore.knowledge import build_knowledge

    count = build_knowledge(pages, db)
    print_result({"knowledge": db, "pages": count}, f"{db} holds {count:,} pages.")


@knowledge.command("show")
@click.argument("db", type=FILE)
@click.argument("title")
@options.as_json
def knowledge_show(db: Path, title: str) -> None:
    """Print the passages of the page called TITLE in DB.

    \b
    rlrf knowledge show wiki.db "Marie Curie"
    """
    from harness.core.errors import UserError
    from tasks.factscore.knowledge import Knowledge

    with Knowledge(db) as source:
        passages = source.page(title)
    if passages is None:
        raise UserError(f"{db} has no page called '{title}'. Titles must match exactly.")
    print_result({"title": title, "passages": passages}, "\n\n".join(passages))
