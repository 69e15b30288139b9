"""Rules for every subgroup of a tag: found, tested, corrected, planned, recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.quiz import make
from scipy.stats import binom

from harness.board import Board
from harness.core.errors import UserError
from harness.core.schema import Decision, Item, Metric, Policy, Rule
from harness.core.scored import ScoredEvaluation
from harness.evals.inputs import read_clusters
from harness.gate import decide, gate, promote
from harness.gate.evidence import Evidence
from harness.gate.plan import decide_by_plan, make_plan
from harness.gate.planned_rule import AssumedSpread
from harness.gate.rule_test import RuleResult
from harness.gate.subgroup_test import run_every
from harness.gate.subgroups import Groups

Tags = Sequence[Sequence[str]]
GRADE = Metric(name="grade", kind="continuous", low=1, high=5)


def policy(
    tier: str = "guardrail", margin: float = 0.05, metric: str = "accuracy", **fields: Any
) -> Policy:
    rule = {"task": "quiz", "metric": metric, "tier": tier, "margin": margin, "every": "topic"}
    return Policy.model_validate({"rules": [rule | fields]})


def side(
    values: Sequence[float | str | None], tags: Tags, *, model: str = "m", metric: str = "accuracy"
) -> dict[str, ScoredEvaluation]:
    made = make([{metric: value} for value in values], model=model)
    items = [
        Item(
            task="quiz",
            split="gate",
            index=i,
            prompt=f"question {i}",
            reference={"gold": i},
            tags={"topic": list(names), "passage": [f"p{i // 5}"]} if names else {},
        )
        for i, names in enumerate(tags)
    ]
    return {"quiz": ScoredEvaluation(made.evaluation, made.scores, [], items)}


def topics(**sizes: int) -> list[list[str]]:
    return [[name] for name, count in sizes.items() for _ in range(count)]


def lose(tags: Tags, **share: float) -> tuple[list[float], list[float]]:
    """A baseline that is right on all items, and a candidate that loses a share of some topics."""
    lost: dict[str, float] = {}
    new = []
    for names in tags:
        wanted = max((share.get(name, 0.0) for name in names), default=0.0)
        key = names[0] if names else ""
        lost[key] = lost.get(key, 0.0) + wanted
        new.append(0.0 if lost[key] >= 1 - 1e-9 else 1.0)
        lost[key] -= lost[key] >= 1 - 1e-9
    return [1.0] * len(tags), new


def decided(rules: Policy, tags: Tags, **share: float) -> Decision:
    old, new = lose(tags, **share)
    return decide(rules, side(old, tags, model="a"), side(new, tags, model="b"))


# ---- the verdict -----------------------------------------------------------------------------


def test_a_subgroup_that_lost_more_than_the_margin_fails_although_the_whole_passes() -> None:
    tags = topics(algebra=1000, anatomy=60, logic=300)
    overall = Rule(task="quiz", metric="accuracy", margin=0.05)
    rules = Policy(rules=[overall, *policy().rules])
    decision = decided(rules, tags, anatomy=0.4)
    assert decision.verdict == "fail"
    whole, check = decision.checks
    assert (whole.verdict, check.verdict, check.label) == ("pass", "fail", "regressed")
    assert check.subgroups is not None
    worst = check.subgroups.results[0]
    assert (worst.name, worst.n, worst.verdict) == ("anatomy", 60, "fail")
    assert worst.high is not None and worst.high < -0.05
    assert (check.n, check.delta, check.low, check.high) == (60, worst.delta, worst.low, worst.high)
    assert [one.verdict for one in check.subgroups.results] == ["fail", "pass", "pass"]
    assert check.subgroups.overall.delta == whole.delta
    (reason,) = decision.reasons
    assert "quiz accuracy, every topic (guardrail): fail, 1 of 3 subgroups by 'topic'" in reason
    assert "the worst is 'anatomy' with a gain of -0.4, between -0." in reason


def test_a_small_subgroup_does_not_hold_up_a_guardrail_and_is_named() -> None:
    tags = topics(algebra=300, rare=8, lone=1)
    decision = decided(policy(), tags)
    assert decision.verdict == "pass"
    (check,) = decision.checks
    assert check.verdict == "inconclusive"
    assert "2 subgroups ('rare' (n 8), 'lone' (n 1)) cannot pass even if nothing" in check.reason
    assert "1 subgroup ('lone' (n 1)) cannot fail even if all items are lost" in check.reason


def test_a_critical_rule_passes_only_if_every_subgroup_does() -> None:
    assert decided(policy("critical"), topics(a=200, b=200, c=200)).verdict == "pass"
    assert decided(policy("critical"), topics(a=200, b=200, c=20)).verdict == "inconclusive"
    assert decided(policy("critical"), topics(a=200, b=200, c=200), c=0.3).verdict == "fail"
    assert decided(policy("advisory"), topics(a=200, b=200, c=200), c=0.3).verdict == "pass"


def test_only_upper_bounds_are_corrected_for_the_number_of_subgroups() -> None:
    """Passing asks something of all subgroups, failing of any."""
    few, many = topics(a=150), topics(a=150, **{f"t{k}": 150 for k in range(19)})
    alone, among = (decided(policy(), tags, a=0.1).checks[0] for tags in (few, many))
    assert among.subgroups is not None and alone.subgroups is not None
    assert (alone.subgroups.level, among.subgroups.level) == (0.05, pytest.approx(0.0025))
    assert among.low == alone.low
    assert among.high is not None and alone.high is not None and among.high > alone.high + 0.02


def test_the_overall_gain_decides_the_ladder_not_the_worst_subgroup() -> None:
    tags = topics(a=200, b=200)
    old = [0.0] * 60 + [1.0] * 340
    new = [1.0] * 60 + [1.0] * 338 + [0.0] * 2
    rules = policy("critical")
    decision = decide(rules, side(old, tags, model="a"), side(new, tags, model="b"))
    plain = Policy(rules=[rules.rules[0].model_copy(update={"every": None})])
    whole = decide(plain, side(old, tags, model="a"), side(new, tags, model="b"))
    assert decision.verdict == "pass" and decision.checks[0].delta < 0
    assert promote(decision, decision).ladder_z == promote(whole, whole).ladder_z > 5
    both = Policy(rules=[*plain.rules, *rules.rules])
    twice = decide(both, side(old, tags, model="a"), side(new, tags, model="b"))
    assert promote(twice, twice).ladder_z == promote(whole, whole).ladder_z


def test_graded_metrics_and_lower_is_better_are_tested_alike() -> None:
    rng = np.random.default_rng(3)
    tags = topics(a=200, b=200)
    old = rng.normal(3.5, 0.4, 400).clip(1, 5)
    new = (old - np.repeat([0.0, 0.9], 200) + rng.normal(0, 0.2, 400)).clip(1, 5)
    sides = [side([*x], tags, model=m, metric="grade") for x, m in ((old, "a"), (new, "b"))]
    decision = decide(policy(metric="grade", margin=0.3), *sides)
    assert decision.verdict == "fail" and "the worst is 'b'" in decision.reasons[0]
    sides = [
        side(x, tags, model=m, metric="refused")
        for x, m in (([0.0] * 400, "a"), ([0.0] * 200 + [1.0] * 60 + [0.0] * 140, "b"))
    ]
    assert "the worst is 'b'" in decide(policy(metric="refused"), *sides).reasons[0]


def test_clusters_widen_the_intervals_within_subgroups() -> None:
    tags = topics(a=100, b=100)
    rng = np.random.default_rng(0)
    new = np.repeat(rng.random(40) > 0.2, 5).astype(float)
    sides = side([1.0] * 200, tags, model="a"), side([*new], tags, model="b")
    (alone,) = decide(policy(), *sides).checks
    (clustered,) = decide(policy(cluster="passage"), *sides).checks
    assert clustered.clusters == 20 and alone.clusters is None
    assert clustered.high is not None and alone.high is not None
    assert clustered.high > alone.high
    # All items of a topic share it: as clusters of its subgroups topics say nothing.
    assert decide(policy(cluster="topic"), *sides).checks == [alone]


# ---- items without a value -------------------------------------------------------------------


def test_items_without_a_value_cannot_hide_the_loss_of_a_subgroup() -> None:
    """Four of 1,020 are within the limits for all items, and a fifth of their subgroup."""
    tags = topics(algebra=1000, logic=20)
    old = [1.0] * 1020
    new: list[float | str | None] = [1.0] * 1000 + [0.0] * 4 + ["judge timed out"] * 4 + [1.0] * 12
    decision = decide(policy(), side(old, tags, model="a"), side(new, tags, model="b"))
    assert decision.verdict == "inconclusive"
    assert "4 of 20 items of topic 'logic' have no value, and with the worst" in str(decision)
    new[1000:1004] = [1.0] * 4
    new[1004:1008] = [1.0] * 3 + ["judge timed out"]
    decision = decide(policy(), side(old, tags, model="a"), side(new, tags, model="b"))
    assert decision.verdict == "pass"
    assert "some items of 1 subgroup ('logic' (n 19)) have no value" in decision.reasons[0]


def test_a_judge_in_doubt_makes_every_subgroup_inconclusive() -> None:
    tags = topics(a=200, b=200)
    old, new = lose(tags, b=0.5)
    sides = side(old, tags, model="a"), side(new, tags, model="b")
    decision = decide(policy(), *sides, doubts={("quiz", "accuracy"): "the judge drifted"})
    assert decision.verdict == "inconclusive" and "the judge drifted" in decision.reasons[0]
    (check,) = decision.checks
    assert check.subgroups is not None
    assert {one.verdict for one in check.subgroups.results} == {"inconclusive"}


# ---- which items are in which subgroup -------------------------------------------------------


def test_an_item_with_several_values_is_in_each_subgroup_and_one_without_in_none() -> None:
    tags = [["a"], ["a", "b"], ["b"], []] * 60
    decision = decided(policy(), tags, b=0.5)
    (check,) = decision.checks
    assert check.subgroups is not None
    assert {one.name: one.n for one in check.subgroups.results} == {"a": 120, "b": 120}
    assert check.subgroups.untagged == 60
    assert "60 items without 'topic' are in no subgroup" in check.reason


def test_a_tag_that_no_item_has_is_an_error_with_the_nearest_name() -> None:
    tags = topics(a=50, b=50)
    with pytest.raises(UserError, match=r"cannot be divided into subgroups by 'topics'.*topic"):
        decided(policy(every="topics"), tags)
    with pytest.raises(UserError, match="'gold' has 100 values among 100 items"):
        decided(policy(every="gold"), tags)


def test_sides_that_disagree_about_subgroups_are_an_error() -> None:
    one, two = topics(a=50, b=50), topics(a=49, b=51)
    with pytest.raises(UserError, match=r"disagree about subgroups.*'topic' a for the baseline"):
        decide(policy(), side([1.0] * 100, one), side([1.0] * 100, two))


def test_a_value_that_is_nested_or_no_name_is_an_error() -> None:
    plain = side([1.0] * 4, topics(a=4))["quiz"]
    for value, said in (({"deep": 1}, "nested value"), ("two\nlines", "cannot be recorded")):
        items = [i.model_copy(update={"reference": {"kind": value}}) for i in plain.items]
        bad = {"quiz": ScoredEvaluation(plain.evaluation, plain.scores, [], items)}
        with pytest.raises(UserError, match=said):
            decide(policy(every="kind"), bad, bad)


def test_a_column_of_a_file_names_subgroups(tmp_path: Path) -> None:
    tags = topics(a=100, b=100)
    old, new = lose(tags, b=0.5)
    sides = side(old, tags, model="a"), side(new, tags, model="b")
    expected = decide(policy(), *sides).checks[0]
    bare = [
        {"quiz": ScoredEvaluation(one["quiz"].evaluation, one["quiz"].scores, [], [])}
        for one in sides
    ]
    with pytest.raises(UserError, match=r"neither side keeps its items.*--clusters FILE"):
        decide(policy(), *bare)
    path = tmp_path / "topics.csv"
    path.write_text("index,topic\n" + "".join(f"{i},{t[0]}\n" for i, t in enumerate(tags)))
    found = Groups.find(policy(), bare[0], bare[1], read_clusters(path))
    assert decide(policy(), *bare, groups=found).checks[0] == expected
    path.write_text("index,topic\n900,a\n")
    with pytest.raises(UserError, match="gives no item of quiz a value of 'topic'"):
        Groups.find(policy(), bare[0], bare[1], read_clusters(path))


def test_what_a_rule_for_every_subgroup_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="noise is measured on all items"):
        policy(noise={"sd": 0.01, "runs": 10})
    tags = topics(a=50, b=50)
    with pytest.raises(UserError, match="a sequential test does not compare"):
        make_plan(policy(), side([1.0] * 100, tags), sequential=True)
    twice = Policy(rules=[*policy().rules, *policy("critical").rules])
    with pytest.raises(UserError, match="two rules for quiz accuracy, every topic"):
        decided(twice, tags)


# ---- error rates -----------------------------------------------------------------------------


def run(sizes: Sequence[int], gains: Sequence[Any], metric: Metric, margin: float) -> RuleResult:
    """Run the test on subgroups of these sizes and gains, from the best end of the range."""
    count = sum(sizes)
    items = [f"{i:06d}" for i in range(count)]
    names = [[f"s{k}"] for k, size in enumerate(sizes) for _ in range(size)]
    change = np.concatenate(gains)
    old = np.where(change > 0, 0.0, 1.0) if metric.kind == "binary" else np.full(count, 4.0)
    rule = Rule(task="t", metric=metric.name, margin=margin, tier="guardrail", every="s")
    evidence = Evidence(rule, metric, items, old, old + change, 0, count, 0, "")
    return run_every(evidence, 0.05, dict(zip(items, names, strict=True)))


def flips(rng: np.random.Generator, n: int, loss: float, discordance: float) -> Any:
    """Draw gains of yes/no items, of which a share flips and `loss` more are lost than gained."""
    change = max(discordance, loss)
    chances = [(change + loss) / 2, 1 - change, (change - loss) / 2]
    return rng.choice([-1.0, 0.0, 1.0], n, p=chances)


def collapse(rng: np.random.Generator, n: int, loss: float) -> Any:
    """Draw grades of which a few fall from 4 to 1 and none changes otherwise."""
    return -3.0 * (rng.random(n) < loss / 3)


def skewed(count: int, total: int) -> list[int]:
    shares = 1 / np.arange(1, count + 1)
    return [max(1, int(x)) for x in shares / shares.sum() * total]


YES_NO = Metric(name="accuracy", kind="binary")


@pytest.mark.parametrize(("count", "total", "gates"), [(1, 200, 200), (5, 600, 100), (57, 1500, 6)])
def test_no_more_than_alpha_of_the_gates_fail_where_every_subgroup_is_at_the_margin(
    count: int, total: int, gates: int
) -> None:
    """The chance that any subgroup fails, with sizes from dozens of items down to one."""
    rng = np.random.default_rng(count)
    sizes = skewed(count, total)
    failed = {"flips": 0, "collapse": 0}
    for _ in range(gates):
        drawn = [flips(rng, n, 0.05, 0.1) for n in sizes]
        failed["flips"] += run(sizes, drawn, YES_NO, 0.05).verdict == "fail"
        graded = [collapse(rng, n, 0.2) for n in sizes]
        failed["collapse"] += run(sizes, graded, GRADE, 0.2).verdict == "fail"
    for count_failed in failed.values():  # 1 in 10,000 at a rate of .055
        assert binom.sf(count_failed - 1, gates, 0.055) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("draw", [flips, collapse], ids=["yes/no", "graded"])
def test_fifty_seven_subgroups_at_the_margin_fail_together_in_at_most_alpha(draw: Any) -> None:
    rng = np.random.default_rng(0)
    sizes, gates = skewed(57, 5000), 200
    metric, margin, more = (YES_NO, 0.05, [0.1]) if draw is flips else (GRADE, 0.2, [])
    failed = sum(
        run(sizes, [draw(rng, n, margin, *more) for n in sizes], metric, margin).verdict == "fail"
        for _ in range(gates)
    )
    assert binom.sf(failed - 1, gates, 0.055) > 1e-3


def test_a_rule_passes_with_chance_alpha_where_one_subgroup_is_at_the_margin() -> None:
    """Whatever the number of other subgroups: passing needs no correction."""
    rng = np.random.default_rng(1)
    sizes, gates = [300, 900, 900], 150
    passed = sum(
        run(sizes, [flips(rng, n, at, 0.06) for n, at in zip(sizes, (0.05, 0, 0), strict=True)],
            YES_NO, 0.05).verdict == "pass"
        for _ in range(gates)
    )  # fmt: skip
    assert binom.sf(passed - 1, gates, 0.07) > 1e-3


def test_an_unchanged_model_hardly_ever_fails_in_57_subgroups() -> None:
    rng = np.random.default_rng(2)
    sizes = skewed(57, 2000)
    for _ in range(5):
        assert run(sizes, [flips(rng, n, 0, 0.1) for n in sizes], YES_NO, 0.05).verdict != "fail"


# ---- plans -----------------------------------------------------------------------------------


def test_a_plan_says_what_each_subgroup_can_show() -> None:
    tags = topics(a=800, b=100, c=10, d=1)
    sides = side([1.0, 0.0] * 455 + [1.0], tags)
    made = make_plan(policy(), sides, assumed=AssumedSpread(discordance=0.1))
    (rule,) = made.rules
    assert [(one.name, one.n) for one in rule.subgroups] == [
        ("d", 1), ("c", 10), ("b", 100), ("a", 800),
    ]  # fmt: skip
    powers = [one.power for one in rule.subgroups]
    assert powers == sorted(powers) and powers[0] == 0 and powers[-1] > 0.95
    assert rule.power == math.prod(powers)
    losses = [one.detectable_loss for one in rule.subgroups]
    assert losses[0] is None and losses[1] is not None and losses[1] > 0.5
    assert losses[3] is not None and 0.05 < losses[3] < 0.12


def test_a_planned_loss_is_seen_in_about_four_fifths_of_the_gates() -> None:
    rng = np.random.default_rng(4)
    sizes = [120, 120, 120]
    tags = topics(a=120, b=120, c=120)
    sides = side([1.0, 0.0] * 180, tags)
    (rule,) = make_plan(policy(), sides, assumed=AssumedSpread(discordance=0.1)).rules
    loss = rule.subgroups[0].detectable_loss
    assert loss is not None
    gates = 150
    seen = 0
    for _ in range(gates):
        lost = rng.random(120) < loss
        drawn = [np.where(lost, -1.0, flips(rng, 120, 0, 0.1))]
        drawn += [flips(rng, n, 0, 0.1) for n in sizes[1:]]
        seen += run(sizes, drawn, YES_NO, 0.05).verdict == "fail"
    assert 0.68 < seen / gates < 0.92


def test_a_critical_rule_without_power_in_a_subgroup_is_refused() -> None:
    sides = side([1.0, 0.0] * 410, topics(a=400, b=400, c=20))
    with pytest.raises(UserError, match=r"in all 3 subgroups with a chance of 0\.0.*'c', with 20"):
        make_plan(policy("critical"), sides, assumed=AssumedSpread(discordance=0.05))
    sides = side([1.0, 0.0] * 1000, topics(a=1000, b=1000))
    made = make_plan(policy("critical"), sides, assumed=AssumedSpread(discordance=0.05))
    assert made.rules[0].power > 0.9


@pytest.mark.parametrize("cluster", [None, "passage"])
def test_graded_and_clustered_rules_are_planned_by_simulated_gates(cluster: str | None) -> None:
    rng = np.random.default_rng(0)
    tags = topics(a=200, b=60)
    sides = side([*rng.normal(3.5, 0.5, 260).clip(1, 5)], tags, metric="grade")
    rules = policy(metric="grade", margin=0.3, cluster=cluster)
    (rule,) = make_plan(rules, sides, assumed=AssumedSpread(sd=0.6, icc=0.2)).rules
    small, large = rule.subgroups
    assert (small.name, large.name) == ("b", "a") and 0 < small.power < large.power
    assert (large.clusters == 40) == (cluster is not None)


def test_a_plan_keeps_its_subgroups_and_is_followed_without_tags() -> None:
    tags = topics(a=300, b=300)
    old, new = lose(tags, b=0.3)
    before, after = side(old, tags, model="a"), side(new, tags, model="b")
    made = make_plan(policy(), before, assumed=AssumedSpread(discordance=0.05))
    bare = {"quiz": ScoredEvaluation(after["quiz"].evaluation, after["quiz"].scores, [], [])}
    decision = decide_by_plan(made, before, bare)
    assert decision.checks == decide(policy(), before, after).checks
    assert decision.plan == made.identity


# ---- records ---------------------------------------------------------------------------------


def board(folder: Path, decision: Decision, *sides: Mapping[str, ScoredEvaluation]) -> Board:
    made = Board(folder)
    for name, one in zip(("M0", "M1"), sides, strict=True):
        made.add_evaluation(one["quiz"], name, "r")  # type: ignore[arg-type]
    made.add_decision(decision, "r", "incumbent")
    return made


def test_a_board_decides_again_by_the_recorded_subgroups(tmp_path: Path) -> None:
    tags = [["a"], ["a", "b"], ["b"], []] * 60
    old, new = lose(tags, b=0.3)
    before, after = side(old, tags, model="a"), side(new, tags, model="b")
    decision = gate(before, after, policy())
    stored = decision.subgroups["quiz"]["topic"]
    assert stored.names == ["a", "b"] and len(stored.members) == 240
    assert Decision.model_validate_json(decision.model_dump_json()) == decision
    assert board(tmp_path / "board", decision, before, after).verify() == []
    moved = stored.model_copy(update={"members": stored.members[::-1]})
    short = stored.model_copy(update={"members": stored.members[:-1]})
    nameless = stored.model_copy(update={"names": ["a"]})
    for number, forged in enumerate((moved, short, nameless, None)):
        tampered = {"quiz": {"topic": forged}} if forged else {}
        with pytest.raises(UserError, match="cannot be put on the board"):
            board(
                tmp_path / str(number),
                decision.model_copy(update={"subgroups": tampered}),
                before,
                after,
            )


def test_a_decision_without_subgroups_keeps_its_bytes() -> None:
    tags = topics(a=50, b=50)
    plain = Policy(rules=[Rule(task="quiz", metric="accuracy", margin=0.05)])
    told = decide(plain, side([1.0] * 100, tags), side([1.0] * 100, tags)).model_dump(mode="json")
    assert "subgroups" not in told and "subgroups" not in told["checks"][0]
    assert "every" not in told["policy"]["rules"][0]
