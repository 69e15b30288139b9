"""Clusters of items: named in many ways, refused where they are none, suggested, recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.quiz import make

from harness.board import Board
from harness.core.errors import UserError
from harness.core.files import parse, write_json
from harness.core.schema import Check, Decision, Item, Policy, Rule
from harness.core.scored import ScoredEvaluation
from harness.evals.inputs import read_clusters
from harness.gate import decide, gate
from harness.gate.clusters import assign, restore_clusters, store_clusters
from harness.gate.plan import Plan, decide_by_plan
from harness.gate.plan import make_plan as plan
from harness.gate.planned_rule import AssumedSpread

PASSAGES, QUESTIONS = 20, 10
PASSAGE = [f"p{i // QUESTIONS}" for i in range(PASSAGES * QUESTIONS)]


def policy(cluster: str | None = None, margin: float = 0.05, **fields: Any) -> Policy:
    return Policy(
        rules=[Rule(task="quiz", metric="accuracy", margin=margin, cluster=cluster)], **fields
    )


def side(
    right: Sequence[float],
    *,
    tags: Sequence[Any] = (),
    reference: Sequence[Any] = (),
    document: Sequence[Any] = (),
    model: str = "m",
    metric: str = "accuracy",
) -> dict[str, ScoredEvaluation]:
    """An evaluation whose items carry the tag, the field or the document's field `passage`."""
    made = make([{metric: float(x)} for x in right], model=model)

    def of(values: Sequence[Any], i: int) -> dict[str, Any]:
        return {"passage": values[i]} if values and values[i] is not None else {}

    items = [
        Item(
            task="quiz",
            split="gate",
            index=i,
            prompt=f"question {i}",
            reference=of(reference, i) | {"gold": i},
            tags=of(tags, i),
            document=of(document, i),
        )
        for i in range(len(right))
    ]
    return {"quiz": ScoredEvaluation(made.evaluation, made.scores, [], items)}


def answers(seed: int, icc: float = 0.5, discordance: float = 0.2, drop: float = 0.0) -> Any:
    """Right and wrong answers of two models, in passages whose answers change together."""
    rng = np.random.default_rng(seed)
    n = PASSAGES * QUESTIONS
    old = (rng.random(n) < 0.5).astype(float)
    chances = [(discordance - drop) / 2, (discordance + drop) / 2]
    draws = [rng.choice([1, -1, 0], size, p=[*chances, 1 - sum(chances)]) for size in (PASSAGES, n)]
    change = np.where(rng.random(n) < icc**0.5, np.repeat(draws[0], QUESTIONS), draws[1])
    # What changes was wrong before a gain and right before a loss.
    old = np.where(change > 0, 0.0, np.where(change < 0, 1.0, old))
    return old, old + change


def only(decision: Decision) -> Check:
    (check,) = decision.checks
    return check


TAGS = [[name] for name in PASSAGE]


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("passage", {"tags": TAGS}),
        ("passage", {"reference": PASSAGE}),
        ("passage", {"document": PASSAGE}),
        ("doc.passage", {"document": PASSAGE}),
        ("passage", {"reference": [int(name[1:]) for name in PASSAGE]}),
        ("passage.id", {"reference": [{"id": name} for name in PASSAGE]}),
        ("doc.passage.id", {"document": [{"id": name} for name in PASSAGE]}),
    ],
)
def test_a_cluster_is_a_tag_or_a_field_of_the_item_or_its_document(
    key: str, fields: Mapping[str, Any]
) -> None:
    old, new = answers(0)
    before, after = side(old, **fields), side(new, **fields)
    check = only(decide(policy(key), before, after))
    assert (check.n, check.clusters, check.test) == (200, 20, "clustered Tango score test")
    alone = only(decide(policy(), before, after))
    assert alone.clusters is None
    assert check.high - check.low > 1.3 * (alone.high - alone.low)  # type: ignore[operator]
    assert "20 clusters" in check.reason


