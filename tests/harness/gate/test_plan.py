"""A plan: what it refuses, what its power means, and that nothing can be swapped afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.quiz import make

from harness.core.errors import UserError
from harness.core.files import parse, read_json, write_json
from harness.core.schema import Noise, Policy, Rule, digest
from harness.core.scored import ScoredEvaluation
from harness.gate import decide
from harness.gate.decision import SequentialOrder
from harness.gate.plan import Plan, PlannedRule, decide_by_plan, draw_order, planned_orders
from harness.gate.plan import make_plan as plan
from harness.gate.planned_rule import AssumedSpread, require_power
from harness.gate.subgroups import Groups
from harness.stats.power import tango_items_needed, tango_power


def rules(margin: float = 0.05, metric: str = "accuracy", tier: str = "critical") -> Policy:
    return Policy(rules=[Rule(task="quiz", metric=metric, tier=tier, margin=margin)])  # type: ignore[arg-type]


def accuracy(n: int, share: float = 0.5) -> ScoredEvaluation:
    return make([{"accuracy": float(i < share * n)} for i in range(n)])


def one(made: Plan) -> PlannedRule:
    (rule,) = made.rules
    return rule


def test_a_plan_says_what_its_items_can_show() -> None:
    baseline = accuracy(1319)
    rule = one(plan(rules(0.03), {"quiz": baseline}, assumed=AssumedSpread(discordance=0.15)))
    assert (rule.test, rule.n, rule.spread_from) == ("Tango score test", 1319, "stated")
    assert rule.discordance == pytest.approx(0.15)
    assert rule.power_from == "exact"
    assert rule.power == pytest.approx(tango_power(1319, 0.15, 0.03))
    assert rule.power == pytest.approx(0.8764, abs=1e-4)  # the normal approximation: .8787
    assert rule.minimum_detectable == pytest.approx(2.4865 * (0.15 / 1319) ** 0.5, rel=0.02)
    assert rule.items_needed == tango_items_needed(0.15, 0.03)
    assert rule.baseline_mean == pytest.approx(0.5, abs=0.01)


def test_a_critical_rule_without_power_is_refused_with_the_items_it_takes() -> None:
    with pytest.raises(UserError, match=r"chance of 0\.74.*takes 1,565 items, or a margin of 0\.0"):
        plan(rules(0.02), {"quiz": accuracy(1319)}, assumed=AssumedSpread(discordance=0.1))
    with pytest.raises(UserError, match="state the discordance"):
        plan(rules(0.02), {"quiz": accuracy(1319)})


@pytest.mark.parametrize("tier", ["guardrail", "advisory"])
def test_a_rule_that_holds_nothing_up_may_be_weak(tier: str) -> None:
    assert one(plan(rules(0.02, tier=tier), {"quiz": accuracy(200)})).power < 0.3


def test_planned_power_is_the_share_of_unchanged_candidates_that_pass() -> None:
    """Items flip both ways alike; the plan's share of passes is what the gate then gives."""
    rng = np.random.default_rng(0)
    n, discordance = 400, 0.2
    baseline = accuracy(n)
    made = plan(rules(0.06), {"quiz": baseline}, assumed=AssumedSpread(discordance=discordance))
    passed = 0
    for _ in range(150):
        old = np.array([s.values["accuracy"] for s in baseline.scores])
        new = np.where(rng.random(n) < discordance, 1 - old, old)
        after = make([{"accuracy": float(x)} for x in new])
        passed += decide_by_plan(made, {"quiz": baseline}, {"quiz": after}).verdict == "pass"
    assert passed / 150 == pytest.approx(one(made).power, abs=0.1)


def test_a_second_run_shows_the_spread() -> None:
    baseline, again = accuracy(500), make([{"accuracy": float(25 <= i < 275)} for i in range(500)])
    rule = one(plan(rules(0.05), {"quiz": baseline}, second={"quiz": again}))
    assert rule.spread_from == "second run"
    assert rule.discordance == pytest.approx(50 / 500, rel=0.01)


