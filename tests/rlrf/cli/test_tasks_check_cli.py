"""`rlrf tasks check`: sound benchmarks pass, and each kind of defect is found and shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.plugins import write_plugin

from harness.evals import checked_tasks
from rlrf.cli import run
from rlrf.quickstart import M0

GENERATE = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: DATA}
test_split: test
output_type: generate_until
doc_to_text: "What is {{a}} plus {{b}} in the village of {{place}}?"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["|"], max_gen_toks: 8}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
CHOOSE = """
task: choose
dataset_path: json
dataset_kwargs: {data_files: DATA}
test_split: test
output_type: multiple_choice
doc_to_text: "Which number is {{a}} plus {{b}} in {{place}}?"
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
PREDICT = """
task: predict
dataset_path: json
dataset_kwargs: {data_files: DATA}
test_split: test
output_type: loglikelihood
doc_to_text: "In {{place}}, {{a}} plus {{b}} is"
doc_to_target: " {{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
"""
SCORING = """
def always(doc, results):
    print("a task that talks")
    return {"exact_match": 1.0}

def contained(doc, results):
    return {"exact_match": float(doc["answer"] in results[0])}

def fragile(doc, results):
    return {"exact_match": float(results[0].split()[0] == doc["answer"])}

def endless(doc, results):
    while results[0] == "":
        pass
    return {"exact_match": float(results[0] == doc["answer"])}

def ends(doc, results):
    import sys
    sys.exit(0)

def never(doc, results):
    return {"exact_match": 0.0}

def exits(doc):
    import sys
    sys.exit(1)

def listed(doc, results):
    return {"exact_match": [1.0]}
"""
PLACES = "Ashford Birchley Calder Dunmore Elmstead Farrow Gorsey Hallam Ivybridge Jarrow".split()


def rows(first: int, last: int) -> list[dict[str, Any]]:
    return [
        {
            "a": i,
            "b": 7 * i + 3,
            "place": f"{PLACES[i % 10]} {PLACES[i * 7 % 9]}",
            "answer": str(8 * i + 3),
            "choices": [str(8 * i + 3 + (k - i) % 4) for k in range(4)],
            "gold": i % 4,
        }
        for i in range(first, last)
    ]


