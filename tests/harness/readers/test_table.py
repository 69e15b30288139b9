"""Any table with a row per item can be gated: its formats, and what is refused in which words."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.foreign import rows, write_csv, write_lines

import rlrf
from harness.core.errors import UserError
from harness.core.schema import Decision
from rlrf.cli import run
from rlrf.testing import assert_no_regression

BY_ID = rlrf.Selection(item="id", metrics=("correct",))
Capture = pytest.CaptureFixture[str]


def write_parquet(path: Path, table: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    return path


def write_list(path: Path, table: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(table))
    return path


def write_packed(path: Path, table: list[dict[str, Any]]) -> Path:
    plain = write_csv(path.with_suffix(""), table)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def write_for_excel(path: Path, table: list[dict[str, Any]]) -> Path:
    text = write_csv(path, table, ";").read_text()
    path.write_bytes("\ufeff".encode() + text.replace("\n", "\r\n").encode())
    return path


FORMATS: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    ".csv": write_csv,
    ".excel.csv": write_for_excel,
    ".tsv": lambda path, table: write_csv(path, table, "\t"),
    ".jsonl": write_lines,
    ".ndjson": write_lines,
    ".json": write_list,
    ".parquet": write_parquet,
    ".csv.gz": write_packed,
}
every_format = pytest.mark.parametrize("suffix", FORMATS)


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def gated(before: Path, after: Path, **how: Any) -> Decision:
    return rlrf.gate(before, after, selection=rlrf.Selection(**{"item": "id", **how}))


def fault(path: Path, **how: Any) -> str:
    selection = rlrf.Selection(**{"item": "id", "metrics": ("correct",), **how})
    with pytest.raises(UserError) as error:
        rlrf.load_evaluation(path, selection=selection)
    return str(error.value)


def command(*words: object) -> int:
    return run([str(word) for word in words])


@every_format
def test_every_format_is_gated_with_the_same_verdict(suffix: str, tmp_path: Path) -> None:
    make = FORMATS[suffix]
    sides = [make(tmp_path / f"{n}{suffix}", rows(wrong=range(n))) for n in (10, 12, 90)]
    assert gated(sides[0], sides[1], metrics=("correct",)).verdict == "pass"
    (check,) = gated(sides[0], sides[2], metrics=("correct",)).checks
    assert (check.verdict, check.regressed_only, check.n) == ("fail", 80, 300)
    plain = write_csv(tmp_path / "plain.csv", rows(wrong=range(10)))
    assert gated(plain, sides[0], metrics=("correct",)).checks[0].delta == 0


@every_format
def test_the_order_of_rows_does_not_matter(suffix: str, tmp_path: Path) -> None:
    before = FORMATS[suffix](tmp_path / f"before{suffix}", rows(wrong=[3]))
    after = FORMATS[suffix](tmp_path / f"after{suffix}", rows(wrong=[3])[::-1])
    (check,) = gated(before, after, metrics=("correct",)).checks
    assert (check.improved_only, check.regressed_only) == (0, 0)


def test_the_commands_take_tables_alike(tmp_path: Path, capsys: Capture) -> None:
    runs = [write_csv(tmp_path / f"{n}.csv", rows(wrong=range(n, n + 30))) for n in range(6)]
    how = ("--item", "id", "--metric", "correct")
    assert command("gate", *runs[:2], *how) == 0
    assert command("certify", *runs, *how, "--gates", 40) in (0, 1)
    assert command("noise", *runs, *how) == 0
    page = tmp_path / "page.html"
    sides = ("--baseline", runs[0], "--candidate", runs[1])
    assert command("report", *sides, *how, "--out", page) == 0
    policy = table(tmp_path / "policy.yaml", "rules: [{task: table, metric: correct, margin: 0.1}]")
    plan = tmp_path / "plan.json"
    planned = ("--baseline", runs[0], "--item", "id", "--discordance", 0.1, "--out", plan)
    assert command("plan", policy, *planned) == 0
    assert command("gate", "--plan", plan, *runs[:2], "--item", "id") == 0
    board = tmp_path / "board"
    capsys.readouterr()
    assert command("board", "add", board, runs[0], *how) == 3
    assert "Name the model with --name" in capsys.readouterr().err
    assert command("board", "add", board, runs[0], *how, "--name", "M1") == 0
    assert command("board", "verify", board) == 0
    assert_no_regression(runs[0], runs[1], selection=BY_ID)


def test_each_named_metric_is_gated(tmp_path: Path) -> None:
    grades = [0.25 * (i % 4) for i in range(300)]
    before = write_csv(tmp_path / "before.csv", rows(quality=grades, cost=grades))
    shifted = [grade + 0.01 * (i % 3 - 1) for i, grade in enumerate(grades)]
    after = write_csv(tmp_path / "after.csv", rows(quality=shifted, cost=[1.0] * 300))
    selection = rlrf.Selection("id", ("correct", "quality", "cost"), ("cost",))
    margins = {"quality": 0.1, "cost": 0.1}
    decision = rlrf.gate(before, after, margins, selection=selection)
    assert [(c.metric, c.tier, c.verdict) for c in decision.checks] == [
        ("correct", "critical", "pass"),
        ("quality", "critical", "pass"),
        ("cost", "critical", "fail"),
    ]
    with pytest.raises(UserError, match=r"range of table\.quality is not known"):
        rlrf.gate(before, after, selection=rlrf.Selection("id", ("quality",)))


def test_columns_divide_tasks_number_answers_and_name_clusters(tmp_path: Path) -> None:
    table = [
        {"task": task, "id": i, "repeat": repeat, "correct": "yes", "page": i // 10}
        for task in ("sums", "rivers")
        for i in range(60)
        for repeat in range(2)
    ]
    path = write_csv(tmp_path / "table.csv", table)
    side = rlrf.load_evaluation(path, selection=BY_ID)
    assert {task: (s.evaluation.items, len(s.scores)) for task, s in side.items()} == {
        "sums": (60, 120),
        "rivers": (60, 120),
    }
    decision = rlrf.gate(path, path, cluster="doc.page", selection=BY_ID)
    assert {check.clusters for check in decision.checks} == {6}


def test_empty_cells_are_unscored(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "id,correct\na,1\nb,\nc,NaN\nd,null\ne,0\n")
    found = rlrf.load_evaluation(path, selection=BY_ID)["table"].evaluation.metrics["correct"]
    assert (found.mean, found.n, found.unscored) == (0.5, 2, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,correct\na,1\na,0\n", "two answers to the item 'a': line 2 and line 3"),
        ("id,correct\n1,1\n01,0\n", "only look alike: '01' (line 3) and '1' (line 2)"),
        ('id,correct\n1,1\n"1 ",0\n', "only look alike"),
        ("id,correct\n1,1\n1.0,0\n", "only look alike"),
        ("id,correct\na,yes\nb,0.7\n", "yes or no and numbers, 'yes' (line 2) and '0.7' (line 3)"),
        ("id,correct\na,C\n", "line 2, column 'correct': 'C' is not a number"),
        ("id;correct\na;0,5\n", "Write decimals with a point"),
        ("id,correct\na,inf\n", "'inf' is not a number"),
        ("id,correct\na,1_0\n", "'1_0' is not a number"),
        ("id,corect\na,1\n", "no column 'correct'. Did you mean 'corect'?"),
        ("id,id,correct\na,b,1\n", "each once"),
        ("id,correct\n,1\n", "the column 'id' is empty"),
        ("id,correct\na,1,2\n", "3 cells, where the first line names 2 columns"),
        ("id,correct\n", "has no row"),
        ("", "the first line has to name the columns"),
        ('id,correct\n"a,1\n', "not CSV"),
        ("id,correct,repeat\na,1,x\n", "numbers the answers"),
        ("id,correct,repeat\na,1,0\na,0,1\nb,1,0\n", "2 answers to some items and 1 to 'b'"),
    ],
)
def test_a_table_that_says_too_little_is_refused_with_the_reason(
    text: str, said: str, tmp_path: Path
) -> None:
    assert said in fault(table(tmp_path / "t.csv", text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": 1, "correct": 1}\n{"id": "1", "correct": 1}\n', "two answers to the item '1'"),
        ('{"id": {"a": 1}, "correct": 1}\n', "cannot name an item"),
        ('{"id": 1, "correct": [1]}\n', "is not a number"),
        ('{"id": 1, "correct": true}\n{"id": 2, "correct": 0.5}\n', "yes or no and numbers"),
        ('{"id": 1, "correct": 1e999}\n', "is not a number"),
        ('{"id": 1, "id": 2, "correct": 1}\n', "is there twice"),
        ('{"id": 1, "correct": 1', "ends too early"),
        ("[1]\n", "an object {...} with a value per column is expected"),
        ('{"id": 1, "corect": 1}\n', "Did you mean 'corect'?"),
    ],
)
def test_json_lines_that_say_too_little_are_refused_with_the_reason(
    text: str, said: str, tmp_path: Path
) -> None:
    assert said in fault(table(tmp_path / "t.jsonl", text))


def test_json_lines_may_leave_values_out(tmp_path: Path) -> None:
    path = table(tmp_path / "t.jsonl", '{"id": 1}\n{"id": 2, "correct": 1}\n')
    found = rlrf.load_evaluation(path, selection=BY_ID)["table"].evaluation.metrics["correct"]
    assert (found.n, found.unscored) == (1, 1)


def test_names_of_two_sides_are_compared_character_by_character(tmp_path: Path) -> None:
    before = table(tmp_path / "before.csv", "id,correct\n" + "".join(f"{i},1\n" for i in range(9)))
    for name, text in {"zeros": "0{}", "spaces": "{} ", "decimals": "{}.0"}.items():
        lines = "".join(text.format(i) + ",1\n" for i in range(9))
        after = table(tmp_path / f"{name}.csv", "id,correct\n" + lines)
        with pytest.raises(UserError, match="only look alike: items are compared character by"):
            gated(before, after, metrics=("correct",))
    fewer = table(tmp_path / "fewer.csv", "id,correct\n1,1\n2,1\n77,0\n")
    with pytest.raises(UserError) as error:
        gated(before, fewer, metrics=("correct",))
    assert "2 are on both" in str(error.value) and "'77'" in str(error.value)


def test_a_value_outside_of_the_yes_and_no_of_the_baseline_is_refused(tmp_path: Path) -> None:
    before = write_csv(tmp_path / "before.csv", rows())
    after = write_csv(tmp_path / "after.csv", [row | {"correct": 3} for row in rows()])
    with pytest.raises(UserError, match=r"correct of 'q0' is 3, and in .* runs from 0 to 1"):
        gated(before, after, metrics=("correct",))


def test_what_was_not_named_is_asked_for(tmp_path: Path, capsys: Capture) -> None:
    path = write_csv(tmp_path / "t.csv", rows())
    assert command("gate", path, path) == 3
    said = capsys.readouterr().err
    assert "--item id --metric correct" in said and "columns id, correct" in said
    assert "say which column to compare with --metric" in fault(path, metrics=())
    assert "as --item and as --metric" in fault(path, item="correct")
    with pytest.raises(UserError, match="either a policy or --metric"):
        rlrf.gate(path, path, "gsm8k", selection=BY_ID)


def test_a_direction_of_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", rows())
    assert "Did you mean 'correct'?" in fault(path, lower_is_better=("corect",))
    evaluated = Path(__file__).parents[2] / "old" / "0.1.0"
    (folder, *_) = sorted(evaluated.rglob("evaluation.json"))
    assert "says itself of each metric" in fault(folder.parent, lower_is_better=("accuracy",))


def test_folders_and_files_in_each_others_place_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_csv(folder / "t.csv", rows())
    assert "is a folder: with --item, name the file of a table" in fault(folder)
    assert "There is no file" in fault(tmp_path / "none.csv")
    assert "tables (CSV, JSON lines, Parquet)" in fault(table(tmp_path / "notes.docx", "hello"))
    (tmp_path / "t.csv").mkdir()
    assert "is a folder" in fault(tmp_path / "t.csv")


def test_files_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    packed = write_packed(tmp_path / "t.csv.gz", rows())
    packed.write_bytes(packed.read_bytes()[:-20])
    assert "gzip" in fault(packed) or "cut short" in fault(packed)
    columns = write_parquet(tmp_path / "t.parquet", rows())
    columns.write_bytes(columns.read_bytes()[:-20])
    assert "not a whole Parquet file" in fault(columns)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("id,correct\né,1\n".encode("latin-1"))
    assert "save it as UTF-8" in fault(latin)


def test_a_separator_that_is_not_a_comma_is_told(tmp_path: Path, caplog: Any) -> None:
    path = write_csv(tmp_path / "t.csv", rows(), ";")
    rlrf.load_evaluation(path, selection=BY_ID)
    assert "separated by ';'" in caplog.text