def test_repeats_show_the_spread() -> None:
    rng = np.random.default_rng(0)
    talents = np.repeat(rng.random(300), 4)
    rows = [{"accuracy": float(x)} for x in rng.random(1200) < talents]
    rule = one(plan(rules(0.1), {"quiz": make(rows, repeats=4)}))
    assert (rule.spread_from, rule.test, rule.discordance) == (
        "repeats",
        "t, allowing for skew",
        None,
    )
    # Differences of two means of four answers, p (1 - p) / 4 each, p uniform: 2 / 24.
    assert rule.spread == pytest.approx((1 / 12) ** 0.5, rel=0.05)


def test_identical_runs_do_not_promise_certainty() -> None:
    baseline = accuracy(100)
    with pytest.raises(UserError, match="refused"):
        plan(rules(0.02), {"quiz": baseline}, second={"quiz": baseline})
    assert plan(rules(0.1), {"quiz": baseline}, second={"quiz": baseline})


def test_a_number_is_planned_in_its_unit() -> None:
    rng = np.random.default_rng(0)
    baseline = make([{"grade": float(g)} for g in np.clip(rng.normal(3, 0.5, 400), 1, 5)])
    rule = one(plan(rules(0.1, "grade"), {"quiz": baseline}))
    assert (rule.test, rule.spread_from) == ("t, allowing for skew", "baseline's own spread")
    assert rule.spread == pytest.approx(0.5, rel=0.1)


def test_the_same_plan_has_the_same_identity(tmp_path: Path) -> None:
    made, again = (
        plan(rules(), {"quiz": accuracy(1000)}, assumed=AssumedSpread(discordance=0.1))
        for _ in "ab"
    )
    assert made.identity == again.identity
    write_json(tmp_path / "plan.json", made)
    read = parse(Plan, read_json(tmp_path / "plan.json"), "plan.json")
    assert read == made and read.identity == made.identity
    changed = plan(rules(0.06), {"quiz": accuracy(1000)}, assumed=AssumedSpread(discordance=0.1))
    assert changed.identity != made.identity


def test_the_decision_names_its_plan_and_is_the_gates_own() -> None:
    before, after = accuracy(600), accuracy(600, 0.6)
    made = plan(rules(), {"quiz": before}, assumed=AssumedSpread(discordance=0.1))
    decision = decide_by_plan(made, {"quiz": before}, {"quiz": after})
    assert decision.plan == made.identity
    plain = decide(rules(), {"quiz": before}, {"quiz": after})
    assert decision.model_copy(update={"plan": None}) == plain


def test_another_baseline_is_refused() -> None:
    before = accuracy(600)
    made = plan(rules(), {"quiz": before}, assumed=AssumedSpread(discordance=0.1))
    for other in (accuracy(600, 0.4), accuracy(599)):
        with pytest.raises(UserError, match="made for another baseline of quiz"):
            decide_by_plan(made, {"quiz": other}, {"quiz": before})
    with pytest.raises(UserError, match="baseline has no evaluation"):
        planned_orders(made, {})


@pytest.mark.parametrize("field", ["baseline", "items", "order"])
def test_a_plan_that_lacks_a_task_of_its_policy_is_refused(field: str) -> None:
    told = plan(
        rules(), {"quiz": accuracy(600)}, assumed=AssumedSpread(discordance=0.1)
    ).model_dump(mode="json")
    with pytest.raises(UserError, match="of other tasks than the policy"):
        parse(Plan, told | {field: {}}, "plan.json")


def margin_of_a_rule(told: dict[str, Any]) -> None:
    told["policy"]["rules"][0]["margin"] = 0.4


def margin_of_a_planned_rule(told: dict[str, Any]) -> None:
    told["rules"][0]["margin"] = 0.4


def tier_of_a_rule(told: dict[str, Any]) -> None:
    told["policy"]["rules"][0]["tier"] = "advisory"


def one_rule_more(told: dict[str, Any]) -> None:
    told["policy"]["rules"].append({"task": "quiz", "metric": "grade", "margin": 0.1})


def no_planned_rule(told: dict[str, Any]) -> None:
    told["rules"] = []


