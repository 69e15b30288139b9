"""`rlrf board`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.core.log import say, show, write_out
from harness.core.text import plural
from rlrf.cli import options
from rlrf.cli.options import FILE, FOLDER, PATH
from rlrf.cli.output import ERROR, print_json, print_result, wants_json

if TYPE_CHECKING:
    from harness.board.diff import Difference
    from harness.board.ledger import Row
    from harness.core.schema import MetricResult

board_argument = click.argument("folder", metavar="BOARD", type=FOLDER)
reason_option = click.option("--reason", required=True, help="Why; shown below the tables.")


@click.group()
def board() -> None:
    """Keep leaderboards: append-only folders whose every number can be recomputed.

    \b
    rlrf board add leaderboards/mine evaluations/m1 --name M1
    rlrf board verify leaderboards/mine
    rlrf board render leaderboards/mine > board.md
    rlrf board diff leaderboards/yours leaderboards/mine
    """


@board.command("add")
@board_argument
@click.argument("evaluations", type=PATH)
@click.option("--name", help="The model's name on the board.  [default: its id]")
@options.selection
@click.option("--run", "run_name", default="manual", show_default=True, help="The run's name.")
@options.include_path
@options.as_json
def board_add(
    folder: Path, evaluations: Path, name: str | None, selection: dict[str, Any], run_name: str
) -> None:
    """Add evaluations to BOARD: a folder, or results of another tool as for `rlrf gate`.

    \b
    rlrf board add leaderboards/mine evaluations/m1 --name M1
    rlrf board add leaderboards/mine results/lm_eval --name M1
    rlrf board add leaderboards/mine after.csv --item id --metric correct --name M1
    """
    from harness.board import Board
    from harness.board.standings import Standings
    from harness.evals import inputs

    target = Board(folder)
    target.check_place()
    added = inputs.load(evaluations, selection=options.select(selection))
    if name is None:
        inputs.require_model_names(added, evaluations)
    known = Standings(target.rows()).notes()
    digests = {
        task: target.add_evaluation(one, name or one.evaluation.model.id, run_name)
        for task, one in added.items()
    }
    for note in Standings(target.rows()).notes():
        if note not in known:
            say(note)
    print_result(digests, "\n".join(f"{task}: row {row[:12]}" for task, row in digests.items()))


@board.command("verify")
@board_argument
@click.option(
    "--rescore", is_flag=True, help="Also score the responses again, if --evaluations has them."
)
@click.option(
    "--evaluations",
    multiple=True,
    type=FOLDER,
    help="Folder with responses; repeatable.  [default: the run of BOARD]",
)
@options.include_path
@options.as_json
def board_verify(folder: Path, rescore: bool, evaluations: tuple[Path, ...]) -> int:
    """Recompute every row of BOARD from its scores; exit with 3 if anything differs.

    The tables in the folder (board.md, board.csv, board.tex, board.html) are recomputed, too.
    The output lists what was recomputed and what could not be.

    \b
    rlrf board verify leaderboards/mine
    rlrf board verify leaderboards/mine --rescore --evaluations evaluations
    """
    import dataclasses

    from harness.board import Board
    from harness.evals.verification import verify

    if evaluations and not rescore:
        raise click.UsageError("--evaluations goes with --rescore.")
    found = verify(Board(folder), rescoring=rescore, evaluations=evaluations)
    lines = list(found.problems) or [f"{folder} is sound."]
    lines += [f"Note: {note}" for note in found.notes]
    lines += [f"Recomputed: {what}." for what in found.recomputed]
    lines += [f"Not recomputed: {what}." for what in found.not_recomputed]
    print_result(dataclasses.asdict(found), "\n".join(lines))
    return ERROR if found.problems else 0


@board.command("supersede")
@board_argument
@click.argument("old")
@click.argument("new")
@reason_option
@options.as_json
def board_supersede(folder: Path, old: str, new: str, reason: str) -> None:
    """Replace the evaluation OLD by NEW on BOARD.

    Name both by the first characters of their row's digest. OLD, and the decisions and promotions
    based on it, no longer count; they stay on the record, with the reason.

    \b
    rlrf board supersede leaderboards/mine 3f2a91 77c0de --reason "the judge's prompt was cut"
    """
    from harness.board import Board

    row = Board(folder).supersede(old, new, reason)
    print_result({"row": row}, f"row {row[:12]}")


@board.command("invalidate")
@board_argument
@click.argument("row")
@reason_option
@options.as_json
def board_invalidate(folder: Path, row: str, reason: str) -> None:
    """Withdraw a row of BOARD, named by the first characters of its digest.

    The row, and whatever is based on it, no longer counts; it stays on the record, with the
    reason. To undo this, invalidate the invalidation.

    \b
    rlrf board invalidate leaderboards/mine 3f2a91 --reason "trained on the test items"
    """
    from harness.board import Board

    added = Board(folder).invalidate(row, reason)
    print_result({"row": added}, f"row {added[:12]}")


@board.command("diff")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@options.as_json
def board_diff(a: Path, b: Path) -> None:
    """Compare two boards (folders or ledger files): rows of only one, and numbers that differ.

    \b
    rlrf board diff leaderboards/yours leaderboards/mine
    git show v1.0:leaderboards/mine/ledger.jsonl > before.jsonl
    rlrf board diff before.jsonl leaderboards/mine
    """
    from harness.board.diff import diff, load

    found = diff(load(a), load(b))
    print_result(_difference_json(found), "\n".join(_difference(found)))


@board.command("merge-driver")
@click.argument("base", type=FILE)
@click.argument("ours", type=FILE)
@click.argument("theirs", type=FILE)
@click.argument("path")
def board_merge_driver(base: Path, ours: Path, theirs: Path, path: str) -> None:
    """Merge a board's file for git, which calls this command; see docs/leaderboard.md.

    The rows of both sides are kept. If a side is damaged or lost a row, git reports a conflict.

    \b
    git config merge.rlrf-board.driver "rlrf board merge-driver %O %A %B %P"
    """
    from harness.board.ledger import merge

    merge(base, ours, theirs, path)


@board.command("exposure")
@board_argument
@options.as_json
def board_exposure(folder: Path) -> None:
    """Count how many decisions used each item of BOARD: an item used often tells less.

    \b
    rlrf board exposure leaderboards/mine
    """
    from collections import Counter

    from harness.board import Board

    exposure = Board(folder).exposure()
    lines = []
    for task, items in exposure.items():
        decisions = sorted(Counter(items.values()).items())
        counts = ", ".join(f"{count:,} by {n}" for n, count in decisions)
        number = f"{len(items):,} {plural('item', len(items))}"
        lines.append(f"{task}: {number}; by how many decisions each was used: {counts}")
    print_result(
        {task: dict(items) for task, items in exposure.items()},
        "\n".join(lines) or "No decision is on the board yet.",
    )


@board.command("badge")
@board_argument
@options.bundle(
    "number",
    click.option("--task", required=True, help="The task of the number."),
    click.option("--metric", help="The metric.  [default: the task's primary one]"),
    click.option("--name", help="The model.  [default: the last promoted]"),
    click.option("--split", help="The split.  [default: the last that the model was evaluated on]"),
)
@click.option("--svg", type=FILE, help="Write a picture; else JSON for shields.io is printed.")
def board_badge(folder: Path, number: dict[str, Any], svg: Path | None) -> None:
    """Make a badge that shows one number of BOARD, with its interval.

    \b
    rlrf board badge leaderboards/mine --task gsm8k > badge.json
    rlrf board badge leaderboards/mine --task gsm8k --name M2 --split sealed --svg badge.svg
    """
    from harness.board import Board
    from harness.core.outputs import PICTURE, check_optional_file
    from harness.render.badge import badge

    picture = check_optional_file(svg, PICTURE, [folder])
    made = badge(Board(folder).rows(), **number)
    if picture:
        picture.write(made.svg())
    else:
        print_json(made.endpoint())


@board.command("export")
@board_argument
@click.option(
    "--format",
    "format_",
    type=click.Choice(["eee", "model-card"]),
    required=True,
    help="eee: files of Every Eval Ever; model-card: a section for a model's page on the hub.",
)
@click.option("--out", type=FOLDER, help="eee: folder to write the files to.")
@click.option("--organization", help="eee: who publishes the numbers.")
@click.option(
    "--relationship",
    type=click.Choice(["first_party", "third_party", "collaborative", "other"]),
    default="first_party",
    show_default=True,
    help="eee: how the evaluator relates to the model.",
)
@click.option("--name", help="model-card: the model's name on the board.")
def board_export(
    *,
    folder: Path,
    format_: str,
    out: Path | None,
    organization: str | None,
    relationship: Any,
    name: str | None,
) -> None:
    """Write BOARD for others: the Every Eval Ever store, or a model card on the hub.

    \b
    rlrf board export leaderboards/mine --format eee --organization "My Lab" --out eee
    rlrf board export leaderboards/mine --format model-card --name M2 > README.md
    """
    import time

    from harness.board import Board
    from harness.core.files import write_json
    from harness.core.outputs import check_export
    from harness.render import eee, model_card

    rows = Board(folder).rows()
    if format_ == "model-card":
        if not name:
            raise click.UsageError("--format model-card needs --name.")
        write_out(model_card.section(rows, name))
        return
    if not (out and organization):
        raise click.UsageError("--format eee needs --out and --organization.")
    logs = eee.board(rows, organization, int(time.time()), relationship)
    check_export(out)
    for path, log in logs.items():
        write_json(out / path, log)
    show(f"{len(logs)} {plural('file', len(logs))} under {out / 'data'}")


@board.command("render")
@board_argument
@click.option(
    "--format",
    "format_",
    type=click.Choice(["markdown", "csv", "latex", "html"]),
    default="markdown",
    show_default=True,
    help="Format of the tables.",
)
@click.option("--svg", type=FILE, help="Also draw the models on a split as a picture.")
@click.option("--split", default="sealed", show_default=True, help="The split to draw.")
@options.as_json
def board_render(folder: Path, format_: str, svg: Path | None, split: str) -> None:
    """Print BOARD as tables, or its rows as JSON.

    \b
    rlrf board render leaderboards/mine > board.md
    rlrf board render leaderboards/mine --format csv > board.csv
    rlrf board render leaderboards/mine --svg board.svg --split gate
    """
    import importlib

    from harness.board import Board
    from harness.core.outputs import PICTURE, check_optional_file
    from harness.render import plot

    picture = check_optional_file(svg, PICTURE, [folder])
    rows = Board(folder).rows()
    if picture:
        picture.write(plot.board(rows, split))
    if wants_json():
        print_json([_row_json(row) for row in rows])
    else:
        renderer = importlib.import_module(f"harness.render.{format_}")
        write_out(renderer.board(rows) + ("" if format_ == "csv" else "\n"))


def _row_json(row: Row) -> dict[str, Any]:
    """The row, with the digest of its entry, which supersessions and invalidations name."""
    from harness.core.schema import digest

    return row.model_dump(mode="json") | {"entry_digest": digest(row.entry)}


def _difference(found: Difference) -> list[str]:
    begin = "row begins" if found.common == 1 else "rows begin"
    lines = [f"{found.common:,} {begin} both."]
    if found.diverged:
        lines.append("They have diverged: each has rows that the other lacks.")
    lines += [f"only in A: {_said(row)}" for row in found.removed]
    lines += [f"only in B: {_said(row)}" for row in found.added]
    lines += [
        f"{c.name} ({c.run}), {c.task} {c.split} {c.metric}: {_number(c.before)} -> "
        f"{_number(c.after)}"
        for c in found.changes
    ]
    if not (found.removed or found.added):
        lines.append("They are the same.")
    return lines


def _difference_json(found: Difference) -> dict[str, Any]:
    return {
        "common": found.common,
        "diverged": found.diverged,
        "removed": [_row_json(row) for row in found.removed],
        "added": [_row_json(row) for row in found.added],
        "changes": [vars(change) for change in found.changes],
    }


def _said(row: Row) -> str:
    entry = row.entry
    if entry.kind == "evaluation":
        what = f"{entry.name} on {entry.evaluation.task} {entry.evaluation.split}"
    elif entry.kind == "decision":
        what = f"{entry.decision.verdict} against the {entry.against}"
    elif entry.kind == "promotion":
        what = f"{entry.candidate} {'' if entry.promotion.promoted else 'not '}promoted"
    else:
        what = getattr(entry, "reason", "two branches are one")
    return f"{row.digest[:12]} {entry.kind}, run {row.run}: {what}"


def _number(result: MetricResult | None) -> str:
    from harness.render.numbers import mean_and_interval

    if result is None or result.mean is None:
        return "none"
    return f"{mean_and_interval(result, '.4g')} n={result.n}"
