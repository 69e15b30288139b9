"""Commands know the benchmarks in the folders of --include-path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.plugins import write_plugin

import tasks
from rlrf.cli import run

M0 = Path(__file__).parents[3] / "rlrf" / "quickstart" / "m0"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder of plugins in the working directory, as it is named."""
    monkeypatch.chdir(tmp_path)
    write_plugin(tmp_path / "mine" / "letters")
    return "mine"


def answer(path: str = "answers.jsonl") -> str:
    """Write an answer to each item, right for oak, elm and ash."""
    rows = [{"id": index, "response": "It has 3 letters"} for index in range(8)]
    Path(path).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_benchmarks_of_ones_own_are_listed(mine, capsys):
    assert run(["tasks", "--include-path", mine, "--json"]) == 0
    listed = {task["name"]: task for task in json.loads(capsys.readouterr().out)}
    assert listed["letters"]["splits"] == ["train", "gate", "sealed"]
    assert "gsm8k" in listed
    assert run(["tasks", "--json"]) == 0
    assert "letters" not in capsys.readouterr().out


def test_yaml_tasks_of_lm_eval_are_listed(mine, capsys):
    Path(mine, "spelling.yaml").write_text("task: spelling\ndataset_path: json\n")
    assert run(["tasks", "--include-path", mine]) == 0
    assert "In YAML files for lm-eval: spelling." in capsys.readouterr().err


def test_recorded_responses_are_scored_and_gated(mine, capsys):
    score = ["score", "letters", answer(), "--split", "gate"]
    assert run(score) == 3
    assert "There is no task 'letters'." in capsys.readouterr().err
    for out in ("before", "after"):
        assert run([*score, "--include-path", mine, "--out", out, "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out.split("\n]\n")[0] + "]")
    assert made["metrics"]["right"]["mean"] == 3 / 8
    assert run(["gate", "before", "after", "--include-path", mine]) == 2
    assert "letters" in capsys.readouterr().out
    assert run(["judge", "check", "before/letters", "--include-path", mine]) in (0, 1, 2)
    assert run(["judge", "check", "before/letters"]) == 3


def test_a_model_is_evaluated_and_gated_on_a_benchmark_of_ones_own(mine, capsys):
    model = ["--model", str(M0), "--include-path", mine]
    evaluate = ["eval", *model, "--tasks", "letters", "--split", "gate", "--out", "before"]
    assert run([*evaluate, "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)
    assert made["metrics"]["right"]["n"] == 8
    assert made["decoding"]["max_tokens"] == 12
    assert run(["gate", "before", *model, "--out", "after"]) == 2
    assert (Path("after") / "letters" / "evaluation.json").read_bytes()
    assert run(evaluate) == 0
    assert "evaluate letters: answered before" in capsys.readouterr().err


def test_a_board_scores_the_responses_again_where_the_benchmark_is_included(mine, capsys):
    score = ["score", "letters", answer(), "--split", "gate", "--model-id", "m"]
    assert run([*score, "--include-path", mine, "--out", "before"]) == 0
    assert run(["board", "add", "board", "before", "--include-path", mine]) == 0
    verify = ["board", "verify", "board", "--rescore", "--evaluations", "before"]
    capsys.readouterr()
    assert run([*verify, "--include-path", mine]) == 0
    assert "not installed" not in capsys.readouterr().out
    assert run(verify) == 0
    assert "version 1 of the task is not installed" in capsys.readouterr().out


def test_a_page_on_two_evaluations_has_the_feedback_of_the_benchmark(mine):
    score = ["score", "letters", answer(), "--split", "gate", "--include-path", mine]
    for out in ("before", "after"):
        assert run([*score, "--out", out]) == 0
    compare = ["report", "--baseline", "before", "--candidate", "after", "--include-path", mine]
    assert run(compare) == 0
    assert "It has 5 letters." in Path("report.html").read_text()


@pytest.mark.parametrize("more", [["--include-path", "nowhere"], ["--include-path", "answers"]])
def test_a_folder_that_does_not_exist_is_refused_by_every_command(mine, more, capsys):
    Path("answers").write_text("")
    for command in (["tasks"], ["score", "letters", answer()], ["gate", "mine", "mine"]):
        assert run([*command, "--include-path", mine, *more]) == 3
        assert f"The include path {more[1]} is not a folder" in capsys.readouterr().err


def test_an_error_in_the_code_of_a_plugin_names_its_file_and_line(mine, capsys):
    scoring = Path(mine) / "letters" / "scoring.py"
    scoring.write_text(
        scoring.read_text().replace('item.reference["answer"]', 'item.reference["a"]')
    )
    assert run(["score", "letters", answer(), "--split", "gate", "--include-path", mine]) == 3
    said = capsys.readouterr().err
    assert "KeyError: 'a'" in said
    assert f"{scoring.resolve()}, line 9" in said


def test_what_a_command_included_is_not_known_to_the_next(mine):
    assert run(["tasks", "--include-path", mine]) == 0
    assert "letters" not in tasks.names()
