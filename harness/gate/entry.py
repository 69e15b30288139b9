"""The single entry to the gate: tests and alarms together, the same for every caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.core.errors import UserError
from harness.core.schema import TESTS_VERSION, Alarm, Check, Decision, Policy
from harness.core.scored import ScoredEvaluation
from harness.gate.alarms import examine, reward_hacking
from harness.gate.clusters import Assigned
from harness.gate.decision import decide, raise_alarms
from harness.gate.plan import Plan, decide_by


def gate(
    baseline: Mapping[str, ScoredEvaluation],
    candidate: Mapping[str, ScoredEvaluation],
    policy: Policy,
    *,
    plan: Plan | None = None,
    doubts: Mapping[tuple[str, str], str] | None = None,
    rewards: tuple[Mapping[str, float], Mapping[str, float]] | None = None,
    alarms: Sequence[Alarm] | None = None,
    clusters: Assigned | None = None,
    tests_version: int = TESTS_VERSION,
) -> Decision:
    """Decide whether `candidate` is no worse than `baseline` (task -> evaluation) by `policy`.

    The tests are those of `harness.gate.decision.decide`, or of `plan` where one was written
    before; `policy` is then the plan's. The answers of both sides are examined for alarms, and
    where the policy says that alarms block, one turns a pass into inconclusive.

    `doubts` are as in `decide`. `rewards` are the mean rewards per task, of the baseline and of
    the candidate, that training optimised. `alarms` are those of a recorded decision that is
    decided again: the answers are then not examined. `tests_version` is that decision's.
    `clusters` are as in `decide`; a plan has its own.

    Raises:
        UserError: the evidence does not match, or `plan` was made for another policy or baseline.
    """
    if plan is None:
        decision = decide(
            policy,
            baseline,
            candidate,
            doubts=doubts,
            clusters=clusters,
            tests_version=tests_version,
        )
    elif plan.policy != policy:
        raise UserError(
            "The plan was made for another policy than the one given: use the policy in the plan."
        )
    else:
        decision = decide_by(plan, baseline, candidate, doubts=doubts)
    if alarms is None:
        alarms = examine(baseline, candidate)
    hacked = _hacked(*rewards, decision.checks) if rewards else []
    return raise_alarms(decision, [*alarms, *hacked])


def _hacked(
    before: Mapping[str, float], after: Mapping[str, float], checks: Sequence[Check]
) -> list[Alarm]:
    """The alarms on reward hacking for each task that both sides have a mean reward on."""
    return [
        alarm
        for task in sorted(before.keys() & after.keys())
        for alarm in reward_hacking(
            before[task], after[task], [check for check in checks if check.task == task]
        )
    ]
