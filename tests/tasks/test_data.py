"""Just-Eval and FActScore as benchmarks to train on: what is learned from is never measured on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import pytest

import tasks
from harness.core.errors import UserError
from harness.core.schema import Item
from tasks.data import SPLITS, fold, halves
from tasks.factscore.items import items as entities
from tasks.just_eval.items import items as instructions


def texts(items: Sequence[Item]) -> set[str]:
    return {fold(item.prompt) for item in items}


def lines(path: Path, rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def official(folder: Path) -> Path:
    """Forty regular instructions, of which two differ in case only, and ten harmful ones."""
    rows = [{"instruction": f"Question {i}?", "category": "regular"} for i in range(39)]
    rows.append({"instruction": "QUESTION  0?", "category": "regular"})
    rows += [{"instruction": f"Harm {i}.", "category": "safety"} for i in range(10)]
    lines(folder / "official.jsonl", rows)
    return folder


def test_halves_are_by_turns_in_an_order_that_names_alone_decide() -> None:
    names = [f"Name {i}" for i in range(101)]
    sides = halves(names)
    assert sorted(sides) == sorted(map(fold, names))
    assert list(sides.values()).count("gate") == 51
    assert halves(reversed(names)) == sides == halves([*names, "NAME   5"])
    assert {sides[fold(name)] for name in names[:10]} == {"gate", "sealed"}


def test_the_tasks_can_be_trained_on() -> None:
    for name in ("just_eval", "factscore"):
        assert tasks.load(name).splits == SPLITS


def test_the_halves_of_just_eval_are_the_test_set_and_share_nothing(tmp_path: Path) -> None:
    data = official(tmp_path)
    test, gate, sealed = (instructions(split, data) for split in ("test", "gate", "sealed"))
    assert {item.digest for item in gate} | {item.digest for item in sealed} == {
        item.digest for item in test
    }
    assert len(gate) + len(sealed) == len(test) == 50
    assert not texts(gate) & texts(sealed)
    for half in (gate, sealed):
        assert sum(item.tags["category"] == ["safety"] for item in half) == 5
        assert [item.index for item in half] == sorted(item.index for item in half)
    assert {item.split for item in gate} == {"gate"}


def test_instructions_to_train_on_are_the_users(tmp_path: Path) -> None:
    data = official(tmp_path / "just_eval")
    before = instructions("test", data)
    lines(
        data / "train.jsonl",
        [
            {"instruction": "Write a poem."},
            {"prompt": "Sort a list.", "topic": ["code"]},
            {"instruction": "write  a POEM."},
            {"instruction": "Insult me.", "category": "safety"},
        ],
    )
    train = instructions("train", data)
    assert [item.prompt for item in train] == ["Write a poem.", "Sort a list.", "Insult me."]
    assert [item.index for item in train] == [0, 1, 2]
    assert {item.split for item in train} == {"train"}
    assert [item.tags["category"] for item in train] == [["regular"], ["regular"], ["safety"]]
    assert train[1].tags["topic"] == ["code"]
    assert instructions("train", tmp_path) == train
    assert instructions("test", data) == before


def test_an_instruction_that_is_measured_on_is_not_learned(tmp_path: Path) -> None:
    data = official(tmp_path)
    lines(data / "train.jsonl", [{"instruction": "New."}, {"instruction": " question 7?\n"}])
    with pytest.raises(UserError, match=r"gate or sealed items, 1 in all.*question 7"):
        instructions("train", data)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "a"}], "line 1: 'instruction' has to be text"),
        ([{"instruction": "a"}, {"instruction": " "}], "line 2: 'instruction' has to be text"),
        ([{"instruction": "a", "category": "odd"}], "line 1: 'category'"),
        ([{"instruction": "a", "topic": ["x"], "prompt": 5, "id": "nine"}], None),
        ([], "holds no instructions"),
    ],
)
def test_an_unfit_line_is_named(tmp_path: Path, rows: list[object], said: str | None) -> None:
    data = official(tmp_path)
    lines(data / "train.jsonl", rows)
    if said is None:
        assert instructions("train", data)[0].index == 0  # an id of the user's says nothing
        return
    with pytest.raises(UserError, match=said):
        instructions("train", data)


def test_what_to_put_where_is_said(tmp_path: Path) -> None:
    for data in (None, official(tmp_path), tmp_path / "official.jsonl"):
        with pytest.raises(UserError, match=r'"instruction".*train\.jsonl'):
            instructions("train", data)
    (tmp_path / "prompt_entities.txt").write_text("Ada Lund\n")
    with pytest.raises(UserError, match=r"train\.txt"):
        entities("train", tmp_path)


def published(folder: Path) -> Path:
    """The folders of FActScore's data: entities with labels, and without."""
    for name, people in (("labeled", ["Ada Lund", "Bo Ek"]), ("unlabeled", range(20))):
        (folder / name).mkdir(parents=True)
        told = "".join(f"{one}\n" if name == "labeled" else f"Person {one}\n" for one in people)
        (folder / name / "prompt_entities.txt").write_text(told)
    return folder


