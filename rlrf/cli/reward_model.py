"""`rlrf reward-model`: train, evaluate and self-evolve reward models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.core.log import say, show
from rlrf.cli.common import FILE, FOLDER, as_json, print_json

if TYPE_CHECKING:
    from rlrf.models.reward.measure import Measured
    from rlrf.models.reward.preferences import Preference

DEVICE = click.Choice(["auto", "cpu", "cuda"])


@click.group("reward-model")
def reward_model() -> None:
    """Reward models: learned from preferences, and from what they label themselves.

    PAIRS are JSON lines of {"prompt", "chosen", "rejected"} and, if wanted, "domain"; or a run's
    pairs.jsonl; or the name of a data set on the Hugging Face hub, with its --column names.

    \b
    rlrf reward-model train runs/quickstart/iter_1/pairs/pairs.jsonl --base MODEL --out reward
    rlrf reward-model evaluate reward --pairs held_out.jsonl
    """


def _pairs_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--split", default="train", show_default=True, help="Of a hub data set."),
        click.option(
            "--column",
            "columns",
            multiple=True,
            metavar="KEY=NAME",
            help="The hub data set's column of prompt, chosen, rejected, domain.",
        ),
        click.option(
            "--chat", is_flag=True, help="Prompts are users' turns: render the chat template."
        ),
        click.option("--device", type=DEVICE, default="auto", show_default=True),
    ):
        command = option(command)
    return command


@reward_model.command()
@click.argument("pairs")
@click.option("--base", required=True, help="Folder or hub id of the model to begin with.")
@click.option("--out", type=FOLDER, required=True, help="Folder for the reward model.")
@click.option("--settings", type=FILE, help="YAML of the training.  [default: as published]")
@click.option("--seed", type=int, default=0, show_default=True)
@_pairs_options
@as_json
def train(
    *,
    pairs: str,
    base: str,
    out: Path,
    settings: Path | None,
    seed: int,
    device: str,
    chat: bool,
    columns: tuple[str, ...],
    split: str,
    json_: bool,
) -> None:
    """Train a reward model on PAIRS; --settings may say adapter, learning_rate, epochs, ...

    \b
    rlrf reward-model train pairs.jsonl --base rlrf/quickstart/m0 --out runs/reward
    rlrf reward-model train runs/first/iter_1/pairs/pairs.jsonl --base M --out R --settings rm.yaml
    """
    from harness.core.yaml import load
    from harness.engines.model_folder import find
    from rlrf.config import Device
    from rlrf.models.reward import training
    from rlrf.models.reward.model import RewardTraining, render
    from rlrf.models.reward.preferences import render_prompts
    from rlrf.objectives.base import load_tokenizer

    how = load(settings, RewardTraining) if settings else RewardTraining()
    training.KIND.check(out, [Path(pairs), Path(base), settings])
    found, folder = _read(pairs, columns, split), find(base)
    if chat:
        tokenizer = load_tokenizer(folder)
        found = render_prompts(found, lambda prompt: render(prompt, tokenizer))
    on = Device.model_validate({"device": device})
    manifest = training.train(found, folder, how, device=on, seed=seed, out=out)
    if json_:
        print_json({"out": str(out), **manifest.model_dump(mode="json")})
    else:
        left = f", {manifest.left_out} left out as too long" if manifest.left_out else ""
        show(f"{out}: a reward model of {manifest.pairs} pairs{left}")


@reward_model.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--pairs", required=True, help="Preferences that it was not trained on.")
@click.option(
    "--beta", type=float, default=0.0, show_default=True, help="Of an ensemble: mean - BETA * sd."
)
@_pairs_options
@as_json
def evaluate(
    *,
    models: tuple[str, ...],
    pairs: str,
    beta: float,
    device: str,
    chat: bool,
    columns: tuple[str, ...],
    split: str,
    json_: bool,
) -> None:
    """Measure a reward model, or several as an ensemble, on preferences: accuracy, calibration.

    \b
    rlrf reward-model evaluate runs/reward --pairs held_out.jsonl
    rlrf reward-model evaluate runs/rm0 runs/rm1 runs/rm2 --beta 1 --pairs held_out.jsonl
    """
    from rlrf.config import Device
    from rlrf.models.reward.measure import measure
    from rlrf.models.reward.model import Ensemble, RewardModel, margins
    from rlrf.models.reward.preferences import render_prompts

    found = _read(pairs, columns, split)
    on = Device.model_validate({"device": device})
    loaded = [RewardModel(model, device=on) for model in models]
    if chat:
        found = render_prompts(found, loaded[0].render)
    scorer = loaded[0] if len(loaded) == 1 else Ensemble(loaded, beta)
    measured = measure(margins(scorer, found), [one.domain for one in found])
    if json_:
        print_json({"model": scorer.digest, **measured.model_dump(mode="json")})
    else:
        show(_measured(measured))


@reward_model.command()
@click.argument("model")
@click.option("--out", type=FILE, required=True, help="JSON lines of preferences.")
@click.option("--prompts", type=int, default=400, show_default=True, help="Of each benchmark.")
@click.option("-n", type=int, default=6, show_default=True, help="Answers a prompt.")
@click.option("--split", type=click.Choice(["train", "gate"]), default="train", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", type=DEVICE, default="auto", show_default=True)
@as_json
def pairs(
    *,
    model: str,
    out: Path,
    prompts: int,
    n: int,
    split: str,
    seed: int,
    device: str,
    json_: bool,
) -> None:
    """Make preferences of MODEL's own answers to the embedded benchmarks; the verifier is truth.

    \b
    rlrf reward-model pairs rlrf/quickstart/m0 --out pairs.jsonl
    """
    from collections import Counter

    from harness.core.files import jsonl_bytes
    from harness.core.outputs import check_file, json_lines_of
    from harness.engines.open import EngineSpec, open_engine
    from rlrf.models.reward.preferences import Preference
    from rlrf.models.reward.world import sample_preferences

    written = check_file(out, json_lines_of("a file of preferences", Preference), [Path(model)])
    engine = open_engine(EngineSpec(model, device=device))
    found = sample_preferences(engine, prompts, n=n, seed=seed, split=split)
    written.write(jsonl_bytes(found))
    counts = dict(sorted(Counter(one.domain for one in found).items()))
    if json_:
        print_json({"out": str(out), "pairs": len(found), "domains": counts})
    else:
        named = ", ".join(f"{domain} {count}" for domain, count in counts.items())
        show(f"{out}: {len(found)} preferences ({named})")


@reward_model.command("self-evolve")
@click.argument("config", type=FILE)
@click.option("--out", type=FOLDER, help="The run's folder.  [default: runs/NAME-OF-CONFIG]")
@click.option("--fresh", is_flag=True, help="Delete the run in OUT and start over.")
@as_json
def self_evolve(config: Path, out: Path | None, fresh: bool, json_: bool) -> None:
    """Self-evolved reward learning by CONFIG (YAML), beside its baselines; a run is resumed.

    \b
    rlrf reward-model self-evolve ser.yaml
    rlrf reward-model self-evolve ser.yaml --out runs/ser --json
    """
    from rlrf.models.reward.self_evolve import load
    from rlrf.models.reward.self_evolve import self_evolve as run
    from rlrf.models.reward.self_evolve_report import markdown

    folder = out or Path("runs") / config.stem
    result = run(load(config), folder, fresh=fresh)
    print_json(result.model_dump(mode="json")) if json_ else show(markdown(result))
    say(f"The same is in {folder / 'result.md'} and result.json.")


def _read(name: str, columns: tuple[str, ...], split: str) -> list[Preference]:
    """Preferences from a file, or from the hub where columns are named."""
    from harness.core.errors import UserError
    from rlrf.models.reward.preferences import download_preferences, is_hub_name, read_preferences

    if Path(name).exists() or not (columns and is_hub_name(name)):
        return read_preferences(Path(name))
    pairs = dict(column.partition("=")[::2] for column in columns)
    if not all(pairs.values()):
        raise UserError("A --column is KEY=NAME, such as --column prompt=question.")
    return download_preferences(name, pairs, split=split)


def _measured(found: Measured) -> str:
    from harness.render.numbers import mean_and_interval
    from harness.render.table import table

    lines = [["", "accuracy [95 %]", "pairs"]]
    for name, result in {"all": found.accuracy, **found.by_domain}.items():
        lines.append([name, mean_and_interval(result, ".1%"), str(result.n)])
    calibration = found.calibration
    over = calibration.overconfidence
    return (
        f"{table(lines)}\n\ncalibration error {calibration.error:.1%} "
        f"({calibration.floor:.1%} by chance), overconfidence "
        f"{mean_and_interval(over, '+.1%')}"
    )
