"""Any task of lm-eval, evaluated by our engine: the numbers of `lm_eval run --model hf`."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import local_tasks
from helpers.lm_eval_stock import results_of

from harness.board import Board
from harness.core.errors import UserError
from harness.core.scored import ScoredEvaluation
from harness.engines import Completion, Engine, Sampling
from harness.evals import evaluation, lm_eval_results
from harness.evals.evaluate import EvalOptions, evaluate
from harness.evals.stock_tasks import StockTask, find_benchmarks
from rlrf import gating

PLAIN = ("colours_shown", "name_it", "cloze", "prose", "by_size")
CHAT = ("colours_shown", "name_it", "evenly")
CHAT_OPTIONS = EvalOptions(
    apply_chat_template=True, system_instruction="Name one colour.", num_fewshot=1, limit=7
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return local_tasks.make(tmp_path_factory.mktemp("local") / "tasks")


@pytest.fixture(scope="module")
def options(folder: Path) -> dict[str, Any]:
    return {"include_path": [folder]}


def lm_eval_run(model: Path, folder: Path, out: Path, tasks: Sequence[str], *more: str) -> Path:
    """Evaluate with lm-eval's own command; return its output folder."""
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={model}", "--batch_size", "8", "--log_samples"]
    command += ["--include_path", str(folder), "--output_path", str(out), "--tasks"]
    done = subprocess.run(
        [*command, ",".join(tasks), *more],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def plain(model_folder: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lm_eval_run(model_folder, folder, tmp_path_factory.mktemp("plain"), PLAIN)


def assert_lm_evals_numbers(scored: ScoredEvaluation, numbers: dict[str, Any]) -> None:
    """Assert that all numbers have the digits that lm-eval's table shows.

    A perplexity, exp of a mean of float32, is equal in 6 digits: its last ones change with the
    batch size in lm-eval, too.
    """
    theirs = {
        key.removesuffix(",none"): value
        for key, value in numbers.items()
        if "," in key and "_stderr," not in key and isinstance(value, float | int)
    }
    ours = {name: result.mean for name, result in scored.evaluation.metrics.items()}
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if "perplexity" in name:
            assert ours[name] == pytest.approx(value, rel=1e-5)
        else:
            assert f"{ours[name]:.4f}" == f"{value:.4f}"


def assert_equal(ours: ScoredEvaluation, theirs: ScoredEvaluation) -> None:
    """Assert that two evaluations say the same of the same documents, and can be compared."""
    for field in ("dataset_digest", "prompt_digest", "task_version", "split", "items"):
        assert getattr(ours.evaluation, field) == getattr(theirs.evaluation, field), field
    assert ours.evaluation.comparable_key == theirs.evaluation.comparable_key
    assert [s.values for s in ours.scores] == [s.values for s in theirs.scores]
    assert [(s.index, s.response) for s in ours.samples] == [
        (s.index, s.response) for s in theirs.samples
    ]


def test_every_output_type_has_lm_evals_numbers(
    engine: Any, options: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    found = evaluate(engine, PLAIN, EvalOptions(**options), out=tmp_path)
    results = json.loads(results_of(plain).read_text())["results"]
    compared = {"colours_shown": 2, "name_it": 4, "cloze": 2, "prose": 3, "by_size": 2}
    for name, count in compared.items():
        assert_lm_evals_numbers(found[name], results[name])
        assert len(found[name].evaluation.metrics) == count
    for name in ("colours_shown", "name_it", "cloze", "prose"):
        assert_equal(found[name], lm_eval_results.load(plain, [name])[name])
    assert_equal(found["by_size"], lm_eval_results.load(plain, ["by_size"])["by_size"])
    for name, scored in evaluation.load(tmp_path).items():
        assert scored.evaluation == found[name].evaluation


def test_chat_template_system_text_examples_and_limit_are_lm_evals(
    engine: Any, model_folder: Path, folder: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    asked = ["--apply_chat_template", "--system_instruction", "Name one colour."]
    asked += ["--num_fewshot", "1", "--limit", "7"]
    out = lm_eval_run(model_folder, folder, tmp_path, CHAT, *asked)
    found = evaluate(engine, CHAT, EvalOptions(**{**vars(CHAT_OPTIONS), **options}))
    results = json.loads(results_of(out).read_text())["results"]
    for name in CHAT:
        assert_lm_evals_numbers(found[name], results[name])
    for name in ("colours_shown", "name_it"):
        assert_equal(found[name], lm_eval_results.load(out, [name])[name])
    assert found["name_it"].samples[0].prompt.startswith("<|system|>Name one colour.<|end|>")
    assert found["evenly"].evaluation.items == 14


def test_a_subset_asks_the_items_by_their_place_in_the_split(
    engine: Any, options: dict[str, Any]
) -> None:
    (task,) = find_benchmarks(["by_size"], **options)
    assert isinstance(task, StockTask)
    items = task.items()
    assert [item.index for item in items] == list(range(65))
    assert [items[0].tags, items[39].tags, items[40].tags] == [
        {"task": ["colours_few"]},
        {"task": ["colours_many"]},
        {"task": ["colours_many"]},
    ]
    some = [3, 9, 30, 50]
    subset = evaluate(engine, [task], EvalOptions(indices={"by_size": some}))["by_size"]
    assert [item.index for item in subset.items] == some
    assert [item.digest for item in subset.items] == [items[i].digest for i in some]
    whole = evaluate(engine, [task])["by_size"]
    by_index = {score.index: score.values for score in whole.scores}
    assert {score.index: score.values for score in subset.scores} == {i: by_index[i] for i in some}
    with pytest.raises(UserError, match="has 65 items and none with index 65"):
        evaluate(engine, [task], EvalOptions(indices={"by_size": [65]}))


def test_documents_that_are_there_twice_count_twice_as_in_lm_eval(
    engine: Any, model_folder: Path, folder: Path, tmp_path: Path
) -> None:
    local = shutil.copytree(folder, tmp_path / "tasks")
    for path in (*local.glob("*.yaml"),):
        path.write_text(path.read_text().replace(str(folder), str(local)))
    lines = (local / "few.jsonl").read_text().splitlines()
    (local / "few.jsonl").write_text("\n".join([*lines, *lines[:3] * 4]) + "\n")
    tasks = ["name_it", "by_size"]
    found = evaluate(engine, tasks, EvalOptions(include_path=[local]), out=tmp_path / "ours")
    out = lm_eval_run(model_folder, local, tmp_path / "theirs", tasks)
    results = json.loads(results_of(out).read_text())["results"]
    for name in tasks:
        assert_lm_evals_numbers(found[name], results[name])
        assert_equal(found[name], lm_eval_results.load(out, [name])[name])
    assert found["by_size"].evaluation.metrics["acc"].n == found["by_size"].evaluation.items > 65
    again = evaluate(engine, tasks, EvalOptions(include_path=[local]), out=tmp_path / "ours")
    assert again["by_size"].evaluation == found["by_size"].evaluation
    board = Board(tmp_path / "board")
    for scored in found.values():
        board.add_evaluation(scored, "model", "run")
    assert board.verify() == []


def test_a_limit_beyond_the_split_asks_all_of_it(engine: Any, options: dict[str, Any]) -> None:
    found = evaluate(engine, ["colours_few"], EvalOptions(limit=1000, **options))
    assert found["colours_few"].evaluation.items == 8


class Drawn(Engine):
    """An engine without a tokenizer that answers with a colour by the sample's number."""

    name, model_id, model_digest, tokenizer = "drawn", "drawn", "d" * 64, None

    def __init__(self) -> None:
        self.asked = 0

    def render(self, messages: Any) -> str:
        return "".join(message.content for message in messages)

    def generate(self, prompts: Any, sampling: Sampling, on_done: Any = None) -> Any:
        self.asked += len(prompts)
        colours = local_tasks.COLOURS
        return [
            [Completion(colours[j % len(colours)], "stop", 5, 1) for j in range(sampling.n)]
            for _ in prompts
        ]


def test_every_repeat_is_scored_on_its_own(options: dict[str, Any]) -> None:
    asked = EvalOptions(repeats=7, temperature=1.0, limit=5, **options)
    scored = evaluate(Drawn(), ["name_it"], asked)["name_it"]
    assert [(s.index, s.repeat) for s in scored.scores] == [
        (i, r) for i in range(5) for r in range(7)
    ]
    assert scored.evaluation.metrics["exact_match"].mean == pytest.approx(1 / 7)
    assert sum(s.values["exact_match"] for s in scored.scores) == 5
    assert scored.evaluation.decoding["n"] == 7
    assert scored.evaluation.metrics["exact_match"].n == 5
    assert "pass@7" in scored.evaluation.metrics


def test_an_engine_without_likelihoods_is_refused_before_it_is_asked(
    options: dict[str, Any],
) -> None:
    engine = Drawn()
    with pytest.raises(UserError, match="cannot say how likely a text is"):
        evaluate(engine, ["name_it", "colours_few"], EvalOptions(**options))
    assert engine.asked == 0


def test_tags_and_groups_without_a_score_stand_for_their_tasks(options: dict[str, Any]) -> None:
    names = ["colours_tag", "unscored", "colours_s*", "cloze"]
    assert [task.name for task in find_benchmarks(names, **options)] == [
        *("colours_few", "colours_many", "colours_some"),
        *("cloze", "colours_shown"),
    ]


def test_our_evaluation_and_lm_evals_output_are_gated_against_each_other(
    engine: Any, options: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    evaluate(engine, ["colours_shown", "by_size"], EvalOptions(**options), out=tmp_path / "same")
    decision = gating.gate(tmp_path / "same", plain)
    assert {check.task for check in decision.checks} == {"by_size", "colours_shown"}
    assert all(check.delta == 0 for check in decision.checks)
    asked = EvalOptions(num_fewshot=1, **options)
    evaluate(engine, ["colours_shown"], asked, out=tmp_path / "fewer")
    with pytest.raises(UserError, match="cannot be compared: prompt_digest is"):
        gating.gate(tmp_path / "fewer", plain)
    limited = EvalOptions(limit=5, **options)
    evaluate(engine, ["colours_shown"], limited, out=tmp_path / "limited")
    with pytest.raises(UserError, match="has 5 documents of colours_shown and the candidate 17"):
        gating.gate(tmp_path / "limited", plain)


def _write_real(folder: Path, data: Path) -> Path:
    """Write tasks over published questions, read in place, into `folder`."""
    folder.mkdir()
    truthful = (data / "guards" / "truthfulqa" / "TruthfulQA.csv").open(newline="")
    with truthful:
        questions = [
            {
                "question": row["Question"],
                "choices": [row["Best Answer"], *row["Incorrect Answers"].split("; ")],
                "gold": 0,
            }
            for row in csv.DictReader(truthful)
        ]
    arc = []
    for line in (data / "rlmec_qa" / "ARC" / "test.jsonl").read_text().splitlines():
        question, _, options = json.loads(line)["problem"].partition("\nOptions:\n")
        arc.append({"question": question, "choices": options.split("\n"), "gold": 0})
    instructions = data / "guards" / "ifeval" / "input_data.jsonl"
    asked = [json.loads(line)["prompt"] for line in instructions.read_text().splitlines()]
    written = {
        "truthful": (questions, local_tasks.CHOOSE),
        "science": (arc, local_tasks.CHOOSE),
        "instructions": ([{"question": p, "answer": "a"} for p in asked], local_tasks.GENERATE),
        "reading": ([{"question": p, "answer": "a"} for p in asked], local_tasks.PROSE),
    }
    for name, (rows, text) in written.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows[:80])
        place = folder / name
        place.mkdir()
        for file in ("test", "train"):
            (place / f"{file}.jsonl").write_text(lines)
        (place / f"{name}.yaml").write_text(
            text.format(name=name, file="test", folder=place, more="num_fewshot: 1")
        )
    return folder


@pytest.mark.slow
def test_published_questions_have_lm_evals_numbers(
    engine: Any, model_folder: Path, shared_data: Path, tmp_path: Path
) -> None:
    tasks = _write_real(tmp_path / "tasks", shared_data)
    names = ("truthful", "science", "instructions", "reading")
    out = lm_eval_run(model_folder, tasks, tmp_path / "stock", names)
    found = evaluate(engine, names, EvalOptions(include_path=[tasks]))
    results = json.loads(results_of(out).read_text())["results"]
    for name in names:
        assert_lm_evals_numbers(found[name], results[name])
        assert_equal(found[name], lm_eval_results.load(out, [name])[name])
        assert found[name].evaluation.items == 80
