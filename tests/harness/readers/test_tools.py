"""Results of other tools, as these wrote them, become evaluations that are gated and published."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.foreign import FIXTURES, VERSIONS, result

import rlrf
from harness.board import Board
from harness.core.scored import ScoredEvaluation
from rlrf.cli import run
from rlrf.testing import assert_no_regression

Capture = pytest.CaptureFixture[str]
every_version = pytest.mark.parametrize(("tool", "version", "pattern"), VERSIONS)
PRIMARY = {
    "inspect": "match",
    "promptfoo": "success",
    "deepeval": "success",
    "nemo-evaluator": "correct",
}


def only(path: Path) -> ScoredEvaluation:
    ((_, scored),) = rlrf.load_evaluation(path).items()
    return scored


def refused(capsys: Capture, *words: object) -> str:
    assert run([str(word) for word in words]) == 3
    return " ".join(capsys.readouterr().err.split())


@every_version
def test_the_answers_of_each_tool_and_version_are_read(
    tool: str, version: str, pattern: str
) -> None:
    before, after = (only(result(version, pattern, name)) for name in ("before", "after"))
    primary = PRIMARY[tool]
    assert before.evaluation.engine == tool
    assert [m.name for m in before.evaluation.definitions.values() if m.primary] == [primary]
    assert before.evaluation.metrics[primary].mean == pytest.approx(5 / 6)
    assert after.evaluation.metrics[primary].mean == pytest.approx(4 / 6)
    assert len(before.items) == 6
    assert before.evaluation.dataset_digest == after.evaluation.dataset_digest
    wrong = {
        sample.response
        for sample, score in zip(before.samples, before.scores, strict=True)
        if score.values[primary] == 0
    }
    assert wrong == {"I do not know"}


@every_version
def test_results_of_each_tool_are_gated_item_by_item(tool: str, version: str, pattern: str) -> None:
    metric = PRIMARY[tool]
    decision = rlrf.gate(
        *(result(version, pattern, name) for name in ("before", "after")),
        selection=rlrf.Selection(metrics=(metric,)),
    )
    (check,) = decision.checks
    assert (check.metric, check.n) == (metric, 6)
    assert check.delta == pytest.approx(-1 / 6)
    assert decision.verdict == "inconclusive"


@every_version
def test_what_a_tool_could_not_score_is_unscored_with_its_reason(
    tool: str, version: str, pattern: str
) -> None:
    failing = only(result(version, pattern, "failing"))
    (reason,) = {why for score in failing.scores for why in score.unscored.values()}
    assert "did not answer" in reason or "400 Client Error" in reason
    unscored = failing.evaluation.metrics[PRIMARY[tool]].unscored
    assert unscored == (2 if tool == "inspect" else 1)  # Inspect asked twice
    assert failing.evaluation.items == 6


@every_version
def test_a_board_takes_results_of_each_tool_and_verifies(
    tool: str, version: str, pattern: str, tmp_path: Path, capsys: Capture
) -> None:
    board = tmp_path / "board"
    for name in ("before", "failing"):
        words = ["board", "add", board, result(version, pattern, name), "--name", name]
        assert run([str(word) for word in words]) == 0
    assert run(["board", "verify", str(board)]) == 0
    assert len(Board(board).rows()) == 2
    assert run(["board", "render", str(board)]) == 0
    assert "failing" in capsys.readouterr().out


@every_version
def test_a_report_shows_results_of_each_tool(
    tool: str, version: str, pattern: str, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    sides = [str(result(version, pattern, name)) for name in ("before", "after")]
    words = ["report", "--baseline", sides[0], "--candidate", sides[1], "--out", str(page)]
    assert run(words) == 0
    assert "I do not know" in page.read_text()


def test_a_log_of_inspect_is_the_same_in_both_formats_and_versions() -> None:
    read = [
        only(FIXTURES / version / f"before{suffix}")
        for version in ("inspect-0.3.50", "inspect-0.3.285")
        for suffix in (".eval", ".json")
    ]
    assert len({scored.evaluation.comparable_key for scored in read}) == 1
    assert len({scored.evaluation.scores_digest for scored in read}) == 1
    one = read[0].evaluation
    assert set(one.definitions) == {"match", "length", "style.polite", "style.short"}
    assert one.decoding["repeats"] == 2
    assert one.estimator == "match(location=any), length(), style()"
    assert one.task == "sums"
    assert one.definitions["match"].kind == "binary"
    assert one.definitions["length"].span is None


def test_the_means_of_inspect_itself_come_out() -> None:
    log = FIXTURES / "inspect-0.3.285" / "before.json"
    metrics = only(log).evaluation.metrics
    told = {
        entry["name"]: entry["metrics"].get("accuracy", entry["metrics"].get("mean"))["value"]
        for entry in json.loads(log.read_text())["results"]["scores"]
    }
    ours = {name.removeprefix("style."): found.mean for name, found in metrics.items()}
    assert ours == pytest.approx(told)


def test_different_epochs_scorers_and_directions_are_refused_in_words(capsys: Capture) -> None:
    folder = FIXTURES / "inspect-0.3.285"
    before = folder / "before.eval"
    said = refused(capsys, "gate", before, folder / "one_epoch.eval")
    assert "decoding.repeats is 2 for the baseline and 1 for the candidate" in said
    said = refused(capsys, "gate", before, folder / "other_scorer.eval")
    assert "match(location=any)" in said and "match(location=end)" in said
    said = refused(capsys, "gate", before, folder / "stopped.eval")
    assert "status 'error'" in said and "inspect eval-retry" in said


def test_different_epochs_can_be_allowed_by_a_policy(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "allow_different: [decoding.repeats]\nrules: [{task: sums, metric: match, margin: 0.5}]\n"
    )
    folder = FIXTURES / "inspect-0.3.285"
    decision = rlrf.gate(folder / "before.eval", folder / "one_epoch.eval", policy)
    assert any("repeats" in note for note in decision.notes)


def test_several_prompts_or_models_in_one_file_of_promptfoo_are_refused(capsys: Capture) -> None:
    path = FIXTURES / "promptfoo-0.123.1" / "two_prompts.json"
    said = refused(capsys, "gate", path, path)
    assert "Say {{word}}." in said and "--filter-prompts" in said


def test_repeats_of_promptfoo_and_of_nemo_evaluator_are_answers_to_one_item() -> None:
    for path in (
        FIXTURES / "promptfoo-0.123.1" / "repeated.json",
        FIXTURES / "nemo-evaluator-0.2.8" / "repeated",
    ):
        scored = only(path)
        assert (scored.evaluation.items, len(scored.scores)) == (6, 12)


def test_json_lines_of_promptfoo_are_its_json() -> None:
    folder = FIXTURES / "promptfoo-0.123.1"
    scores = [
        only(folder / name).evaluation.scores_digest for name in ("before.json", "before.jsonl")
    ]
    assert scores[0] == scores[1]


def test_changed_assertions_of_promptfoo_are_another_item(tmp_path: Path, capsys: Capture) -> None:
    before = FIXTURES / "promptfoo-0.123.1" / "before.json"
    after = tmp_path / "after.json"
    after.write_text(before.read_text().replace('"it is"', '"it was"'))
    assert "how it is checked" in refused(capsys, "gate", before, after)


def test_the_threshold_of_a_deepeval_metric_tells_its_direction() -> None:
    for version in ("deepeval-2.5.0", "deepeval-4.3.1"):
        known = only(FIXTURES / version / "before").evaluation.definitions
        assert known["Exact Match"].higher_is_better
        assert not known["Wordiness"].higher_is_better


def test_means_alone_of_nemo_evaluator_are_refused(tmp_path: Path, capsys: Capture) -> None:
    means = tmp_path / "results.yml"
    means.write_text("results: {tasks: {}}\n")
    assert "--save-predictions" in refused(capsys, "gate", tmp_path, tmp_path)


def test_sides_of_two_tools_are_refused(capsys: Capture) -> None:
    sides = [FIXTURES / "promptfoo-0.123.1" / "before.json", FIXTURES / "deepeval-4.3.1" / "before"]
    said = refused(capsys, "gate", *sides)
    assert "results of promptfoo" in said and "results of deepeval" in said


def test_a_folder_with_results_of_several_tools_or_logs_is_refused(capsys: Capture) -> None:
    assert "several tools" in refused(capsys, "gate", FIXTURES, FIXTURES)
    folder = FIXTURES / "inspect-0.3.50"
    assert "two results of sums" in refused(capsys, "gate", folder, folder)


def test_a_test_suite_takes_the_same_results() -> None:
    path = FIXTURES / "promptfoo-0.123.1" / "before.json"
    assert_no_regression(path, path, inconclusive="pass")


def test_reading_imports_no_heavy_library() -> None:
    code = (
        "import sys; import harness.readers; "
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'pyarrow', 'inspect_ai'}; "
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
