"""FActScore from verified facts to scores and feedback."""

from __future__ import annotations

import codecs
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import tasks
from harness.core.errors import UserError
from harness.core.schema import Item, Sample, Score
from tasks.factscore import TASKS
from tasks.factscore.abstention import abstains
from tasks.factscore.feedback import feedback
from tasks.factscore.items import MAX_BYTES, items
from tasks.factscore.scoring import Fact, facts_score, score, unverified_score

YAML = Path(tasks.__file__).parent / "factscore" / "factscore.yaml"
ITEM = Item(
    task="factscore",
    split="test",
    index=3,
    prompt="Write a biography of Ada Lund.",
    reference={"entity": "Ada Lund"},
)


def said(response: str = "Ada Lund was a painter.", repeat: int = 0) -> Sample:
    return Sample(
        task="factscore",
        item=ITEM.digest,
        index=3,
        repeat=repeat,
        prompt=ITEM.prompt,
        response=response,
    )


def facts(supported: int, unsupported: int) -> list[Fact]:
    return [Fact(text=f"True thing {i}.", supported=True) for i in range(supported)] + [
        Fact(text=f"False thing {i}.", supported=False) for i in range(unsupported)
    ]


def scored(supported: int, unsupported: int) -> Score:
    return facts_score(said(), facts(supported, unsupported))


# Scores -------------------------------------------------------------------------------------------


def test_long_responses_are_worth_their_precision() -> None:
    assert scored(9, 3).values == {
        "responded": 1,
        "precision": 0.75,
        "factscore": 0.75,
        "facts": 12,
        "f1_at_k": 2 * 0.75 * 0.3 / 1.05,
    }


@pytest.mark.parametrize(
    ("n", "penalty"),
    [(1, math.exp(-9)), (5, math.exp(-1)), (9, math.exp(-1 / 9)), (10, 1), (11, 1)],
)
def test_short_responses_are_penalised(n: int, penalty: float) -> None:
    values = scored(n, 0).values
    assert values["precision"] == 1
    assert values["factscore"] == pytest.approx(penalty)


def test_gamma_and_k_are_parameters() -> None:
    values = facts_score(said(), facts(4, 0), gamma=3, k=4).values
    assert (values["factscore"], values["f1_at_k"]) == (1, 1)
    values = facts_score(said(), facts(4, 0), gamma=8, k=8).values
    assert values["factscore"] == pytest.approx(math.exp(-1))
    assert values["f1_at_k"] == pytest.approx(2 / 3)


def test_a_response_without_facts_is_worth_nothing() -> None:
    values = scored(0, 0).values
    assert values == {"responded": 1, "precision": 0, "factscore": 0, "f1_at_k": 0, "facts": 0}


def test_saying_more_than_k_supported_things_earns_no_more_recall() -> None:
    assert scored(30, 0).values["f1_at_k"] == scored(60, 0).values["f1_at_k"] == 1


def test_a_response_that_declines_has_only_responded() -> None:
    for found in (
        facts_score(said("I'm sorry, I do not know."), []),
        facts_score(said(), facts(3, 3), abstained=True),
        unverified_score(said(""), "no page"),
    ):
        assert found.values == {"responded": 0}
        assert found.unscored == {}


def test_the_callers_word_on_abstention_goes_before_the_rules() -> None:
    found = facts_score(said("I'm sorry, but here it is."), facts(1, 0), abstained=False)
    assert found.values["responded"] == 1


def test_without_a_verifier_only_the_respond_ratio_is_known() -> None:
    answers, declines = score([(ITEM, said(repeat=1)), (ITEM, said("I'm sorry."))])
    assert answers.values == {"responded": 1}
    assert answers.unscored == dict.fromkeys(
        ("factscore", "precision", "f1_at_k", "facts"), "no verifier"
    )
    assert (answers.item, answers.index, answers.repeat) == (ITEM.digest, 3, 1)
    assert declines.values == {"responded": 0}


def test_every_metric_is_declared() -> None:
    assert {metric.name for metric in TASKS[0].metrics} == set(scored(1, 1).values)
    assert TASKS[0].primary.name == "factscore"