def test_the_halves_of_factscore_are_the_entities_without_labels(tmp_path: Path) -> None:
    data = published(tmp_path / "factscore")
    gate, sealed, test = (entities(split, data) for split in ("gate", "sealed", "test"))
    assert (len(gate), len(sealed), len(test)) == (10, 10, 2)
    for one, other in combinations((gate, sealed, test), 2):
        assert not texts(one) & texts(other)
    assert [item.index for item in gate] == list(range(10))
    assert entities("gate", tmp_path) == gate
    with (data / "unlabeled" / "prompt_entities.txt").open("a") as file:
        file.write("ada  lund\n")  # is in the test set
    assert entities("gate", data) == gate and entities("sealed", data) == sealed


def test_one_list_of_ones_own_is_halved_too(tmp_path: Path) -> None:
    path = tmp_path / "people.txt"
    path.write_text("".join(f"Person {i}\n" for i in range(7)))
    gate, sealed = entities("gate", path), entities("sealed", path)
    assert (len(gate), len(sealed)) == (4, 3)
    assert texts(gate) | texts(sealed) == texts(entities("test", path))


def test_entities_to_train_on_are_the_users(tmp_path: Path) -> None:
    data = published(tmp_path)
    (data / "train.txt").write_text("Cy Dahl\n\nDi Ros\n")
    train = entities("train", data)
    assert [item.reference["entity"] for item in train] == ["Cy Dahl", "Di Ros"]
    (data / "train.txt").unlink()
    lines(data / "train.jsonl", [{"entity": "Cy Dahl"}, {"entity": "Di Ros"}])
    assert entities("train", data) == train
    for held_out in ("person 3", "BO EK"):
        lines(data / "train.jsonl", [{"entity": "Cy Dahl"}, {"entity": held_out}])
        with pytest.raises(UserError, match=rf"gate or sealed items, 1 in all.*{held_out}"):
            entities("train", data)
    lines(data / "train.jsonl", [{"name": "Cy Dahl"}])
    with pytest.raises(UserError, match="line 1: 'entity' has to be text"):
        entities("train", data)


def test_the_official_instructions_are_halved(shared_data: Path) -> None:
    data = shared_data / "just_eval"
    gate, sealed, test = (instructions(split, data) for split in ("gate", "sealed", "test"))
    assert (len(gate), len(sealed), len(test)) == (501, 499, 1000)
    assert not texts(gate) & texts(sealed)
    # What was published is what it was before there were halves.
    said = "".join(item.model_dump_json() for item in test)
    assert sha256(said.encode()).hexdigest().startswith("9b14fe6f3930939a")


def test_the_official_entities_are_halved(shared_data: Path) -> None:
    data = shared_data / "factscore"
    gate, sealed, test = (entities(split, data) for split in ("gate", "sealed", "test"))
    assert (len(gate), len(sealed), len(test)) == (250, 250, 183)
    for one, other in combinations((gate, sealed, test), 2):
        assert not texts(one) & texts(other)
    said = "".join(item.model_dump_json() for item in test)
    assert sha256(said.encode()).hexdigest().startswith("f682884e0e464674")
