"""Recorded responses, judgments and facts: the published numbers, and every way to be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tasks
from harness.core.errors import UserError
from harness.core.schema import Call
from harness.evals import evaluation
from harness.evals.score import RecordedReplies, score
from tasks.task import new_score

SIZE = 3


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """A data folder with three problems."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(SIZE)]
    write(folder / "test.jsonl", rows)
    return folder


def responses(path: Path, drop: int | None = None) -> Path:
    rows = [{"id": n, "response": f"#### {n}"} for n in range(SIZE) if n != drop]
    return write(path, rows)


# Numbers ----------------------------------------------------------------------------------------


def test_mini_answers_are_scored_and_saved(tmp_path: Path) -> None:
    items = tasks.load("mini_gsm8k").items("sealed")
    rows = [
        {"index": item.index, "response": item.reference["answer"] if item.index % 4 else "no",
         "finish_reason": "stop", "more": "is passed over"}
        for item in reversed(items)
    ]  # fmt: skip
    answers = write(tmp_path / "answers.jsonl", rows)
    scored = score("mini_gsm8k", answers, split="sealed", model_id="me", out=tmp_path / "out")
    assert scored.evaluation.metrics["accuracy"].mean == 0.75
    assert scored.evaluation.model.id == "me" and scored.evaluation.model.digest is None
    assert scored.evaluation.items == len(items) == len(scored.samples)
    assert scored.samples[0].finish_reason == "stop"
    assert evaluation.load(tmp_path / "out") == {"mini_gsm8k": scored}


def test_gsm8k_outputs_come_out_as_published(shared_data: Path, tmp_path: Path) -> None:
    name = "6b_finetuning"
    rows = [
        json.loads(line)
        for line in (shared_data / "gsm8k" / "example_model_solutions.jsonl").open()
    ]
    answers = write(
        tmp_path / "answers.jsonl",
        ({"id": i, "response": row[name]["solution"]} for i, row in enumerate(rows)),
    )
    scored = score("gsm8k", answers, data=shared_data)
    assert scored.evaluation.metrics["accuracy"].n == 1319
    assert sum(s.values["accuracy"] for s in scored.scores) == 286


def test_just_eval_judgments_give_the_published_means(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "just_eval"
    answers = json.loads((folder / "outputs/gpt-3.5-turbo-0301.to_eval.json").read_text())
    judged = folder / "judgments/gpt-4-1106_on_gpt-3.5-turbo-0301"
    replies = [
        row for path in sorted(judged.glob("*.json")) for row in json.loads(path.read_text())
    ]
    found = score(
        "just_eval",
        write(tmp_path / "a.jsonl", ({"id": a["id"], "response": a["output"]} for a in answers)),
        judge=RecordedReplies(
            write(tmp_path / "j.jsonl", ({"id": r["id"], "reply": r["result"]} for r in replies)),
            judge_id="gpt-4-1106-preview",
        ),
        data=folder,
    )
    summary = found.evaluation
    assert summary.judge is not None and summary.judge.id == "gpt-4-1106-preview"
    assert summary.metrics["depth_official"].mean == pytest.approx(3.4175)
    assert summary.metrics["safety"].mean == pytest.approx(4.875)
    assert summary.metrics["average_official"].mean == pytest.approx(4.3054, abs=5e-5)


def test_a_missing_judgment_is_unscored_with_a_reason(shared_data: Path, tmp_path: Path) -> None:
    items = tasks.load("just_eval").items("test", shared_data / "just_eval")
    answers = write(tmp_path / "a.jsonl", ({"id": i.index, "response": "Yes."} for i in items))
    judgments = write(tmp_path / "j.jsonl", [{"id": 1, "reply": "no verdict"}])
    scored = score(
        "just_eval", answers, judge=RecordedReplies(judgments), data=shared_data / "just_eval"
    )
    assert scored.evaluation.metrics["overall"].unscored == len(items)
    assert all(s.unscored["overall"] for s in scored.scores)


# Facts ------------------------------------------------------------------------------------------


@pytest.fixture
def entities(tmp_path: Path) -> Path:
    folder = tmp_path / "entities"
    folder.mkdir()
    (folder / "prompt_entities.txt").write_text("Ada\nBo\nCy\nDee\n")
    return folder


def biographies(path: Path) -> Path:
    return write(path, ({"id": n, "response": f"Somebody {n}."} for n in range(4)))


def test_facts_are_scored(tmp_path: Path, entities: Path) -> None:
    good, bad = {"text": "a", "supported": True}, {"text": "b", "supported": False}
    facts = [
        {"id": 0, "response": "Somebody 0.", "facts": [good, bad, good, good]},
        {"id": 1, "facts": [bad]},
        {"id": 2, "facts": [], "abstained": True},
    ]
    scored = score(
        "factscore",
        biographies(tmp_path / "a.jsonl"),
        facts=write(tmp_path / "f.jsonl", facts),
        data=entities,
    )
    summary = scored.evaluation
    assert summary.metrics["precision"].mean == pytest.approx((0.75 + 0) / 2)
    assert summary.metrics["responded"].mean == pytest.approx(3 / 4)
    assert summary.metrics["factscore"].unscored == 1
    assert scored.scores[3].unscored["factscore"] == "no facts were recorded"
    assert summary.estimator == "recorded facts"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": 0, "response": "another", "facts": []}, "taken from another response"),
        ({"id": 0, "facts": [{"text": "a"}]}, r"line 1: facts\.0\.supported: Field required"),
        ({"id": 0, "facts": [{"text": "a", "supported": "yes"}]}, r"facts\.0\.supported"),
        ({"id": 0}, "line 1: facts: Field required"),
        ({"id": 9, "facts": []}, r"factscore \(test\) does not have: id 9"),
    ],
)
def test_unfit_facts_are_sentences(
    tmp_path: Path, entities: Path, row: dict[str, Any], said: str
) -> None:
    answers, facts = biographies(tmp_path / "a.jsonl"), write(tmp_path / "f.jsonl", [row])
    with pytest.raises(UserError, match=said):
        score("factscore", answers, facts=facts, data=entities)