@given(st.integers(0, 60), st.integers(0, 60))
def test_scores_stay_in_range_and_the_penalty_only_takes(supported: int, unsupported: int) -> None:
    values = scored(supported, unsupported).values
    assert 0 <= values["factscore"] <= values["precision"] <= 1
    assert 0 <= values["f1_at_k"] <= 1


@given(st.integers(0, 30), st.integers(0, 30))
def test_one_more_supported_fact_never_lowers_a_score(supported: int, unsupported: int) -> None:
    before, after = scored(supported, unsupported).values, scored(supported + 1, unsupported).values
    assert all(before[name] <= after[name] for name in before)


@pytest.mark.parametrize("supported", ["true", 1, None, "S"])
def test_a_label_that_is_not_a_truth_value_is_refused(supported: object) -> None:
    with pytest.raises(ValidationError):
        Fact.model_validate({"text": "It rains.", "supported": supported})


# Abstention ---------------------------------------------------------------------------------------

RESPONSES: list[dict[str, Any]] = [
    json.loads(line)
    for line in Path(__file__)
    .with_name("declining_responses.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]


def test_every_labelled_response_declines_or_answers_as_a_reader_sees_it() -> None:
    misread = [row for row in RESPONSES if abstains(row["response"]) != row["declines"]]
    assert misread == []
    declining = [row for row in RESPONSES if row["declines"]]
    assert len(declining) > 120 and len(RESPONSES) - len(declining) > 70
    # The published phrasings see a few of them, and take whole biographies for refusals.
    assert sum(abstains(row["response"], "generic") for row in declining) < 20
    assert abstains("Ada Lund painted. If you mean another, please provide more.", "generic")


@pytest.mark.parametrize(
    "courtesy", ["", "\n\nI hope this helps!", "\n\nLet me know if you need more."]
)
def test_courtesies_change_nothing(courtesy: str) -> None:
    for row in RESPONSES:
        assert abstains(row["response"] + courtesy) == row["declines"], row


def test_a_biography_before_a_refusal_is_an_answer() -> None:
    life = "Ada Lund was a Swedish painter born in 1931. She studied in Uppsala."
    for row in RESPONSES:
        assert not abstains(f"{life} {row['response']}")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part", ["i could not ", "there is no ", "as an a b ", "i ", '"', "sorry. "]
)
def test_hostile_responses_are_read(part: str) -> None:
    assert abstains(part * (200_000 // len(part))) in (True, False)


@pytest.mark.parametrize(
    "response",
    [
        "",
        " \n",
        "I'm sorry, but I cannot help.",
        "I\N{RIGHT SINGLE QUOTATION MARK}m sorry, no.",
        "Who is meant? Could you provide more details?",
    ],
)
def test_generic_abstention(response: str) -> None:
    assert abstains(response, "generic")
    assert abstains(response)


@pytest.mark.parametrize(
    "response",
    ["Ada Lund was a painter.", "He said: I'm sorry.", "There is no information on her birth."],
)
def test_generic_answers(response: str) -> None:
    assert not abstains(response, "generic")


def test_search_abstention_looks_at_the_first_paragraph_without_citations() -> None:
    assert abstains(
        "Sorry: there are no[1] search results for her.\n\nBut see elsewhere.", "search"
    )
    assert abstains("I could not find any information about her.", "search")
    assert abstains("", "search")
    assert not abstains("She paints [1].\n\nI could not find any information on more.", "search")
    assert not abstains("I'm sorry to say that she died in 1907.", "search")


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(UserError, match="'content', 'generic' or 'search'"):
        abstains("text", "perplexity")  # type: ignore[arg-type]


# Items --------------------------------------------------------------------------------------------


def test_items_come_from_a_list_or_a_folder_that_holds_it(tmp_path: Path) -> None:
    names = tmp_path / "factscore" / "labeled" / "prompt_entities.txt"
    names.parent.mkdir(parents=True)
    names.write_text("Ada Lund\n\n  Łukasz Zor \n", encoding="utf-8")
    found = items("test", names)
    assert [(i.index, i.reference["entity"]) for i in found] == [(0, "Ada Lund"), (1, "Łukasz Zor")]
    assert "Łukasz Zor" in found[1].prompt
    assert found == items("test", tmp_path) == items("test", tmp_path / "factscore")
    assert found == items("test", names.parent)


@pytest.mark.parametrize("name", ["prompt_entities.txt", "labeled/prompt_entities.txt"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, name: str) -> None:
    mark = codecs.BOM_UTF8
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(mark + b"Ada Lund\r\n" + mark + b"Bo Ek\r\n" + mark)
    assert [item.reference["entity"] for item in items("test", tmp_path)] == ["Ada Lund", "Bo Ek"]


def test_tags_come_from_the_label_files_beside_the_list(tmp_path: Path) -> None:
    (tmp_path / "prompt_entities.txt").write_text("Ada Lund\nBo Ek\n")
    labels = tmp_path / "ChatGPT.jsonl"
    labels.write_text(json.dumps({"topic": "Ada Lund", "cat": ["rare", "Europe"]}) + "\n")
    first, second = items("test", tmp_path)
    assert first.tags == {"rarity": ["rare"], "region": ["Europe"]}
    assert second.tags == {}
    labels.write_text('{"topic": "Ada Lund"}\n')
    with pytest.raises(UserError, match="line 1: 'topic' and 'cat'"):
        items("test", tmp_path)


def test_unfit_lists_are_named(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    with pytest.raises(UserError, match="no split 'dev'"):
        items("dev", tmp_path)
    with pytest.raises(UserError, match="--data"):
        items("test")
    with pytest.raises(UserError, match="no list of entities"):
        items("test", tmp_path)
    names.write_text("\n\n")
    with pytest.raises(UserError, match="contains no names"):
        items("test", names)
    names.write_text("Ada\nBo\nAda\n")
    with pytest.raises(UserError, match="'Ada' twice"):
        items("test", names)
    names.write_text("\n".join(f"Ada {i}" for i in range(100_000)) + "\nAda 99999\n")
    with pytest.raises(UserError, match="'Ada 99999' twice"):
        items("test", names)
    names.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        items("test", names)
    names.write_bytes(b"a" * (MAX_BYTES + 1))
    with pytest.raises(UserError, match="larger than 16,777,216 bytes"):
        items("test", names)


# Feedback -----------------------------------------------------------------------------------------


def test_feedback_quotes_each_unsupported_fact_and_no_other() -> None:
    found = feedback(ITEM, said(), scored(2, 2))
    assert (
        "The record does not support: 'False thing 1.'. Leave it out or correct it." in found.text()
    )
    assert found.text().count("does not support") == 2
    assert "True thing" not in found.text()


@pytest.mark.parametrize(
    ("supported", "unsupported", "grades"),
    [
        (11, 0, (2, 2)),
        (11, 11, (1, 2)),
        (11, 12, (0, 2)),
        (10, 0, (2, 1)),
        (6, 1, (1, 1)),
        (5, 0, (2, 0)),
        (0, 0, (0, 0)),
    ],
)
def test_feedback_grades(supported: int, unsupported: int, grades: tuple[int, int]) -> None:
    found = feedback(ITEM, said(), scored(supported, unsupported))
    assert [aspect.aspect for aspect in found.aspects] == ["factuality", "completeness"]
    assert tuple(aspect.grade for aspect in found.aspects) == grades


def test_feedback_on_a_response_that_declines_asks_for_an_answer() -> None:
    (only,) = feedback(ITEM, said(""), facts_score(said(""), [])).aspects
    assert (only.aspect, only.grade) == ("completeness", 0)
    assert "Ada Lund" in only.justification


def test_there_is_nothing_to_say_of_unverified_facts() -> None:
    assert feedback(ITEM, said(), unverified_score(said(), "no page")).aspects == []


# Stock lm-eval ------------------------------------------------------------------------------------


def test_stock_lm_eval_measures_the_respond_ratio(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    (tmp_path / "prompt_entities.txt").write_text("Ada Lund\nBo Ek\n")
    metadata = {"data": str(tmp_path)}
    manager = TaskManager(include_path=str(YAML.parent), include_defaults=False, metadata=metadata)
    task = manager.load(["factscore"])["tasks"]["factscore"]
    docs = list(task.test_docs())
    assert "Bo Ek" in task.doc_to_text(docs[1])
    found = [task.process_results(docs[0], [answer]) for answer in ("She paints.", "I'm sorry.")]
    assert found == [{"responded": 1}, {"responded": 0}]
    assert set(task.aggregation()) == {metric.name for metric in TASKS[0].metrics}
