"""Gate the evaluations of two models: read both sides and the rules, then decide."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import UserError
from harness.core.files import parse, read_json
from harness.core.log import say
from harness.core.schema import Decision, Policy
from harness.core.scored import ScoredEvaluation
from harness.core.text import listed
from harness.evals import inputs
from harness.gate import gate as decide
from harness.gate import plan as planning
from harness.gate.clusters import Columns
from harness.gate.plan import Plan
from harness.gate.policy import cluster_by, default_policy, load_policy
from harness.gate.subgroups import Groups
from harness.judges.checks.drift import Drift
from harness.readers import Selection

if TYPE_CHECKING:
    from harness.engines.open import EngineSpec

Evaluations = Mapping[str, ScoredEvaluation]
Source = str | Path | Evaluations


@dataclass(frozen=True)
class GateRules:
    """How a gate decides: a plan, or a policy, or the default policy with some margins.

    `columns` hold the clusters of items, as read from a file, and `cluster` names one of them.
    `doubts` maps (task, metric) to the reason why the judge may grade the metric differently now.
    `selected` names metrics to gate by, and says what results of other tools do not.
    """

    policy: Policy | None = None
    plan: Plan | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    cluster: str | None = None
    columns: Columns | None = None
    doubts: Mapping[tuple[str, str], str] = field(default_factory=dict)
    selected: Selection = inputs.NOTHING_SELECTED

    @property
    def selection(self) -> Selection:
        """What to read of the two sides: the metrics of the policy, if there is one."""
        return select(self.policy, self.selected)

    @property
    def tasks(self) -> Collection[str] | None:
        """The tasks that the policy names; None for those of the baseline."""
        return self.policy.tasks if self.policy else None

    def policy_for(self, baseline: Evaluations) -> Policy:
        """Return the policy for the tasks of `baseline`.

        Raises:
            UserError: no default policy follows from the tasks, or clusters cannot be named.
        """
        policy = self.policy
        if policy is None:
            metrics = {t: [*side.evaluation.definitions.values()] for t, side in baseline.items()}
            policy = default_policy(metrics, self.margins, self.selected.metrics)
            if shown := sorted(set(metrics) - set(policy.tasks)):
                why = "which have none of the named metrics"
                if not self.selected.metrics:
                    why = "of which no metric is a mean over items"
                say(f"Not gated: {listed(shown)}, {why}.")
        return name_clusters(policy, self.cluster, self.columns)

    def check(self, baseline: Evaluations) -> None:
        """Refuse, before the candidate is evaluated, rules that cannot decide about `baseline`.

        Raises:
            UserError: as `decide`.
        """
        policy = self.policy_for(baseline)
        if self.plan:
            planning.planned_orders(self.plan, baseline)
        else:
            Groups.find(policy, baseline, baseline, self.columns)

    def decide(self, baseline: Evaluations, candidate: Evaluations) -> Decision:
        """Decide whether `candidate` is no worse than `baseline`.

        Raises:
            UserError: as `policy_for`, or the two sides cannot be compared.
        """
        policy = self.policy_for(baseline)
        groups = None if self.plan else Groups.find(policy, baseline, candidate, self.columns)
        return decide(
            baseline, candidate, policy, plan=self.plan, doubts=self.doubts, groups=groups
        )


def gate(
    baseline: Source,
    candidate: Source,
    policy: str | Path | Policy | Mapping[str, float] | None = None,
    *,
    plan: str | Path | Plan | None = None,
    cluster: str | None = None,
    cluster_file: str | Path | None = None,
    drift: str | Path | None = None,
    selection: Selection | None = None,
) -> Decision:
    """Decide whether the candidate is no worse than the baseline, as `rlrf gate` does.

    Args:
        baseline: a folder of evaluations, results of another tool (see docs/results.md), or loaded
            evaluations (task -> evaluation), as `rlrf.evaluate` and `rlrf.load_evaluation` return.
        candidate: likewise.
        policy: a policy file, the name of a policy that comes with the harness (gsm8k, just_eval,
            factscore), or a `Policy`. Default: the primary metric of every task is critical, and
            may lose less than 5 % of its range, or what margins say that are given in place of a
            policy: METRIC or TASK.METRIC -> largest tolerated loss.
        plan: what `rlrf plan` wrote, in place of a policy: a file, or a `Plan`.
        cluster: tag or field that items share, such as passage.
        cluster_file: CSV or JSONL file with the cluster of each item.
        drift: file that `rlrf judge drift --json` printed: metrics that the judge grades
            differently now cannot pass.
        selection: the metrics to gate by, and the column of a table that names the item.

    Returns:
        The decision. Its `verdict` is pass, fail or inconclusive; `checks` holds each rule's
        difference with its interval and `reasons` says why.

    Raises:
        UserError: something cannot be read, the two sides cannot be compared, or the rules
            contradict each other.

    Examples:
        >>> decision = rlrf.gate("evaluations/m0", "evaluations/m1", {"accuracy": 0.02})
        >>> decision.verdict
        'pass'
    """
    margins, policy = (policy, None) if isinstance(policy, Mapping) else (None, policy)
    rules = read_rules(
        policy,
        plan,
        margins,
        cluster=cluster,
        cluster_file=cluster_file,
        drift=drift,
        selection=selection,
    )
    return rules.decide(*load_sides(baseline, candidate, rules.tasks, rules.selection))


def gate_model(
    baseline: Path,
    name: str | None,
    model: EngineSpec,
    rules: GateRules,
    *,
    judge_file: Path | None = None,
    data: Path | None = None,
    out: Path | None = None,
    reads: Sequence[Path | None] = (),
) -> Decision:
    """Evaluate a model on the items of the baseline, and decide by its evaluations.

    With a sequential plan the evaluation stops once the verdict is clear.

    Args:
        baseline: a folder of evaluations, or a board.
        name: the baseline's name on the board.
        out: folder for the model's evaluations; run again with it to resume.
        reads: files and folders that `out` must not be.

    Raises:
        UserError: as `gate`; stock lm-eval made the baseline; or the model cannot be evaluated.
    """
    from harness.engines.open import open_engine
    from harness.evals.evaluation import check_out
    from harness.evals.until_decided import CandidateModel
    from harness.judges.config import load_judging

    before = inputs.load(baseline, name, rules.tasks, rules.selection)
    inputs.require_ours(before, baseline)
    rules.check(before)
    judging = load_judging(judge_file)
    tasks = [judging.task(task) for task in sorted(rules.policy_for(before).tasks)]
    if out is not None:
        check_out(out, [task.name for task in tasks], [*reads, Path(model.model), model.adapter])
    with judging.open() as judge:
        candidate = CandidateModel(open_engine(model), tasks, data, judge)
        if rules.plan and rules.plan.mode == "sequential":
            return candidate.evaluate_until_decided(rules.plan, before, out, rules.doubts)[0]
        return rules.decide(before, candidate.evaluate_like(before, out))


def load_evaluation(
    source: str | Path, name: str | None = None, *, selection: Selection | None = None
) -> dict[str, ScoredEvaluation]:
    """Load evaluations with their scores, as the commands read them.

    Args:
        source: a folder of evaluations, results of another tool (see docs/results.md), or a board.
        name: the model's name, for a board.
        selection: the columns of a table that name the item and hold metrics.

    Returns:
        Task -> evaluation. `evaluation.metrics` holds the means, `scores` the value of each
        response; a board keeps neither `samples` nor `items`.

    Raises:
        UserError: nothing that can be compared is there, or it is malformed or was changed.

    Examples:
        >>> loaded = rlrf.load_evaluation("evaluations/m0")
        >>> loaded["mini_gsm8k"].evaluation.metrics["accuracy"].mean
        0.61
    """
    return inputs.load(Path(source), name, selection=selection or inputs.NOTHING_SELECTED)


def read_rules(
    policy: str | Path | Policy | None = None,
    plan: str | Path | Plan | None = None,
    margins: Mapping[str, float] | None = None,
    *,
    cluster: str | None = None,
    cluster_file: str | Path | None = None,
    drift: str | Path | None = None,
    selection: Selection | None = None,
) -> GateRules:
    """Read the files that say how a gate decides.

    The arguments are those of `gate`; `margins` map METRIC or TASK.METRIC to the largest loss.

    Raises:
        UserError: a file cannot be read, or two of plan, policy and margins are given, or metrics
            with a plan or policy, which names them.
    """
    if plan is not None and (policy is not None or margins):
        raise UserError("A plan contains its policy: give either a plan, or a policy, or margins.")
    if plan is not None and (cluster is not None or cluster_file is not None):
        raise UserError(
            "A plan says what clusters its items are in: leave the clusters out, or plan again."
        )
    if policy is not None and margins:
        raise UserError("A policy contains its margins: give either a policy or margins.")
    if isinstance(plan, str | Path):
        plan = parse(Plan, read_json(Path(plan)), str(plan))
    if isinstance(policy, str | Path):
        policy = load_policy(Path(policy))
    policy = plan.policy if plan else policy
    select(policy, selection or inputs.NOTHING_SELECTED)
    return GateRules(
        policy=policy,
        plan=plan,
        margins=margins or {},
        cluster=cluster,
        columns=inputs.read_clusters(Path(cluster_file)) if cluster_file is not None else None,
        doubts=_read_doubts(Path(drift)) if drift is not None else {},
        selected=selection or inputs.NOTHING_SELECTED,
    )


def select(policy: Policy | None, selection: Selection) -> Selection:
    """Return what to read for a policy: its metrics.

    Raises:
        UserError: there is a policy, and the selection names metrics, too.
    """
    if policy is None:
        return selection
    if selection.metrics:
        raise UserError("A policy names its metrics: give either a policy or --metric.")
    metrics = dict.fromkeys(rule.metric for rule in policy.rules)
    return replace(selection, metrics=tuple(metrics))


def load_sides(
    baseline: Source,
    candidate: Source,
    wanted: Collection[str] | None = None,
    selection: Selection = inputs.NOTHING_SELECTED,
) -> tuple[Evaluations, Evaluations]:
    """Load both sides, with the metrics of other tools read alike.

    Raises:
        UserError: a side cannot be read, or the two were written by different tools.
    """
    before = (
        inputs.load(Path(baseline), wanted=wanted, selection=selection)
        if isinstance(baseline, str | Path)
        else baseline
    )
    after = (
        inputs.load(Path(candidate), wanted=wanted or [*before], selection=selection)
        if isinstance(candidate, str | Path)
        else candidate
    )
    names = (
        str(side) if isinstance(side, str | Path) else f"the {kind}"
        for side, kind in ((baseline, "baseline"), (candidate, "candidate"))
    )
    return inputs.align_metrics(before, after, *names)


def name_clusters(policy: Policy, key: str | None, columns: Columns | None) -> Policy:
    """Cluster items by `key`, or by the only one of `columns`; rules keep a cluster of their own.

    A column whose subgroups a rule names is not taken for clusters.

    Raises:
        UserError: there are several columns, and none is named.
    """
    named = {policy.cluster_of(rule) for rule in policy.rules}
    named |= {rule.every for rule in policy.rules}
    if columns is not None and key is None and not named & set(columns.keys):
        if len(columns.keys) > 1:
            raise UserError(
                f"{columns.source} has the columns {', '.join(columns.keys)}: say with --cluster "
                "which of them names clusters."
            )
        (key,) = columns.keys
    return cluster_by(policy, key) if key is not None else policy


def _read_doubts(drift: Path) -> dict[tuple[str, str], str]:
    """Read which metrics the judge may grade differently now, as `judge drift` printed them."""
    report = parse(Drift, read_json(drift), str(drift))
    return {
        (report.task, metric.metric): f"the judge's drift is {metric.verdict}"
        for metric in report.metrics
        if metric.verdict != "stable"
    }
