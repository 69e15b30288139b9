"""From finished runs to one board and one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import rows
from pydantic import Field
from rows import HEADLINE

from harness.board import Board
from harness.core.files import parse, read_json
from harness.core.schema import MetricResult, Record, mean
from harness.evals import evaluation
from harness.render.table import table
from harness.stats.intervals import item_values, summarize
from rlrf.result import RunResult, Sealed

Runs = Mapping[int, RunResult]  # by seed
Pairs = Mapping[int, tuple[Sealed, Sealed]]  # by seed: `BEST`'s model and another's
BEST = "RLRF"


class Line(Record):
    """A candidate of a row, over the seeds: its sealed metrics, and what it took."""

    start: str
    row: str
    model: str
    seeds: int
    promoted: int = Field(default=0, description="runs in which the gate let it take over")
    sealed_pass: int = Field(default=0, description="runs in which it passes against the start")
    metrics: dict[str, MetricResult]
    optimism: dict[str, float] = Field(default={})
    behind: dict[str, MetricResult] = Field(default={}, description=f"by how much {BEST} is ahead")
    sampled: float = Field(default=0, description="responses sampled, by run")
    trained: float = Field(default=0, description="responses trained on, by run and epoch")
    seconds: float = Field(default=0, description="of the iteration, one thread, by run")


def finished(out: Path) -> dict[str, dict[str, dict[int, RunResult]]]:
    """start -> row -> seed -> result."""
    found: dict[str, dict[str, dict[int, RunResult]]] = {}
    for start, named in rows.ROWS.items():
        for row in named:
            for path in sorted(out.glob(f"runs/{rows.slug(start, row, 0)[:-1]}*/result.json")):
                seed = int(path.parent.suffix[1:])
                result = parse(RunResult, read_json(path), str(path))
                found.setdefault(start, {}).setdefault(row, {})[seed] = result
    return found


def publish(out: Path, found: Mapping[str, Mapping[str, Runs]]) -> None:
    """All sealed evaluations and decisions on one board: a run a seed, a model a row."""
    board = Board(out / "board")
    for start, named in found.items():
        for row, results in named.items():
            for seed, result in results.items():
                run = f"{start}, seed {seed}"
                for model in result.sealed:
                    name = model.name if model.vs_anchor is None else f"{row} {model.name}"
                    for scored in evaluation.load(sealed(out, start, row, seed, model)).values():
                        board.add_evaluation(scored, name, run)
                    if model.vs_anchor is not None:
                        board.add_decision(model.vs_anchor, run, "sealed")


def sealed(out: Path, start: str, row: str, seed: int, model: Sealed) -> Path:
    return out / "runs" / rows.slug(start, row, seed) / "sealed" / model.name


def lines(out: Path, start: str, found: Mapping[str, Runs]) -> list[Line]:
    """The start itself, then the candidates of each method."""
    most = max(found.values(), key=len)
    anchors = [of(run, "M0") for run in most.values()]
    begin = Line(start=start, row="-", model="M0", seeds=len(most), metrics=over_runs(anchors))
    made = [begin]
    best = found.get(BEST, {})
    for row, results in found.items():
        iterations = max(len(run.iterations) for run in results.values())
        for number in range(1, iterations + 1):
            one = line(start, row, results, number)
            if row != BEST and best.keys() >= results.keys():
                pairs = {
                    seed: (of(best[seed], one.model), of(run, one.model))
                    for seed, run in results.items()
                }
                gaps = {task: behind(out, start, row, pairs, task) for task in HEADLINE}
                one = one.model_copy(update={"behind": gaps})
            made.append(one)
    return made


def line(start: str, row: str, results: Runs, number: int) -> Line:
    """The candidate of an iteration."""
    name, runs = f"M{number}", list(results.values())
    shown = [of(run, name) for run in runs]
    iterations = [
        iteration for run in runs for iteration in run.iterations if iteration.number == number
    ]
    gaps = [run.optimism(name) for run in runs]
    return Line(
        start=start,
        row=row,
        model=name,
        seeds=len(runs),
        promoted=sum(iteration.outcome in ("promoted", "not enforced") for iteration in iterations),
        sealed_pass=sum(
            one.vs_anchor is not None and one.vs_anchor.verdict == "pass" for one in shown
        ),
        metrics=over_runs(shown),
        optimism={
            task: mean(known)
            for task, metric in HEADLINE.items()
            if (known := [gap[f"{task} {metric}"] for gap in gaps if gap])
        },
        sampled=sum(iteration.lessons.sampled for iteration in iterations) / len(runs),
        trained=sum(iteration.lessons.trained for iteration in iterations) / len(runs),
        seconds=sum(iteration.seconds for iteration in iterations) / len(runs),
    )


def of(run: RunResult, name: str) -> Sealed:
    """The model called `name`, or where it was never made, the one that it would have come from."""
    by_name = {model.name: model for model in run.sealed}
    if name in by_name:
        return by_name[name]
    return by_name[
        next(iteration.explored_by for iteration in run.iterations if iteration.candidate == name)
    ]


def over_runs(found: Sequence[Sealed]) -> dict[str, MetricResult]:
    """Mean over runs with Student's t interval over them; one run keeps that over its items."""
    of_task = {
        task: [model.metrics[f"{task} {metric}"] for model in found]
        for task, metric in HEADLINE.items()
    }
    return {task: _within(known, *rows.RANGES[task]) for task, known in of_task.items()}


