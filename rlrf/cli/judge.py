"""`rlrf judge`: is the judge any good?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.core.errors import UserError
from harness.core.log import say, show
from rlrf.cli.common import EXIT, FILE, FOLDER, as_json, print_json

if TYPE_CHECKING:
    from harness.core.schema import MetricResult
    from harness.core.scored import ScoredEvaluation
    from harness.judges.config import Judging
    from tasks.task import Judge

UNLIKELY = 0.001
DRIFT_EXIT = {"stable": "pass", "drifted": "fail", "unclear": "inconclusive"}

judge_option = click.option(
    "--judge", "judge_file", type=FILE, help="YAML that says how answers are judged."
)
seed_option = click.option("--seed", type=int, default=0, show_default=True)


@click.group()
def judge() -> None:
    """Is the judge any good?

    \b
    rlrf judge check EVALUATION            do worthless answers lose?
    rlrf judge compare BASELINE CANDIDATE  which answers are better, in both orders?
    rlrf judge agree EVALUATION ...        do several judges agree?
    rlrf judge sheet EVALUATION            answers for people to label, then:
    rlrf judge calibrate EVALUATION LABELS what would people say?
    rlrf judge drift BEFORE AFTER          does it still say what it said?

    EVALUATION is an evaluation folder of one task, which `eval` and `score` write with --out.
    """


@judge.command()
@click.argument("evaluation", type=FOLDER)
@judge_option
@click.option(
    "--items", type=click.IntRange(min=1), default=50, show_default=True, help="Drawn by the seed."
)
@click.option(
    "--required",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.8,
    show_default=True,
    help="Share of each kind of worthless answer that has to lose.",
)
@seed_option
@as_json
def check(
    *,
    evaluation: Path,
    judge_file: Path | None,
    items: int,
    required: float,
    seed: int,
    json_: bool,
) -> int:
    """Do worthless answers lose against the answers of EVALUATION?

    Empty answers, one constant answer, the request copied, filler, and an answer that tells the
    judge its verdict are scored beside the real ones. Exits 0 if each kind loses often enough, 1
    if one does not, 2 if there are too few to tell, 3 on errors. Without a judge file the task
    scores as it does by itself.

    \b
    rlrf judge check evaluations/mine/just_eval --judge judge.yaml
    rlrf judge check evaluations/mine/mini_just_eval --items 100
    """
    from harness.judges.checks import canaries

    saved = _one(evaluation)
    with _opened(judge_file) as (judging, asked):
        found = canaries.check(
            judging.task(saved.evaluation.task),
            saved,
            asked,
            items=items,
            required=required,
            seed=seed,
        )
    rows = [
        [
            canary.name,
            canary.verdict,
            _number(canary.share, canary.low, canary.high),
            str(canary.n),
            str(canary.tied),
            str(canary.won),
            str(canary.unscored),
        ]
        for canary in found.canaries
    ]
    _show(
        found,
        f"{found.verdict}: {found.metric} of {found.task}; "
        f"at least {100 * required:g} % have to lose",
        [["canary", "verdict", "lost [95 % interval]", "n", "tied", "won", "unscored"], *rows],
        json_,
    )
    return EXIT[found.verdict]


@judge.command()
@click.argument("baseline", type=FOLDER)
@click.argument("candidate", type=FOLDER)
@click.option("--judge", "judge_file", type=FILE, required=True, help="YAML that names the judge.")
@click.option("--items", type=click.IntRange(min=1), help="Drawn by the seed.  [default: all]")
@seed_option
@as_json
def compare(
    *,
    baseline: Path,
    candidate: Path,
    judge_file: Path,
    items: int | None,
    seed: int,
    json_: bool,
) -> None:
    """Are the answers of CANDIDATE better than those of BASELINE, side by side?

    Every pair is asked twice, the answers swapped; a win counts only if it survives.

    \b
    rlrf judge compare evaluations/m0/just_eval evaluations/m1/just_eval --judge judge.yaml
    """
    from harness.judges.checks import pairwise

    before, after = _one(baseline), _one(candidate)
    with _opened(judge_file) as (_, asked):
        if asked is None:
            raise UserError(f"{judge_file} names no judge: add a block `judge`.")
        found = pairwise.compare(before, after, asked, items=items, seed=seed)
    lines = {
        "win rate, ties half": found.win_rate,
        "consistency": found.consistency,
        "position bias": found.position_bias,
    }
    unscored = [f"{count} unscored: {reason}" for reason, count in found.unscored.items()]
    p_value = "" if found.p_value is None else f"; p = {found.p_value:.3g} of no difference"
    _show(
        found,
        "\n".join(
            [
                f"{found.task}: {found.wins} wins, {found.losses} losses, {found.ties} ties"
                f"{p_value}",
                *unscored,
            ]
        ),
        [
            ["", "mean [95 % interval]", "n"],
            *([name, _result(line), str(line.n)] for name, line in lines.items()),
        ],
        json_,
    )


@judge.command()
@click.argument("evaluations", type=FOLDER, nargs=-1, required=True)
@seed_option
@as_json
def agree(*, evaluations: Sequence[Path], seed: int, json_: bool) -> None:
    """Do several judges of the same answers agree? Krippendorff's alpha, 1 is agreement.

    EVALUATIONS are scorings of the same answers, one a judge.

    \b
    rlrf score just_eval evaluations/mine/just_eval --judge other.yaml --out evaluations/other
    rlrf judge agree evaluations/mine/just_eval evaluations/other
    """
    from harness.judges.checks import panel

    found = panel.agree({str(folder): _one(folder) for folder in evaluations}, seed=seed)
    rows = [
        [
            metric.metric,
            *[_number(one.alpha, one.low, one.high) for one in metric.alpha.values()],
            str(metric.n),
            *[
                _result(metric.means[member.name]) if member.name in metric.means else "-"
                for member in found.members
            ],
        ]
        for metric in found.metrics
    ]
    heads = ["metric", "nominal alpha", "ordinal alpha", "interval alpha", "n"]
    _show(
        found,
        f"{found.task}: alpha and means [95 % interval]",
        [[*heads, *[f"mean, {member.name}" for member in found.members]], *rows],
        json_,
    )


@judge.command()
@click.argument("evaluation", type=FOLDER)
@click.option(
    "--items", type=click.IntRange(min=1), default=100, show_default=True, help="Drawn by the seed."
)
@click.option("--metrics", help="What to label, by comma.  [default: all that apply]")
@seed_option
@click.option("--out", type=FILE, required=True, help="JSONL to fill in; never overwritten.")
def sheet(*, evaluation: Path, items: int, metrics: str | None, seed: int, out: Path) -> None:
    """Answers of EVALUATION, drawn at random, for people to label.

    Each line has an answer and a null for every metric: write the label in its place, or leave it.
    The file is what `calibrate` takes.

    \b
    rlrf judge sheet evaluations/m1/just_eval --metrics depth,factuality --out labels.jsonl
    """
    from harness.core.files import jsonl_bytes
    from harness.core.outputs import check_file, json_lines_of
    from harness.judges.checks import calibrate as calibrating

    saved = _one(evaluation)
    if out.exists():
        raise UserError(f"{out} is there already, perhaps with labels in it: name another file.")
    written = check_file(out, json_lines_of("an empty file"), [evaluation])
    names = [name.strip() for name in (metrics or "").split(",") if name.strip()]
    rows = calibrating.sheet(saved, items, seed=seed, names=names)
    written.write(jsonl_bytes(rows))
    say(f"{len(rows)} answers of {saved.evaluation.task} to label are in {out}.")


@judge.command()
@click.argument("evaluation", type=FOLDER)
@click.argument("labels", type=FILE)
@click.option(
    "--baseline",
    type=(FOLDER, FILE),
    help="An evaluation and its labels: calibrate the gain of EVALUATION over it.",
)
@as_json
def calibrate(
    *, evaluation: Path, labels: Path, baseline: tuple[Path, Path] | None, json_: bool
) -> None:
    """What would people say? The judge's mean, corrected by the items that people labelled.

    LABELS is JSONL, one {"id", metric: value} a line, where the id is the item's index. The items
    in it have to be a random part of all: `sheet` draws one (prediction-powered inference, PPI++).

    \b
    rlrf judge calibrate evaluations/m1/just_eval labels.jsonl
    rlrf judge calibrate evaluations/m1 m1.jsonl --baseline evaluations/m0 m0.jsonl
    """
    from harness.judges.checks import calibrate as calibrating

    saved = _one(evaluation)
    said = calibrating.read_labels(labels, saved)
    if baseline:
        before = _one(baseline[0])
        before_said = calibrating.read_labels(baseline[1], before)
        found = calibrating.change(before, before_said, saved, said)
    else:
        found = calibrating.mean(saved, said)
    rows = [
        [
            one.metric,
            _result(one.judge),
            _result(one.human),
            f"**{_result(one.corrected)}**",
            _result(one.bias),
            _result(one.correlation),
            f"{one.labelled} + {one.unlabelled}",
            f"{one.effective_n:.0f}",
        ]
        for one in found.metrics
    ]
    for one in found.metrics:
        if one.p_random is not None and one.p_random < UNLIKELY:
            say(
                f"{one.metric}: the judge scores the labelled items {_result(one.judge_labelled)}, "
                f"all of them {_result(one.judge)}. They were hardly drawn at random (p = "
                f"{one.p_random:.1g}), and then the correction does not hold."
            )
    for name, n in found.too_few.items():
        say(f"{name}: left out, since only {n} items have a label and a score.")
    heads = ["metric", "judge, all", "people, labelled", "corrected", "bias of the judge"]
    _show(
        found,
        f"{found.task}, {'gain' if baseline else 'mean'} [95 % interval]",
        [[*heads, "correlation", "labelled + not", "worth labels"], *rows],
        json_,
    )


@judge.command()
@click.argument("before", type=FOLDER)
@click.argument("after", type=FOLDER, required=False)
@judge_option
@click.option(
    "--items", type=click.IntRange(min=1), default=400, show_default=True, help="Asked again."
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Largest change that is still stable, as a share of a metric's range.",
)
@seed_option
@as_json
def drift(
    *,
    before: Path,
    after: Path | None,
    judge_file: Path | None,
    items: int,
    margin: float,
    seed: int,
    json_: bool,
) -> int:
    """Does the judge still say what it said? Exits 0 stable, 1 drifted, 2 unclear, 3 error.

    The judge scores answers of BEFORE again, past its cache; or two scorings of the same answers
    are compared as they are.

    \b
    rlrf judge drift evaluations/m0/just_eval --judge judge.yaml
    rlrf judge drift evaluations/m0/just_eval evaluations/rejudged
    """
    from harness.judges.checks import drift as drifting

    saved = _one(before)
    if (after is None) == (judge_file is None):
        raise UserError("Name either a second evaluation, AFTER, or a judge to ask with --judge.")
    if after is not None:
        found = drifting.between(saved, _one(after), margin=margin)
    else:
        with _opened(judge_file, fresh=True) as (judging, asked):
            if asked is None:
                raise UserError(f"{judge_file} names no judge: add a block `judge`.")
            task = judging.task(saved.evaluation.task)
            found = drifting.again(task, saved, asked, anchors=items, seed=seed, margin=margin)
    level = f"{100 * (1 - 2 * found.alpha):g} %"
    rows = [
        [
            one.metric,
            one.verdict,
            _number(one.change, one.low, one.high, sign="+"),
            f"{one.margin:g}",
            _result(one.changed),
            str(one.n),
            str(one.unscored),
        ]
        for one in found.metrics
    ]
    heads = ["metric", "verdict", f"change [{level} interval]", "margin"]
    _show(
        found,
        f"{found.verdict}: {found.task}, {found.anchors} items scored twice",
        [[*heads, "scores changed [95 % interval]", "n", "unscored"], *rows],
        json_,
    )
    return EXIT[DRIFT_EXIT[found.verdict]]


def _one(folder: Path) -> ScoredEvaluation:
    from harness.evals import evaluation

    found = evaluation.load(folder)
    if len(found) > 1:
        raise UserError(f"{folder} holds evaluations of {', '.join(found)}: name one of them.")
    return next(iter(found.values()))


@contextlib.contextmanager
def _opened(
    judge_file: Path | None, *, fresh: bool = False
) -> Iterator[tuple[Judging, Judge | None]]:
    from harness.judges.config import load_judging

    judging = load_judging(judge_file)
    with judging.open(fresh=fresh) as judge:
        yield judging, judge


def _show(found: Any, title: str, rows: list[list[str]], json_: bool) -> None:
    from harness.render.table import table

    if json_:
        print_json(found.model_dump(mode="json"))
    else:
        show(f"{title}\n\n{table(rows)}")


def _result(result: MetricResult) -> str:
    return _number(result.mean, result.low, result.high)


def _number(
    value: float | None, low: float | None = None, high: float | None = None, *, sign: str = ""
) -> str:
    from harness.render.numbers import with_interval

    return with_interval(value, low, high, f"{sign}.3f")
