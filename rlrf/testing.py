"""The gate in a test suite.

from rlrf.testing import assert_no_regression

def test_the_new_model_is_no_worse():
    assert_no_regression("evaluations/released", "evaluations/new", policy="gsm8k")
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from harness.core.schema import Decision, Policy
from harness.gate.plan import Plan
from harness.readers import Selection
from harness.render import markdown
from rlrf.gating import Source, gate


def assert_no_regression(
    baseline: Source,
    candidate: Source,
    policy: str | Path | Policy | None = None,
    *,
    plan: str | Path | Plan | None = None,
    selection: Selection | None = None,
    inconclusive: Literal["fail", "pass"] = "fail",
) -> Decision:
    """Assert that the gate passes `candidate` against `baseline`.

    Args:
        baseline: as in `rlrf.gate`: a folder, results of another tool, or loaded evaluations.
        candidate: likewise.
        policy: as in `rlrf.gate`: a file, a name, or a `Policy`.
        plan: as in `rlrf.gate`: a file, or a `Plan`.
        selection: as in `rlrf.gate`: the columns of a table.
        inconclusive: "fail" also fails if there is too little evidence, because a test that asks
            too few items would stay green whatever happens; "pass" fails only for a regression.

    Returns:
        The decision of the gate.

    Raises:
        AssertionError: the gate does not pass; the message is the decision as `rlrf gate` shows it.
        UserError: as `rlrf.gate`.
    """
    __tracebackhide__ = True  # pytest shows the caller's line
    decision = gate(baseline, candidate, policy, plan=plan, selection=selection)
    bad = {"fail"} if inconclusive == "pass" else {"fail", "inconclusive"}
    if decision.verdict in bad:
        raise AssertionError(markdown.decision(decision))
    return decision