def test_the_policys_cluster_is_that_of_rules_that_name_none() -> None:
    old, new = answers(0)
    before = side(old, tags=TAGS, reference=[f"half {i % 2}" for i in range(200)])
    after = side(new, tags=TAGS, reference=[f"half {i % 2}" for i in range(200)])
    named = decide(policy("passage"), before, after)
    default = decide(policy(cluster=None).model_copy(update={"cluster": "passage"}), before, after)
    assert named.checks == default.checks
    assert Policy.model_validate({"cluster": "a", "rules": policy("b").rules}).cluster_of(
        policy("b").rules[0]
    ) == "b"  # fmt: skip


def test_with_clusters_the_gate_keeps_its_promise_at_the_margin() -> None:
    """Items of a passage change together: without clusters one in four passes at the margin."""
    passed = {"passage": 0, None: 0}
    for seed in range(100):
        old, new = answers(seed, icc=0.5, discordance=0.2, drop=0.05)
        before, after = side(old, tags=TAGS), side(new, tags=TAGS)
        for key in passed:
            passed[key] += decide(policy(key), before, after).verdict == "pass"
    assert passed["passage"] <= 12  # 5 %, and three standard errors
    assert passed[None] >= 15


def test_one_item_per_cluster_is_the_same_as_no_clusters() -> None:
    old, new = answers(0)
    alone = [[f"p{i}"] for i in range(200)]
    before, after = side(old, tags=alone), side(new, tags=alone)
    clustered, plain = (decide(policy(key), before, after) for key in ("passage", None))
    assert clustered.checks == plain.checks
    assert only(clustered).clusters is None
    assert clustered.notes == [
        "quiz: each item is alone in its 'passage', so that clusters change nothing"
    ]


def test_one_cluster_for_all_is_inconclusive() -> None:
    old, new = answers(0)
    same = [["p"]] * 200
    decision = decide(policy("passage"), side(old, tags=same), side(new, tags=same))
    assert decision.verdict == "inconclusive"
    assert "all 200 items have one value of 'passage'" in only(decision).reason


@pytest.mark.parametrize("empty", [None, [], "", "  "])
def test_a_missing_cluster_is_an_error(empty: Any) -> None:
    old, new = answers(0)
    field = [empty if i in {7, 30} else name for i, name in enumerate(PASSAGE)]
    with pytest.raises(
        UserError, match=r"2 of 200 items of quiz have no value of 'passage'.*item 7"
    ):
        decide(policy("passage"), side(old, reference=field), side(new, reference=field))


def test_a_cluster_that_no_item_has_is_an_error_with_the_nearest_name() -> None:
    old, new = answers(0)
    with pytest.raises(UserError, match=r"by 'pasage', which is not a tag.*Did you mean 'passage'"):
        decide(policy("pasage"), side(old, tags=TAGS), side(new, tags=TAGS))


@pytest.mark.parametrize("several", [["a", "b"], [["a"], ["b"]], {"a": 1}])
def test_an_item_in_several_clusters_is_an_error(several: Any) -> None:
    old, new = answers(0)
    field = [several, *PASSAGE[1:]]
    with pytest.raises(UserError, match="Item 0 of quiz has more than one value of 'passage'"):
        decide(policy("passage"), side(old, reference=field), side(new, reference=field))


def test_clusters_that_differ_between_the_sides_are_an_error() -> None:
    old, new = answers(0)
    other = [["elsewhere"] if i == 3 else tag for i, tag in enumerate(TAGS)]
    with pytest.raises(UserError, match="item 3 of quiz has 'passage' 'p0' for the baseline and"):
        decide(policy("passage"), side(old, tags=TAGS), side(new, tags=other))


def test_a_side_without_items_takes_the_clusters_of_the_other() -> None:
    """A leaderboard keeps scores alone."""
    old, new = answers(0)
    before, after = side(old, tags=TAGS), side(new, tags=TAGS)
    bare = {"quiz": ScoredEvaluation(before["quiz"].evaluation, before["quiz"].scores)}
    found = decide(policy("passage"), bare, after)
    assert found.checks == decide(policy("passage"), before, after).checks
    with pytest.raises(UserError, match="neither side keeps its items"):
        decide(policy("passage"), bare, bare)


