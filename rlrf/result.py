"""Results of a run: its records, and the tables that `rlrf train` ends with."""

from __future__ import annotations

from pydantic import Field

from harness.core.schema import (
    Check,
    Decision,
    MetricResult,
    Promotion,
    Record,
    Verdict,
    added,
    over_all_items,
)
from harness.render.table import mean, table
from rlrf.training_examples import ExamplesReport

RESULT = "result.json"
METRICS = "metrics.jsonl"
WORSE: list[Verdict] = ["pass", "inconclusive", "fail"]
FILE_NAME = r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$"  # of a file in a folder, not a path out of it


class GateVerdict(Record):
    """Verdict on a candidate, by the gate items of one iteration."""

    vs_incumbent: Decision
    vs_anchor: Decision
    promotion: Promotion

    def guards(self) -> dict[str, Verdict]:
        """Return 'task metric' of each guard -> the worse of its two verdicts."""
        verdicts: dict[str, Verdict] = {}
        for decision in (self.vs_incumbent, self.vs_anchor):
            for check in guard_checks(decision):
                name = f"{check.task} {check.metric}"
                verdicts[name] = max(check.verdict, verdicts.get(name, "pass"), key=WORSE.index)
        return verdicts


def guard_checks(decision: Decision) -> list[Check]:
    """Return the checks of a decision that are about guards."""
    guards = {(rule.task, rule.metric) for rule in decision.policy.rules if rule.guard}
    return [check for check in decision.checks if (check.task, check.metric) in guards]


class Iteration(Record):
    """Outcome of one iteration of the loop."""

    number: int
    explored_by: str = Field(description="the incumbent that it started from")
    candidate: str
    lessons: ExamplesReport
    seconds: float
    stopped: str = Field(
        default="", description="why there is no candidate, if not for lack of training examples"
    )
    gate: GateVerdict | None = Field(description="None if there is no candidate")
    enforced: bool = Field(default=True, description="whether the gate's verdict was binding")

    @property
    def outcome(self) -> str:
        if self.gate is None:
            return "stopped" if self.stopped else f"no {self.lessons.kind}"
        if self.gate.promotion.promoted:
            return "promoted"
        return "rolled back" if self.enforced else "not enforced"

    @property
    def reasons(self) -> list[str]:
        """Why the iteration ended with its outcome."""
        if self.gate is not None:
            return self.gate.promotion.reasons
        helps = f". What helps: {self.lessons.advice}" if self.lessons.advice else ""
        return [self.stopped or f"{self.lessons.sentence()}{helps}"]


class IterationMetrics(Record):
    """Metrics of an iteration, a row of `metrics.jsonl`; a candidate's are empty without one."""

    iteration: int
    candidate: str
    outcome: str
    lessons: int
    chosen_refined: int = Field(
        description="training examples whose better response is a refinement"
    )
    rejected_refined: int
    refinements_improved: float | None = Field(
        description="share of the refinements with a higher reward than their draft"
    )
    training: dict[str, tuple[float, float]] = Field(
        description="training metric -> its first and last value"
    )
    explored_reward: dict[str, float] = Field(
        description="task -> mean reward that the training examples are made by"
    )
    explored_model_reward: dict[str, float] = Field(
        description="task -> mean reward by the reward model"
    )
    explored_tokens: dict[str, float] = Field(description="task -> mean response length in tokens")
    gate: dict[str, float] = Field(description="'task metric' -> mean of the candidate")
    guards: dict[str, Verdict] = added(
        {}, "'task metric' of a guard -> its verdict on the candidate, the worse of the two"
    )
    gate_model_reward: dict[str, float] = Field(
        description="task -> mean reward of the candidate by the reward model"
    )
    gate_tokens: dict[str, float] = Field(
        description="task -> mean response length of the candidate in tokens"
    )


class Sealed(Record):
    """Metrics of a model on the sealed split, which is opened once, at the end of a run."""

    name: str = Field(pattern=FILE_NAME, description="also of the folder of its evaluations")
    metrics: dict[str, MetricResult] = Field(description="'task metric' -> mean and interval")
    vs_anchor: Decision | None = Field(description="None for M0 itself")


class RunResult(Record):
    """Result of a run, as `rlrf.train` returns it and `RUN/result.json` stores it."""

    run: str
    folder: str = Field(description="folder of the run")
    board: str = Field(description="its leaderboard")
    incumbent: str = Field(description="the model that the gate left in place")
    weights: str = Field(description="folder of the incumbent's weights")
    adapter: str | None = None
    shown: list[str] = Field(
        description="'task metric' of the critical rules of the gate, shown in tables"
    )
    guards: list[str] = added([], "'task metric' of the rules on guards")
    iterations: list[Iteration] = Field(min_length=1)
    sealed: list[Sealed] = Field(min_length=1)

    @property
    def outcomes(self) -> dict[str, str]:
        """Candidate -> outcome of its iteration."""
        return {iteration.candidate: iteration.outcome for iteration in self.iterations}

    @property
    def level(self) -> str:
        """Confidence level of the gate's intervals; "" without a decision."""
        decided = [model.vs_anchor for model in self.sealed if model.vs_anchor]
        return f"{100 - 200 * decided[0].policy.alpha:g} %" if decided else ""

    def gains(self) -> list[tuple[str, Check, float]]:
        """Return (model, check against M0 on the sealed split, optimism) for the metrics shown."""
        return [
            (model.name, check, gaps[name])
            for model in self.sealed
            for gaps in [self.optimism(model.name)]
            for check in over_all_items(model.vs_anchor.checks if model.vs_anchor else ())
            if (name := f"{check.task} {check.metric}") in self.shown and name in gaps
        ]

    def optimism(self, name: str) -> dict[str, float]:
        """Return 'task metric' -> gain of `name` over M0 at the gate minus on the sealed split.

        The gate selects for gains, so some of them are luck; the difference estimates how much.
        """
        at_gate = next((i.gate for i in self.iterations if i.candidate == name), None)
        sealed = next((s.vs_anchor for s in self.sealed if s.name == name), None)
        if at_gate is None or sealed is None:
            return {}
        gains = {(check.task, check.metric): check.delta for check in over_all_items(sealed.checks)}
        return {
            f"{check.task} {check.metric}": check.delta - gains[check.task, check.metric]
            for check in over_all_items(at_gate.vs_anchor.checks)
            if (check.task, check.metric) in gains
        }


