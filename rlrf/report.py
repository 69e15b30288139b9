"""Render a run as an HTML page: the outcome of each candidate, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import parse, read_json
from harness.core.schema import Decision, Metric, over_all_items
from harness.core.scored import ScoredEvaluation
from harness.core.text import plural
from harness.evals import evaluation
from harness.render import html, numbers
from harness.render.html.comparison import gains, measure, questions
from harness.render.html.figures import Curve, Point, Step
from harness.render.html.report import Gate, JudgeFinding, Measured, Model, Report, Table
from rlrf.result import GateVerdict, Iteration, RunResult
from rlrf.run import iteration_name
from rlrf.stage_folder import MANIFEST, Manifest

STAGES = ("explore", "reward", "feedback", "reflect", "train", "evaluate")
SAID = {"pass": "passes", "fail": "fails", "inconclusive": "is inconclusive"}


def report(run: Path, judge: Sequence[JudgeFinding] = ()) -> str:
    """Render the finished run in the folder `run` as HTML, the same bytes for the same run.

    Args:
        judge: findings about the judge, from `harness.render.html.judge_findings.read`.

    Raises:
        UserError: the folder holds no finished run, or a file of the run is malformed.
    """
    path = run / "result.json"
    if not path.is_file():
        raise UserError(
            f"There is no finished run in {run}: it has no result.json. To resume it, run the "
            "command that started it again; for two evaluation folders name --baseline and "
            "--candidate."
        )
    result = parse(RunResult, read_json(path), str(path))
    sealed = [_sealed_evaluations(run, model.name, result) for model in result.sealed]
    decided = next((model.vs_anchor for model in result.sealed if model.vs_anchor), None)
    measured = measure(sealed, decided)
    definitions = {one.task: one.evaluations[0].definitions for one in measured}
    names = [model.name for model in result.sealed]
    headline = _headline(result, definitions)
    at = _compared(result, names)
    decided = result.sealed[at].vs_anchor
    return html.report(
        Report(
            kind=f"Run {result.run}",
            title=_title(result),
            verdict=decided.verdict if decided else None,
            sentence=_sentence(result, at),
            findings=_findings(result, at, definitions),
            split=", ".join(sorted({one.evaluations[0].split for one in measured})),
            models=[Model(name, result.outcomes.get(name, "start")) for name in names],
            headline=headline,
            measured=measured,
            questions=questions(sealed),
            compared=(0, at),
            curves=[_curve(result, measured, *shown) for shown in headline],
            gates=_gates(result),
            sealed=_sealed(result),
            optimism=_optimism(result, definitions, headline),
            training=_training(run, result),
            judge=list(judge),
        )
    )


def _sealed_evaluations(run: Path, name: str, result: RunResult) -> dict[str, ScoredEvaluation]:
    """Load what a model answered to the sealed items, of the tasks and of the guards."""
    evaluations = evaluation.load(run / "sealed" / name)
    if result.guards:
        evaluations |= evaluation.load(run / "sealed" / f"guards_{name}")
    return evaluations


def _title(result: RunResult) -> str:
    if result.incumbent == result.sealed[0].name:
        return f"{result.incumbent} stays the incumbent: no candidate passed the gate"
    if result.outcomes.get(result.incumbent) != "promoted":
        return f"{result.incumbent} is the incumbent without having passed the gate"
    return f"{result.incumbent} passed the gate and is the incumbent"


def _compared(result: RunResult, names: Sequence[str]) -> int:
    """Return the model to compare with M0: the incumbent, or the last candidate if M0 stays."""
    at = names.index(result.incumbent) if result.incumbent in names else 0
    return at or len(names) - 1


def _sentence(result: RunResult, at: int) -> str:
    promoted = sum(iteration.outcome == "promoted" for iteration in result.iterations)
    model, decision = result.sealed[at], result.sealed[at].vs_anchor
    tried = len(result.iterations)
    were = "was" if tried == 1 else "were"
    said = f"{promoted} of {tried} {plural('candidate', tried)} {were} promoted."
    if decision is None:
        return said
    return (
        f"{said} On the sealed split, opened once, {model.name} {SAID[decision.verdict]} against "
        f"{result.sealed[0].name}."
    )


def _findings(
    result: RunResult, at: int, definitions: Mapping[str, Mapping[str, Metric]]
) -> list[str]:
    decision = result.sealed[at].vs_anchor
    if decision is None:
        return []
    names = [*result.shown, *result.guards]
    shown = [c for c in over_all_items(decision.checks) if f"{c.task} {c.metric}" in names]
    return gains(shown, decision, definitions)


def _headline(
    result: RunResult, definitions: Mapping[str, Mapping[str, Metric]]
) -> list[tuple[str, str]]:
    pairs = [
        (task, metric)
        for task, _, metric in (name.partition(" ") for name in [*result.shown, *result.guards])
    ]
    return [(task, metric) for task, metric in pairs if task in definitions]


def _curve(result: RunResult, measured: Sequence[Measured], task: str, metric: str) -> Curve:
    """Plot means on the sealed split by iteration, and what the gate measured on its items."""
    (one,) = [one for one in measured if one.task == task]
    points = [
        Point(model.name, found, result.outcomes.get(model.name, "start"))
        for model, found in zip(result.sealed, one.results(metric), strict=True)
        if found is not None
    ]
    names = {point.name for point in points}
    return Curve(
        title=f"{task} {metric}",
        metric=one.definition(metric),
        points=points,
        steps=[
            Step(
                iteration.explored_by,
                iteration.candidate,
                check.baseline_mean,
                check.candidate_mean,
            )
            for iteration in result.iterations
            if iteration.gate and {iteration.explored_by, iteration.candidate} <= names
            for check in over_all_items(iteration.gate.vs_incumbent.checks)
            if (check.task, check.metric) == (task, metric) and check.n
        ],
    )


def _gates(result: RunResult) -> list[Gate]:
    anchor = result.sealed[0].name
    return [
        Gate(
            title=f"Iteration {one.number}: {one.candidate}, made from {one.explored_by}",
            outcome=one.outcome,
            reasons=one.reasons,
            decisions=_decisions(one, one.gate, anchor) if one.gate else [],
        )
        for one in result.iterations
    ]


def _decisions(iteration: Iteration, gate: GateVerdict, anchor: str) -> list[tuple[str, Decision]]:
    if gate.vs_incumbent == gate.vs_anchor:
        return [(f"{anchor}, incumbent and anchor", gate.vs_incumbent)]
    return [
        (f"the incumbent {iteration.explored_by}", gate.vs_incumbent),
        (f"the anchor {anchor}", gate.vs_anchor),
    ]


def _sealed(result: RunResult) -> list[Gate]:
    anchor = result.sealed[0].name
    return [
        Gate(
            title=model.name,
            outcome=model.vs_anchor.verdict,
            reasons=[],
            decisions=[(anchor, model.vs_anchor)],
        )
        for model in result.sealed
        if model.vs_anchor
    ]


def _optimism(
    result: RunResult,
    definitions: Mapping[str, Mapping[str, Metric]],
    headline: Sequence[tuple[str, str]],
) -> Table | None:
    rows = []
    for name, check, gap in result.gains():
        if (check.task, check.metric) not in headline:
            continue
        metric = definitions[check.task].get(check.metric)
        ends = numbers.interval(check.low, check.high, metric, signed=True)
        rows.append(
            [
                name,
                f"{check.task} {check.metric}",
                numbers.number(check.delta + gap, metric, signed=True),
                f"{numbers.number(check.delta, metric, signed=True)} {ends}",
                f"{check.n:,}",
                numbers.number(gap, metric, signed=True),
            ]
        )
    heads = [
        "model",
        "metric",
        "gain at the gate",
        f"sealed gain [{result.level}]",
        "n",
        "optimism",
    ]
    return Table(heads, rows) if rows else None


def _training(run: Path, result: RunResult) -> Table:
    rows = []
    kind = result.iterations[0].lessons.kind
    for iteration in result.iterations:
        learned = iteration.lessons
        seconds = stage_seconds(run / iteration_name(iteration.number))
        skipped = ", ".join(f"{count} {why}" for why, count in sorted(learned.skipped.items()))
        similar = learned.median_similarity
        chosen = f" ({learned.chosen_refined:,} with a refinement chosen)"
        refined = chosen if learned.refinements else ""
        rows.append(
            [
                iteration.candidate,
                f"{learned.prompts:,}",
                f"{learned.lessons:,}{refined}",
                f"{learned.refinements_better:,} / {learned.refinements_worse:,} "
                f"of {learned.refinements:,}",
                numbers.NOTHING if similar is None else f"{similar:.2f}",
                skipped or numbers.NOTHING,
                *[f"{seconds[stage]:,.0f}" for stage in STAGES],
                f"{iteration.seconds:,.0f}",
            ]
        )
    heads = [
        "candidate",
        "prompts",
        kind,
        "refinements better / worse",
        "median similarity",
        f"prompts without {kind}",
        *(f"{stage} s" for stage in STAGES),
        "total s",
    ]
    return Table(heads, rows)


def stage_seconds(iteration: Path) -> dict[str, float]:
    """Return stage -> seconds; feedback on refinements counts as feedback, guards as evaluation."""
    taken = dict.fromkeys(STAGES, 0.0)
    for path in sorted(iteration.glob(f"*/{MANIFEST}")):
        name = path.parent.name
        stage = {"reflect_feedback": "feedback"}.get(name, name.partition("_")[0])
        stage = "evaluate" if stage == "guards" else stage
        if stage in taken:
            taken[stage] += parse(Manifest, read_json(path), str(path)).seconds
    return taken
