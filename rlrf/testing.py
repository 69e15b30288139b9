"""The gate in a test suite.

from rlrf.testing import assert_no_regression

def test_the_new_model_is_no_worse():
    assert_no_regression("evaluations/released", "evaluations/new", policy="gsm8k")
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from harness.core.schema import Decision, Policy
from harness.core.scored import ScoredEvaluation
from harness.evals import inputs
from harness.gate import gate
from harness.gate.policy import default_policy, load_policy
from harness.render import markdown

Evaluations = Mapping[str, ScoredEvaluation]


def assert_no_regression(
    baseline: str | Path | Evaluations,
    candidate: str | Path | Evaluations,
    policy: str | Path | Policy | None = None,
    *,
    inconclusive: Literal["fail", "pass"] = "fail",
) -> Decision:
    """Assert that the gate passes `candidate` against `baseline`; return its decision.

    Each is a folder of evaluations, a folder or file of stock lm-eval's results, or what
    `harness.evals.evaluate` returned (task -> evaluation). `policy` is a file, one that comes with
    the harness by name, or a `Policy`; without one it is `harness.gate.policy.default_policy`.

    An inconclusive gate fails, too: a test that is green because it asked too few items would
    stay green whatever happens. With `inconclusive="pass"` only a shown regression fails.

    Raises:
        AssertionError: the gate does not pass; the message is the decision, as `rlrf gate` says it.
        UserError: the evidence does not match, or is malformed.
    """
    __tracebackhide__ = True  # pytest shows the caller's line
    if isinstance(policy, str | Path):
        policy = load_policy(Path(policy))
    before, after = _sides(baseline, candidate, policy.tasks if policy else None)
    if policy is None:
        policy = default_policy(
            {task: one.evaluation.definitions.values() for task, one in before.items()}
        )
    decision = gate(before, after, policy)
    bad = {"fail"} if inconclusive == "pass" else {"fail", "inconclusive"}
    if decision.verdict in bad:
        raise AssertionError(markdown.decision(decision))
    return decision


def _sides(
    baseline: str | Path | Evaluations,
    candidate: str | Path | Evaluations,
    wanted: Collection[str] | None,
) -> tuple[Evaluations, Evaluations]:
    if isinstance(baseline, str | Path) and isinstance(candidate, str | Path):
        return inputs.load_both(Path(baseline), Path(candidate), wanted=wanted)
    before, after = (
        inputs.load(Path(side), wanted=wanted) if isinstance(side, str | Path) else side
        for side in (baseline, candidate)
    )
    return before, after