def markdown(result: RunResult) -> str:
    """Render the result as Markdown: models on the sealed split, iterations, where to look next."""
    n = max((found.n for found in result.sealed[0].metrics.values()), default=0)
    return "\n\n".join(
        [
            f"Sealed split, opened once, {n:,} items per task: mean [95 % interval]",
            table(_models(result)),
            "Iterations; the Ladder asks for more than 1 standard error over the incumbent",
            table(_iterations(result)),
            *_gains(result),
            *_guards(result),
            *_not_promoted(result),
            _look_next(result),
        ]
    )


def _models(result: RunResult) -> list[list[str]]:
    rows = [["model", *result.shown, "sealed, against M0", "outcome"]]
    for model in result.sealed:
        rows.append(
            [
                f"**{model.name}**" if model.name == result.incumbent else model.name,
                *[mean(model.metrics[name]) for name in result.shown],
                model.vs_anchor.verdict if model.vs_anchor else "-",
                result.outcomes.get(model.name, "start"),
            ]
        )
    return rows


def _iterations(result: RunResult) -> list[list[str]]:
    head = ["", "from", result.iterations[0].lessons.kind, "refined", "incumbent", "anchor"]
    rows = [[*head, "Ladder", "outcome", "seconds"]]
    for iteration in result.iterations:
        rows.append(
            [
                iteration.candidate,
                iteration.explored_by,
                str(iteration.lessons.lessons),
                str(iteration.lessons.chosen_refined),
                iteration.gate.vs_incumbent.verdict if iteration.gate else "-",
                iteration.gate.vs_anchor.verdict if iteration.gate else "-",
                f"{iteration.gate.promotion.ladder_z:.1f}" if iteration.gate else "-",
                iteration.outcome,
                f"{iteration.seconds:.0f}",
            ]
        )
    return rows


def _gains(result: RunResult) -> list[str]:
    if not result.level:
        return []
    rows = [["", "metric", "at the gate", f"sealed [{result.level} interval]", "optimism"]]
    for name, check, gap in result.gains():
        rows.append(
            [
                name,
                f"{check.task} {check.metric}",
                f"{check.delta + gap:+.3f}",
                f"{check.delta:+.3f} [{check.low:+.3f}, {check.high:+.3f}]",
                f"{gap:+.3f}",
            ]
        )
    heading = (
        "Gains over M0; optimism: the part of a gain at the gate that the sealed split does not "
        "confirm"
    )
    return [heading, table(rows)]


def _guards(result: RunResult) -> list[str]:
    """Show what became of the guards: verdicts at the gate, and changes on the sealed items."""
    if not (result.guards and result.level):
        return []
    rows = [["", "guard", "margin", "M0", "change, sealed", "sealed", "at the gate"]]
    at_gate = {one.candidate: one.gate.guards() for one in result.iterations if one.gate}
    for model in result.sealed:
        for check in guard_checks(model.vs_anchor) if model.vs_anchor else ():
            low, high = check.interval
            name = f"{check.task} {check.metric}"
            rows.append(
                [
                    model.name,
                    name,
                    f"{check.margin:g}",
                    f"{check.baseline_mean:.3f}",
                    f"{check.delta:+.3f} [{low:+.3f}, {high:+.3f}]",
                    check.verdict,
                    at_gate[model.name][name],
                ]
            )
    heading = (
        f"Guards, never trained on: change against M0 on items that no decision used "
        f"[{result.level} interval]; at the gate: the worse of the verdicts against incumbent and "
        "anchor"
    )
    return [heading, table(rows)]


def _not_promoted(result: RunResult) -> list[str]:
    reasons = [
        f"- {iteration.candidate} was not promoted: {reason}"
        for iteration in result.iterations
        if iteration.outcome != "promoted"
        for reason in [*iteration.reasons, *_failed_guards(iteration)]
    ]
    return ["\n".join(reasons)] if reasons else []


def _failed_guards(iteration: Iteration) -> list[str]:
    """Say which guards failed against the incumbent, and by how much."""
    checks = guard_checks(iteration.gate.vs_incumbent) if iteration.gate else []
    return [
        f"guard {check.task} {check.metric} fails: {check.reason}"
        for check in checks
        if check.verdict == "fail"
    ]


def _look_next(result: RunResult) -> str:
    kind = result.iterations[0].lessons.kind
    if len(result.sealed) == 1:
        return (
            f"No iteration made a candidate, so {result.incumbent} stays the incumbent. The "
            f"training examples are in {result.folder}/iter_*/{kind}."
        )
    learned = f"{result.folder}/iter_1/{kind}/{kind}"
    where = result.weights if result.adapter is None else f"{result.adapter} on {result.weights}"
    return "\n".join(
        [
            "Look next:",
            f"- both answers to every item that changed: rlrf report {result.folder}",
            f"- the incumbent {result.incumbent}: {where}",
            f"- its training examples: {learned}.jsonl and report.json",
            f"- the record: rlrf board render {result.board}; rlrf board verify {result.board}",
        ]
    )
