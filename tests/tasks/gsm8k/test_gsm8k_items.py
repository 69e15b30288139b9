from __future__ import annotations

import json
from pathlib import Path

import pytest

import tasks
from harness.core.errors import UserError
from tasks.gsm8k.items import GATE_SIZE, gold, shot_docs, shot_target, worked_examples
from tasks.gsm8k.scoring import score
from tasks.gsm8k.steps import check_steps

NAMES = ("gsm8k", "svamp", "gsm_hard", "gsm_plus")


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def problems(n: int) -> list[dict[str, object]]:
    return [{"question": f"How much is {i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(n)]


@pytest.mark.parametrize("inside", ["", "gsm8k"])
def test_the_folder_or_the_one_above_it_is_read(tmp_path: Path, inside: str) -> None:
    write(tmp_path / inside / "test.jsonl", problems(3))
    items = tasks.load("gsm8k").items("test", tmp_path)
    assert [item.index for item in items] == [0, 1, 2]
    assert [gold(item) for item in items] == ["0", "1", "2"]
    assert "How much is 1?" in items[1].prompt


def test_gate_and_train_are_disjoint_and_do_not_depend_on_the_order(tmp_path: Path) -> None:
    rows = problems(50)
    write(tmp_path / "a" / "train.jsonl", rows)
    write(tmp_path / "b" / "train.jsonl", rows[::-1])
    load = tasks.load("gsm8k").items
    train, gate = load("train", tmp_path / "a"), load("gate", tmp_path / "a")
    assert (len(train), len(gate)) == (40, 10)
    assert not {i.digest for i in train} & {i.digest for i in gate}
    assert [i.index for i in gate] == list(range(10))
    assert {i.digest for i in gate} == {i.digest for i in load("gate", tmp_path / "b")}


def test_sealed_is_test_by_another_name(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", problems(3))
    load = tasks.load("gsm8k").items
    sealed, test = load("sealed", tmp_path), load("test", tmp_path)
    assert [i.digest for i in sealed] == [i.digest for i in test]
    assert {i.split for i in sealed} == {"sealed"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "How?"}, "line 1: the field 'answer' is missing"),
        ({"question": " ", "answer": "#### 1"}, "line 1: the field 'question' is missing"),
        ({"question": float("nan"), "answer": "#### 1"}, "line 1: the field 'question' is missing"),
        ({"question": "How?", "answer": "It is 5."}, "line 1: the answer has no line"),
        ({"question": "How?", "answer": "#### many"}, "line 1: the gold answer 'many' is no"),
    ],
)
def test_unfit_rows_are_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    for split in ("test", "train"):
        write(tmp_path / f"{split}.jsonl", [row])
        with pytest.raises(UserError, match=message):
            tasks.load("gsm8k").items(split, tmp_path)


def test_missing_data_and_splits_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no test\.jsonl in .* or .*gsm8k"):
        tasks.load("gsm8k").items("test", tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        tasks.load("gsm8k").items("test", tmp_path / "absent")
    with pytest.raises(UserError, match="has no split 'dev'; it has train, gate, sealed, test"):
        tasks.load("gsm8k").items("dev", tmp_path)
    with pytest.raises(UserError, match="has no split 'train'; it has test"):
        tasks.load("svamp").items("train", tmp_path)


def test_the_hub_is_asked_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[object, ...]] = []

    def load_dataset(path: str, name: str | None, split: str) -> list[dict[str, object]]:
        asked.append((path, name, split))
        if path != "openai/gsm8k":
            raise ConnectionError("offline")
        return problems(2)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(tasks.load("gsm8k").items("test")) == 2
    assert asked == [("openai/gsm8k", "main", "test")]
    with pytest.raises(UserError, match=r"reasoning-machines/gsm-hard.*offline.*gsmhardv2\.jsonl"):
        tasks.load("gsm_hard").items("test")


def test_variants_are_read_from_their_files(tmp_path: Path) -> None:
    svamp = [
        {"ID": f"chal-{i}", "Body": "Ida has 5 pens", "Question": "How many?",
         "Equation": f"( 5.0 + {i}.0 )", "Answer": 5.0 + i, "Type": "Common-Divison"}
        for i in (10, 9)
    ]  # fmt: skip
    (tmp_path / "SVAMP.json").write_text(json.dumps(svamp))
    items = tasks.load("svamp").items("test", tmp_path)
    assert [gold(item) for item in items] == ["14", "15"]
    assert "Ida has 5 pens. How many?" in items[0].prompt
    assert items[0].tags == {"type": ["Common-Division"]}

    hard = [{"input": "a?", "target": -9867630.0}, {"input": "b?", "target": 2.0107e-06}]
    write(tmp_path / "gsmhardv2.jsonl", hard)
    items = tasks.load("gsm_hard").items("test", tmp_path)
    assert [gold(item) for item in items] == ["-9867630", "0.0000020107"]
    assert "rel_tol" not in items[0].reference
    assert items[1].reference["rel_tol"] > 0

    plus = [
        {"question": "a?", "solution": "26 / 6\n#### 4.33", "answer": "4.33",
         "perturbation_type": "distraction insertion"},
        {"question": "b?", "solution": "#### None", "answer": "None",
         "perturbation_type": "critical thinking"},
    ]  # fmt: skip
    write(tmp_path / "gsmplus_testmini.jsonl", plus)
    items = tasks.load("gsm_plus").items("test", tmp_path)
    assert [gold(item) for item in items] == ["4.33", "None"]
    assert items[0].reference["abs_tol"] == pytest.approx(0.005)
    assert items[1].tags == {"perturbation": ["critical thinking"]}
    assert "#### None" in items[1].prompt


def test_a_list_is_expected_of_svamp(tmp_path: Path) -> None:
    (tmp_path / "SVAMP.json").write_text("{}")
    with pytest.raises(UserError, match="a JSON list of objects"):
        tasks.load("svamp").items("test", tmp_path)


@pytest.mark.slow
def test_the_real_sets_are_whole(shared_data: Path) -> None:
    sizes = {name: len(tasks.load(name).items("test", shared_data)) for name in NAMES}
    assert sizes == {"gsm8k": 1319, "svamp": 1000, "gsm_hard": 1319, "gsm_plus": 2400}
    load = tasks.load("gsm8k").items
    train, gate = load("train", shared_data / "gsm8k"), load("gate", shared_data / "gsm8k")
    assert (len(train), len(gate)) == (7473 - GATE_SIZE, GATE_SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_reference_answers_are_right(shared_data: Path, name: str) -> None:
    from harness.core.schema import Sample

    items = tasks.load(name).items("test", shared_data)
    answered = [
        (item, Sample(task=name, item=item.digest, index=item.index, prompt="",
                      response=item.reference["answer"]))
        for item in items
    ]  # fmt: skip
    assert all(result.values["accuracy"] == 1.0 for result in score(answered))


def test_the_worked_examples_are_right() -> None:
    assert len(worked_examples()) == 8
    for doc in shot_docs():
        answer = shot_target(doc)
        steps = check_steps(answer)
        assert steps
        assert all(step.ok for step in steps)
        assert steps[-1].claimed == answer.rpartition("#### ")[2]


def test_the_worked_examples_are_of_no_benchmark(shared_data: Path) -> None:
    known = "".join(
        path.read_text()
        for path in (shared_data / "gsm8k/train.jsonl", shared_data / "gsm8k/test.jsonl")
    )
    for question, _ in worked_examples():
        sentences = [part for part in question.split(". ") if len(part) > 20]
        assert not any(sentence in known for sentence in sentences)
