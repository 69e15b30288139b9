"""Whole test sets of seven models, scored item by item against their published labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import tasks
from harness.core.schema import Item, Sample, Score
from tasks.gsm8k.items import gold
from tasks.gsm8k.scoring import Answer, extract, matches, readings, score
from tasks.gsm8k.steps import check_steps

PROVIDED = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


class Recorded(NamedTuple):
    responses: list[str]
    labels: list[bool]


@pytest.fixture(scope="module")
def items(shared_data: Path) -> list[Item]:
    return tasks.load("gsm8k").items("test", shared_data)


@pytest.fixture(scope="module")
def recorded(shared_data: Path, items: list[Item]) -> dict[str, Recorded]:
    """Model -> its responses and published labels, with those known to be wrong put right."""
    outputs = shared_data / "gsm8k_outputs"
    text = (shared_data / "gsm8k" / "example_model_solutions.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert all(row["question"] in item.prompt for row, item in zip(rows, items, strict=True))
    found = {
        name: Recorded(
            [row[name]["solution"] for row in rows], [row[name]["is_correct"] for row in rows]
        )
        for name in PROVIDED
    }
    for name, field in (("abel_7b", "model_prediction"), ("metamath_7b", "completion")):
        rows = json.loads((outputs / f"{name}.json").read_text())
        found[name] = Recorded([row[field] for row in rows], [row["result"] for row in rows])
    rows = tora_rows(shared_data)
    found["tora_7b"] = Recorded(
        ["".join(row["code"]) for row in rows], [row["result"] for row in rows]
    )
    for label in json.loads((shared_data / "gsm8k" / "label_adjudication.json").read_text()):
        found[Path(label["file"]).stem].labels[label["idx"]] = label["adjudicated"]
    return found


def tora_rows(shared_data: Path) -> list[dict[str, object]]:
    text = (shared_data / "gsm8k_outputs" / "tora_7b.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def scores(items: list[Item], responses: list[str]) -> list[Score]:
    return score(
        [
            (item, Sample(task="gsm8k", item=item.digest, index=item.index, prompt="", response=r))
            for item, r in zip(items, responses, strict=True)
        ]
    )


def total(results: list[Score], metric: str) -> int:
    return int(sum(result.values[metric] for result in results))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "totals"),
    [
        ("6b_finetuning", (286, 0, 286)),
        ("6b_verification", (515, 0, 515)),
        ("175b_finetuning", (458, 0, 458)),
        ("175b_verification", (742, 0, 742)),
        ("abel_7b", (785, 785, 785)),
        ("metamath_7b", (880, 877, 880)),
    ],
)
def test_published_labels_come_out_item_by_item(
    items: list[Item], recorded: dict[str, Recorded], model: str, totals: tuple[int, int, int]
) -> None:
    results = scores(items, recorded[model].responses)
    assert [r.values["accuracy"] == 1.0 for r in results] == recorded[model].labels
    metrics = ("accuracy", "strict_match", "flexible_extract")
    assert tuple(total(results, metric) for metric in metrics) == totals


@pytest.mark.slow
def test_a_program_and_its_box_are_read(
    items: list[Item], recorded: dict[str, Recorded], shared_data: Path
) -> None:
    """ToRA's own label fails where the gold has a comma; elsewhere only one item may differ."""
    responses, labels = recorded["tora_7b"]
    results = scores(items, responses)
    assert total(results, "accuracy") >= 889
    differing = [
        gold(item)
        for item, result, label in zip(items, results, labels, strict=True)
        if (result.values["accuracy"] == 1.0) != label and "," not in gold(item)
    ]
    assert len(differing) <= 1

    given = [str(row["pred"][-1]) for row in tora_rows(shared_data)]  # type: ignore[index]
    answers = [Answer(text, "field", readings(text)) for text in given]
    assert sum(matches(a, gold(item)) for a, item in zip(answers, items, strict=True)) == 890


FORMATS = (
    "#### {}",
    "The answer is {}.",
    "So the answer would be **{}** apples.\nI checked it in 3 ways.",
    "Answer:\n{}",
    "A: {}",
    "<answer>{}</answer>",
    "<answer>{}</answer>\n\nQuestion: Tom has 2 hats.\nAnswer: 2",
    "\\boxed{{{}}}",
    "$\\boxed{{{}\\text{{ eggs}}}}$",
    "**{}**",
    "So she has ${} left.",
    "It comes to {}",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gsm8k", "svamp", "gsm_hard", "gsm_plus"])
def test_every_gold_is_read_in_every_format(name: str, shared_data: Path) -> None:
    for item in tasks.load(name).items("test", shared_data):
        if (wanted := gold(item)) != "None":
            for form in FORMATS:
                answer = extract(f"3 + 4 = 7\n{form.format(wanted)}", item.prompt)
                assert answer is not None and answer.readings[0] == readings(wanted)[0], form


@pytest.mark.slow
def test_the_last_number_of_a_worked_answer_is_its_result(shared_data: Path) -> None:
    """Answers that people worked out, without the line that marks the result."""
    text = (shared_data / "gsm8k" / "train.jsonl").read_text()
    answers = [json.loads(line)["answer"].rpartition("####") for line in text.splitlines()]
    right = sum(matches(extract(worked), result.strip()) for worked, _, result in answers)
    assert right >= 0.97 * len(answers)


@pytest.mark.slow
def test_right_answers_are_seldom_accused_of_a_wrong_step(
    recorded: dict[str, Recorded], shared_data: Path
) -> None:
    """Worked answers of people and of right models: what is flagged is below one in a hundred."""
    text = (shared_data / "gsm8k" / "train.jsonl").read_text()
    written = [json.loads(line)["answer"] for line in text.splitlines()[:2000]]
    generated = [
        response
        for model in ("175b_verification", "abel_7b", "metamath_7b")
        for response, right in zip(*recorded[model], strict=True)
        if right
    ]
    for texts in (written, generated):
        steps = [step for text in texts for step in check_steps(text)]
        assert len(steps) > len(texts)
        assert sum(not step.ok for step in steps) < 0.01 * len(steps)


def test_numbers_agree_with_math_verify(shared_data: Path) -> None:
    """Its own test pairs whose gold begins with a number; some golds are sets or intervals."""
    text = (shared_data / "math_verify" / "test_pairs.jsonl").read_text()
    agreed = []
    for row in map(json.loads, text.splitlines()):
        if not readings(row["gold"]):
            continue
        answer = extract(row["pred"])
        prose = re.search(r"\b[A-Za-z]{4}", re.sub(r"\\[A-Za-z]+(\{[a-z]+\})?", "", row["pred"]))
        if not prose and (answer is None or answer.found_by == "last number"):
            answer = Answer(row["pred"], "all of it", readings(row["pred"]))
        expected = row.get("expected", row.get("result")) in (1, True)
        agreed.append(matches(answer, row["gold"]) == expected)
    assert len(agreed) > 100
    assert sum(agreed) >= 0.8 * len(agreed)