def test_facts_belong_to_factscore(tmp_path: Path, problems: Path) -> None:
    answers, facts = responses(tmp_path / "a.jsonl"), write(tmp_path / "f.jsonl", [])
    with pytest.raises(UserError, match="gsm8k is not scored by facts"):
        score("gsm8k", answers, facts=facts, data=problems)
    with pytest.raises(UserError, match="name one of them"):
        score("gsm8k", answers, facts=facts, judge=RecordedReplies(facts), data=problems)


# Bad input --------------------------------------------------------------------------------------


def test_missing_responses_are_counted_and_named(tmp_path: Path, problems: Path) -> None:
    with pytest.raises(UserError, match=r"lacks 1 of the 3 responses to gsm8k \(test\): ids 1\."):
        score("gsm8k", responses(tmp_path / "a.jsonl", drop=1), data=problems)
    empty = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(UserError, match=r"lacks 3 of the 3 .* ids 0, 1, 2\."):
        score("gsm8k", empty, data=problems)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": 3, "response": ""}', r"gsm8k \(test\) does not have: id 3\. .* 0 to 2"),
        ('{"id": -1, "response": ""}', "does not have: id -1"),
        ('{"id": 0, "response": ""}', "line 4: id 0 was there before, in line 1"),
        ('{"id": "0", "response": ""}', "line 4: id 0 was there before"),
        ('{"id": 0.5, "response": ""}', "line 4: 'id' is '0.5'"),
        ('{"id": true, "response": ""}', "line 4: 'id' is 'True'"),
        ('{"id": "one", "response": ""}', "line 4: 'id' is 'one'"),
        ('{"response": ""}', "line 4: 'id' is 'None'"),
        ('{"id": 2}', "line 4: id 2 was there"),
        ("{id: 2}", "line 4: not JSON"),
        ("[2]", "line 4: an object"),
    ],
)
def test_unfit_lines_are_sentences(tmp_path: Path, problems: Path, line: str, said: str) -> None:
    answers = responses(tmp_path / "a.jsonl")
    answers.write_text(answers.read_text() + line + "\n")
    with pytest.raises(UserError, match=said):
        score("gsm8k", answers, data=problems)


@pytest.mark.parametrize("response", [None, 7, ["text"]])
def test_a_response_is_text(tmp_path: Path, problems: Path, response: Any) -> None:
    answers = write(tmp_path / "a.jsonl", [{"id": 0, "response": response}])
    with pytest.raises(UserError, match="line 1: response: Input should be a valid string"):
        score("gsm8k", answers, data=problems)