def level_of_the_policy(told: dict[str, Any]) -> None:
    told["policy"]["alpha"] = 0.4


def mode(told: dict[str, Any]) -> None:
    told["mode"] = "sequential"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (margin_of_a_rule, "margin 0.4, and the planned rules say .* margin 0.05"),
        (margin_of_a_planned_rule, "margin 0.05, and the planned rules say .* margin 0.4"),
        (tier_of_a_rule, "quiz accuracy, advisory"),
        (one_rule_more, "the planned rules say nothing more"),
        (no_planned_rule, "the planned rules say nothing more"),
        (level_of_the_policy, "policy was changed after"),
        (mode, "mode is sequential"),
    ],
)
def test_a_plan_that_was_edited_is_refused(
    edit: Callable[[dict[str, Any]], None], said: str
) -> None:
    told = plan(
        rules(), {"quiz": accuracy(600)}, assumed=AssumedSpread(discordance=0.1)
    ).model_dump(mode="json")
    assert parse(Plan, told, "plan.json").identity
    edit(told)
    with pytest.raises(UserError, match=said):
        parse(Plan, told, "plan.json")


def test_the_order_is_drawn_by_the_seed_and_committed() -> None:
    before = accuracy(600)
    drawn = draw_order(0, "quiz", before.scores)
    assert sorted(drawn) == sorted(score.item for score in before.scores)
    assert (
        drawn == draw_order(0, "quiz", before.scores[::-1]) != draw_order(1, "quiz", before.scores)
    )
    made = plan(rules(), {"quiz": before}, assumed=AssumedSpread(discordance=0.1), sequential=True)
    assert made.order == {"quiz": digest(drawn)}
    # Random: the items of the first half of the benchmark are spread over the order.
    place = {score.item: score.index for score in before.scores}
    early = sum(place[item] < 300 for item in drawn[:300])
    assert 120 < early < 180
    forged = made.model_copy(update={"order": {"quiz": digest(drawn[::-1])}})
    with pytest.raises(UserError, match="another baseline"):
        decide_by_plan(forged, {"quiz": before}, {"quiz": before})


def test_a_sequential_plan_says_how_many_items_it_expects() -> None:
    before = accuracy(1000)
    made = plan(rules(), {"quiz": before}, assumed=AssumedSpread(discordance=0.1), sequential=True)
    expected = one(made).expected_items
    assert expected is not None and 100 < expected < 700
    rng = np.random.default_rng(5)
    used = []
    for _ in range(30):
        old = np.array([s.values["accuracy"] for s in before.scores])
        new = np.where(rng.random(1000) < 0.1, 1 - old, old)
        after = make([{"accuracy": float(x)} for x in new])
        (check,) = decide_by_plan(made, {"quiz": before}, {"quiz": after}).checks
        used.append(check.n)
    assert float(np.median(used)) == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize("rows", [[], [{"accuracy": 1.0}]])
def test_nothing_to_plan_with_is_an_error(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError):
        plan(rules(), {"quiz": make(rows)})


def test_an_unscored_baseline_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot be gated against: 100\.0% of the baseline"):
        plan(rules(), {"quiz": make([{"accuracy": "no judge"}] * 100)})


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_discordance_is_a_share(share: float) -> None:
    with pytest.raises(UserError, match="share above 0"):
        plan(rules(), {"quiz": accuracy(100)}, assumed=AssumedSpread(discordance=share))


# ---- what a sequential plan is about ----------------------------------------------------------


def at_the_margin(
    seed: int, n: int, margin: float, discordance: float = 0.2
) -> tuple[ScoredEvaluation, ScoredEvaluation]:
    """A sample of `n` questions of which a candidate loses `margin` more than it gains."""
    rng = np.random.default_rng(seed)
    chances = [(discordance - margin) / 2, (discordance + margin) / 2]
    change = rng.choice([1, -1, 0], n, p=[*chances, 1 - sum(chances)])
    old = np.where(change > 0, 0.0, np.where(change < 0, 1.0, rng.integers(0, 2, n)))
    rows = ([{"accuracy": float(x)} for x in side] for side in (old, old + change))
    before, after = (make(side) for side in rows)
    return before, after


