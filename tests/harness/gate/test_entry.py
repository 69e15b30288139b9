"""One function decides for every caller: tests and alarms are never put together by hand."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.answering import POLICY, answered
from helpers.quiz import make

from harness.core.errors import UserError
from harness.core.schema import Alarm, Metric, Policy, Rule
from harness.gate import decide_again, gate, plan, with_alarms
from harness.gate.decision import SequentialOrder, decide
from harness.gate.planned_rule import AssumedSpread
from harness.render.html import comparison

ROOT = Path(__file__).parents[3]
PARTS = {"decide", "decide_by_plan", "with_alarms", "find_alarms", "reward_hacking"}
"""What the gate is made of; only `harness.gate.gate` puts these together."""


def names_used(path: Path) -> Iterator[str]:
    """What a module takes from the package `harness.gate`, by import or as an attribute."""
    tree = ast.parse(path.read_text())
    modules = {"gate"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness.gate"):
            for alias in node.names:
                yield alias.name
                modules.add(alias.asname or alias.name)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in modules
        ):
            yield node.attr


@pytest.mark.slow
def test_no_other_module_puts_tests_and_alarms_together() -> None:
    modules = [
        path
        for package in ("harness", "rlrf", "tasks")
        for path in (ROOT / package).rglob("*.py")
        if ROOT / "harness" / "gate" not in path.parents
    ]
    by_hand = {
        str(path.relative_to(ROOT)): used
        for path in modules
        if (used := PARTS & {*names_used(path)})
    }
    assert len(modules) > 100
    assert by_hand == {}


def test_the_check_sees_both_ways_of_taking_a_part(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("from harness.gate import decide as d\n")
    assert "decide" in {*names_used(module)}
    module.write_text("from harness import gate\ngate.with_alarms(1, [])\n")
    assert "with_alarms" in {*names_used(module)}


BLOCK = POLICY.model_copy(update={"alarms": "block"})


def test_page_and_gate_agree_where_an_alarm_blocks_a_pass() -> None:
    before = {"mini_gsm8k": answered(lambda i: i < 50, "old")}
    after = {"mini_gsm8k": answered(lambda i: i < 50, " ".join(["well"] * 40))}
    assert decide(BLOCK, before, after).verdict == "pass"
    decision = gate(before, after, BLOCK)
    assert decision.verdict == "inconclusive"
    assert {alarm.kind for alarm in decision.alarms} >= {"length"}
    page = comparison.compare(BLOCK, before, after)
    assert comparison.TITLES["inconclusive"] in page and comparison.BLOCKED in page
    assert comparison.TITLES["pass"] not in page
    told = comparison.compare(POLICY, before, after)
    assert comparison.TITLES["pass"] in told and decision.alarms[0].message[:20] in told


def test_doubts_reach_the_decision() -> None:
    before = {"mini_gsm8k": answered(lambda i: i < 50, "old")}
    doubts = {("mini_gsm8k", "accuracy"): "the judge drifted"}
    decision = gate(before, before, POLICY, doubts=doubts)
    assert (decision.verdict, decision.checks[0].reason) == ("inconclusive", "the judge drifted")


def test_a_plan_for_another_policy_is_refused() -> None:
    before = {"mini_gsm8k": answered(lambda i: i < 50, "old")}
    rule = POLICY.rules[0].model_copy(update={"margin": 0.2})
    policy = Policy(rules=[rule])
    made = plan.make_plan(policy, before, assumed=AssumedSpread(discordance=0.1))
    assert gate(before, before, policy, plan=made).plan == made.identity
    with pytest.raises(UserError, match="another policy"):
        gate(before, before, BLOCK, plan=made)


def test_recorded_alarms_take_the_place_of_an_examination() -> None:
    before = {"mini_gsm8k": answered(lambda i: i < 50, "old")}
    alarm = Alarm(kind="refusals", task="mini_gsm8k", message="seen then", candidate=0.5)
    recorded = with_alarms(decide(BLOCK, before, before), [alarm])
    decision = decide_again(recorded, before, before)
    assert (decision.verdict, decision.alarms) == ("inconclusive", [alarm])


# ---- a metric of which the range is not known ------------------------------------------------

LOSS = Metric(name="loss", kind="continuous", low=None, high=None, higher_is_better=False)
RULE = Policy(rules=[Rule(task="quiz", metric="loss", margin=0.5)], max_unscored=0.1)


def losses(shift: float, n: int = 120, lost: int = 0, scatter: float = 1.0):
    rows = [
        {"loss": "no likelihood" if i < lost else 3 + i % 7 + shift + scatter * (i % 3) * 0.01}
        for i in range(n)
    ]
    return {"quiz": make(rows, definitions={"loss": LOSS})}


def test_items_that_spread_decide_without_a_range() -> None:
    before = losses(0)
    passed = decide(RULE, before, losses(-0.1, scatter=2)).checks[0]
    assert (passed.verdict, passed.test) == ("pass", "t, allowing for skew")
    failed = decide(RULE, before, losses(2, scatter=2)).checks[0]
    assert (failed.verdict, failed.label) == ("fail", "regressed")
    bounded = Metric(name="loss", kind="continuous", low=0, high=100, higher_is_better=False)
    same = [{"quiz": make_as(side["quiz"], bounded)} for side in (before, losses(2, scatter=2))]
    known = decide(RULE, *same).checks[0]
    assert (known.verdict, known.label) == (failed.verdict, failed.label)


def make_as(made, metric):
    changed = made.evaluation.model_copy(update={"definitions": {"loss": metric}})
    return type(made)(changed, made.scores)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (losses(0), losses(0), "the spread of 120 items shows too little"),
        (losses(0, n=4), losses(0, n=4, scatter=2), "the spread of 4 items shows too little"),
        (losses(0), losses(-0.1, scatter=2, lost=2), "2 items have no value, and the metric has"),
    ],
    ids=["no item changed", "too few items", "values are missing"],
)
def test_what_needs_a_range_is_inconclusive_without_one(before, after, said: str) -> None:
    policy = RULE.model_copy(update={"min_completeness": 0.9})
    decision = decide(policy, before, after)
    (check,) = decision.checks
    assert decision.verdict == "inconclusive"
    assert said in check.reason and "range" in check.reason


def test_a_gain_without_a_bound_is_stored_and_shown() -> None:
    from harness.render import github, junit, markdown
    from harness.render.html import bars

    decision = decide(RULE, losses(0), losses(0))
    (check,) = decision.checks
    assert (check.low, check.high) == (None, None)
    assert type(decision).model_validate_json(decision.model_dump_json()) == decision
    assert "[-inf, +inf]" in markdown.decision(decision)
    assert "[-inf, +inf]" in "".join(github.commands(decision))
    assert "[-inf, +inf]" in junit.decision(decision)
    (bar,) = bars.of_checks([check])
    assert bar is not None and bar.beyond_low and bar.beyond_high


def test_a_sequential_plan_needs_a_range() -> None:
    with pytest.raises(UserError, match="no known range, which a sequential test needs"):
        plan.make_plan(RULE, losses(0), sequential=True)
    order = {"quiz": plan.draw_order(0, "quiz", losses(0)["quiz"].scores)}
    with pytest.raises(UserError, match="no known range"):
        decide(RULE, losses(0), losses(0), sequential=SequentialOrder(order))


def test_a_metric_of_known_range_keeps_its_bytes() -> None:
    stored = Metric(name="accuracy", kind="binary").model_dump(mode="json")
    assert (stored["low"], stored["high"]) == (0.0, 1.0)
    assert Metric.model_validate(stored).span == 1
    assert LOSS.span is None
