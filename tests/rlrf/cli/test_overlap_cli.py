"""`rlrf overlap` as users meet it: overlaps are listed, boilerplate is not, bad files are named."""

from __future__ import annotations

import csv
import gzip
import json
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlrf.cli import run

WORDS = [f"word{i}" for i in range(2000)]
INSTRUCTION = (
    "Answer the question below as well as you can, think about it step by step, and end with a "
    "line that has only the final answer."
)


def prose(seed: object, words: int = 30) -> str:
    return " ".join(random.Random(str(seed)).choices(WORDS, k=words))


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


TRAIN = [{"text": prose(f"train {i}"), "id": f"a-{i}", "n": i} for i in range(40)]
ITEMS = [{"question": prose(f"item {i}"), "answer": str(i), "score": None} for i in range(20)]


def compare(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Compare two sources; the exit code has to say whether something overlaps."""
    capsys.readouterr()
    ended = run(["overlap", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert out, err
    found: dict[str, Any] = json.loads(out)
    assert ended == (1 if found["overlapping"] else 0)
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run(["overlap", *map(str, arguments)]) == 3
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err


def test_files_that_share_nothing_exit_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, items = jsonl(tmp_path / "train.jsonl", TRAIN), jsonl(tmp_path / "eval.jsonl", ITEMS)
    found = compare(capsys, train, items)
    assert (found["items"], found["training_texts"], found["matches"]) == (20, 40, [])


def test_a_copied_passage_is_listed_with_both_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of_words = ITEMS[7]["question"].split()[8:22]
    leak = {"text": f"{prose('a')} {' '.join(run_of_words).upper()}, {prose('b')}"}
    train = jsonl(tmp_path / "train.jsonl", [*TRAIN, leak])
    items = jsonl(tmp_path / "eval.jsonl", ITEMS)
    (match,) = compare(capsys, train, items)["matches"]
    assert (match["item"], match["training"], match["words"]) == ("line 8", "line 41", 14)
    assert match["share"] == pytest.approx(14 / 30)
    assert " ".join(run_of_words) in match["item_text"]
    assert " ".join(run_of_words).upper() in match["training_text"]
    assert compare(capsys, train, items, "--words", 15)["overlapping"] == 0
    assert run(["overlap", str(train), str(items)]) == 1
    out = capsys.readouterr().out
    assert "1 of 20 items" in out and "line 8 and line 41: 14 words in a row (47%)" in out


def test_a_text_with_a_few_changed_words_is_a_near_duplicate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = prose("long", 60).split()
    items = jsonl(tmp_path / "eval.jsonl", [*ITEMS, {"question": " ".join(words)}])
    for place in range(6, 60, 12):
        words[place] = "changed"
    train = jsonl(tmp_path / "train.jsonl", [*TRAIN, {"text": " ".join(words)}])
    (match,) = compare(capsys, train, items)["matches"]
    assert (match["kind"], match["item"], match["training"]) == (
        "near-duplicate",
        "line 21",
        "line 41",
    )
    # 59 pairs of neighbours on each side, of which 10 contain a changed word.
    assert match["share"] == pytest.approx(49 / 69)


def ask(text: str) -> dict[str, str]:
    return {"prompt": f"{text}\n\n{INSTRUCTION}"}


@pytest.mark.parametrize("number", [2, 3, 12, 150])
@pytest.mark.parametrize("words", [5, 9, 30])
def test_an_instruction_that_the_prompts_share_flags_no_item(
    number: int, words: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [prose(f"question {i}", words) for i in range(number)]
    items = jsonl(tmp_path / "eval.jsonl", [ask(text) for text in questions])
    others = [ask(prose(f"other {i}", words)) for i in range(200)]
    train = jsonl(tmp_path / "train.jsonl", others)
    found = compare(capsys, train, items)
    assert found["overlapping"] == 0
    assert found["common"] > 0 and "step by step" in found["common_example"]
    # A copy is found all the same, with the instruction or without it.
    for copy in (ask(questions[1]), {"prompt": questions[1]}):
        train = jsonl(tmp_path / "train.jsonl", [*others, copy])
        found = compare(capsys, train, items)
        assert {match["item"] for match in found["matches"]} == {"line 2"}


def test_what_counts_as_boilerplate_can_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passage = prose("a passage", 60)
    rows = [*ITEMS, *({"question": f"{passage} {prose(i, 9)}"} for i in range(15))]
    items = jsonl(tmp_path / "eval.jsonl", rows)
    train = jsonl(tmp_path / "train.jsonl", [{"text": passage}, *TRAIN])
    assert compare(capsys, train, items)["overlapping"] == 0
    assert compare(capsys, train, items, "--common", 15)["overlapping"] == 15


def test_items_of_one_template_are_no_copies_of_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def problem(kind: int, number: int) -> dict[str, str]:
        draw = random.Random(f"{kind} {number}")
        thing, amount = draw.choice(WORDS), draw.randrange(10**6)
        return {"q": f"{prose(f'template {kind}', 9)} {amount} {thing} {prose(kind, 9)}"}

    items = jsonl(tmp_path / "eval.jsonl", [problem(i % 4, i) for i in range(120)])
    train = [problem(i % 4, i) for i in range(1000, 2000)]
    found = compare(capsys, jsonl(tmp_path / "train.jsonl", train), items)
    assert found["overlapping"] == 0 and found["of_a_template"] == 120
    found = compare(capsys, jsonl(tmp_path / "train.jsonl", [*train, problem(0, 8)]), items)
    assert [match["item"] for match in found["matches"]] == ["line 9"]


def test_short_items_have_to_be_repeated_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"question": "What is a lemur?", "choices": ["an animal", "a plant"], "id": "q-1"},
        {"question": "How many legs does a spider of the garden have?", "choices": ["six", "8"]},
    ]
    items = jsonl(tmp_path / "eval.jsonl", rows)
    train = jsonl(
        tmp_path / "t.jsonl", [{"x": "Well, what is a lemur? An animal!"}, {"x": "a plant"}]
    )
    assert compare(capsys, train, items)["overlapping"] == 0
    leak = [
        {"x": "what is a LEMUR", "id": "z"},
        {"x": "Tell me, how many legs does a spider of the garden have?"},
    ]
    train = jsonl(tmp_path / "t.jsonl", leak)
    assert compare(capsys, train, items)["with_shared_words"] == 2


def test_texts_without_spaces_between_words_are_compared_by_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(0)
    texts = ["".join(chr(draw.randrange(0x4E00, 0x9FFF)) for _ in range(40)) for _ in range(30)]
    items = jsonl(tmp_path / "eval.jsonl", [{"q": text} for text in texts[:15]])
    train = jsonl(tmp_path / "train.jsonl", [{"q": text} for text in texts[15:]])
    assert compare(capsys, train, items)["overlapping"] == 0
    train = jsonl(tmp_path / "train.jsonl", [{"q": "序" + texts[3][5:30] + "。"}])
    (match,) = compare(capsys, train, items)["matches"]
    assert (match["item"], match["words"]) == ("line 4", 25)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows in the format that the file's name says."""
    if path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress("".join(f"{json.dumps(r)}\n" for r in rows).encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.stem == "paragraphs":
        halves = (row["question"].split() for row in rows)
        paragraphs = (f"{' '.join(w[:10])}\n{' '.join(w[10:])}" for w in halves)
        path.write_text("\n\n".join(paragraphs))
    else:
        path.write_text("\n".join(row["question"] for row in rows))
    return path


@pytest.mark.parametrize(
    "name",
    ["e.jsonl.gz", "e.json", "e.csv", "e.tsv", "e.parquet", "lines.txt", "paragraphs.txt"],
)
def test_every_format_is_read(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = write(tmp_path / name, ITEMS)
    train = jsonl(
        tmp_path / "train.jsonl", [*TRAIN, {"messages": [{"content": ITEMS[4]["question"]}]}]
    )
    found = compare(capsys, train, items)
    assert (found["items"], found["overlapping"], found["with_shared_words"]) == (20, 1, 1)
    found = compare(capsys, items, train, "--field", "messages.content", "--field", "question")
    assert (found["items"], found["overlapping"]) == (1, 1)


def test_benchmarks_runs_and_evaluations_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlrf.quickstart import M0
    from tasks.mini import world

    item = world.items("mini_gsm8k", "sealed")[3]
    (tmp_path / "run/iter_1/pairs").mkdir(parents=True)
    (tmp_path / "run/run.json").write_text("{}")
    pair = {"task": "t", "prompt": item.prompt, "chosen": "So 5", "rejected": "So 6", "index": 4}
    jsonl(tmp_path / "run/iter_1/pairs/pairs.jsonl", [pair])
    found = compare(capsys, tmp_path / "run", "mini_gsm8k:sealed")
    assert [match["item"] for match in found["matches"]][:1] == ["mini_gsm8k sealed 3"]
    assert found["matches"][0]["training"] == "iter_1/pairs/pairs.jsonl, line 1"
    out = tmp_path / "evaluation"
    options = ["--model", str(M0), "--tasks", "mini_gsm8k", "--split", "sealed", "--limit", "5"]
    assert run(["eval", *options, "--out", str(out)]) == 0
    found = compare(capsys, tmp_path / "run", out)
    assert (found["items"], found["with_shared_words"]) == (5, 1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "e.jsonl",
            b'{"a": "one two three"}\n{"a": "\xff\xfe one"}\n',
            "e.jsonl, line 2: not JSON",
        ),
        ("e.jsonl", b"[1, 2]\n", "line 1: an object {...} is expected"),
        (
            "e.jsonl",
            b'{"a": NaN, "b": 3, "c": "label"}\n',
            "no texts to compare. Fields with text: c",
        ),
        ("e.jsonl", b"", "has no texts to compare"),
        ("e.csv", b"a,b\nplain text here,x\nna\xefve text,y\n", "line 3: not UTF-8 text"),
        ("e.txt", b"first words\n\xe9t\xe9 of the year\n", "line 2: not UTF-8 text"),
        ("e.parquet", b"PAR1 is how it begins", "is not a Parquet file"),
        ("e.json", b'"one text"', "a list of objects or texts is expected"),
        ("e.jsonl.gz", b"not packed", "is not a whole gzip file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_fault(
    name: str, content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = jsonl(tmp_path / "train.jsonl", TRAIN)
    (tmp_path / name).write_bytes(content)
    assert said in refused(capsys, train, tmp_path / name)
    assert said in refused(capsys, tmp_path / name, train)


def test_unknown_sources_and_fields_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = jsonl(tmp_path / "train.jsonl", TRAIN)
    assert "There is no file or folder 'no.jsonl'" in refused(capsys, train, "no.jsonl")
    assert "Did you mean 'mini_gsm8k'?" in refused(capsys, train, "mini_gsmk8:gate")
    assert "has no split 'dev'. Name one of its splits, such as mini_gsm8k:gate" in refused(
        capsys, train, "mini_gsm8k:dev"
    )
    said = refused(capsys, train, train, "--field", "txt")
    assert "has no text in the field txt. Fields with text: text, id" in said
    (tmp_path / "empty").mkdir()
    assert "There is no evaluation in" in refused(capsys, train, tmp_path / "empty")


def test_odd_values_are_read_past_and_quoted_harmlessly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep: Any = "deep words of a nest"
    for _ in range(60):
        deep = [deep]
    text = f"{ITEMS[2]['question']} \x1b[2J\u202e \ud800"
    rows = [{"a": float("nan"), "b": None, "c": {"d": [1, {"e": text}]}, "f": deep}]
    train = jsonl(tmp_path / "train.jsonl", rows)
    items = jsonl(tmp_path / "eval.jsonl", ITEMS)
    assert run(["overlap", str(train), str(items)]) == 1
    out = capsys.readouterr().out
    assert "line 3 and line 1" in out and not {"\x1b", "\u202e", "\ud800"} & set(out)


def test_a_long_training_file_takes_little_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(prose(i, 1000) for i in range(150))  # more than a megabyte
    train = jsonl(tmp_path / "train.jsonl", [{"text": text} for _ in range(20)])
    items = jsonl(tmp_path / "eval.jsonl", ITEMS)
    tracemalloc.start()
    try:
        assert compare(capsys, train, items)["overlapping"] == 0
        assert tracemalloc.get_traced_memory()[1] < 15 * train.stat().st_size
    finally:
        tracemalloc.stop()


def test_the_published_sets_overlap_where_they_are_known_to(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qa = shared_data / "rlmec_qa"
    found = compare(capsys, qa / "ECQA/train.jsonl", qa / "ECQA/test.jsonl", "--field", "problem")
    assert found["overlapping"] >= 32  # problems of the test set that are in the training set
    found = compare(capsys, shared_data / "gsm8k/train.jsonl", "gsm8k:test", "--data", shared_data)
    assert found["overlapping"] == 9 and found["common"] > 0
