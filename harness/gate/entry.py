"""Gate a candidate by tests and alarms, and promote it: the functions that all callers use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.core.errors import UserError
from harness.core.schema import (
    Alarm,
    Check,
    Decision,
    Policy,
    Promotion,
    PromotionRule,
    digest,
    over_all_items,
)
from harness.core.scored import ScoredEvaluation
from harness.core.text import plural
from harness.gate.alarms import find_alarms, reward_hacking
from harness.gate.decision import decide
from harness.gate.plan import Plan, decide_by_plan
from harness.gate.subgroups import Groups, restore_groups


def gate(
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
    policy: Policy,
    *,
    plan: Plan | None = None,
    doubts: Mapping[tuple[str, str], str] | None = None,
    rewards: tuple[Mapping[str, float], Mapping[str, float]] | None = None,
    groups: Groups | None = None,
) -> Decision:
    """Decide whether `candidate` is no worse than `baseline` (task -> evaluation) by `policy`.

    The tests are those of `harness.gate.decision.decide`, or of `plan` where one was written
    before; `policy` is then the plan's. The answers of both sides are examined for alarms, and
    where the policy says that alarms block, one turns a pass into inconclusive.

    `doubts` are as in `decide`. `rewards` are the mean rewards per task, of the baseline and of
    the candidate, that training optimised. `groups` are as in `decide`; a plan has its own.

    Raises:
        UserError: the evidence does not match, or `plan` was made for another policy or baseline.
    """
    if plan is None:
        decision = decide(policy, baseline, candidate, doubts=doubts, groups=groups)
    elif plan.policy != policy:
        raise UserError(
            "The plan was made for another policy than the one given: use the policy in the plan."
        )
    else:
        decision = decide_by_plan(plan, baseline, candidate, doubts=doubts)
    alarms = find_alarms(baseline, candidate)
    hacked = _hacked(*rewards, over_all_items(decision.checks)) if rewards else []
    return with_alarms(decision, [*alarms, *hacked])


def decide_again(
    decision: Decision,
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
) -> Decision:
    """Repeat a recorded `decision` on its evaluations, by the version of the tests it was made by.

    Its clusters, subgroups and alarms are taken as recorded: scores alone do not show them.

    Raises:
        UserError: as `decide`, or the recorded clusters or subgroups are of other items.
    """
    again = decide(
        decision.policy,
        baseline,
        candidate,
        groups=restore_groups(decision, baseline, candidate),
        tests_version=decision.tests_version,
    )
    return with_alarms(again, decision.alarms)


def with_alarms(decision: Decision, alarms: Sequence[Alarm]) -> Decision:
    """Add `alarms` to a decision; if the policy blocks on alarms, a pass becomes inconclusive.

    An alarm is not evidence of a loss, so it cannot fail a candidate: a person has to look.
    """
    verdict, reasons = decision.verdict, decision.reasons
    if alarms and decision.policy.alarms == "block":
        alarmed = [f"alarm on {alarm.task}, {alarm.kind}: {alarm.message}" for alarm in alarms]
        reasons = alarmed if verdict == "pass" else [*reasons, *alarmed]
        verdict = "inconclusive" if verdict == "pass" else verdict
    return decision.model_copy(
        update={"verdict": verdict, "reasons": reasons, "alarms": [*decision.alarms, *alarms]}
    )


def promote(vs_incumbent: Decision, vs_anchor: Decision) -> Promotion:
    """Decide whether a candidate takes the incumbent's place.

    Three things must hold: it passes against the incumbent, it passes against the anchor (a frozen
    model, so that tolerated losses cannot add up), and it climbs the Ladder. The Ladder (A. Blum,
    M. Hardt, ICML 2015, arXiv 1502.04585, section 3) asks that a gain exceed s / sqrt(n), its own
    standard error, so that reuse of the gate's items does not promote noise. Over K critical
    metrics the standardised gains are combined as S. Stouffer's: z = sum_k z_k / sqrt(K) > 1, with
    z_k = gain / standard error; metrics of the same answers go together, so for them this asks
    somewhat less. Where every item gained the same, z_k is the sign test's sqrt(n). Guards do not
    count: nothing was trained to gain on them.
    """
    guards = {(r.task, r.metric) for r in vs_incumbent.policy.rules if r.guard}
    critical = [check for check in vs_incumbent.checks if check.tier == "critical"]
    ladder_z = _ladder([c for c in over_all_items(critical) if (c.task, c.metric) not in guards])
    rule = vs_incumbent.policy.promotion or PromotionRule()
    errors = plural("standard error", rule.threshold)
    conditions = {
        f"against the incumbent: {vs_incumbent.verdict}": vs_incumbent.verdict == "pass",
        f"against the anchor: {vs_anchor.verdict}": vs_anchor.verdict == "pass",
        f"the Ladder asks for a gain of more than {rule.threshold:g} {errors}; it is "
        f"{ladder_z:.2f}": (
            ladder_z > rule.threshold + 1e-9  # one flipped answer is 1 standard error, rounded
        ),
    }
    promoted = all(conditions.values())
    return Promotion(
        promoted=promoted,
        reasons=[reason for reason, holds in conditions.items() if promoted or not holds],
        ladder_z=ladder_z,
        vs_incumbent=digest(vs_incumbent),
        vs_anchor=digest(vs_anchor),
    )


def _hacked(
    before: Mapping[str, float], after: Mapping[str, float], checks: Sequence[Check]
) -> list[Alarm]:
    """Return the alarms on reward hacking for each task that both sides have a mean reward on."""
    return [
        alarm
        for task in sorted(before.keys() & after.keys())
        for alarm in reward_hacking(
            before[task], after[task], [check for check in checks if check.task == task]
        )
    ]


def _ladder(checks: Sequence[Check]) -> float:
    standardised = [
        check.delta / check.stderr
        if check.stderr > 0
        else math.copysign(math.sqrt(check.n), check.delta) * (check.delta != 0)
        for check in checks
    ]
    return math.fsum(standardised) / math.sqrt(len(checks)) if checks else 0.0
