"""`rlrf knowledge`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.core.log import show
from rlrf.cli.common import FILE, as_json, print_json


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
@as_json
def knowledge_build(pages: Path, db: Path, json_: bool) -> None:
    """Make the knowledge source DB of PAGES: {"title", "text"} a line.

    \b
    rlrf knowledge build pages.jsonl wiki.db
    """
    from tasks.factscore.knowledge import build_knowledge

    count = build_knowledge(pages, db)
    if json_:
        print_json({"knowledge": str(db), "pages": count})
    else:
        show(f"{db} holds {count:,} pages.")


@knowledge.command("show")
@click.argument("db", type=FILE)
@click.argument("title")
@as_json
def knowledge_show(db: Path, title: str, json_: bool) -> None:
    """Print the passages of the page called TITLE in DB.

    \b
    rlrf knowledge show wiki.db "Marie Curie"
    """
    from harness.core.errors import UserError
    from tasks.factscore.knowledge import Knowledge

    with Knowledge(db) as source:
        passages = source.page(title)
    if passages is None:
        raise UserError(f"{db} has no page called '{title}'. Titles count letter by letter.")
    if json_:
        print_json({"title": title, "passages": passages})
    else:
        show("\n\n".join(passages))
