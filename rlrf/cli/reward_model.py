"""`rlrf reward-model`: train, evaluate and self-evolve reward models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.core.log import say
from harness.core.text import plural
from rlrf.cli import options
from rlrf.cli.options import FILE, FOLDER
from rlrf.cli.output import print_result

if TYPE_CHECKING:
    from rlrf.models.reward.preferences import Preference

hub_options = options.bundle(
    "hub",
    click.option("--split", default="train", show_default=True, help="Split of a hub data set."),
    click.option(
        "--column",
        "columns",
        multiple=True,
        metavar="KEY=NAME",
        help="Hub data set's column for prompt, chosen, rejected or domain; repeatable.",
    ),
)
chat_option = click.option(
    "--chat", is_flag=True, help="Prompts are user messages: render them by the chat template."
)


@click.group("reward-model")
def reward_model() -> None:
    """Train and evaluate reward models, on preferences or on pairs they label themselves.

    PAIRS are JSON lines of {"prompt", "chosen", "rejected"} and, if wanted, "domain"; or a run's
    pairs.jsonl; or the name of a data set on the Hugging Face hub, with its --column names.

    \b
    rlrf reward-model train runs/quickstart/iter_1/pairs/pairs.jsonl --base MODEL --out reward
    rlrf reward-model evaluate reward --pairs held_out.jsonl
    """


@reward_model.command()
@click.argument("pairs")
@click.option("--base", required=True, help="Folder or hub id of the model to start from.")
@click.option("--out", type=FOLDER, required=True, help="Folder for the reward model.")
@click.option(
    "--settings", type=FILE, help="YAML: settings of the training.  [default: as published]"
)
@options.seed
@hub_options
@chat_option
@options.device
@options.as_json
def train(
    *,
    pairs: str,
    base: str,
    out: Path,
    settings: Path | None,
    seed: int,
    hub: dict[str, Any],
    chat: bool,
    device: str,
) -> None:
    """Train a reward model on PAIRS; --settings may set adapter, learning_rate, epochs, ...

    \b
    rlrf reward-model train pairs.jsonl --base rlrf/quickstart/m0 --out runs/reward
    rlrf reward-model train runs/first/iter_1/pairs/pairs.jsonl --base M --out R --settings rm.yaml
    """
    from harness.core.yaml import load
    from harness.engines.model_folder import find
    from rlrf.config import Device
    from rlrf.models.reward import model
    from rlrf.models.reward.model import RewardTraining, render
    from rlrf.models.reward.preferences import render_prompts
    from rlrf.objectives.base import load_tokenizer

    recipe = load(settings, RewardTraining) if settings else RewardTraining()
    model.KIND.check(out, [Path(pairs), Path(base), settings])
    preferences, folder = _read_preferences(pairs, **hub), find(base)
    if chat:
        tokenizer = load_tokenizer(folder)
        preferences = render_prompts(preferences, lambda prompt: render(prompt, tokenizer))
    place = Device.model_validate({"device": device})
    manifest = model.train(preferences, folder, recipe, device=place, seed=seed, out=out)
    left = f", {manifest.left_out} left out as too long" if manifest.left_out else ""
    print_result(
        {"out": out, **manifest.model_dump(mode="json")},
        f"{out}: a reward model of {manifest.pairs} {plural('pair', manifest.pairs)}{left}",
    )


@reward_model.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--pairs", required=True, help="Preferences that were not trained on.")
@click.option(
    "--beta", type=float, default=0.0, show_default=True, help="Of an ensemble: mean - BETA * sd."
)
@hub_options
@chat_option
@options.device
@options.as_json
def evaluate(
    *,
    models: tuple[str, ...],
    pairs: str,
    beta: float,
    hub: dict[str, Any],
    chat: bool,
    device: str,
) -> None:
    """Measure a reward model, or an ensemble of several, on preferences: accuracy, calibration.

    \b
    rlrf reward-model evaluate runs/reward --pairs held_out.jsonl
    rlrf reward-model evaluate runs/rm0 runs/rm1 runs/rm2 --beta 1 --pairs held_out.jsonl
    """
    from rlrf.config import Device
    from rlrf.models.reward.measure import markdown, measure
    from rlrf.models.reward.model import Ensemble, RewardModel, margins
    from rlrf.models.reward.preferences import render_prompts

    preferences = _read_preferences(pairs, **hub)
    place = Device.model_validate({"device": device})
    loaded = [RewardModel(model, device=place) for model in models]
    if chat:
        preferences = render_prompts(preferences, loaded[0].render)
    scorer = loaded[0] if len(loaded) == 1 else Ensemble(loaded, beta)
    measured = measure(margins(scorer, preferences), [one.domain for one in preferences])
    print_result({"model": scorer.digest, **measured.model_dump(mode="json")}, markdown(measured))


@reward_model.command()
@click.argument("model")
@click.option("--out", type=FILE, required=True, help="JSON lines of preferences to write.")
@options.bundle(
    "how",
    click.option(
        "--prompts", type=int, default=400, show_default=True, help="Prompts per benchmark."
    ),
    click.option("-n", type=int, default=6, show_default=True, help="Responses per prompt."),
    click.option(
        "--split",
        type=click.Choice(["train", "gate"]),
        default="train",
        show_default=True,
        help="Split that the prompts are from.",
    ),
    options.seed,
)
@options.device
@options.as_json
def pairs(model: str, out: Path, how: dict[str, Any], device: str) -> None:
    """Make preferences from MODEL's responses to the embedded benchmarks, by their verifier.

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
    preferences = sample_preferences(engine, **how)
    written.write(jsonl_bytes(preferences))
    counts = dict(sorted(Counter(one.domain for one in preferences).items()))
    named = ", ".join(f"{domain} {count}" for domain, count in counts.items())
    print_result(
        {"out": out, "pairs": len(preferences), "domains": counts},
        f"{out}: {len(preferences)} preferences ({named})",
    )


@reward_model.command("self-evolve")
@click.argument("config", type=FILE)
@options.run_folder
@options.fresh
@options.as_json
def self_evolve(config: Path, out: Path | None, fresh: bool) -> None:
    """Train a reward model by CONFIG (YAML) on pairs it labels itself, and compare baselines.

    Run the same command again to resume.

    \b
    rlrf reward-model self-evolve ser.yaml
    rlrf reward-model self-evolve ser.yaml --out runs/ser --json
    """
    from rlrf.models.reward.self_evolve import load
    from rlrf.models.reward.self_evolve import self_evolve as run
    from rlrf.models.reward.self_evolve_report import markdown

    folder = out or Path("runs") / config.stem
    result = run(load(config), folder, fresh=fresh)
    print_result(result, markdown(result))
    say(f"This is also in {folder / 'result.md'} and result.json.")


def _read_preferences(name: str, columns: tuple[str, ...], split: str) -> list[Preference]:
    """Read preferences from a file, or from the hub if columns are named."""
    from rlrf.models.reward.preferences import download_preferences, is_hub_name, read_preferences

    if Path(name).exists() or not (columns and is_hub_name(name)):
        return read_preferences(Path(name))
    keys = options.pairs(columns, "A --column is KEY=NAME", "--column prompt=question")
    return download_preferences(name, keys, split=split)
