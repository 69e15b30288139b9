"""The gate: verdicts, labels, tiers, evidence that is not enough, promotion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.quiz import make

from harness.core.errors import UserError
from harness.core.schema import Check, Decision, JudgeRef, Metric, Policy, Rule, digest
from harness.gate import decide, promote
from harness.gate.decision import SequentialOrder


def policy(*rules: tuple[str, str, float], **fields: Any) -> Policy:
    """Rules as (metric, tier, margin) on the quiz."""
    return Policy(
        rules=[Rule(task="quiz", metric=m, tier=t, margin=x) for m, t, x in rules],  # type: ignore[arg-type]
        **fields,
    )


ACCURACY = policy(("accuracy", "critical", 0.05))


def right(*runs: tuple[int, float]) -> list[dict[str, float]]:
    """(count, value) runs of accuracy."""
    return [{"accuracy": value} for count, value in runs for _ in range(count)]


def judge(rules: Policy, before: Any, after: Any) -> Decision:
    return decide(rules, {"quiz": before}, {"quiz": after})


def only(decision: Decision) -> Check:
    (check,) = decision.checks
    return check


def test_a_gain_passes_and_is_news() -> None:
    decision = judge(ACCURACY, make(right((100, 0), (100, 1))), make(right((60, 0), (140, 1))))
    check = only(decision)
    assert (decision.verdict, check.verdict, check.label) == ("pass", "pass", "improved")
    assert (check.baseline_mean, check.candidate_mean, check.delta) == (0.5, 0.7, 0.2)
    assert (check.improved_only, check.regressed_only, check.n) == (40, 0, 200)
    assert check.test == "Tango score test"
    assert decision.policy == ACCURACY
    assert decision.policy_digest == digest(ACCURACY)


def test_a_loss_beyond_the_margin_fails() -> None:
    decision = judge(ACCURACY, make(right((60, 0), (140, 1))), make(right((100, 0), (100, 1))))
    assert (decision.verdict, only(decision).label) == ("fail", "regressed")
    assert only(decision).high < -0.05
    assert "quiz accuracy (critical): fail" in decision.reasons[0]


def test_a_small_sure_loss_is_tolerated_and_said() -> None:
    before, after = make(right((1000, 1))), make(right((10, 0), (990, 1)))
    check = only(judge(ACCURACY, before, after))
    assert (check.verdict, check.label) == ("pass", "tolerated-regression")


def test_the_same_answers_pass_unchanged_when_there_are_enough() -> None:
    for n, verdict, label in ((52, "pass", "unchanged"), (51, "inconclusive", "unclear")):
        same = make(right((n, 1)))
        decision = judge(ACCURACY, same, same)
        assert (decision.verdict, only(decision).label) == (verdict, label)
    assert "about 52 items would tell" in only(decision).reason


def test_too_few_items_say_how_many_are_needed() -> None:
    before = make([{"accuracy": float(i % 2)} for i in range(60)])
    after = make([{"accuracy": float(i % 3 == 0)} for i in range(60)])
    assert "items would tell" in only(judge(ACCURACY, before, after)).reason


def test_lower_can_be_better() -> None:
    rules = policy(("refused", "critical", 0.05))
    often = make([{"refused": float(i < 80)} for i in range(200)])
    seldom = make([{"refused": float(i < 20)} for i in range(200)])
    check = only(judge(rules, often, seldom))
    assert (check.verdict, check.label) == ("pass", "improved")
    assert check.delta == pytest.approx(0.3)
    assert (check.baseline_mean, check.candidate_mean) == (0.4, 0.1)
    assert (check.improved_only, check.regressed_only) == (60, 0)
    assert judge(rules, seldom, often).verdict == "fail"


def test_lower_can_be_better_of_a_number() -> None:
    fewer = Metric(name="grade", kind="continuous", low=1, high=5, higher_is_better=False)
    values = np.random.default_rng(0).uniform(2, 4, 80)
    high, low = (
        make([{"grade": float(v)} for v in values + shift], definitions={"grade": fewer})
        for shift in (0.5, -0.5)
    )
    rules = policy(("grade", "critical", 0.2))
    assert only(judge(rules, high, low)).delta == pytest.approx(1.0)
    assert judge(rules, low, high).verdict == "fail"


def test_a_number_is_tested_by_t_and_repeats_are_one_item() -> None:
    rng = np.random.default_rng(0)
    rules = policy(("grade", "critical", 0.2))
    before = make([{"grade": float(g)} for g in rng.integers(1, 6, 160)], repeats=2)
    after = make([{"grade": float(g)} for g in rng.integers(1, 6, 160)], repeats=2)
    check = only(judge(rules, before, after))
    assert check.test == "t, allowing for skew"
    assert check.n == 80


def test_a_yes_no_metric_with_repeats_is_tested_by_t() -> None:
    rng = np.random.default_rng(0)
    before, after = (
        make([{"accuracy": float(a)} for a in rng.integers(0, 2, 400)], repeats=4) for _ in range(2)
    )
    check = only(judge(ACCURACY, before, after))
    assert check.test == "t, allowing for skew"
    assert check.improved_only is None


def test_the_tiers() -> None:
    rng = np.random.default_rng(1)
    good = [{"accuracy": 1.0, "grade": 3 + x} for x in rng.normal(0, 0.1, 100)]
    worse = [
        row | {"grade": row["grade"] - 0.5 + x}
        for row, x in zip(good, rng.normal(0, 0.1, 100), strict=True)
    ]
    noisy = [row | {"grade": float(g)} for row, g in zip(good, rng.uniform(1, 5, 100), strict=True)]
    cases = {
        ("critical", "worse"): "fail",
        ("guardrail", "worse"): "fail",
        ("advisory", "worse"): "pass",
        ("critical", "noisy"): "inconclusive",
        ("guardrail", "noisy"): "pass",
        ("advisory", "noisy"): "pass",
    }
    for (tier, which), verdict in cases.items():
        rules = policy(("accuracy", "critical", 0.05), ("grade", tier, 0.2))
        after = make(worse if which == "worse" else noisy)
        decision = judge(rules, make(good), after)
        assert decision.verdict == verdict, (tier, which)
        expected = "fail" if which == "worse" else "inconclusive"
        assert [c.verdict for c in decision.checks] == ["pass", expected]


def test_a_guardrail_without_evidence_holds_the_gate_up() -> None:
    rules = policy(("accuracy", "critical", 0.05), ("grade", "guardrail", 0.2))
    before = make([{"accuracy": 1.0, "grade": 3.0}] * 100)
    after = make([{"accuracy": 1.0, "grade": "the judge timed out"}] * 100)
    decision = judge(rules, before, after)
    assert decision.verdict == "inconclusive"
    check = decision.checks[1]
    assert (check.n, check.low, check.high, check.label) == (0, -4, 4, "unclear")
    assert "100.0% of the candidate's answers are unscored (the judge timed out)" in check.reason


def test_only_advisory_rules_decide_nothing_and_say_so() -> None:
    rules = policy(("accuracy", "advisory", 0.05))
    decision = judge(rules, make(right((100, 1))), make(right((100, 0))))
    assert decision.verdict == "pass"
    assert decision.reasons == ["the policy has advisory rules only: nothing can fail"]


def test_one_unscored_answer_in_two_hundred_is_let_pass() -> None:
    rows: list[dict[str, Any]] = [{"accuracy": 1.0}] * 199 + [{"accuracy": "no number"}]
    check = only(judge(ACCURACY, make(right((200, 1))), make(rows)))
    assert (check.verdict, check.n) == ("pass", 199)


def test_missing_answers_are_inconclusive_however_good() -> None:
    after = make(right((200, 1)), keep=range(198))
    check = only(judge(ACCURACY, make(right((200, 0))), after))
    assert (check.verdict, check.label) == ("inconclusive", "unclear")
    assert "the candidate answered 198 of 200 items, 99.5% are needed" in check.reason
    lenient = ACCURACY.model_copy(update={"min_completeness": 0.9})
    assert only(judge(lenient, make(right((200, 0))), after)).verdict == "pass"


def test_exactly_enough_answers_are_enough() -> None:
    after = make(right((200, 1)), keep=range(199))
    assert only(judge(ACCURACY, make(right((200, 1))), after)).verdict == "pass"


def test_an_evaluation_of_nothing_is_inconclusive() -> None:
    nothing = make([{"accuracy": 1.0}], keep=[])
    assert judge(ACCURACY, nothing, nothing).verdict == "inconclusive"


# A mean over what is answered: facts right, of the items that were responded to.


def answers(values: list[float | None]) -> list[dict[str, Any]]:
    return [{"facts": v, "responded": float(v is not None)} for v in values]


FACTS = policy(("facts", "critical", 0.05))
BOTH = policy(("facts", "critical", 0.05), ("responded", "guardrail", 0.1))


def test_abstentions_that_no_rule_sees_are_inconclusive() -> None:
    """Abstaining on what is hard raises the mean: alone, that number cannot be trusted."""
    easy, hard = [0.9] * 100, [0.3] * 100
    before, after = make(answers([*easy, *hard])), make(answers([*easy, *[None] * 100]))
    check = only(judge(FACTS, before, after))
    assert check.candidate_mean > check.baseline_mean
    assert check.verdict == "inconclusive"
    assert "applies to 100 of 200 items on one side only" in check.reason
    decision = judge(BOTH, before, after)
    assert [c.verdict for c in decision.checks] == ["pass", "fail"]
    assert decision.verdict == "fail"


def test_an_advisory_rule_does_not_watch_over_abstentions() -> None:
    rules = policy(("facts", "critical", 0.05), ("responded", "advisory", 0.1))
    before, after = make(answers([0.9] * 100)), make(answers([*[0.9] * 90, *[None] * 10]))
    assert judge(rules, before, after).verdict == "inconclusive"


def test_watched_abstentions_are_compared_as_they_are_published() -> None:
    rng = np.random.default_rng(0)
    values = list(rng.uniform(0.6, 1, 300))
    before = make(answers([*values[:280], *[None] * 20]))
    after = make(answers([None, *values[1:290], *[None] * 10]))
    facts, responded = judge(BOTH, before, after).checks
    assert facts.verdict == responded.verdict == "pass"
    assert facts.baseline_mean == pytest.approx(before.evaluation.metrics["facts"].mean)
    assert facts.candidate_mean == pytest.approx(after.evaluation.metrics["facts"].mean)
    assert facts.n == 279


def test_answering_more_by_inventing_is_caught() -> None:
    """The items both answer are equal; what is new is false."""
    rng = np.random.default_rng(0)
    known = list(rng.uniform(0.7, 1, 100))
    before = make(answers([*known, *[None] * 100]))
    after = make(answers([*known, *list(rng.uniform(0, 0.4, 100))]))
    decision = judge(BOTH, before, after)
    assert [c.verdict for c in decision.checks] == ["fail", "pass"]


def test_a_yes_no_metric_that_does_not_apply_to_the_same_items() -> None:
    rows: list[dict[str, Any]] = [{"accuracy": 1.0}] * 190 + [{}] * 10
    check = only(judge(ACCURACY, make(right((200, 1))), make(rows)))
    assert check.verdict == "inconclusive"
    assert "score such an answer as 0" in check.reason


def test_what_applies_to_neither_side_is_left_out() -> None:
    rows = answers([*[0.8] * 100, *[None] * 50])
    check = only(judge(FACTS, make(rows), make(rows)))
    assert (check.verdict, check.n) == ("pass", 100)
    assert check.reason.endswith("; it applies to 100 of 150 items")
    everywhere = only(judge(FACTS, make(rows[:100]), make(rows[:100])))
    assert f"{everywhere.reason}; it applies to 100 of 150 items" == check.reason


# Mismatched evidence


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task_version", "2"),
        ("split", "sealed"),
        ("dataset_digest", "other"),
        ("prompt_digest", "other"),
        ("judge", JudgeRef(id="gpt", prompt_digest="p")),
        ("estimator", "k=5"),
        ("items", 101),
    ],
)
def test_evidence_that_does_not_match_is_an_error(field: str, value: Any) -> None:
    rows = right((100, 1))
    with pytest.raises(UserError, match=f"cannot be compared: {field} is"):
        judge(ACCURACY, make(rows), make(rows, **{field: value}))


def test_a_metric_defined_in_two_ways_is_an_error() -> None:
    rows = right((100, 1))
    other = {"accuracy": Metric(name="accuracy", kind="continuous")}
    with pytest.raises(UserError, match="define 'accuracy' in two ways"):
        judge(ACCURACY, make(rows), make(rows, definitions=other))


def test_another_description_of_a_metric_is_not_another_metric() -> None:
    made = make(right((100, 1)))
    reworded = {
        name: metric.model_copy(update={"description": "in other words"})
        for name, metric in made.evaluation.definitions.items()
    }
    again = make(right((100, 1)), definitions=reworded)
    assert judge(ACCURACY, made, again).checks == judge(ACCURACY, made, made).checks


def test_an_unknown_metric_names_the_nearest() -> None:
    rows = make(right((100, 1)))
    with pytest.raises(UserError, match=r"no metric 'acuracy'.*Did you mean 'accuracy'"):
        judge(policy(("acuracy", "critical", 0.05)), rows, rows)


def test_a_missing_task_is_an_error() -> None:
    rows = make(right((100, 1)))
    with pytest.raises(UserError, match="candidate has no evaluation of quiz"):
        decide(ACCURACY, {"quiz": rows}, {})


def test_another_tasks_scores_are_an_error() -> None:
    with pytest.raises(UserError, match="holds poll"):
        judge(ACCURACY, make(right((100, 1))), make(right((100, 1)), task="poll"))


def test_a_margin_in_percent_is_an_error() -> None:
    rows = make(right((100, 1)))
    with pytest.raises(UserError, match=r"2 points of a share are 0\.02"):
        judge(policy(("accuracy", "critical", 2.0)), rows, rows)


def test_two_rules_for_one_metric_are_an_error() -> None:
    rows = make(right((100, 1)))
    rules = policy(("accuracy", "critical", 0.05), ("accuracy", "guardrail", 0.1))
    with pytest.raises(UserError, match="two rules for quiz accuracy"):
        judge(rules, rows, rows)


def test_more_answers_than_items_are_an_error() -> None:
    rows = make(right((100, 1)), items=50)
    with pytest.raises(UserError, match="50 items were asked, and holds answers to 100"):
        judge(ACCURACY, rows, rows)


def test_other_items_are_an_error() -> None:
    rows = make(right((100, 1)))
    strangers = [s.model_copy(update={"item": f"x{i}"}) for i, s in enumerate(rows.scores)]
    other = type(rows)(rows.evaluation, strangers)
    with pytest.raises(UserError, match="its scores are of other items than those that were asked"):
        judge(ACCURACY, rows, other)


def test_tasks_without_a_rule_are_not_looked_at() -> None:
    rows, other = make(right((100, 1))), make(right((100, 0)), task="poll")
    decision = decide(ACCURACY, {"quiz": rows, "poll": other}, {"quiz": rows})
    assert decision.baseline == decision.candidate == {"quiz": rows.evaluation.identity}


def test_the_order_of_scores_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    rules = policy(("grade", "critical", 0.2), ("accuracy", "guardrail", 0.05))
    rows = [
        {"grade": float(g), "accuracy": float(a)}
        for g, a in zip(rng.uniform(1, 5, 100), rng.integers(0, 2, 100), strict=True)
    ]
    before, after = make(rows), make(rows[::-1])
    shuffled = type(after)(after.evaluation, after.scores[::-1])
    assert judge(rules, before, after) == judge(rules, before, shuffled)


def test_labels_are_corrected_for_their_number() -> None:
    """A two-sided p of .03 is news alone and not among five."""
    rng = np.random.default_rng(2)
    names = ["grade", *(f"extra{i}" for i in range(4))]
    definitions = {n: Metric(name=n, kind="continuous", low=0, high=10) for n in names}
    noise = {n: rng.normal(0, 1, 100) for n in names}
    noise = {n: (x - x.mean()) / x.std(ddof=1) for n, x in noise.items()}
    noise["grade"] += 0.22  # t = 2.2
    zeros = make([dict.fromkeys(names, 5.0)] * 100, definitions=definitions)
    moved = make(
        [{n: 5 + float(noise[n][i]) for n in names} for i in range(100)], definitions=definitions
    )
    alone = judge(policy(("grade", "critical", 1.0)), zeros, moved)
    assert only(alone).label == "improved"
    among = judge(policy(*((n, "critical", 1.0) for n in names)), zeros, moved)
    assert {c.label for c in among.checks} == {"unchanged"}


def test_false_alarms_between_equal_models_are_rare() -> None:
    """Two samples of one model fail no more often than alpha: at a true loss of 0, far less."""
    rng = np.random.default_rng(0)
    fails = 0
    for _ in range(200):
        before, after = (make(right(*((1, float(x)) for x in rng.random(60) < 0.6))) for _ in "ab")
        fails += judge(ACCURACY, before, after).verdict == "fail"
    assert fails <= 10


# Promotion


def gains(before: int, after: int, n: int = 400) -> Decision:
    """A decision on `n` answers of which `before`, then `after`, are right (and nested)."""
    return judge(
        policy(("accuracy", "critical", 0.02)),
        make(right((before, 1), (n - before, 0)), model="a"),
        make(right((after, 1), (n - after, 0)), model="b"),
    )


def test_promotion_asks_all_three() -> None:
    better, same, worse = gains(200, 240), gains(200, 200), gains(240, 200)
    assert promote(better, better).promoted
    assert not promote(same, better).promoted
    assert not promote(better, worse).promoted
    assert not promote(worse, better).promoted
    reasons = promote(worse, worse).reasons
    assert [r.split(":")[0] for r in reasons[:2]] == ["against the incumbent", "against the anchor"]
    assert promote(better, same).vs_anchor == digest(same)


def test_the_ladder_of_one_metric_is_gain_over_its_error() -> None:
    d = np.array([1.0] * 20 + [0.0] * 380)
    expected = d.mean() / (d.std(ddof=1) / math.sqrt(400))
    assert promote(*[gains(200, 220)] * 2).ladder_z == pytest.approx(expected)


def test_a_guard_that_has_to_pass_does_not_count_in_the_ladder() -> None:
    plain = policy(("accuracy", "critical", 0.02), ("grade", "critical", 0.5))
    rules = [rule.model_copy(update={"guard": rule.metric == "grade"}) for rule in plain.rules]
    before, after = (
        make([{"accuracy": float(i < n), "grade": 3.0 + i % 2} for i in range(400)], model=name)
        for name, n in (("a", 200), ("b", 220))
    )
    guarded = promote(*[judge(plain.model_copy(update={"rules": rules}), before, after)] * 2)
    assert guarded.ladder_z == promote(*[gains(200, 220)] * 2).ladder_z
    counted = promote(*[judge(plain, before, after)] * 2)
    assert counted.ladder_z == pytest.approx(guarded.ladder_z / math.sqrt(2))


def test_one_flip_is_no_gain() -> None:
    z = promote(*[gains(200, 201)] * 2).ladder_z
    assert z == pytest.approx(1.0)
    assert not promote(*[gains(200, 201)] * 2).promoted


@pytest.mark.parametrize(("threshold", "promoted"), [(0.0, True), (2.0, True), (6.0, False)])
def test_a_policy_sets_the_promotion_threshold(threshold: float, promoted: bool) -> None:
    rules = policy(("accuracy", "critical", 0.02), promotion={"threshold": threshold})
    before, after = (
        make(right((n, 1), (400 - n, 0)), model=name) for n, name in ((200, "a"), (220, "b"))
    )
    found = promote(*[judge(rules, before, after)] * 2)
    assert found.ladder_z == pytest.approx(4.58, abs=0.01)
    assert found.promoted is promoted
    assert f"a gain of more than {threshold:g} standard errors; it is 4.58" in found.reasons[-1]


def test_a_threshold_of_zero_still_asks_for_a_gain() -> None:
    rules = policy(("accuracy", "critical", 0.02), promotion={"threshold": 0})
    same = make(right((200, 1), (200, 0)))
    assert not promote(*[judge(rules, same, same)] * 2).promoted


def test_without_a_threshold_the_policy_and_its_promotions_are_as_before() -> None:
    plain = gains(200, 220)
    assert "promotion" not in plain.policy.model_dump(mode="json")
    said = promote(plain, plain).reasons[-1]
    assert said == "the Ladder asks for a gain of more than 1 standard error; it is 4.58"


@pytest.mark.parametrize("threshold", [-1, 11, "much"])
def test_a_threshold_is_a_number_of_standard_errors(threshold: Any) -> None:
    with pytest.raises(ValueError, match="threshold"):
        policy(("accuracy", "critical", 0.02), promotion={"threshold": threshold})


def test_the_ladder_without_spread() -> None:
    assert promote(*[gains(200, 200)] * 2).ladder_z == 0
    assert promote(*[gains(0, 400)] * 2).ladder_z == pytest.approx(20)
    assert promote(*[gains(400, 0)] * 2).ladder_z == pytest.approx(-20)


def test_the_ladder_looks_at_critical_rules_only() -> None:
    before = make([{"accuracy": float(i < 50), "grade": 3 + i / 100} for i in range(100)])
    after = make([{"accuracy": float(i < 60), "grade": 2 - i / 100} for i in range(100)])
    rules = policy(("accuracy", "critical", 0.05), ("grade", "advisory", 0.2))
    decision = judge(rules, before, after)
    check = decision.checks[0]
    assert promote(decision, decision).ladder_z == pytest.approx(check.delta / check.stderr)
    guard = judge(policy(("accuracy", "guardrail", 0.05)), before, after)
    assert promote(guard, guard).ladder_z == 0
    assert not promote(guard, guard).promoted


def test_noise_seldom_climbs_the_ladder() -> None:
    """Of equal models about one in six would: the Ladder alone is no test, with the gate it is."""
    rng = np.random.default_rng(0)
    climbed = promoted = 0
    for _ in range(300):
        before, after = (make(right(*((1, float(x)) for x in rng.random(60) < 0.6))) for _ in "ab")
        found = judge(ACCURACY, before, after)
        climbed += promote(found, found).ladder_z > 1
        promoted += promote(found, found).promoted
    assert climbed / 300 == pytest.approx(0.16, abs=0.07)
    assert promoted <= climbed


# ---- lost items, doubts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gained", "lost", "stands"), [(40, 2, "still"), (0, 2, "still"), (0, 4, "not")]
)
def test_a_pass_says_whether_it_would_stand_if_lost_items_had_gone_wrong(
    gained: int, lost: int, stands: str
) -> None:
    before = make(right((gained, 0), (300 - gained, 1)))
    rows: list[dict[str, Any]] = [{"accuracy": 1.0}] * 300
    rows[-lost:] = [{"accuracy": "the server was gone"}] * lost
    lenient = policy(("accuracy", "critical", 0.025), max_unscored=0.05)
    check = only(judge(lenient, before, make(rows)))
    assert check.verdict == "pass"
    assert f"{lost} items have no value" in check.reason
    assert f"with which it would {stands} pass" in check.reason


def test_a_lost_item_of_a_number_costs_its_whole_range() -> None:
    rows: list[dict[str, Any]] = [{"grade": 3 + i % 2 / 10} for i in range(200)]
    after = make([*rows[:-1], {"grade": "no reply"}])
    check = only(judge(policy(("grade", "critical", 0.2)), make(rows), after))
    assert "1 item has no value: at worst -0.13" in check.reason
    assert "it would still pass" in check.reason


def test_nothing_lost_is_nothing_said() -> None:
    rows = make(right((200, 1)))
    assert "no value" not in only(judge(ACCURACY, rows, rows)).reason


def test_a_metric_that_is_doubted_is_inconclusive() -> None:
    rows = {"quiz": make(right((200, 1)))}
    decision = decide(ACCURACY, rows, rows, doubts={("quiz", "accuracy"): "the judge drifted"})
    assert decision.verdict == "inconclusive"
    assert only(decision).reason == "the judge drifted"
    assert decide(ACCURACY, rows, rows, doubts={("quiz", "grade"): "..."}).verdict == "pass"


# ---- the sequential test --------------------------------------------------------------------


def in_order(rules: Policy, before: Any, after: Any, seed: int = 0) -> Decision:
    items = sorted({score.item for score in before.scores})
    drawn = [str(i) for i in np.random.default_rng(seed).permutation(items)]
    return decide(
        rules, {"quiz": before}, {"quiz": after}, sequential=SequentialOrder({"quiz": drawn})
    )


def test_a_sequential_gate_stops_where_it_knows() -> None:
    before, after = make(right((500, 0), (500, 1))), make(right((450, 0), (550, 1)))
    check = only(in_order(ACCURACY, before, after))
    # It stops once the loss is excluded; that there is a gain would take more items.
    assert (check.verdict, check.planned, check.label) == ("pass", 1000, "unchanged")
    assert check.n < 500
    assert f"after {check.n} of 1,000 items" in check.reason
    assert -0.05 < check.low <= check.delta <= check.high
    assert check.improved_only == pytest.approx(check.n * check.delta)
    worse = only(in_order(ACCURACY, after, make(right((700, 0), (300, 1)))))
    assert (worse.verdict, worse.label) == ("fail", "regressed")
    assert worse.n < 500
    assert worse.high < -0.05


def test_a_sequential_gate_always_knows_once_it_has_seen_all() -> None:
    before = make([{"accuracy": float(i % 2)} for i in range(100)])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        after = make([{"accuracy": float(x)} for x in rng.integers(0, 2, 100)])
        check = only(in_order(ACCURACY, before, after, seed))
        expected = "pass" if check.delta > -0.05 else "fail"
        assert check.verdict == expected or check.n < 100


def test_a_sequential_gate_errs_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(3)
    n, passed = 400, 0
    before = make(right((n // 2, 0), (n // 2, 1)))
    for seed in range(200):
        answers = np.repeat([0.0, 1.0], n // 2)
        answers[rng.choice(n // 2, 30, replace=False)] = 1.0
        answers[n // 2 + rng.choice(n // 2, 50, replace=False)] = 0.0  # a loss of 5 points
        after = make([{"accuracy": float(x)} for x in answers])
        passed += only(in_order(ACCURACY, before, after, seed)).verdict == "pass"
    assert passed / 200 <= 0.05


def test_only_the_first_items_need_an_answer() -> None:
    before = make(right((500, 0), (500, 1)))
    drawn = [score.item for score in before.scores[::-1]]
    first = {score.item for score in before.scores[-200:]}
    part = make(right((1000, 1)), keep=range(800, 1000))
    short = make(right((500, 0), (500, 1)), keep=range(800, 1000))
    for side in (part, short):
        assert {score.item for score in side.scores} == first
    asked = {"items": 200, "dataset_digest": digest([s.item for s in part.scores])}
    sides = [type(s)(s.evaluation.model_copy(update=asked), s.scores) for s in (short, part)]
    decision = decide(
        ACCURACY,
        {"quiz": sides[0]},
        {"quiz": sides[1]},
        sequential=SequentialOrder({"quiz": drawn}),
    )
    assert (decision.verdict, only(decision).planned) == ("pass", 1000)


def test_a_lower_number_can_be_better_in_order() -> None:
    rules = policy(("refused", "critical", 0.05))
    often, seldom = (make([{"refused": float(i < k)} for i in range(400)]) for k in (120, 20))
    check = only(in_order(rules, often, seldom))
    assert check.verdict == "pass" and check.delta > 0
    assert in_order(rules, seldom, often).verdict == "fail"


def test_one_sided_items_need_a_fixed_test() -> None:
    before, after = make(answers([0.9] * 200)), make(answers([*[0.9] * 190, *[None] * 10]))
    facts, _ = in_order(BOTH, before, after).checks
    assert facts.verdict == "inconclusive"
    assert "plan a fixed test" in facts.reason


def test_items_that_were_not_planned_are_an_error() -> None:
    rows = {"quiz": make(right((100, 1)))}
    with pytest.raises(UserError, match="The plan has no item"):
        decide(ACCURACY, rows, rows, sequential=SequentialOrder({"quiz": ["another"]}))


# ---- what cannot fail, skew, versions of the tests ------------------------------------------


def test_a_baseline_at_the_floor_is_no_pass_for_a_critical_rule() -> None:
    wrong = make(right((200, 0)))
    check = only(judge(ACCURACY, wrong, wrong))
    assert (check.verdict, judge(ACCURACY, wrong, wrong).verdict) == ("inconclusive",) * 2
    assert "cannot fail: the baseline's mean is 0 and the worst possible is 0" in check.reason
    few = make(right((3, 1), (197, 0)))
    assert only(judge(ACCURACY, few, few)).verdict == "inconclusive", "less than the margin to lose"
    some = make(right((40, 1), (160, 0)))
    assert only(judge(ACCURACY, some, some)).verdict == "pass"


def test_a_floor_that_the_policy_allows_and_other_tiers_say_so_and_pass() -> None:
    wrong = make(right((200, 0)))
    allowed = ACCURACY.rules[0].model_copy(update={"allow_floor": True})
    for rule in (allowed, allowed.model_copy(update={"tier": "guardrail", "allow_floor": False})):
        decision = judge(Policy(rules=[rule]), wrong, wrong)
        assert decision.verdict == "pass"
        assert "cannot fail" in only(decision).reason


def test_a_gain_over_a_baseline_at_the_floor_passes() -> None:
    check = only(judge(ACCURACY, make(right((200, 0))), make(right((100, 1), (100, 0)))))
    assert (check.verdict, check.label) == ("pass", "improved")


def test_the_floor_of_a_metric_of_which_less_is_better_is_its_highest_value() -> None:
    toxic = Metric(name="grade", kind="continuous", low=0, high=1, higher_is_better=False)
    before = make([{"grade": 0.99 + i % 2 / 100} for i in range(200)], definitions={"grade": toxic})
    check = only(judge(policy(("grade", "critical", 0.05)), before, before))
    assert check.verdict == "inconclusive"
    assert "cannot fail" in check.reason


def test_a_decision_says_which_tests_made_it_and_is_made_again_by_them() -> None:
    before = make([{"grade": 5.0}] * 60)
    after = make([{"grade": 5.0}] * 59 + [{"grade": 4.75}])
    rules = policy(("grade", "critical", 0.15))
    now = judge(rules, before, after)
    assert (now.tests_version, now.verdict) == (2, "inconclusive")
    sides = {"quiz": before}, {"quiz": after}
    then = decide(rules, *sides, tests_version=1)
    assert (then.tests_version, then.verdict, only(then).test) == (1, "pass", "clustered t")
    assert "tests_version" not in then.model_dump(mode="json")
    again = decide(rules, *sides, tests_version=Decision(**then.model_dump()).tests_version)
    assert again == then


def test_an_inconclusive_check_says_how_many_items_show_no_rare_collapse() -> None:
    same = make([{"grade": 5.0}] * 60)
    reason = only(judge(policy(("grade", "critical", 0.1)), same, same)).reason
    assert "about 119 items would tell" in reason
    enough = make([{"grade": 5.0}] * 119)
    assert judge(policy(("grade", "critical", 0.1)), enough, enough).verdict == "pass"