def write(
    folder: Path, yaml: str, test: Sequence[Any] | None = None, **splits: Sequence[Any]
) -> Path:
    """Write a task of lm-eval, and its data, into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "scoring.py").write_text(SCORING)
    name = yaml.split()[1]
    files = {}
    for split, docs in {"test": rows(0, 40) if test is None else test, **splits}.items():
        path = folder / f"{name}_{split}.jsonl"
        path.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        files[split] = str(path)
    extra = {"train": "training_split: train\n", "validation": "validation_split: validation\n"}
    yaml += "".join(extra[split] for split in splits)
    (folder / f"{name}.yaml").write_text(yaml.replace("DATA", json.dumps(files)))
    return folder


def check(
    capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, list[dict[str, Any]]]:
    """Check benchmarks; return the exit code and the reports."""
    capsys.readouterr()
    code = run(["tasks", "check", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert out, err
    reports: list[dict[str, Any]] = json.loads(out)
    return code, reports


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    """Check -> its outcome, for those that did not pass."""
    return {c["name"]: c["outcome"] for c in report["checks"] if c["outcome"] != "pass"}


def found(report: dict[str, Any], name: str) -> str:
    return " / ".join(
        f"{c['finding']}: {c['example']}" for c in report["checks"] if c["name"] == name
    )


def with_scoring(function: str) -> str:
    return f"{GENERATE}process_results: !function scoring.{function}\n"


@pytest.mark.parametrize("name", ["mini_gsm8k", "mini_factscore", "mini_just_eval"])
def test_the_embedded_benchmarks_pass(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, (report,) = check(capsys, name, "--model", M0, "--limit", 40)
    assert code == 0
    assert set(outcomes(report).values()) <= {"warn", "not checked"}
    assert "full marks for all 40" in found(report, "the reference answer")
    assert "of 512 tokens" in found(report, "prompts")
    assert "train 2,000, gate 1,000, sealed 1,000" in found(report, "splits")


@pytest.mark.parametrize("yaml", [GENERATE, CHOOSE, PREDICT], ids=lambda y: y.split()[1])
def test_sound_tasks_of_lm_eval_pass(
    yaml: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "t", yaml, train=rows(100, 140))
    name = yaml.split()[1]
    code, (report,) = check(capsys, name, "--include-path", folder, "--model", M0)
    assert (code, outcomes(report)) == (0, {}), report
    assert run(["tasks", "check", name, "--include-path", str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: pass\n")


@pytest.mark.parametrize(
    ("yaml", "name", "said"),
    [
        (with_scoring("always"), "an empty answer", "full marks to 40 of 40: test 0: 'What is 0"),
        (with_scoring("always"), "the prompt as the answer", "full marks to 40 of 40"),
        (with_scoring("always"), "the reference of another item", "full marks to 40 of 40"),
        (with_scoring("never"), "the reference answer", "not give full marks to 40 of 40: test 0"),
        (with_scoring("fragile"), "an empty answer", "raises IndexError"),
        (with_scoring("ends"), "the reference answer", "its code ends the program"),
        (with_scoring("endless"), "an empty answer", "took longer than 1 seconds"),
        (
            with_scoring("contained").replace("in the village", "{{choices}} in the village"),
            "the prompt as the answer",
            "full marks to 40 of 40",
        ),
        (GENERATE.replace('["|"]', '["1"]'), "the reference answer", "reference '11'"),
        (
            f"{GENERATE}filter_list: [{{name: strict, filter: [{{function: regex, "
            'regex_pattern: "#### (\\\\d+)"}, {function: take_first}]}]\n',
            "the reference answer",
            "not give full marks to 40 of 40",
        ),
        (CHOOSE.replace("doc_to_target: gold", "doc_to_target: a"), "the reference answer", "none"),
        (
            GENERATE.replace('"{{answer}}"', "!function scoring.exits"),
            "splits",
            "its code ends the program by sys.exit(1)",
        ),
        (GENERATE.replace("{{place}}", "{{place.x.y}}"), "splits", "UndefinedError: "),
    ],
)
def test_a_defect_of_the_scoring_is_found(
    yaml: str,
    name: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checked_tasks, "MAX_SECONDS", 1)
    folder = write(tmp_path / "t", yaml)
    code, (report,) = check(capsys, yaml.split()[1], "--include-path", folder)
    assert code == 1
    assert outcomes(report)[name] == "fail"
    assert said in found(report, name)


BLANK = """
def before(doc):
    return [f"In {doc['place']} the {word} is" for word in ("first", "second")]

def right(doc):
    return doc["gold"] % 2

def after(doc):
    return f"number {doc['a']} of all"
