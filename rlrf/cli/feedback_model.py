"""`rlrf feedback-model`: train and evaluate feedback models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.core.text import plural
from rlrf.cli import options
from rlrf.cli.options import FILE, FOLDER, INNER_SHARE, PATH
from rlrf.cli.output import print_result

if TYPE_CHECKING:
    from rlrf.models.feedback.cases import Case

judged_option = options.bundle(
    "judged",
    click.argument("files", metavar="JUDGED", nargs=-1, required=True, type=PATH),
    click.option(
        "--judge", type=FILE, help="YAML: how answers were judged; names a task's references."
    ),
    click.option("--data", multiple=True, metavar="TASK=FOLDER", help="Folder of a task's data."),
)


@click.group("feedback-model")
def feedback_model() -> None:
    """Train and evaluate feedback models, which criticise an answer as a judge would.

    JUDGED are runs, or their iter_K/feedback/records.jsonl, or files that `rlrf feedback` wrote:
    answers with the feedback of a judge or of the benchmark.

    \b
    rlrf feedback-model train runs/first --base MODEL --out runs/critic
    rlrf feedback-model evaluate runs/critic runs/second
    """


@feedback_model.command()
@judged_option
@click.option("--base", required=True, help="Folder or hub id of the model to start from.")
@click.option("--out", type=FOLDER, required=True, help="Folder for the feedback model.")
@click.option("--settings", type=FILE, help="YAML: settings of the training.")
@options.bundle(
    "how",
    click.option(
        "--reference/--no-reference",
        default=True,
        show_default=True,
        help="Show the model the reference: the worked answer, or the page.",
    ),
    click.option(
        "--held-out",
        "share",
        type=INNER_SHARE,
        default=0.2,
        show_default=True,
        help="Share of the prompts to measure agreement on, instead of training.",
    ),
    options.seed,
)
@options.device
@options.include_path
@options.as_json
def train(
    *,
    judged: dict[str, Any],
    base: str,
    out: Path,
    settings: Path | None,
    how: dict[str, Any],
    device: str,
) -> None:
    """Train a feedback model on JUDGED, and measure its agreement on held-out prompts.

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

    recipe = load(settings, FeedbackTraining) if settings else FeedbackTraining()
    training.KIND.check(out, [*judged["files"], Path(base), settings, judged["judge"]])
    place = Device.model_validate({"device": device})
    cases = _read_cases(**judged)
    manifest, found = training.train(cases, find(base), recipe, device=place, out=out, **how)
    left = f", {manifest.left_out} left out as too long" if manifest.left_out else ""
    cut = f", {manifest.cut} cut to fit" if manifest.cut else ""
    print_result(
        {"out": out, "agreement": found},
        f"{out}: a feedback model of {manifest.answers} {plural('answer', manifest.answers)}"
        f"{left}{cut}\n\n{markdown(found)}",
    )


@feedback_model.command()
@click.argument("model")
@judged_option
@click.option("--base", help="Folder or hub id of a model to compare with, asked the same.")
@options.device
@options.include_path
@options.as_json
def evaluate(model: str, judged: dict[str, Any], base: str | None, device: str) -> None:
    """Measure how far a feedback model agrees with JUDGED, on items it was not trained on.

    \b
    rlrf feedback-model evaluate runs/critic runs/second --base rlrf/quickstart/m0
    """
    from harness.engines.model_folder import find
    from rlrf.config import Device
    from rlrf.models.feedback import training
    from rlrf.models.feedback.measure import markdown

    found = training.evaluate(
        find(model),
        _read_cases(**judged),
        base=find(base) if base else None,
        device=Device.model_validate({"device": device}),
    )
    print_result(found, markdown(found))


def _read_cases(files: tuple[Path, ...], judge: Path | None, data: tuple[str, ...]) -> list[Case]:
    from harness.judges.config import load_judging
    from rlrf.models.feedback.cases import read_cases

    folders = options.pairs(data, "A --data is TASK=FOLDER", "--data gsm8k=data/gsm8k")
    places = {task: Path(folder) for task, folder in folders.items()}
    return read_cases(files, load_judging(judge).task, places)
