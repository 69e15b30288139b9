"""`rlrf board`."""

from __future__ import annotations

from pathlib import Path

import click

from rlrf.cli.common import ERROR, FILE, FOLDER, as_json, print_json


@click.group()
def board() -> None:
    """Leaderboards: folders that are appended to, never changed, and can be recomputed.

    \b
    rlrf board add leaderboards/mine evaluations/m1 --name M1
    rlrf board verify leaderboards/mine
    rlrf board render leaderboards/mine > board.md
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
    from harness import evaluation
    from harness.leaderboard import Board

    digests = {
        task: Board(folder).add_evaluation(one, name or one.evaluation.model.id, run_name)
        for task, one in evaluation.load(evaluations).items()
    }
    if json_:
        print_json(digests)
    else:
        for task, row in digests.items():
            print(f"{task}: row {row[:12]}")


@board.command("verify")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@as_json
def board_verify(folder: Path, json_: bool) -> int:
    """Recompute every row of BOARD from its scores; exits 3 if anything does not hold.

    \b
    rlrf board verify leaderboards/mine
    """
    from harness.leaderboard import Board

    problems = Board(folder).verify()
    if json_:
        print_json({"problems": problems})
    else:
        print("\n".join(problems) or f"{folder} is sound: every row was recomputed.")
    return ERROR if problems else 0


@board.command("render")
@click.argument("folder", metavar="BOARD", type=FOLDER)
@click.option("--svg", type=FILE, help="Draw the models on a split as a picture, too.")
@click.option("--split", default="sealed", show_default=True, help="The split that is drawn.")
@as_json
def board_render(folder: Path, svg: Path | None, split: str, json_: bool) -> None:
    """Print BOARD as Markdown tables, or its rows as JSON.

    \b
    rlrf board render leaderboards/mine > board.md
    rlrf board render leaderboards/mine --svg board.svg --split gate
    """
    from harness.leaderboard import Board
    from harness.render import markdown, plot
    from harness.store import write_bytes

    rows = Board(folder).rows()
    if svg:
        write_bytes(svg, plot.board(rows, split))
    if json_:
        print_json([row.model_dump(mode="json") for row in rows])
    else:
        print(markdown.board(rows))