def test_a_sequential_plan_is_about_the_population_unless_told_otherwise() -> None:
    before = accuracy(1000)
    made = plan(rules(), {"quiz": before}, assumed=AssumedSpread(discordance=0.1), sequential=True)
    assert (made.estimand, made.about) == ("population", "population")
    items = plan(
        rules(),
        {"quiz": before},
        assumed=AssumedSpread(discordance=0.1),
        sequential=True,
        estimand="items",
    )
    assert (items.estimand, items.about) == ("items", "items")
    assert plan(rules(), {"quiz": before}, assumed=AssumedSpread(discordance=0.1)).estimand is None
    assert made.identity != items.identity


@pytest.mark.slow
def test_about_the_population_a_candidate_at_the_margin_seldom_passes() -> None:
    """The planned items are a sample: about themselves half of such candidates pass."""
    n, margin, passed = 400, 0.05, {"population": 0, "items": 0}
    baseline = {"quiz": at_the_margin(0, n, margin)[0]}
    order_of_items = draw_order(0, "quiz", baseline["quiz"].scores)
    for seed in range(200):
        before, after = at_the_margin(seed, n, margin)
        for estimand in passed:
            decision = decide(
                rules(margin),
                {"quiz": before},
                {"quiz": after},
                sequential=SequentialOrder({"quiz": order_of_items}, estimand),
            )
            passed[estimand] += decision.verdict == "pass"
    assert passed["population"] <= 18  # 5 %, and two and a half standard errors
    assert passed["items"] >= 70


def test_the_decision_says_what_it_is_about() -> None:
    before = accuracy(1000)
    for estimand, said in (("population", "all questions of the kind"), ("items", "items alone")):
        made = plan(
            rules(),
            {"quiz": before},
            assumed=AssumedSpread(discordance=0.1),
            sequential=True,
            estimand=estimand,  # type: ignore[arg-type]
        )
        decision = decide_by_plan(made, {"quiz": before}, {"quiz": before})
        assert decision.estimand == estimand
        assert said in decision.checks[0].reason


def test_an_old_sequential_plan_keeps_its_identity_and_is_about_its_items() -> None:
    before = accuracy(600)
    told = plan(
        rules(),
        {"quiz": before},
        assumed=AssumedSpread(discordance=0.1),
        sequential=True,
        estimand="items",
    ).model_dump(mode="json")
    del told["estimand"]  # as older versions wrote it
    old = parse(Plan, told, "plan.json")
    assert old.identity == digest(told)
    assert old.about == "items"
    decision = decide_by_plan(old, {"quiz": before}, {"quiz": before})
    assert decision.estimand == "items"
    assert any("about the planned items alone" in note for note in decision.notes)


def test_planned_power_about_the_population_is_what_then_passes() -> None:
    n = 600
    baseline = accuracy(n)
    made = plan(
        rules(0.08), {"quiz": baseline}, assumed=AssumedSpread(discordance=0.2), sequential=True
    )
    rule = one(made)
    rng = np.random.default_rng(3)
    old = np.array([s.values["accuracy"] for s in baseline.scores])
    passed, used = 0, []
    for _ in range(60):
        new = np.where(rng.random(n) < 0.2, 1 - old, old)
        after = make([{"accuracy": float(x)} for x in new])
        decision = decide_by_plan(made, {"quiz": baseline}, {"quiz": after})
        passed += decision.verdict == "pass"
        used.append(decision.checks[0].n)
    assert passed / 60 == pytest.approx(rule.power, abs=0.15)
    assert rule.expected_items == pytest.approx(float(np.median(used)), rel=0.3)
    assert rule.power_from == "simulated gates"