def test_files_and_tasks_that_are_not_there(tmp_path: Path, problems: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        score("gsm8k", tmp_path / "nothing.jsonl", data=problems)
    with pytest.raises(UserError, match="no task 'gsm9k'"):
        score("gsm9k", responses(tmp_path / "a.jsonl"), data=problems)
    with pytest.raises(UserError, match="no split 'final'"):
        score("gsm8k", responses(tmp_path / "a.jsonl"), split="final", data=problems)


def test_what_is_not_text_in_unicode_is_scored_all_the_same(tmp_path: Path, problems: Path) -> None:
    rows = [{"id": n, "response": f"\ud800 #### {n}"} for n in range(SIZE)]
    scored = score("gsm8k", write(tmp_path / "a.jsonl", rows), data=problems, out=tmp_path / "out")
    assert scored.evaluation.metrics["accuracy"].mean == 1.0
    assert evaluation.load(tmp_path / "out") == {"gsm8k": scored}


# Scoring anew -----------------------------------------------------------------------------------


def test_a_saved_evaluation_is_scored_anew(tmp_path: Path) -> None:
    rows = [{"id": item.index, "response": ""} for item in tasks.load("mini_gsm8k").items("gate")]
    first = score("mini_gsm8k", write(tmp_path / "a.jsonl", rows), split="gate", out=tmp_path / "e")
    again = score("mini_gsm8k", tmp_path / "e", out=tmp_path / "again")
    assert again == first
    assert evaluation.load(tmp_path / "again") == evaluation.load(tmp_path / "e")


def test_what_a_folder_says_itself_is_not_said_again(tmp_path: Path) -> None:
    rows = [{"id": item.index, "response": ""} for item in tasks.load("mini_gsm8k").items("gate")]
    score("mini_gsm8k", write(tmp_path / "a.jsonl", rows), split="gate", out=tmp_path / "e")
    with pytest.raises(UserError, match="leave split, data and model id out"):
        score("mini_gsm8k", tmp_path / "e", split="gate")
    with pytest.raises(UserError, match="holds no evaluation of gsm8k, but of mini_gsm8k"):
        score("gsm8k", tmp_path / "e")
    items = tmp_path / "e" / "mini_gsm8k" / evaluation.ITEMS
    with_nan = items.read_text().replace('"reference":{', '"reference":{"a":NaN,', 1)
    for changed in ("", with_nan):
        items.write_text(changed)
        with pytest.raises(UserError, match=r"items\.jsonl is not what evaluation\.json was made"):
            score("mini_gsm8k", tmp_path / "e")


def test_a_response_is_scored_up_to_the_tasks_stop_string_and_kept_whole(
    problems: Path, tmp_path: Path
) -> None:
    run_on = "\n\nQuestion: 8?\n\n#### 8"
    rows = [
        {"id": n, "response": f"#### {n}{run_on}", "finish_reason": "length"} for n in range(SIZE)
    ]
    scored = score("gsm8k", write(tmp_path / "answers.jsonl", rows), data=problems)
    for metric, mean in (("accuracy", 1), ("strict_match", 1), ("flexible_extract", 1)):
        assert scored.evaluation.metrics[metric].mean == mean
    assert scored.evaluation.metrics["truncated"].mean == 0
    assert all(sample.response.endswith(run_on) for sample in scored.samples)


def test_the_stop_strings_of_any_task_end_its_recorded_responses(tmp_path: Path) -> None:
    task = replace(
        tasks.load("mini_gsm8k"), generation={"max_tokens": 80, "temperature": 0.0, "stop": ["END"]}
    )
    rows = [
        {"id": item.index, "response": f"{item.reference['answer']}END\n#### 0"}
        for item in task.items("gate")
    ]
    scored = score(task, write(tmp_path / "answers.jsonl", rows), split="gate")
    assert scored.evaluation.metrics["accuracy"].mean == 1.0
    assert scored.evaluation.metrics["flexible_extract"].mean == 1.0


# Several responses per item ---------------------------------------------------------------------


def several(path: Path, numbers: Iterable[tuple[int, int]]) -> Path:
    return write(path, ({"id": n, "repeat": r, "response": f"#### {r}"} for n, r in numbers))


def test_responses_to_an_item_are_numbered(tmp_path: Path, problems: Path) -> None:
    numbers = [(n, r) for r in (1, 0) for n in range(SIZE)]
    scored = score("gsm8k", several(tmp_path / "a.jsonl", numbers), data=problems)
    assert [(s.index, s.repeat, s.response) for s in scored.samples] == [
        (n, r, f"#### {r}") for n in range(SIZE) for r in (0, 1)
    ]
    assert scored.evaluation.metrics["pass@2"].mean == pytest.approx(2 / 3)


def test_judgments_belong_to_one_response_each(tmp_path: Path) -> None:
    task = replace(tasks.load("mini_gsm8k"), name="graded")
    items = task.items("gate")[:2]

    def grade(answered: Any, judge: Any = None) -> Any:
        replies = judge.ask([Call(prompt=s.response) for _, s in answered])
        return [
            new_score(sample, {"accuracy": float(reply.text or "0")})
            for (_, sample), reply in zip(answered, replies, strict=True)
        ]

    task = replace(task, score=grade, items=lambda split, data=None: items)
    answers = several(tmp_path / "a.jsonl", [(n, r) for n in range(2) for r in range(2)])
    rows = [{"id": 0, "repeat": 1, "reply": "1"}, {"id": 1, "reply": "1"}]
    replies = RecordedReplies(write(tmp_path / "r.jsonl", rows))
    scored = score(task, answers, split="gate", judge=replies)
    assert [s.values["accuracy"] for s in scored.scores] == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)], "some items have 2 responses, but not the item"),
        ([(0, 0), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1)], "item with id 0. Give every item the"),
        ([(0, 1), (1, 1), (2, 1)], "items with id 0, 1, 2. Give every"),
        ([(0, 0), (0, 10**9), (1, 0), (2, 0)], "items with id 0, 1, 2"),
        ([(0, 0), (0, 1), (1, 0), (1, 0)], "line 4: id 1, repeat 0, was there before, in line 3"),
        ([(0, 0), (0, -1)], "line 2: 'repeat' is '-1'"),
    ],
)
def test_uneven_responses_are_sentences(
    tmp_path: Path, problems: Path, numbers: list[tuple[int, int]], said: str
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        score("gsm8k", several(tmp_path / "a.jsonl", numbers), data=problems)
