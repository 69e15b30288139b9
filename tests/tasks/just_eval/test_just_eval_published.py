"""The recorded judgements give the published numbers, to the printed digit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.core.schema import Call, Reply, Sample, Score
from harness.stats.intervals import subgroups
from tasks.just_eval import TASKS
from tasks.just_eval.items import items
from tasks.just_eval.length import at_equal_length
from tasks.just_eval.scoring import derive, score


@dataclass
class Recorded:
    replies: Sequence[str]
    id: str = "recorded"
    digest: str | None = None

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        assert len(calls) == len(self.replies)
        return [Reply(text=reply) for reply in self.replies]


def replay(data: Path, judgments: Sequence[Path]) -> list[Score]:
    rows = {int(r["id"]): r for file in judgments for r in json.loads(file.read_text())}
    answered = [
        (
            item,
            Sample(
                task=item.task,
                item=item.digest,
                index=item.index,
                prompt=item.prompt,
                response=rows[item.index]["output_cand"],
            ),
        )
        for item in items("test", data)
        if item.index in rows
    ]
    return score(answered, Recorded([rows[item.index]["result"] for item, _ in answered]))


@pytest.fixture(scope="module")
def data(shared_data: Path) -> Path:
    return shared_data / "just_eval"


@pytest.fixture(scope="module")
def expected(data: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data / "reference_aggregates.json").read_text())
    return found


@pytest.fixture(scope="module")
def gpt35(data: Path) -> list[Score]:
    return replay(data, sorted((data / "judgments").glob("gpt-4-1106*/*.json")))


def test_the_instructions(data: Path) -> None:
    found = items("test", data)
    assert [item.index for item in found] == list(range(1000))
    assert [len(item.reference["aspects"]) for item in found] == [5] * 800 + [1] * 200
    assert len({item.digest for item in found}) == 1000
    assert found == items("test", data.parent) == items("test", data / "outputs")


def test_gpt4_on_gpt35(gpt35: list[Score], expected: dict[str, Any]) -> None:
    assert not any(s.unscored for s in gpt35)
    results = TASKS[0].aggregate(gpt35)
    assert {a: 800 - results[a].n for a in expected["na_counts"]} == expected["na_counts"]
    found = {name: result.mean for name, result in results.items()}
    assert found["average_official"] == pytest.approx(expected["avg6_na_as_5"], abs=1e-12)
    for aspect, value in expected["aspects_na_excluded"].items():
        assert found[aspect] == pytest.approx(value, abs=1e-12)
    for aspect, value in expected["aspects_na_as_5"].items():
        assert found[f"{aspect}_official"] == pytest.approx(value, abs=1e-12)
    assert (found["helpfulness"], found["clarity"], found["engagement"]) == (4.60625, 4.9075, 3.46)
    assert (found["factuality_official"], found["depth_official"]) == (4.56625, 3.4175)
    assert (round(found["factuality"] or 0, 4), round(found["depth"] or 0, 4)) == (4.5440, 3.4095)
    assert found["safety"] == found["safety_official"] == 4.875
    assert round(found["average_official"] or 0, 4) == 4.3054
    assert found["words"] == expected["avg_words_general"] == 153.955


@pytest.mark.parametrize(
    ("by", "key"),
    [
        ("task", "helpfulness_by_task_all_tags"),
        ("topic", "helpfulness_by_topic_all_tags"),
        ("source", "helpfulness_by_source"),
    ],
)
def test_slices(
    data: Path, gpt35: list[Score], expected: dict[str, Any], by: str, key: str
) -> None:
    found = subgroups(items("test", data), gpt35, by)
    for tag, (value, n) in expected[key].items():
        result = found["mt" if tag == "mt-1" else tag]["helpfulness"]
        assert result.n == n
        assert result.mean == pytest.approx(value, abs=5e-5)


def test_slices_by_difficulty_count_not_applicable_as_five(
    data: Path, gpt35: list[Score], expected: dict[str, Any]
) -> None:
    level = {
        i.digest: i.tags["difficulty"][0] for i in items("test", data) if "difficulty" in i.tags
    }
    for difficulty, aspects in expected["by_difficulty"].items():
        found = derive([s for s in gpt35 if level.get(s.item) == difficulty])
        for aspect, value in aspects.items():
            assert found[f"{aspect}_official"].mean == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize(
    ("model", "value"),
    [("vicuna-7b-v1.5", 4.60), ("Llama-2-7b-chat-hf", 5.00), ("gpt-4-0613", 4.97)],
)
def test_safety_of_other_models(data: Path, model: str, value: float) -> None:
    scores = replay(data, [data / "judgments" / f"{model}.score_safety.chatgpt.json"])
    result = TASKS[0].aggregate(scores)["safety"]
    assert (result.n, result.unscored) == (200, 0)
    assert result.mean == pytest.approx(value, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vicuna-7b-v1.5", "zephyr-7b-beta", "gpt-3.5-turbo-0301"])
def test_mean_words(data: Path, expected: dict[str, Any], model: str) -> None:
    rows = json.loads((data / "outputs" / f"{model}.to_eval.json").read_text())
    said = {int(row["id"]): row["output"] for row in rows}
    answered = [
        (i, Sample(task=i.task, item=i.digest, index=i.index, prompt="", response=said[i.index]))
        for i in items("test", data)
    ]
    words = TASKS[0].aggregate(score(answered))["words"]
    assert words.n == 800
    assert words.mean == pytest.approx(expected["avg_words_general_by_model"][model], abs=1e-9)


def test_length_explains_depth_and_engagement(gpt35: list[Score], expected: dict[str, Any]) -> None:
    found = TASKS[0].aggregate(gpt35)
    for aspect, value in expected["pearson_loglen_vs"].items():
        result = found[f"{aspect}_official_length_r"]
        assert result.mean == pytest.approx(value, abs=5e-4)
        assert result.low is not None and result.high is not None
        assert result.low < value < result.high
        assert result.n == 800
    at_length, regular = found["overall_at_length"], [s for s in gpt35 if "words" in s.values]
    plain = sum(s.values["overall"] for s in regular) / len(regular)
    assert at_length.mean is not None and at_length.low is not None
    # GPT-3.5 answers in fewer words than the reference, and longer answers score higher.
    assert plain < at_length.low


def test_a_model_against_itself_gains_nothing_at_equal_length(gpt35: list[Score]) -> None:
    found = at_equal_length(gpt35, gpt35)
    assert (found.mean, found.n, found.unscored) == (0, 800, 0)


def test_slices_by_category(data: Path, gpt35: list[Score]) -> None:
    found = subgroups(items("test", data), gpt35, "category")
    assert found["safety"]["overall"].mean == found["safety"]["safety"].mean == 4.875
    assert (found["regular"]["helpfulness"].mean, found["regular"]["words"].mean) == (
        4.60625,
        153.955,
    )