def test_a_population_takes_more_items_than_a_fixed_test_and_the_refusal_says_how_many() -> None:
    with pytest.raises(
        UserError, match=r"It takes ([\d,]+) items, or a margin of 0\.\d+ in place"
    ) as e:
        plan(
            rules(0.06),
            {"quiz": accuracy(200)},
            assumed=AssumedSpread(discordance=0.1),
            sequential=True,
        )
    needed = int(str(e.value).split("It takes ")[1].split(" ")[0].replace(",", ""))
    enough = plan(
        rules(0.06),
        {"quiz": accuracy(needed + 40)},
        assumed=AssumedSpread(discordance=0.1),
        sequential=True,
    )
    assert one(enough).power >= 0.8
    assert plan(
        rules(0.06),
        {"quiz": accuracy(200)},
        assumed=AssumedSpread(discordance=0.1),
        sequential=True,
        estimand="items",
    )


def test_graded_power_is_that_of_the_gates_own_test() -> None:
    rng = np.random.default_rng(0)
    first, second = (
        make([{"grade": float(g)} for g in np.where(rng.random(300) < 0.1, 1, 5)]) for _ in "ab"
    )
    rule = one(plan(rules(1.2, "grade"), {"quiz": first}, second={"quiz": second}))
    assert rule.power_from == "simulated gates"
    assert rule.spread_from == "second run"
    stated = one(plan(rules(1.2, "grade"), {"quiz": first}, assumed=AssumedSpread(sd=rule.spread)))
    assert (stated.spread_from, stated.spread) == ("stated", rule.spread)


@pytest.mark.parametrize("sd", [0.0, -1.0, float("inf"), float("nan")])
def test_a_standard_deviation_is_above_zero(sd: float) -> None:
    with pytest.raises(UserError, match="above 0"):
        plan(rules(), {"quiz": accuracy(100)}, assumed=AssumedSpread(sd=sd))


# ---- the plan and the decision name one test --------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("noise", [None, Noise(sd=0.001, runs=10)])
@pytest.mark.parametrize(
    ("metric", "n", "repeats", "clusters", "test"),
    [
        ("accuracy", 400, 1, None, "Tango score test"),
        ("accuracy", 8, 1, None, "Tango score test"),
        ("accuracy", 400, 3, None, "t, allowing for skew"),
        ("accuracy", 8, 3, None, "sign flips, allowing for skew"),
        ("accuracy", 400, 1, 40, "clustered Tango score test"),
        ("accuracy", 400, 1, 8, "sign flips, allowing for skew"),
        ("accuracy", 400, 1, 400, "Tango score test"),
        ("refused", 400, 1, None, "Tango score test"),
        ("grade", 400, 1, None, "t, allowing for skew"),
        ("grade", 9, 1, None, "sign flips, allowing for skew"),
        ("grade", 400, 2, 40, "clustered t, allowing for skew"),
        ("grade", 400, 1, 6, "sign flips, allowing for skew"),
    ],
)
def test_a_plan_names_the_test_that_then_decides(
    *, metric: str, n: int, repeats: int, clusters: int | None, test: str, noise: Noise | None
) -> None:
    rng = np.random.default_rng(n)
    choices = [1, 3, 5] if metric == "grade" else [0, 1]
    before, after = (
        make([{metric: float(x)} for x in rng.choice(choices, n * repeats)], repeats=repeats)
        for _ in "ab"
    )
    rule = Rule(
        task="quiz", metric=metric, tier="advisory", margin=0.1, noise=noise,
        cluster="passage" if clusters else None,
    )  # fmt: skip
    items = [score.item for score in before.scores[::repeats]]
    numbers = {item: i % clusters for i, item in enumerate(items)} if clusters else {}
    assigned = {"quiz": {"passage": numbers}} if clusters else {}
    made = plan(Policy(rules=[rule]), {"quiz": before}, groups=Groups(assigned, {}))
    (check,) = decide_by_plan(made, {"quiz": before}, {"quiz": after}).checks
    assert one(made).test == check.test
    assert check.test == test + (", with the noise of runs" if noise else "")


