"""`rlrf judge`: is the judge any good?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.core.errors import UserError
from harness.core.log import say
from harness.core.text import plural
from rlrf.cli import options
from rlrf.cli.options import COUNT, FILE, FOLDER, INNER_SHARE
from rlrf.cli.output import EXIT, print_result

if TYPE_CHECKING:
    from harness.judges.config import Judging
    from tasks.task import Judge

MAX_P_NOT_RANDOM = 0.001  # below it, labelled items were hardly drawn at random
DRIFT_EXIT = {"stable": "pass", "drifted": "fail", "unclear": "inconclusive"}


@click.group()
def judge() -> None:
    """Check whether a judge can be trusted.

    \b
    rlrf judge check EVALUATION            do worthless answers lose?
    rlrf judge compare BASELINE CANDIDATE  which answers are better, in both orders?
    rlrf judge agree EVALUATION ...        do several judges agree?
    rlrf judge sheet EVALUATION            answers for people to label, then:
    rlrf judge calibrate EVALUATION LABELS what would people say?
    rlrf judge drift BEFORE AFTER          does it still grade as before?

    EVALUATION is an evaluation folder of one task, which `eval` and `score` write with --out.
    """


@judge.command()
@click.argument("evaluation", type=FOLDER)
@options.judge_file
@click.option(
    "--items", type=COUNT, default=50, show_default=True, help="Number of items, drawn by --seed."
)
@click.option(
    "--required",
    type=INNER_SHARE,
    default=0.8,
    show_default=True,
    help="Share of each kind of worthless answer that has to lose.",
)
@options.seed
@options.include_path
@options.as_json
def check(evaluation: Path, judge_file: Path | None, items: int, required: float, seed: int) -> int:
    """Check that worthless answers lose against the answers of EVALUATION.

    Empty answers, one constant answer, the request copied, filler, and an answer that dictates
    the verdict to the judge are scored alongside the real ones. Exits with 0 if each kind loses
    often enough, 1 if one does not, 2 if there are too few items to tell, 3 for an error. Without
    a judge file the task scores with its own code alone.

    \b
    rlrf judge check evaluations/mine/just_eval --judge judge.yaml
    rlrf judge check evaluations/mine/mini_just_eval --items 100
    """
    from harness.evals.evaluation import load_single
    from harness.judges.checks import canaries
    from harness.render import judge_checks

    saved = load_single(evaluation)
    with _opened(judge_file) as (judging, asked):
        task = judging.task(saved.evaluation.task)
        found = canaries.check(task, saved, asked, items=items, required=required, seed=seed)
    print_result(found, judge_checks.canaries(found, required))
    return EXIT[found.verdict]


@judge.command()
@click.argument("baseline", type=FOLDER)
@click.argument("candidate", type=FOLDER)
@click.option("--judge", "judge_file", type=FILE, required=True, help="YAML that names the judge.")
@click.option("--items", type=COUNT, help="Number of items, drawn by --seed.  [default: all]")
@options.seed
@options.as_json
def compare(
    baseline: Path, candidate: Path, judge_file: Path, items: int | None, seed: int
) -> None:
    """Compare the answers of CANDIDATE with those of BASELINE, side by side.

    Every pair is asked twice, the answers swapped; a win counts only if it survives the swap.

    \b
    rlrf judge compare evaluations/m0/just_eval evaluations/m1/just_eval --judge judge.yaml
    """
    from harness.evals.evaluation import load_single
    from harness.judges.checks import pairwise
    from harness.render import judge_checks

    before, after = load_single(baseline), load_single(candidate)
    with _opened(judge_file) as (_, asked):
        found = pairwise.compare(before, after, _named(asked, judge_file), items=items, seed=seed)
    print_result(found, judge_checks.comparison(found))


@judge.command()
@click.argument("evaluations", type=FOLDER, nargs=-1, required=True)
@options.seed
@options.as_json
def agree(evaluations: tuple[Path, ...], seed: int) -> None:
    """Measure how far judges agree on the same answers: Krippendorff's alpha, 1 is agreement.

    EVALUATIONS are scorings of the same answers, one per judge.

    \b
    rlrf score just_eval evaluations/mine/just_eval --judge other.yaml --out evaluations/other
    rlrf judge agree evaluations/mine/just_eval evaluations/other
    """
    from harness.evals.evaluation import load_single
    from harness.judges.checks import panel
    from harness.render import judge_checks

    loaded = {str(folder): load_single(folder) for folder in evaluations}
    found = panel.agree(loaded, seed=seed)
    print_result(found, judge_checks.panel(found))


@judge.command()
@click.argument("evaluation", type=FOLDER)
@click.option(
    "--items", type=COUNT, default=100, show_default=True, help="Number of items, drawn by --seed."
)
@click.option("--metrics", help="What to label, by comma.  [default: all that apply]")
@options.seed
@click.option("--out", type=FILE, required=True, help="JSONL to fill in; never overwritten.")
def sheet(evaluation: Path, items: int, metrics: str | None, seed: int, out: Path) -> None:
    """Draw answers of EVALUATION at random, for people to label.

    Each line has an answer and a null for every metric: replace it by the label, or leave it. The
    command `calibrate` takes the file.

    \b
    rlrf judge sheet evaluations/m1/just_eval --metrics depth,factuality --out labels.jsonl
    """
    from harness.core.files import jsonl_bytes
    from harness.core.outputs import check_file, json_lines_of
    from harness.evals.evaluation import load_single
    from harness.judges.checks import calibrate as calibrating

    saved = load_single(evaluation)
    if out.exists():
        raise UserError(f"{out} exists, perhaps with labels in it: name another file.")
    written = check_file(out, json_lines_of("an empty file"), [evaluation])
    rows = calibrating.sheet(saved, items, seed=seed, names=options.names(metrics))
    written.write(jsonl_bytes(rows))
    answers = plural("answer", len(rows))
    say(f"{out} holds {len(rows)} {answers} of {saved.evaluation.task} to label.")


@judge.command()
@click.argument("evaluation", type=FOLDER)
@click.argument("labels", type=FILE)
@click.option(
    "--baseline",
    type=(FOLDER, FILE),
    help="An evaluation and its labels: calibrate the gain of EVALUATION over it.",
)
@options.as_json
def calibrate(evaluation: Path, labels: Path, baseline: tuple[Path, Path] | None) -> None:
    """Estimate what people would say: the judge's mean, corrected by the items people labelled.

    LABELS is JSONL, one {"id", metric: value} per line, where the id is the item's index. The
    labelled items have to be a random part of all: `sheet` draws one (prediction-powered
    inference, PPI++).

    \b
    rlrf judge calibrate evaluations/m1/just_eval labels.jsonl
    rlrf judge calibrate evaluations/m1 m1.jsonl --baseline evaluations/m0 m0.jsonl
    """
    from harness.evals.evaluation import load_single
    from harness.judges.checks import calibrate as calibrating
    from harness.render import judge_checks
    from harness.render.numbers import mean_and_interval

    saved = load_single(evaluation)
    said = calibrating.read_labels(labels, saved)
    if baseline:
        before = load_single(baseline[0])
        before_said = calibrating.read_labels(baseline[1], before)
        found = calibrating.change(before, before_said, saved, said)
    else:
        found = calibrating.mean(saved, said)
    for one in found.metrics:
        if one.p_random is not None and one.p_random < MAX_P_NOT_RANDOM:
            say(
                f"{one.metric}: the judge scores the labelled items "
                f"{mean_and_interval(one.judge_labelled)}, all of them "
                f"{mean_and_interval(one.judge)}. They were hardly drawn at random (p = "
                f"{one.p_random:.1g}), and then the correction does not hold."
            )
    for name, n in found.too_few.items():
        have = "item has" if n == 1 else "items have"
        say(f"{name}: left out, since only {n} {have} a label and a score.")
    print_result(found, judge_checks.calibrations(found, "gain" if baseline else "mean"))


@judge.command()
@click.argument("before", type=FOLDER)
@click.argument("after", type=FOLDER, required=False)
@options.judge_file
@click.option(
    "--items", type=COUNT, default=400, show_default=True, help="Number of items to score again."
)
@click.option(
    "--margin",
    type=INNER_SHARE,
    default=0.05,
    show_default=True,
    help="Largest change that is still stable, as a share of a metric's range.",
)
@options.seed
@options.include_path
@options.as_json
def drift(
    *,
    before: Path,
    after: Path | None,
    judge_file: Path | None,
    items: int,
    margin: float,
    seed: int,
) -> int:
    """Check that the judge still grades as before. Exits 0 stable, 1 drifted, 2 unclear, 3 error.

    The judge scores answers of BEFORE again, past its cache; or two scorings of the same answers
    are compared as they are.

    \b
    rlrf judge drift evaluations/m0/just_eval --judge judge.yaml
    rlrf judge drift evaluations/m0/just_eval evaluations/rejudged
    """
    from harness.evals.evaluation import load_single
    from harness.judges.checks import drift as drifting
    from harness.render import judge_checks

    saved = load_single(before)
    if (after is None) == (judge_file is None):
        raise UserError("Name either a second evaluation, AFTER, or a judge to ask with --judge.")
    if after is not None:
        found = drifting.between(saved, load_single(after), margin=margin)
    else:
        with _opened(judge_file, fresh=True) as (judging, asked):
            grader = _named(asked, judge_file)
            task = judging.task(saved.evaluation.task)
            found = drifting.again(task, saved, grader, anchors=items, seed=seed, margin=margin)
    print_result(found, judge_checks.drift(found))
    return EXIT[DRIFT_EXIT[found.verdict]]


def _named(judge: Judge | None, file: Path | None) -> Judge:
    if judge is None:
        raise UserError(f"{file} names no judge: add a block `judge`.")
    return judge


@contextlib.contextmanager
def _opened(
    judge_file: Path | None, *, fresh: bool = False
) -> Iterator[tuple[Judging, Judge | None]]:
    from harness.judges.config import load_judging

    judging = load_judging(judge_file)
    with judging.open(fresh=fresh) as judge:
        yield judging, judge