"""


@pytest.mark.parametrize(
    ("yaml", "functions"),
    [
        (GENERATE.replace('"{{answer}}"', "several"), ""),
        (GENERATE.replace('"{{answer}}"', "gold") + "doc_to_choice: choices\n", ""),
        (GENERATE.replace('"{{answer}}"', "a"), ""),
        (
            with_scoring("errors")
            .replace("exact_match", "wer")
            .replace("better: true", "better: false"),
            'def errors(doc, results):\n    return {"wer": float(results[0] != doc["answer"])}\n',
        ),
        (CHOOSE + "  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}\n", ""),
        (
            CHOOSE.replace(
                'doc_to_text: "Which number is {{a}} plus {{b}} in {{place}}?"',
                "doc_to_text: !function blank.right",
            )
            .replace("doc_to_target: gold", "doc_to_target: !function blank.after")
            .replace("doc_to_choice: choices", "doc_to_choice: !function blank.before")
            .replace("  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n", ""),
            "",
        ),
    ],
    ids=[
        "several targets",
        "a choice to write",
        "a number",
        "lower is better",
        "mutual information",
        "several beginnings",
    ],
)
def test_other_forms_of_sound_tasks_pass(
    yaml: str, functions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = [doc | {"several": [doc["answer"], "or so"]} for doc in rows(1, 40)]
    folder = write(tmp_path / "t", yaml, docs)
    (folder / "blank.py").write_text(BLANK)
    (folder / "scoring.py").write_text(SCORING + functions)
    code, (report,) = check(capsys, yaml.split()[1], "--include-path", folder)
    assert (code, report["outcome"], outcomes(report)) == (0, "pass", {})


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ('float(item.reference["answer"] in sample.response.split())', ""),
        ("1.0", "an empty answer"),
        ('float(item.reference["answer"] + "!" == sample.response)', "the reference answer"),
        ("1 / len(sample.response.split()) and 0.0", "an empty answer"),
    ],
)
def test_a_plugin_is_checked_by_its_own_scoring(
    wrong: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_plugin(tmp_path / "letters")
    path = folder / "scoring.py"
    right = 'float(item.reference["answer"] in sample.response.split())'
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong))
    code, (report,) = check(capsys, "letters", "--include-path", tmp_path)
    if not name:
        assert (code, outcomes(report)) == (0, {})
    else:
        assert code == 1 and outcomes(report)[name] == "fail"


def test_a_filter_that_fits_no_reference_is_a_warning_if_another_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filters = """filter_list:
  - name: strict
    filter: [{function: regex, regex_pattern: "#### (.+)"}, {function: take_first}]
  - {name: flexible, filter: [{function: take_first}]}
