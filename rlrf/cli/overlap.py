"""`rlrf overlap`."""

from __future__ import annotations

from pathlib import Path

import click

from rlrf.cli import options
from rlrf.cli.output import EXIT, print_result

MAX_SHOWN = 10


@click.command()
@click.argument("train")
@click.argument("eval_", metavar="EVAL")
@click.option("--field", "fields", multiple=True, help="Compare this field only; repeatable.")
@click.option(
    "--words",
    type=click.IntRange(min=8),
    default=13,
    show_default=True,
    help="Words in a row that count as shared.",
)
@click.option(
    "--common",
    type=options.COUNT,
    help="Leave out what more items than this share.  [default: 10, or 1 % of the items if that "
    "is more, or half if that is fewer]",
)
@options.include_path
@options.data
@options.as_json
def overlap(
    train: str,
    eval_: str,
    fields: tuple[str, ...],
    words: int,
    common: int | None,
    data: Path | None,
) -> int:
    """List the items of EVAL that share text with TRAIN.

    Each of the two is a file (JSON, JSON lines, CSV, Parquet, text), an evaluation folder, a run,
    or a benchmark such as gsm8k:train, also of lm-eval. An item overlaps if it shares 13 words in a
    row with a training text, or is nearly the same. Exits 1 if there is an overlap, 0 if none.

    \b
    rlrf overlap my_training_set.jsonl gsm8k:test --data data
    rlrf overlap runs/quickstart mini_gsm8k:sealed
    rlrf overlap my_training_set.jsonl my_task --include-path my_tasks
    rlrf overlap train.jsonl test.parquet --field question --json
    """
    from rlrf.overlap import find_overlap, open_texts

    result = find_overlap(
        open_texts(train, fields=fields, data=data, training=True),
        open_texts(eval_, fields=fields, data=data),
        words=words,
        limit=common,
    )
    print_result(result, result.text(MAX_SHOWN))
    return EXIT["fail" if result.overlapping else "pass"]