def test_lost_items_do_not_hinder_clusters() -> None:
    old, new = answers(0)
    before, after = side(old, tags=TAGS), side(new, tags=TAGS)
    short = ScoredEvaluation(
        after["quiz"].evaluation, after["quiz"].scores[:-1], [], after["quiz"].items
    )
    check = only(decide(policy("passage"), before, {"quiz": short}))
    assert (check.n, check.clusters) == (199, 20)


def test_few_clusters_do_not_pass_lightly() -> None:
    """Nine passages: no normal distribution can be leaned on."""
    rng = np.random.default_rng(0)
    passed = 0
    names = [[f"p{i % 4}"] for i in range(200)]
    for _ in range(50):
        old = (rng.random(200) < 0.5).astype(float)
        new = np.where(rng.random(200) < 0.1, 1 - old, old)
        passed += decide(policy("passage", 0.1), side(old, tags=names), side(new, tags=names)
                         ).verdict == "pass"  # fmt: skip
    assert passed == 0


# ---- a file ----------------------------------------------------------------------------------


def test_a_column_of_a_file_names_clusters(tmp_path: Path) -> None:
    old, new = answers(0)
    before, after = side(old, tags=TAGS), side(new, tags=TAGS)
    expected = assign(policy("passage"), before, after)
    rows = "\n".join(f"{i},{name}" for i, name in enumerate(PASSAGE))
    by_index = tmp_path / "clusters.csv"
    by_index.write_text(f"index,passage\n{rows}\n", encoding="utf-8-sig")
    items = {score.index: score.item for score in before["quiz"].scores}
    by_digest = tmp_path / "clusters.jsonl"
    by_digest.write_text(
        "\n".join(
            f'{{"item": "{items[i]}", "task": "quiz", "passage": {int(name[1:])}}}'
            for i, name in enumerate(PASSAGE)
        )
        + '\n{"item": "another", "task": "other", "passage": 3}\n'
    )
    bare = {"quiz": ScoredEvaluation(before["quiz"].evaluation, before["quiz"].scores)}
    for path in (by_index, by_digest):
        columns = read_clusters(path)
        assert columns.keys == ("passage",)
        assert assign(policy("passage"), bare, bare, columns) == expected


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.csv", "", "no row"),
        ("c.csv", "index,passage\n", "no row"),
        ("c.csv", "passage,author\na,b\n", "which item a row is about"),
        ("c.csv", "index\n1\n", "no column that names clusters"),
        ("c.csv", "index,passage,passage\n1,a,b\n", "each once"),
        ("c.csv", "index,passage\n1,a,b\n", "3 cells, where the first line names 2"),
        ("c.csv", 'index,passage\n1,"a\n', "not CSV"),
        ("c.jsonl", '{"index": 1, "passage": ["a", "b"]}\n', "one value is expected"),
        ("c.jsonl", "[1]\n", "an object"),
        ("c.csv", b"index,passage\n1,\xff\n", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_table_of_clusters_is_an_error(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        read_clusters(path)


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        read_clusters(tmp_path / "none.csv")
    with pytest.raises(UserError, match="not a regular file"):
        read_clusters(tmp_path)
    with pytest.raises(UserError, match="not a regular file"):
        read_clusters(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("0,a\n", "199 of 200 items of quiz have no value of 'passage'"),
        ("0,a\n0,b\n", "item 0 is in cluster 'a' and in 'b'"),
        ("first,a\n", "which is 'first' here"),
    ],
)
def test_rows_that_do_not_fit_the_items_are_an_error(tmp_path: Path, rows: str, said: str) -> None:
    path = tmp_path / "c.csv"
    path.write_text(f"index,passage\n{rows}")
    old, _ = answers(0)
    with pytest.raises(UserError, match=said):
        assign(policy("passage"), side(old), side(old), read_clusters(path))


# ---- suggestions -----------------------------------------------------------------------------


def notes(*fields: Mapping[str, Any], key: str | None = None) -> list[str]:
    old, new = answers(3)
    (given,) = fields
    return gate(side(old, **given), side(new, **given), policy(key)).notes


@pytest.mark.parametrize("place", ["tags", "reference", "document"])
def test_items_that_go_together_are_noticed_where_nothing_was_named(place: str) -> None:
    names: Sequence[Any] = TAGS if place == "tags" else PASSAGE
    (note,) = notes({place: names})
    key = "doc.passage" if place == "document" else "passage"
    assert f"items share '{key}' (20 values)" in note
    assert f"cluster: {key}" in note
    # Named as the note says, there is nothing left to note.
    assert notes({place: names}, key=key) == []


def test_what_says_nothing_about_answers_is_not_suggested() -> None:
    rng = np.random.default_rng(1)
    for names in (
        [["all"]] * 200,  # the category of everything
        [[f"p{i}"] for i in range(200)],  # one item each
        [[f"p{i}"] for i in rng.integers(0, 20, 200)],  # passages that have no part in the answers
        [[f"p{i // 10}"] if i else None for i in range(200)],  # not every item has one
    ):
        assert notes({"tags": names}) == []


def test_a_suggestion_is_seldom_false() -> None:
    """Fields without any effect are suggested at the level of the test at most."""
    rng = np.random.default_rng(5)
    false = 0
    for _ in range(100):
        old, new = (rng.random((2, 200)) < 0.5).astype(float)
        tags = [[f"p{i}"] for i in rng.integers(0, 20, 200)]
        false += bool(gate(side(old, tags=tags), side(new, tags=tags), policy()).notes)
    assert false <= 4


def test_what_is_right_is_not_suggested_as_a_cluster() -> None:
    old, new = answers(3)
    before, after = side(old), side(new)
    for one in (before["quiz"], after["quiz"]):
        for item, name in zip(one.items, PASSAGE, strict=True):
            item.reference["gold"] = name
    assert gate(before, after, policy()).notes == []


# ---- records ---------------------------------------------------------------------------------


def board(tmp_path: Path, decision: Decision, *sides: Mapping[str, ScoredEvaluation]) -> Board:
    made = Board(tmp_path / "board")
    for name, one in zip(("M0", "M1"), sides, strict=True):
        made.add_evaluation(one["quiz"], name, "r")  # type: ignore[arg-type]
    made.add_decision(decision, "r", "incumbent")
    return made


def test_a_board_decides_again_by_the_recorded_clusters(tmp_path: Path) -> None:
    """It keeps no items: the decision holds the number of each item's cluster."""
    old, new = answers(0)
    before, after = side(old, tags=TAGS, model="a"), side(new, tags=TAGS, model="b")
    decision = gate(before, after, policy("passage"))
    assert len(decision.clusters["quiz"]["passage"]) == 200
    made = board(tmp_path, decision, before, after)
    assert made.verify() == []


def test_a_board_notices_clusters_that_do_not_give_the_decision(tmp_path: Path) -> None:
    old, new = answers(0)
    before, after = side(old, tags=TAGS, model="a"), side(new, tags=TAGS, model="b")
    decision = gate(before, after, policy("passage"))
    for number, lists in enumerate(([i // 2 for i in range(200)], [0] * 199, [])):
        changed = {"quiz": {"passage": lists}} if lists else {}
        forged = decision.model_copy(update={"clusters": changed})
        with pytest.raises(UserError, match="cannot be put on the board"):
            board(tmp_path / str(number), forged, before, after)


def test_what_is_stored_is_read_again() -> None:
    old, _ = answers(0)
    before = side(old, tags=TAGS)
    assigned = assign(policy("passage"), before, before)
    assert restore_clusters(store_clusters(assigned, before), before) == assigned
    with pytest.raises(UserError, match="of 200 items, and there are 190"):
        restore_clusters(store_clusters(assigned, before), side(old[:190], tags=TAGS[:190]))


def test_a_decision_without_clusters_keeps_its_bytes() -> None:
    old, new = answers(0)
    told = decide(policy(), side(old), side(new)).model_dump(mode="json")
    assert not {"clusters", "estimand", "notes"} & told.keys()
    assert not {"cluster", "promotion"} & told["policy"].keys()
    assert "cluster" not in told["policy"]["rules"][0]
    assert "clusters" not in told["checks"][0]


# ---- plans -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_plan_reckons_with_clusters() -> None:
    old, again = answers(0, icc=0.5, discordance=0.2)
    before, second = side(old, tags=TAGS), side(again, tags=TAGS)
    rules = policy("passage", 0.45)
    (rule,) = plan(rules, before, second=second).rules
    assert rule.clusters == 20 and rule.icc_from == "second run"
    assert rule.icc is not None and 0.2 < rule.icc < 0.8
    assert rule.design_effect == pytest.approx(1 + 9 * rule.icc)
    (stated,) = plan(rules, before, assumed=AssumedSpread(discordance=0.1, icc=0.5)).rules
    assert (stated.icc, stated.icc_from, stated.design_effect) == (0.5, "stated", 5.5)
    (alone,) = plan(policy(None, 0.45), before, assumed=AssumedSpread(discordance=0.1)).rules
    assert (alone.icc, alone.design_effect, alone.clusters) == (None, None, None)
    assert stated.items_needed > alone.items_needed
    with pytest.raises(UserError, match=r"between 0 and 1; it is 1\.5"):
        plan(rules, before, assumed=AssumedSpread(discordance=0.1, icc=1.5))


@pytest.mark.slow
def test_planned_power_with_clusters_is_the_share_of_unchanged_candidates_that_pass() -> None:
    old, _ = answers(0)
    rules = policy("passage", 0.3)
    (rule,) = plan(
        rules, side(old, tags=TAGS), assumed=AssumedSpread(discordance=0.2, icc=0.5)
    ).rules
    passed = 0
    for seed in range(100):
        pair = answers(seed, icc=0.5, discordance=0.2)
        before, after = (side(values, tags=TAGS) for values in pair)
        passed += decide(rules, before, after).verdict == "pass"
    assert passed / 100 == pytest.approx(rule.power, abs=0.12)


@pytest.mark.slow
def test_a_plan_keeps_the_clusters_it_was_made_with() -> None:
    old, new = answers(0)
    before, after = side(old, tags=TAGS), side(new, tags=TAGS)
    made = plan(policy("passage", 0.3), before, assumed=AssumedSpread(discordance=0.2, icc=0.3))
    bare = {"quiz": ScoredEvaluation(before["quiz"].evaluation, before["quiz"].scores)}
    followed = decide_by_plan(
        made, bare, {"quiz": ScoredEvaluation(after["quiz"].evaluation, after["quiz"].scores)}
    )
    assert followed.checks == decide(policy("passage", 0.3), before, after).checks
    assert followed.clusters == made.clusters


def test_a_plan_from_before_clusters_is_followed_as_it_was_made(tmp_path: Path) -> None:
    old, new = answers(0)
    before, after = side(old, tags=TAGS), side(new, tags=TAGS)
    made = plan(policy(None, 0.2), before, assumed=AssumedSpread(discordance=0.2))
    told = made.model_dump(mode="json")
    assert not {"clusters", "estimand"} & told.keys()
    write_json(tmp_path / "plan.json", made)
    decision = decide_by_plan(parse(Plan, told, "plan.json"), before, after)
    assert decision.checks == decide(policy(None, 0.2), before, after).checks
    (note,) = decision.notes
    assert "items share 'passage'" in note and note.endswith("followed as it was made")


def test_a_sequential_test_takes_no_clusters() -> None:
    old, _ = answers(0)
    with pytest.raises(UserError, match=r"clusters items by 'passage'.*Plan a fixed"):
        plan(
            policy("passage", 0.3),
            side(old, tags=TAGS),
            assumed=AssumedSpread(discordance=0.1),
            sequential=True,
        )