def test_one_item_whose_answers_are_averaged_is_enough_to_average_all() -> None:
    """An item that was scored once among others of three: their means are not yes or no."""
    rng = np.random.default_rng(1)
    rows = [{"accuracy": float(x)} for x in rng.choice([0, 1], 300)]
    lost = {"accuracy": "the judge timed out"}
    before = make([*rows, {"accuracy": 1.0}, lost, lost], repeats=3)
    rules_ = rules(0.2, tier="advisory")
    made = plan(rules_, {"quiz": before})
    (check,) = decide_by_plan(made, {"quiz": before}, {"quiz": before}).checks
    assert one(made).test == check.test == "t, allowing for skew"


# ---- a metric's range -------------------------------------------------------------------------


def test_a_baseline_at_the_ceiling_takes_more_items_than_one_in_the_middle() -> None:
    """From 5 an item can fall by 4, from 2 by 1: of a collapse that no item shows, 4 times less."""
    for grade, needed, enough in ((5.0, 119, 150), (2.0, 29, 60)):
        baseline = {"quiz": make([{"grade": grade}] * enough)}
        found = one(
            plan(rules(0.1, "grade", tier="advisory"), baseline, assumed=AssumedSpread(sd=0.05))
        )
        assert found.power > 0.95
        few = {"quiz": make([{"grade": grade}] * (needed - 10))}
        assert (
            one(
                plan(rules(0.1, "grade", tier="advisory"), few, assumed=AssumedSpread(sd=0.05))
            ).power
            < 0.5
        )


def test_planned_power_at_a_ceiling_is_what_then_passes() -> None:
    rng = np.random.default_rng(4)
    shares = [0.02, 0.03, 0.15, 0.8]
    grades = rng.choice([1.0, 3.0, 4.0, 5.0], 300, p=shares)
    baseline = {"quiz": make([{"grade": float(x)} for x in grades])}
    made = plan(rules(0.2, "grade", tier="advisory"), baseline)
    passed = 0
    for _ in range(100):
        again = np.where(rng.random(300) < 0.5, rng.permutation(grades), grades)
        after = {"quiz": make([{"grade": float(x)} for x in again])}
        passed += decide_by_plan(made, baseline, after).checks[0].verdict == "pass"
    assert passed / 100 == pytest.approx(one(made).power, abs=0.1)


def test_a_standard_deviation_beyond_the_metrics_range_is_refused() -> None:
    baseline = {"quiz": make([{"grade": 3.0}, {"grade": 4.0}] * 100)}
    with pytest.raises(UserError, match="runs from 1 to 5: it is at most 4"):
        plan(rules(0.2, "grade"), baseline, assumed=AssumedSpread(sd=60))


def test_a_refusal_shows_the_digits_by_which_power_and_margin_fall_short() -> None:
    rule = plan(rules(0.05), {"quiz": accuracy(400)}, assumed=AssumedSpread(discordance=0.1)).rules[
        0
    ]
    short = {"power": 0.79996, "minimum_detectable": 0.0500004, "tier": "critical"}
    with pytest.raises(UserError, match=r"chance of 0\.79996\. .*margin of 0\.0500004 in place"):
        require_power([rule.model_copy(update=short)])


@pytest.mark.parametrize(("n", "discordance"), [(n, 0.1) for n in range(240, 262, 3)])
def test_a_refusal_asks_for_more_items_than_were_planned(n: int, discordance: float) -> None:
    try:
        plan(rules(0.05), {"quiz": accuracy(n)}, assumed=AssumedSpread(discordance=discordance))
    except UserError as error:
        needed = int(str(error).split("It takes ")[1].split(" ")[0].replace(",", ""))
        assert needed > n
        assert tango_power(needed, discordance, 0.05) >= 0.8


def test_a_critical_rule_at_the_floor_is_planned_with_a_note() -> None:
    wrong = {"quiz": make([{"accuracy": 0.0}] * 400)}
    (rule,) = plan(rules(0.05), wrong, assumed=AssumedSpread(discordance=0.1)).rules
    assert "cannot fail" in rule.note
    assert decide(rules(0.05), wrong, wrong).verdict == "inconclusive"
    (above,) = plan(
        rules(0.05), {"quiz": accuracy(400)}, assumed=AssumedSpread(discordance=0.1)
    ).rules
    assert not above.note
    assert "note" not in above.model_dump(mode="json")
