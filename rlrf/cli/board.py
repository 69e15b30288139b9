"""`rlrf board`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.core.log import show, write_out
from rlrf.cli.common import ERROR, FILE, FOLDER, PATH, as_json, print_json

if TYPE_CHECKING:
    from harness.board.diff import Change, Difference
    from harness.board.rows import Row
    from harness.core.schema import MetricResult


@click.group()
def board() -> None:
    """Leaderboards: folders that are appended to, never changed, and can be recomputed.

    \b
    rlrf board add leaderboards/mine evaluations/m1 --name M1
    rlrf board verify leaderboards/mine
    rlrf board render leaderboards/mine > board.md
    rlrf board diff leaderboards/yours leaderboards/mine
    """


@board.command("add")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@click.argument("evaluations", type=FOLDER)
@click.option("--name", help="What the model is called on the board.  [default: its id]")
@click.option("--run", "run_name", default="manual", show_default=True, help="Which run it is of.")
@as_json
def board_add(
    folder: Path, evaluations: Path, name: str | None, run_name: str, json_: bool
) -> None:
    """Add the evaluations of a folder to BOARD.

    \b
    rlrf board add leaderboards/mine evaluations/m1 --name M1
    """
    from harness.board import Board
    from harness.board.standings import notes
    from harness.core.log import say
    from harness.evals import evaluation

    target = Board(folder)
    target.check_place()
    known = notes(target.rows())
    digests = {
        task: target.add_evaluation(one, name or one.evaluation.model.id, run_name)
        for task, one in evaluation.load(evaluations).items()
    }
    for note in notes(target.rows()):
        if note not in known:
            say(note)
    if json_:
        print_json(digests)
    else:
        for task, row in digests.items():
            show(f"{task}: row {row[:12]}")


@board.command("verify")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@click.option(
    "--rescore", is_flag=True, help="Also score the responses again, if --evaluations has them."
)
@click.option(
    "--evaluations",
    multiple=True,
    type=FOLDER,
    help="Folder with responses; repeatable.  [default: the run of BOARD]",
)
@as_json
def board_verify(folder: Path, rescore: bool, evaluations: tuple[Path, ...], json_: bool) -> int:
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
    if json_:
        print_json(dataclasses.asdict(found))
    else:
        lines = list(found.problems) or [f"{folder} is sound."]
        lines += [f"Note: {note}" for note in found.notes]
        lines += [f"Recomputed: {what}." for what in found.recomputed]
        lines += [f"Not recomputed: {what}." for what in found.not_recomputed]
        show("\n".join(lines))
    return ERROR if found.problems else 0


@board.command("supersede")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@click.argument("old")
@click.argument("new")
@click.option("--reason", required=True, help="Why; it is shown below the tables.")
@as_json
def board_supersede(folder: Path, old: str, new: str, reason: str, json_: bool) -> None:
    """Let the evaluation NEW stand for OLD on BOARD.

    Both are named by the beginning of the digest of their row. OLD, and the decisions and
    promotions that rest on it, no longer count; they stay on the record, with the reason.

    \b
    rlrf board supersede leaderboards/mine 3f2a91 77c0de --reason "the judge's prompt was cut"
    """
    from harness.board import Board

    row = Board(folder).supersede(old, new, reason)
    print_json({"row": row}) if json_ else show(f"row {row[:12]}")


@board.command("invalidate")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@click.argument("row")
@click.option("--reason", required=True, help="Why; it is shown below the tables.")
@as_json
def board_invalidate(folder: Path, row: str, reason: str, json_: bool) -> None:
    """Withdraw a row of BOARD, named by the beginning of its digest.

    It, and what rests on it, no longer counts; it stays on the record, with the reason. To take
    that back, invalidate the invalidation.

    \b
    rlrf board invalidate leaderboards/mine 3f2a91 --reason "trained on the test items"
    """
    from harness.board import Board

    added = Board(folder).invalidate(row, reason)
    print_json({"row": added}) if json_ else show(f"row {added[:12]}")


@board.command("diff")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@as_json
def board_diff(a: Path, b: Path, json_: bool) -> None:
    """Compare two boards, folders or ledger files: what B has and A has not, and other numbers.

    \b
    rlrf board diff leaderboards/yours leaderboards/mine
    git show v1.0:leaderboards/mine/ledger.jsonl > before.jsonl
    rlrf board diff before.jsonl leaderboards/mine
    """
    from harness.board.diff import diff, load

    found = diff(load(a), load(b))
    if json_:
        print_json(_difference_json(found))
    else:
        for line in _difference(found):
            show(line)


@board.command("merge-driver")
@click.argument("base", type=FILE)
@click.argument("ours", type=FILE)
@click.argument("theirs", type=FILE)
@click.argument("path")
def board_merge_driver(base: Path, ours: Path, theirs: Path, path: str) -> None:
    """Merge a board's file for git, which calls this; docs/leaderboard.md says how.

    The rows of both sides are kept. Where a side is damaged, or lost a row, git reports a conflict.

    \b
    git config merge.rlrf-board.driver "rlrf board merge-driver %O %A %B %P"
    """
    from harness.board.merge import merge

    merge(base, ours, theirs, path)


@board.command("exposure")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@as_json
def board_exposure(folder: Path, json_: bool) -> None:
    """Say how often each item of BOARD was looked at to decide: what was seen often tells less.

    \b
    rlrf board exposure leaderboards/mine
    """
    from collections import Counter

    from harness.board import Board

    exposure = Board(folder).exposure()
    if json_:
        print_json({task: dict(items) for task, items in exposure.items()})
    elif not exposure:
        show("No decision is on the board yet.")
    else:
        for task, items in exposure.items():
            times = sorted(Counter(items.values()).items())
            said = ", ".join(f"{count:,} by {n}" for n, count in times)
            show(f"{task}: {len(items):,} items; by how many decisions each was used: {said}")


@board.command("badge")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@click.option("--task", required=True)
@click.option("--metric", help="[default: the task's primary one]")
@click.option("--name", help="The model.  [default: the last that was promoted]")
@click.option("--split", help="[default: the one it was last evaluated on]")
@click.option("--svg", type=FILE, help="Write a picture; else JSON for shields.io is printed.")
def board_badge(
    *,
    folder: Path,
    task: str,
    metric: str | None,
    name: str | None,
    split: str | None,
    svg: Path | None,
) -> None:
    """Make a badge of one number of BOARD, with its interval.

    \b
    rlrf board badge leaderboards/mine --task gsm8k > badge.json
    rlrf board badge leaderboards/mine --task gsm8k --name M2 --split sealed --svg badge.svg
    """
    from harness.board import Board
    from harness.core.outputs import PICTURE, check_optional_file
    from harness.render.badge import badge

    picture = check_optional_file(svg, PICTURE, [folder])
    made = badge(Board(folder).rows(), task, metric, name, split)
    if picture:
        picture.write(made.svg())
    else:
        print_json(made.endpoint())


@board.command("export")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@click.option("--format", "format_", type=click.Choice(["eee", "model-card"]), required=True)
@click.option("--out", type=FOLDER, help="eee: the folder that the files are written to.")
@click.option("--organization", help="eee: who publishes the numbers.")
@click.option(
    "--relationship",
    type=click.Choice(["first_party", "third_party", "collaborative", "other"]),
    default="first_party",
    show_default=True,
    help="eee: of who evaluated to the model.",
)
@click.option("--name", help="model-card: the model.")
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
    show(f"{len(logs)} files under {out / 'data'}")


@board.command("render")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["markdown", "csv", "latex", "html"]),
    default="markdown",
    show_default=True,
)
@click.option("--svg", type=FILE, help="Draw the models on a split as a picture, too.")
@click.option("--split", default="sealed", show_default=True, help="The split that is drawn.")
@as_json
def board_render(folder: Path, format_: str, svg: Path | None, split: str, json_: bool) -> None:
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
    if json_:
        print_json([_row_json(row) for row in rows])
    else:
        renderer = importlib.import_module(f"harness.render.{format_}")
        write_out(renderer.board(rows) + ("" if format_ == "csv" else "\n"))


def _row_json(row: Row) -> dict[str, Any]:
    """The row, with the digest of its entry, which supersessions and invalidations name."""
    from harness.core.schema import digest

    return row.model_dump(mode="json") | {"entry_digest": digest(row.entry)}


def _difference(found: Difference) -> list[str]:
    lines = [f"{found.common:,} rows begin both."]
    if found.diverged:
        lines.append("They have diverged: each has rows that the other has not.")
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
    def change(c: Change) -> dict[str, Any]:
        sides = {"before": c.before, "after": c.after}
        words = {k: getattr(c, k) for k in ("run", "name", "task", "split", "metric")}
        return words | {k: r.model_dump(mode="json") if r else None for k, r in sides.items()}

    return {
        "common": found.common,
        "diverged": found.diverged,
        "removed": [_row_json(row) for row in found.removed],
        "added": [_row_json(row) for row in found.added],
        "changes": [change(c) for c in found.changes],
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
