"""Options that several commands share, each declared once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.core.errors import UserError
from harness.core.text import plural
from rlrf.cli.output import set_json

if TYPE_CHECKING:
    from harness.readers import Selection
    from rlrf.gating import GateRules

Command = Callable[..., Any]
Option = Callable[[Command], Command]

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
SHARE = click.FloatRange(0, 1)
INNER_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


def bundle(argument: str, *options: Option) -> Option:
    """Declare several options whose values a command takes together: a dict, as `argument`."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command, updated=())
        def collect(**values: Any) -> Any:
            bundled = {name: values.pop(name) for name in bundled_names}
            return command(**values, **{argument: bundled})

        for option in reversed(options):
            option(collect)
        declared: list[click.Parameter] = vars(collect)["__click_params__"]
        bundled_names = [str(option.name) for option in declared]
        declared[:0] = getattr(command, "__click_params__", [])
        return collect

    return decorate


def include_path(command: Command) -> Command:
    """Declare --include-path: while the command runs, the benchmarks in its folders are known."""

    @functools.wraps(command)
    def including(*arguments: Any, include_paths: tuple[Path, ...], **values: Any) -> Any:
        if not include_paths:
            return command(*arguments, **values)
        import tasks

        with tasks.including(include_paths):
            return command(*arguments, **values)

    return click.option(
        "--include-path",
        "include_paths",
        type=PATH,
        metavar="DIR",
        multiple=True,
        help="Folder with benchmarks of your own; repeatable.",
    )(including)


as_json = click.option(
    "--json", is_flag=True, expose_value=False, callback=set_json, help="Print JSON for programs."
)
seed = click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
judge_file = click.option("--judge", "judge_file", type=FILE, help="YAML: how answers are judged.")
repeat_sizes = click.option(
    "--k",
    "sizes",
    metavar="K,...",
    help="Responses of pass@k, pass^k and maj@k, by comma.  [default: 2, 4, 8, ..., all]",
)
data = click.option("--data", type=PATH, help="Folder or file of the benchmark's data.")
cluster = click.option("--cluster", help="Tag or field that items share, such as passage.")
board_name = click.option("--name", help="The model's name, if BASELINE is a leaderboard.")
run_folder = click.option("--out", type=FOLDER, help="Run folder.  [default: runs/NAME-OF-CONFIG]")
fresh = click.option("--fresh", is_flag=True, help="Delete the run in OUT and start over.")
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where models run; auto: cuda if available.",
)
adapter = click.option("--adapter", type=FOLDER, help="LoRA adapter on the model.")
policy = click.option(
    "--policy",
    type=FILE,
    help="Gate policy: a file, or gsm8k, just_eval, factscore.  [default: as `rlrf gate` says]",
)
selection = bundle(
    "selection",
    click.option("--item", help="Column of a table that names the item."),
    click.option(
        "--metric",
        "metrics",
        multiple=True,
        help="Metric to gate by, without a policy; of a table, the column. Repeatable.",
    ),
    click.option(
        "--lower-is-better",
        metavar="METRIC",
        multiple=True,
        help="Metric of another tool of which a lower value is better; repeatable.",
    ),
)
rules = bundle(
    "rules",
    policy,
    click.option(
        "--margin",
        "margin_texts",
        metavar="METRIC=VALUE",
        multiple=True,
        help="Largest tolerated loss of a metric, or of TASK.METRIC, without a policy; repeatable.",
    ),
    click.option("--plan", "plans", type=FILE, multiple=True, help="Plan that `rlrf plan` wrote."),
    click.option("--drift", type=FILE, help="What `rlrf judge drift --json` printed."),
)


def read_rules(given: dict[str, Any], **clusters: Any) -> GateRules:
    """Read the files of the bundle `rules`.

    Raises:
        UserError: there are several plans, or as `rlrf.gating.read_rules`.
    """
    from harness.gate.policy import parse_margins
    from rlrf import gating

    plans = given["plans"]
    if len(plans) > 1:
        raise UserError("A gate follows one plan, which was written before: name one.")
    margins = parse_margins(given["margin_texts"])
    plan = plans[0] if plans else None
    return gating.read_rules(given["policy"], plan, margins, drift=given["drift"], **clusters)


def select(given: dict[str, Any]) -> Selection:
    """Return what the bundle `selection` says."""
    from harness.readers import Selection

    return Selection(**given)


def pairs(texts: tuple[str, ...], option: str, example: str) -> dict[str, str]:
    """Split repeated KEY=VALUE options.

    Raises:
        UserError: a value is missing.
    """
    found = dict(text.partition("=")[::2] for text in texts)
    if not all(found.values()):
        raise UserError(f"{option}, such as {example}.")
    return found


def read_sizes(text: str | None, repeats: int | None = None) -> list[int] | None:
    """Read the values of --k; None if it was not given.

    Raises:
        UserError: a value is not a whole number from 1 on, or exceeds `repeats`.
    """
    if text is None:
        return None
    given = names(text)
    if not given or not all(n.isascii() and n.isdigit() and 0 < len(n) < 7 for n in given):
        raise UserError(f"--k is '{text}': give whole numbers of responses, such as --k 1,4.")
    sizes = sorted({int(number) for number in given})
    if sizes[0] < 1:
        raise UserError("--k is 0: a metric of several responses takes at least 1.")
    if repeats is not None and sizes[-1] > repeats:
        raise UserError(
            f"--k is {sizes[-1]}, and an item has {repeats} {plural('response', repeats)}. Raise "
            f"--repeats to {sizes[-1]}, or choose a k of at most {repeats}."
        )
    return sizes


def names(text: str | None) -> list[str]:
    """Split names at commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
