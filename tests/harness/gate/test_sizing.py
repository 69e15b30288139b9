"""How many items a gate needs, before there is any evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.core.schema import Metric, Policy, Rule
from harness.gate.evidence import Evidence
from harness.gate.rule_test import hold_up_at_floor, run_fixed_test
from harness.gate.sizing import SizeTable, Unchanged, items_at_power, simulate_bounds, size_tables
from harness.render.sizing import draw, tables
from harness.stats.power import tango_items_needed

ACCURACY = Metric(name="accuracy", kind="binary")
GRADE = Metric(name="grade", kind="continuous", low=1, high=5)
KNOWN = {("quiz", "accuracy"): ACCURACY, ("quiz", "grade"): GRADE}


def policy(*rules: tuple[str, float]) -> Policy:
    return Policy(rules=[Rule(task="quiz", metric=metric, margin=m) for metric, m in rules])


def only(found: tuple[list[SizeTable], list[str]]) -> SizeTable:
    (one,), unanswered = found
    assert unanswered == []
    return one


def test_yes_no_items_are_counted_exactly() -> None:
    found = only(size_tables(policy(("accuracy", 0.03)), KNOWN, discordance=0.1))
    assert (found.kind, found.test, found.method) == ("yes/no", "Tango score test", "exact")
    assert [size.margin for size in found.margins] == [0.015, 0.03, 0.06]
    own = found.margins[1]
    assert own.rules == ["quiz accuracy"]
    assert own.items == {f"{p:g}": tango_items_needed(0.1, 0.03, power=p)
                         for p in (0.5, 0.8, 0.9, 0.95)}  # fmt: skip
    assert own.power == pytest.approx(sorted(own.power)) and own.power[0] < 0.1 < own.power[-1]


def test_graded_items_are_counted_by_simulation_near_the_closed_form() -> None:
    found = only(size_tables(policy(("grade", 0.2)), KNOWN, sd=0.6))
    assert found.kind == "graded" and found.method.startswith("simulated, ")
    needed = found.margins[1].items["0.8"]
    closed = (2.4865 * 0.6 / 0.2) ** 2  # of a t test; a careful one asks somewhat more
    assert needed is not None and 0.8 * closed < needed < 2.5 * closed


def test_the_counted_items_have_the_power() -> None:
    rule = Rule(task="quiz", metric="grade", margin=0.2)
    found = only(size_tables(policy(("grade", 0.2)), KNOWN, sd=0.6))
    needed = found.margins[1].items["0.8"]
    assert needed is not None
    unchanged = Unchanged(GRADE, 0.6, pairs=False)
    bounds, _ = simulate_bounds(unchanged, rule, 0.05, needed, seed=7)
    assert float((bounds > -0.2).mean()) == pytest.approx(0.8, abs=0.1)


def test_the_simulated_bound_is_where_the_gate_passes() -> None:
    rule = Rule(task="quiz", metric="grade", margin=0.1)
    unchanged = Unchanged(GRADE, 0.6, pairs=False)
    bounds, _ = simulate_bounds(unchanged, rule, 0.05, 200, gates=20, seed=3)
    rng = np.random.default_rng([3, 200])
    verdicts = []
    for _ in range(20):
        gains = unchanged.gains(200, rng)
        level = np.full(200, 3.0)
        evidence = Evidence(
            rule,
            GRADE,
            [],
            level,
            level + gains,
            asked=200,
            lost=0,
            inapplicable=0,
            insufficient_because="",
        )
        verdicts.append(hold_up_at_floor(run_fixed_test(evidence, 0.05)).verdict == "pass")
    assert verdicts == (bounds > -0.1).tolist()


@pytest.mark.slow
def test_a_known_range_counts_the_items_that_exclude_a_collapse() -> None:
    """Of grades that hardly vary, 119 show that falls from 5 to 1 cost less than .1."""
    found = only(size_tables(policy(("grade", 0.1)), KNOWN, sd=0.02))
    needed = found.margins[1].items["0.8"]
    assert needed is not None and 119 <= needed <= 160
    assert found.margins[1].power[:3] == [0, 0, 0]  # 20, 40 and 80 items
    assert "the baseline at 5, the best value" in found.method
    lower = {("quiz", "grade"): GRADE.model_copy(update={"higher_is_better": False})}
    assert only(size_tables(policy(("grade", 0.1)), lower, sd=0.02)).margins == found.margins


def test_a_standard_deviation_is_at_most_the_range() -> None:
    with pytest.raises(UserError, match="runs from 1 to 5: it is at most 4"):
        size_tables(policy(("grade", 0.1)), KNOWN, sd=6)


def test_without_both_ends_of_the_range_fewer_than_100_items_show_nothing() -> None:
    half = {("quiz", "grade"): Metric(name="grade", kind="continuous", low=0, high=None)}
    found = only(size_tables(policy(("grade", 0.5)), half, sd=0.6))
    assert found.margins[1].power[:3] == [0, 0, 0] and found.margins[1].power[-1] == 1
    assert "range is not known" in found.method


def test_clusters_cost_items_and_say_what_they_can_reach() -> None:
    rules = policy(("grade", 0.2))
    alone = only(size_tables(rules, KNOWN, sd=0.6))
    found = only(size_tables(rules, KNOWN, sd=0.6, clusters=20, icc=0.5))
    assert (found.clusters, found.icc) == (20, 0.5)
    first, second = alone.margins[0].items["0.5"], found.margins[0].items["0.5"]
    assert first is not None and (second is None or second > first)
    # Twenty clusters of one voice each: 2.6 sd sqrt(icc / 20), and more where careful: up to what
    # a fall from 5 to 1, too rare to show in 20 independent items, can cost.
    assert found.reach is not None
    assert 2.3 * 0.6 * (0.5 / 20) ** 0.5 < found.reach < 4 * (1 - 0.05 ** (1 / 20))
    assert found.margins[0].items["0.8"] is None
    assert "20 clusters tell a margin of" in tables([found])


def test_gains_in_clusters_correlate_as_stated() -> None:
    rng = np.random.default_rng(0)
    for pairs, spread in ((True, math.sqrt(0.2)), (False, 0.6)):
        unchanged = Unchanged(ACCURACY if pairs else GRADE, spread, pairs, icc=0.3,
                              groups=lambda n: [i // 2 for i in range(n)])  # fmt: skip
        gains = unchanged.gains(40_000, rng).reshape(-1, 2)
        assert float(np.corrcoef(gains.T)[0, 1]) == pytest.approx(0.3, abs=0.03)
        assert float(gains.std()) == pytest.approx(spread, rel=0.03)


@pytest.mark.slow
def test_rules_of_both_kinds_are_counted_by_what_fits_them() -> None:
    found, unanswered = size_tables(
        policy(("accuracy", 0.03), ("grade", 0.2)), KNOWN, discordance=0.1
    )
    assert [one.kind for one in found] == ["yes/no"]
    assert unanswered == ["quiz grade: it is graded: give --sd"]
    both, unanswered = size_tables(
        policy(("accuracy", 0.03), ("grade", 0.4)), KNOWN, discordance=0.1, sd=0.5
    )
    assert [one.kind for one in both] == ["yes/no", "graded"] and unanswered == []


def test_a_task_that_is_not_installed_is_what_the_given_spread_says() -> None:
    assert only(size_tables(policy(("accuracy", 0.1)), {}, discordance=0.1)).kind == "yes/no"
    assert only(size_tables(policy(("accuracy", 0.4)), {}, sd=0.5)).kind == "graded"
    with pytest.raises(UserError, match="give only one spread"):
        size_tables(policy(("accuracy", 0.1)), {}, sd=0.5, discordance=0.1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Give --discordance for yes/no"),
        ({"discordance": 0.0}, "share above 0"),
        ({"discordance": 1.5}, "share above 0"),
        ({"sd": -1.0}, "above 0, not -1"),
        ({"sd": math.inf}, "above 0, not inf"),
        ({"sd": math.nan}, "above 0, not nan"),
        ({"discordance": 0.1, "clusters": 20}, "give both"),
        ({"discordance": 0.1, "icc": 0.2}, "give both"),
        ({"discordance": 0.1, "clusters": 1, "icc": 0.2}, "1 cluster cannot show a spread"),
        ({"discordance": 0.1, "clusters": 20, "icc": 1.2}, "between 0 and 1"),
        ({"sd": 0.1}, "nothing to count.*give --discordance"),
    ],
)
def test_what_cannot_be_counted_is_said(given: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        size_tables(policy(("accuracy", 0.1)), KNOWN, **given)  # type: ignore[arg-type]


def test_power_between_sizes_is_interpolated_and_never_beyond_them() -> None:
    assert items_at_power([100, 400], [0.5, 0.9], 0.5) == 100
    assert items_at_power([100, 400], [0.2, 0.6], 0.8) is None
    middle = items_at_power([100, 400], [0.5, 0.8], 0.7)
    assert middle is not None and 100 < middle < 400
    # Chance lets a plateau cross for a moment: that is not reaching it.
    assert items_at_power([100, 200, 400, 800], [0.5, 0.81, 0.78, 0.76], 0.8) is None


def test_the_picture_has_a_line_for_each_margin() -> None:
    found, _ = size_tables(policy(("accuracy", 0.03)), KNOWN, discordance=0.1)
    svg = draw(found).decode()
    assert svg.startswith("<?xml") and all(f"margin {m}" in svg for m in ("0.015", "0.03", "0.06"))
    assert draw(found) == draw(found)
