"""What a run came to: one line a model, and what of the gate's gains the sealed split confirms."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from harness.schema import Decision, Evaluation, MetricResult, Promotion, Record
from rlrf.pairs import PairReport


class GateVerdict(Record):
    """A candidate at the gate, on one fresh slice."""

    vs_incumbent: Decision
    vs_anchor: Decision
    promotion: Promotion


class Iteration(Record):
    """One turn of the loop."""

    number: int
    explored_by: str = Field(description="the incumbent that it started from")
    candidate: str
    pairs: PairReport
    seconds: float
    gate: GateVerdict | None = Field(description="None where no pair was usable: no candidate")

    @property
    def outcome(self) -> str:
        if self.gate is None:
            return "no pairs"
        return "promoted" if self.gate.promotion.promoted else "rolled back"


class Sealed(Record):
    """A model on the sealed split, opened once, at the end."""

    name: str
    metrics: dict[str, MetricResult] = Field(description="'task metric' -> mean and interval")
    vs_anchor: Decision | None = Field(description="None for the anchor itself")


class RunResult(Record):
    """What `rlrf.loop.train` returns, and `RUN/result.json` holds."""

    run: str
    incumbent: str = Field(description="the model that the gate left in place")
    weights: str = Field(description="its folder")
    adapter: str | None = None
    shown: list[str] = Field(description="'task metric' of the gate's critical rules: the headline")
    iterations: list[Iteration]
    sealed: list[Sealed]

    def optimism(self, name: str) -> dict[str, float]:
        """'task metric' -> gain of model `name` over M0 at the gate, minus that on the sealed split.

        Gains at the gate are chosen for; what of them is not real shows here.
        """
        at_gate = next((i.gate for i in self.iterations if i.candidate == name), None)
        sealed = next((s.vs_anchor for s in self.sealed if s.name == name), None)
        if at_gate is None or sealed is None:
            return {}
        gains = {(check.task, check.metric): check.delta for check in sealed.checks}
        return {
            f"{check.task} {check.metric}": check.delta - gains[check.task, check.metric]
            for check in at_gate.vs_anchor.checks
        }


def markdown(result: RunResult) -> str:
    """The final tables: the models on the sealed split, and the iterations."""
    models = [["model", *result.shown, "against M0", "optimism"]]
    for model in result.sealed:
        gaps = result.optimism(model.name)
        optimism = [f"{gaps[name]:+.3f}" for name in result.shown if name in gaps]
        models.append(
            [
                f"**{model.name}**" if model.name == result.incumbent else model.name,
                *[_number(model.metrics[name]) for name in result.shown],
                model.vs_anchor.verdict if model.vs_anchor else "",
                ", ".join(optimism),
            ]
        )
    steps = [["candidate", "from", "pairs", "refined", "incumbent", "anchor", "outcome", "seconds"]]
    for turn in result.iterations:
        steps.append(
            [
                turn.candidate,
                turn.explored_by,
                str(turn.pairs.pairs),
                str(turn.pairs.chosen_refined),
                turn.gate.vs_incumbent.verdict if turn.gate else "",
                turn.gate.vs_anchor.verdict if turn.gate else "",
                turn.outcome,
                f"{turn.seconds:.0f}",
            ]
        )
    reasons = [
        f"- {turn.candidate}: {reason}"
        for turn in result.iterations
        for reason in (turn.gate.promotion.reasons if turn.gate else [turn.pairs.sentence()])
    ]
    where = result.weights if result.adapter is None else f"{result.adapter} on {result.weights}"
    return "\n\n".join(
        [
            "Sealed split, opened once: mean [95 % interval]",
            table(models),
            "Iterations at the gate",
            table(steps),
            "\n".join(reasons),
            f"The incumbent is {result.incumbent}: {where}",
        ]
    )


def evaluations(found: Sequence[Evaluation]) -> str:
    """A table of every metric: mean, 95 % interval, items with a value, answers without one."""
    rows = [["task", "metric", "mean [95 % interval]", "n", "unscored"]]
    for one in found:
        for name, result in one.metrics.items():
            known = one.definitions.get(name)
            shown = f"**{name}**" if known and known.primary else name
            rows.append([one.task, shown, _number(result), str(result.n), str(result.unscored)])
    return table(rows)


def table(rows: list[list[str]]) -> str:
    """A Markdown table of which the first row is the header, in columns that line up."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _number(result: MetricResult) -> str:
    if result.mean is None:
        return "unscored"
    if result.low is None or result.high is None:
        return f"{result.mean:.3f}"
    return f"{result.mean:.3f} [{result.low:.3f}, {result.high:.3f}]"