def _within(known: Sequence[MetricResult], least: float, most: float) -> MetricResult:
    """The mean over runs; its interval ends where the metric does."""
    if len(known) == 1:
        return known[0]
    means = [one.mean for one in known if one.mean is not None]
    return summarize(means, limits=(least, most))


def behind(out: Path, start: str, row: str, pairs: Pairs, task: str) -> MetricResult:
    """How far `BEST`'s models are ahead of a row's, paired by item, seed by seed.

    Student's t interval over items; an item that two seeds picked counts once, by its mean.
    """
    gaps: dict[str, list[float]] = {}
    for seed, models in pairs.items():
        ahead, own = (
            item_values(
                evaluation.load(sealed(out, start, named, seed, model))[task].scores, HEADLINE[task]
            )
            for named, model in zip((BEST, row), models, strict=True)
        )
        for item, value in own.items():
            gaps.setdefault(item, []).append(ahead[item] - value)
    return summarize([mean(of_item) for of_item in gaps.values()])


def markdown(made: Sequence[Line]) -> str:
    head = ["method", "", *(f"{task} {name}" for task, name in HEADLINE.items())]
    head += ["promoted", "sealed pass", "optimism", "sampled", "trained on", "seconds"]
    body = []
    for one in made:
        took = [
            f"{one.promoted} of {one.seeds}",
            f"{one.sealed_pass} of {one.seeds}",
            " / ".join(f"{gap:+.2f}" for gap in one.optimism.values()) or "-",
            f"{one.sampled:,.0f}",
            f"{one.trained:,.0f}",
            f"{one.seconds:,.0f}",
        ]
        means = [number(one.metrics[task]) for task in HEADLINE]
        body.append([one.row, one.model, *means, *(took if one.sampled else ["-"] * len(took))])
    return table([head, *body])


def compared(made: Sequence[Line]) -> str:
    """How far the best row is ahead of the others, paired by item."""
    body = [
        [one.row, one.model, *(number(one.behind[task], "+") for task in HEADLINE)]
        for one in made
        if one.behind
    ]
    return table([[f"{BEST} is ahead of", "", *HEADLINE], *body]) if body else ""


def number(found: MetricResult, sign: str = "") -> str:
    if found.mean is None:
        return "-"
    shown = f"{found.mean:{sign}.3f}"
    if found.low is None or found.high is None:
        return shown
    return f"{shown} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"
