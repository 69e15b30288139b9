"""`rlrf feedback-model`: train and evaluate feedback models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.core.log import show
from rlrf.cli.common import FILE, FOLDER, PATH, as_json, print_json

if TYPE_CHECKING:
    from rlrf.models.feedback.cases import Case


@click.group("feedback-model")
def feedback_model() -> None:
    """Feedback models: trained to say what is wrong with an answer, as a judge would.

    JUDGED are runs, or their iter_K/feedback/records.jsonl, or files that `rlrf feedback` wrote:
    answers with the feedback of a judge or of the benchmark.

    \b
    rlrf feedback-model train runs/first --base MODEL --out runs/critic
    rlrf feedback-model evaluate runs/critic runs/second
    """


def _judged(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.argument("judged", nargs=-1, required=True, type=PATH),
        click.option(
            "--judge", type=FILE, help="Judging file: what grounds a task, as in the run."
        ),
        click.option(
            "--data", multiple=True, metavar="TASK=FOLDER", help="Where a task's data lies."
        ),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
        ),
    ):
        command = option(command)
    return command


@feedback_model.command()
@_judged
@click.option("--base", required=True, help="Folder or hub id of the model to begin with.")
@click.option("--out", type=FOLDER, required=True, help="Folder for the feedback model.")
@click.option("--settings", type=FILE, help="YAML of the training.")
@click.option(
    "--reference/--no-reference",
    default=True,
    show_default=True,
    help="Show it what is right: the worked answer, the page.",
)
@click.option(
    "--held-out",
    "share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of the prompts that it is measured on instead.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@as_json
def train(
    *,
    judged: tuple[Path, ...],
    base: str,
    out: Path,
    settings: Path | None,
    reference: bool,
    share: float,
    seed: int,
    judge: Path | None,
    data: tuple[str, ...],
    device: str,
    json_: bool,
) -> None:
    """Train a feedback model on JUDGED, and measure how it agrees on prompts held out of it.

    \b
    rlrf feedback-model train runs/first --base rlrf/quickstart/m0 --out runs/critic
    rlrf feedback-model train judged.jsonl --base M --out runs/critic --settings critic.yaml
    """
    from harness.core.yaml import load
    from harness.engines.model_folder import find
    from rlrf.config import Device
    from rlrf.models.feedback import training
    from rlrf.models.feedback.measure import markdown
    from rlrf.models.feedback.model import FeedbackTraining

    how = load(settings, FeedbackTraining) if settings else FeedbackTraining()
    training.KIND.check(out, [*judged, Path(base), settings, judge])
    manifest, found = training.train(
        _read(judged, judge, data),
        find(base),
        how,
        reference=reference,
        share=share,
        device=Device.model_validate({"device": device}),
        seed=seed,
        out=out,
    )
    if json_:
        print_json({"out": str(out), "agreement": found.model_dump(mode="json")})
    else:
        left = f", {manifest.left_out} left out as too long" if manifest.left_out else ""
        cut = f", {manifest.cut} cut to fit" if manifest.cut else ""
        show(f"{out}: a feedback model of {manifest.answers} answers{left}{cut}\n")
        show(markdown(found))


@feedback_model.command()
@click.argument("model")
@_judged
@click.option("--base", help="Folder or hub id of a model to compare with, asked the same.")
@as_json
def evaluate(
    *,
    model: str,
    judged: tuple[Path, ...],
    base: str | None,
    judge: Path | None,
    data: tuple[str, ...],
    device: str,
    json_: bool,
) -> None:
    """Measure how a feedback model agrees with JUDGED, on items that it did not learn from.

    \b
    rlrf feedback-model evaluate runs/critic runs/second --base rlrf/quickstart/m0
    """
    from harness.engines.model_folder import find
    from rlrf.config import Device
    from rlrf.models.feedback import training
    from rlrf.models.feedback.measure import markdown

    found = training.evaluate(
        find(model),
        _read(judged, judge, data),
        base=find(base) if base else None,
        device=Device.model_validate({"device": device}),
    )
    print_json(found.model_dump(mode="json")) if json_ else show(markdown(found))


def _read(judged: tuple[Path, ...], judge: Path | None, data: tuple[str, ...]) -> list[Case]:
    from harness.core.errors import UserError
    from harness.judges.config import load_judging
    from rlrf.models.feedback.cases import read_cases

    folders = dict(one.partition("=")[::2] for one in data)
    if not all(folders.values()):
        raise UserError("A --data is TASK=FOLDER, such as --data gsm8k=data/gsm8k.")
    places = {task: Path(folder) for task, folder in folders.items()}
    return read_cases(judged, load_judging(judge).task, places)