"""
    folder = write(tmp_path / "t", GENERATE + filters)
    code, (report,) = check(capsys, "sums", "--include-path", folder)
    assert (code, outcomes(report)) == (0, {"the reference answer": "warn"})
    assert "the filter strict gives full marks to 0" in found(report, "the reference answer")


def test_a_right_choice_that_is_always_the_first_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = [doc | {"gold": 0} for doc in rows(0, 20)]
    folder = write(tmp_path / "t", CHOOSE, docs)
    code, (report,) = check(capsys, "choose", "--include-path", folder)
    assert (code, outcomes(report)) == (0, {"equal likelihoods": "warn"})


BASE = rows(0, 40)


@pytest.mark.parametrize(
    ("splits", "name", "outcome", "said"),
    [
        ({"test": [*BASE, BASE[3]]}, "duplicates", "fail", "1 of 41 items of test repeat"),
        (
            {"test": [*BASE, BASE[3] | {"answer": "0", "gold": 0}]},
            "duplicates",
            "fail",
            "test 3 and test 40",
        ),
        (
            {"train": [*rows(50, 60), BASE[5]]},
            "shared items",
            "fail",
            "train and test share 1 item",
        ),
        ({"validation": BASE}, "shared items", "fail", "validation and test share 40 items"),
        (
            {"train": rows(50, 60), "validation": rows(55, 65)},
            "shared items",
            "fail",
            "train and validation share 5 items: train 5 and validation 0",
        ),
        ({"test": rows(0, 300) + rows(7, 8)}, "duplicates", "warn", "1 of 301"),
    ],
)
def test_items_that_are_there_twice_are_found(
    splits: dict[str, Any],
    name: str,
    outcome: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write(tmp_path / "t", GENERATE, **splits)
    code, (report,) = check(capsys, "sums", "--include-path", folder, "--limit", 10)
    assert code == (1 if outcome == "fail" else 0)
    assert outcomes(report) == {name: outcome}
    assert said in found(report, name)


def test_items_that_are_nearly_training_items_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "who has walked from the mill by the river to the old market and back in the rain"
    near = [{"place": f"{long} {PLACES[0]}", "a": 1, "b": 2, "answer": "3"}]
    train = [near[0] | {"place": f"{long} {PLACES[1]}"}]
    folder = write(tmp_path / "t", GENERATE, [*BASE, *near], train=train)
    code, (report,) = check(capsys, "sums", "--include-path", folder)
    assert (code, outcomes(report)) == (0, {"near-duplicates": "warn"})
    assert "test 40 and train 0" in found(report, "near-duplicates")


def test_prompts_that_do_not_fit_the_model_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = [*BASE, BASE[0] | {"place": "a very long way " * 200, "a": 9}]
    folder = write(tmp_path / "t", GENERATE, docs)
    code, (report,) = check(capsys, "sums", "--include-path", folder, "--model", M0)
    assert (code, outcomes(report)["prompts"]) == (1, "fail")
    assert "of 512 tokens, and 1 do not fit: test 40" in found(report, "prompts")
    code, (report,) = check(capsys, "sums", "--include-path", folder)
    assert code == 0


def test_a_group_is_checked_task_by_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "t", GENERATE)
    write(folder, with_scoring("always").replace("task: sums", "task: broken"))
    (folder / "both.yaml").write_text("group: both\ntask: [sums, broken]\n")
    code, reports = check(capsys, "both", "--include-path", folder)
    assert code == 1
    assert {report["task"]: bool(outcomes(report)) for report in reports} == {
        "broken": True,
        "sums": False,
    }


def test_what_cannot_be_checked_is_not_called_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "t", GENERATE + "unsafe_code: true\n")
    code, (report,) = check(capsys, "sums", "--include-path", folder)
    assert (code, outcomes(report)) == (0, {"scoring": "not checked"})
    assert "--confirm-run-unsafe-code" in found(report, "scoring")
    code, (report,) = check(capsys, "sums", "--include-path", folder, "--confirm-run-unsafe-code")
    assert outcomes(report) == {}
    rolling = GENERATE.replace("generate_until", "loglikelihood_rolling").replace(
        "exact_match, aggregation: mean", "word_perplexity, aggregation: weighted_perplexity"
    )
    code, (report,) = check(capsys, "sums", "--include-path", write(tmp_path / "r", rolling))
    assert outcomes(report) == {"scoring": "not checked"}
    no_values = write(tmp_path / "v", with_scoring("listed"))
    code, (report,) = check(capsys, "sums", "--include-path", no_values)
    assert "no metric has a value" in found(report, "the reference answer")
    (folder / "sums_test.jsonl").unlink()
    code, (report,) = check(capsys, "sums", "--include-path", folder)
    assert (code, outcomes(report)) == (3, {"splits": "not checked"})
    capsys.readouterr()
    assert run(["tasks", "check", "sumss", "--include-path", str(folder)]) == 3
    assert "Did you mean 'sums'?" in capsys.readouterr().err


def test_counterexamples_steer_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = BASE[0] | {"place": "\x1b[2J\u202e" + "x" * 5000}
    folder = write(tmp_path / "t", GENERATE, [*BASE, odd, odd])
    assert run(["tasks", "check", "sums", "--include-path", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "test 40 and test 41" in out and not {"\x1b", "\u202e"} & set(out)
    assert max(map(len, out.splitlines())) < 400


def test_published_sets_show_their_known_defects(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = {
        split: [json.loads(line) for line in (shared_data / place).read_text().splitlines()]
        for split, place in {
            "train": "rlmec_qa/ECQA/train.jsonl",
            "test": "rlmec_qa/ECQA/test.jsonl",
        }.items()
    }
    yaml = GENERATE.replace("What is {{a}} plus {{b}} in the village of {{place}}?", "{{problem}}")
    folder = write(tmp_path / "t", yaml, **docs)
    code, (report,) = check(capsys, "sums", "--include-path", folder, "--limit", 50)
    assert code == 1
    assert "train and test share 32 items" in found(report, "shared items")
