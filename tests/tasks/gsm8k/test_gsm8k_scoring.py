from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks
from harness.core.schema import FinishReason, Item, Sample, Score
from tasks.gsm8k.scoring import flexible_extract, score, strict_match

ITEM = Item(
    task="gsm8k",
    split="test",
    index=3,
    prompt="Question: How many?",
    reference={"answer": "16 - 7 = <<16-7=9>>9\n#### 1,809"},
)


def scored(
    response: str, finish_reason: FinishReason | None = None, item: Item = ITEM, repeat: int = 0
) -> Score:
    sample = Sample(
        task=item.task,
        item=item.digest,
        index=item.index,
        repeat=repeat,
        prompt=item.prompt,
        response=response,
        finish_reason=finish_reason,
    )
    (result,) = score([(item, sample)])
    return result


def test_a_right_answer_has_every_value() -> None:
    result = scored("16 - 7 = 9\n#### 1809", "stop", repeat=2)
    assert result.values == {
        "accuracy": 1.0,
        "strict_match": 1.0,
        "flexible_extract": 1.0,
        "invalid": 0.0,
        "truncated": 0.0,
    }
    assert (result.item, result.index, result.repeat) == (ITEM.digest, 3, 2)
    assert result.details == {"answer": "1809", "found_by": "####", "gold": "1,809"}


def test_numbers_are_compared_where_lm_eval_compares_strings() -> None:
    values = scored("The answer is **1809.00** dollars...", "stop").values
    assert values["accuracy"] == 1.0
    assert values["strict_match"] == values["flexible_extract"] == 0.0


def test_a_response_without_an_answer_is_invalid() -> None:
    result = scored("I would rather not.", "stop")
    assert (result.values["accuracy"], result.values["invalid"]) == (0.0, 1.0)
    assert result.details["answer"] is None


def test_truncation_is_told_apart_from_error_and_unknown_has_a_reason() -> None:
    assert scored("16 - 7", "length").values["truncated"] == 1.0
    recorded = scored("16 - 7")
    assert "truncated" not in recorded.values
    assert recorded.unscored["truncated"]


def test_tolerances_come_with_the_item() -> None:
    hard = ITEM.model_copy(update={"reference": {"answer": "#### 5.3333333333", "rel_tol": 1e-4}})
    assert scored("#### 5.3333", item=hard).values["accuracy"] == 1.0
    assert scored("#### 5.34", item=hard).values["accuracy"] == 0.0


def test_every_metric_is_valued_or_excused() -> None:
    names = {metric.name for metric in tasks.load("gsm8k").metrics}
    for reason in ("stop", "length", None):
        result = scored("#### 5", reason)
        assert set(result.values) | set(result.unscored) == names


@pytest.fixture(scope="module")
def lm_eval_scores() -> Callable[[str, str], tuple[bool, bool]]:
    """lm-eval's own filters and metric, configured as its gsm8k.yaml does."""
    from pathlib import Path

    import lm_eval
    import yaml
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    path = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    config = yaml.safe_load(path.read_text())
    (metric,) = config["metric_list"]
    filters = {}
    for entry in config["filter_list"]:
        regex = {k: v for k, v in entry["filter"][0].items() if k != "function"}
        filters[entry["name"]] = RegexFilter(**regex)

    def both(response: str, answer: str) -> tuple[bool, bool]:
        results = []
        for name in ("strict-match", "flexible-extract"):
            ((found,),) = filters[name].apply([[response]], [{}])
            match = exact_match_hf_evaluate(
                predictions=[found],
                references=[answer],
                regexes_to_ignore=metric["regexes_to_ignore"],
                ignore_case=metric["ignore_case"],
                ignore_punctuation=metric["ignore_punctuation"],
            )
            results.append(bool(match["exact_match"]))
        return results[0], results[1]

    return both


@given(st.text(alphabet="0189#$.,- \nab", max_size=30), st.sampled_from(["18", "1,809", "-9", "0"]))
def test_string_matches_are_those_of_lm_eval(
    lm_eval_scores: Callable[[str, str], tuple[bool, bool]], response: str, gold: str
) -> None:
    ours = strict_match(response, gold), flexible_extract(response, gold)
    assert ours == lm_eval_scores(response, f"steps\n#### {gold}")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("bomb", ["9" * 10**6, "#### " + "9." * 10**6, "-" * 10**6, "#" * 10**6])
def test_string_matches_survive_long_numbers(bomb: str) -> None:
    assert not strict_match(bomb, "18")
    assert not flexible_extract(bomb, "18")


def test_an_answer_that_is_not_one_number_is_invalid_and_kept() -> None:
    result = scored("They meet at noon.\n#### 12:00", "stop")
    assert (result.values["accuracy"], result.values["invalid"]) == (0.0, 1.0)
    assert result.details["answer"] is None
    assert result.details["unread"] == "12:00"
