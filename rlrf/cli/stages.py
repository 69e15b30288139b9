"""`rlrf explore`, `feedback`, `reflect`, `pairs`, `train-step`: an iteration stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from harness.core.log import show
from rlrf.cli.common import FILE, FOLDER, as_json, print_json

CONFIG = click.argument("config", type=FILE)
OUT = click.option("--out", type=FILE, required=True, help="JSON lines.")
MODEL = click.option("--model", help="Another policy than CONFIG's: folder, adapter or hub id.")
TURN = click.option(
    "--turn",
    "iteration",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Whose prompts and seeds: those of iteration K of a run by CONFIG.",
)


Command = Callable[..., None]


def _stage(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """The arguments of every stage, and some more."""

    def decorate(command: Command) -> Command:
        asked: list[Callable[[Command], Command]] = [as_json, TURN, *options, CONFIG]
        for option in asked:
            command = option(command)
        return command

    return decorate


@click.command()
@_stage(
    click.option("--limit", type=click.IntRange(min=1), help="Prompts a task, for a dry run."),
    MODEL,
    OUT,
)
def explore(
    *, config: Path, out: Path, model: str | None, limit: int | None, iteration: int, json_: bool
) -> None:
    """Let the policy of CONFIG (YAML) answer its train prompts, by sampling.

    \b
    rlrf explore configs/cpu.yaml --out samples.jsonl
    rlrf explore configs/cpu.yaml --turn 2 --model runs/cpu/iter_1/train/model --out samples.jsonl
    """
    from rlrf import stage_commands
    from rlrf.config import load

    found = stage_commands.explore(load(config), out, model=model, iteration=iteration, limit=limit)
    prompts = len({sample.item for sample in found})
    cut = sum(sample.finish_reason == "length" for sample in found)
    if json_:
        print_json({"out": str(out), "samples": len(found), "prompts": prompts, "cut": cut})
    else:
        show(f"{out}: {len(found)} responses to {prompts} prompts, {cut} of them cut off")


@click.command()
@_stage(OUT, click.argument("responses", type=FILE))
def feedback(config: Path, responses: Path, out: Path, iteration: int, json_: bool) -> None:
    """Score RESPONSES and say what is wrong with each; RESPONSES are samples or refinements.

    \b
    rlrf feedback configs/cpu.yaml samples.jsonl --out judged.jsonl
    rlrf feedback configs/cpu.yaml refined.jsonl --out rejudged.jsonl
    """
    from rlrf import stage_commands
    from rlrf.config import load

    found = stage_commands.feedback(load(config), responses, out, iteration=iteration)
    unscored = sum(bool(one.score.unscored) for one in found)
    silent = sum(not one.feedback.aspects for one in found)
    if json_:
        counts = {"judged": len(found), "unscored": unscored, "without_feedback": silent}
        print_json({"out": str(out), **counts})
    else:
        show(
            f"{out}: {len(found)} responses judged, {unscored} unscored, {silent} without feedback"
        )


@click.command()
@_stage(MODEL, OUT, click.argument("judged", type=FILE))
def reflect(
    *, config: Path, judged: Path, out: Path, model: str | None, iteration: int, json_: bool
) -> None:
    """Let the policy rewrite the most promising of JUDGED, given the feedback on them.

    \b
    rlrf reflect configs/cpu.yaml judged.jsonl --out refined.jsonl
    """
    from rlrf import stage_commands
    from rlrf.config import load

    found = stage_commands.reflect(load(config), judged, out, model=model, iteration=iteration)
    if json_:
        print_json({"out": str(out), "refinements": len(found)})
    else:
        show(f"{out}: {len(found)} refinements")


@click.command()
@_stage(OUT, click.argument("judged", type=FILE, nargs=-1, required=True))
def pairs(config: Path, judged: tuple[Path, ...], out: Path, iteration: int, json_: bool) -> None:
    """Make preference pairs of JUDGED: of responses, then if there are any of refinements.

    \b
    rlrf pairs configs/cpu.yaml judged.jsonl rejudged.jsonl --out pairs.jsonl
    """
    from rlrf import stage_commands
    from rlrf.config import load

    report = stage_commands.pairs(load(config), judged, out, iteration=iteration)
    if json_:
        print_json({"out": str(out), **report.model_dump(mode="json")})
    else:
        show(f"{out}: {report.sentence()}")


@click.command("train-step")
@_stage(
    MODEL,
    click.option("--out", type=FOLDER, required=True, help="A new folder."),
    click.argument("pairs", type=FILE),
)
def train_step(
    *, config: Path, pairs: Path, out: Path, model: str | None, iteration: int, json_: bool
) -> None:
    """Train the policy on PAIRS by direct preference optimisation.

    \b
    rlrf train-step configs/cpu.yaml pairs.jsonl --out step
    """
    from rlrf import stage_commands
    from rlrf.config import load
    from rlrf.recording import first_and_last

    made = stage_commands.train_step(load(config), pairs, out, model=model, iteration=iteration)
    where, ends = str(made.adapter or made.model), first_and_last(out)
    if json_:
        print_json({"out": where, "digest": made.digest, "metrics": ends})
    else:
        said = [f"{name} {first:.4g} -> {last:.4g}" for name, (first, last) in ends.items()]
        show(f"{where}: {', '.join(said)}")
