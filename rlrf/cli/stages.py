"""`rlrf explore`, `feedback`, `reflect`, `pairs`, `train-step`: an iteration stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from harness.core.text import plural
from rlrf.cli import options
from rlrf.cli.options import COUNT, FILE, FOLDER, Command, Option
from rlrf.cli.output import print_result

OUT = click.option("--out", type=FILE, required=True, help="JSON lines to write.")
MODEL = click.option(
    "--model", help="Another policy model than CONFIG's: folder, adapter or hub id."
)
ITERATION = click.option(
    "--turn",
    "iteration",
    type=COUNT,
    default=1,
    show_default=True,
    help="Use the prompts and seeds of this iteration of a run by CONFIG.",
)


def _stage(*more: Option) -> Callable[[Command], Command]:
    """Declare the arguments of every stage, and `more`; `how` holds those of the function."""
    config = click.argument("config", type=FILE)

    def decorate(command: Command) -> Command:
        decorators: list[Option] = [options.as_json, *more, config]
        for option in decorators:
            command = option(command)
        return command

    return decorate


@click.command()
@_stage(
    options.bundle(
        "how",
        OUT,
        MODEL,
        click.option("--limit", type=COUNT, help="Prompts per task, for a dry run."),
        ITERATION,
    )
)
def explore(config: Path, how: dict[str, Any]) -> None:
    """Sample responses of the policy model of CONFIG (YAML) to its train prompts.

    \b
    rlrf explore configs/cpu.yaml --out samples.jsonl
    rlrf explore configs/cpu.yaml --turn 2 --model runs/cpu/iter_1/train/model --out samples.jsonl
    """
    from rlrf import stage_commands
    from rlrf.config import load

    samples = stage_commands.explore(load(config), **how)
    prompts = len({sample.item for sample in samples})
    cut = sum(sample.finish_reason == "length" for sample in samples)
    print_result(
        {"out": how["out"], "samples": len(samples), "prompts": prompts, "cut": cut},
        f"{how['out']}: {len(samples)} {plural('response', len(samples))} to {prompts} "
        f"{plural('prompt', prompts)}, {cut} of them cut off",
    )


@click.command()
@_stage(options.bundle("how", OUT, ITERATION), click.argument("responses", type=FILE))
def feedback(config: Path, responses: Path, how: dict[str, Any]) -> None:
    """Score RESPONSES (samples or refinements) and give feedback on each.

    \b
    rlrf feedback configs/cpu.yaml samples.jsonl --out judged.jsonl
    rlrf feedback configs/cpu.yaml refined.jsonl --out rejudged.jsonl
    """
    from rlrf import stage_commands
    from rlrf.config import load

    judged = stage_commands.feedback(load(config), responses, **how)
    unscored = sum(bool(one.score.unscored) for one in judged)
    silent = sum(not one.feedback.aspects for one in judged)
    counts = {"judged": len(judged), "unscored": unscored, "without_feedback": silent}
    print_result(
        {"out": how["out"], **counts},
        f"{how['out']}: {len(judged)} responses judged, {unscored} unscored, "
        f"{silent} without feedback",
    )


@click.command()
@_stage(options.bundle("how", OUT, MODEL, ITERATION), click.argument("judged", type=FILE))
def reflect(config: Path, judged: Path, how: dict[str, Any]) -> None:
    """Let the policy model rewrite the most promising responses of JUDGED, given the feedback.

    \b
    rlrf reflect configs/cpu.yaml judged.jsonl --out refined.jsonl
    """
    from rlrf import stage_commands
    from rlrf.config import load

    count = len(stage_commands.reflect(load(config), judged, **how))
    print_result({"out": how["out"], "refinements": count}, f"{how['out']}: {count} refinements")


@click.command()
@_stage(
    options.bundle("how", OUT, ITERATION),
    click.argument("judged", type=FILE, nargs=-1, required=True),
)
def pairs(config: Path, judged: tuple[Path, ...], how: dict[str, Any]) -> None:
    """Make preference pairs from JUDGED: files of judged responses, then of judged refinements.

    \b
    rlrf pairs configs/cpu.yaml judged.jsonl rejudged.jsonl --out pairs.jsonl
    """
    from rlrf import stage_commands
    from rlrf.config import load

    report = stage_commands.pairs(load(config), judged, **how)
    print_result(
        {"out": how["out"], **report.model_dump(mode="json")}, f"{how['out']}: {report.sentence()}"
    )


@click.command("train-step")
@_stage(
    options.bundle(
        "how",
        click.option("--out", type=FOLDER, required=True, help="A new folder."),
        MODEL,
        ITERATION,
    ),
    click.argument("pairs", type=FILE),
)
def train_step(config: Path, pairs: Path, how: dict[str, Any]) -> None:
    """Train the policy model on PAIRS by direct preference optimisation.

    \b
    rlrf train-step configs/cpu.yaml pairs.jsonl --out step
    """
    from rlrf import stage_commands
    from rlrf.config import load
    from rlrf.recording import first_and_last

    made = stage_commands.train_step(load(config), pairs, **how)
    where, ends = str(made.adapter or made.model), first_and_last(how["out"])
    shown = [f"{name} {first:.4g} -> {last:.4g}" for name, (first, last) in ends.items()]
    print_result(
        {"out": where, "digest": made.digest, "metrics": ends}, f"{where}: {', '.join(shown)}"
    )
