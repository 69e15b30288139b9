"""What the installed lm-eval writes can be gated; what it would not write is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.lm_eval_stock import ASKED, change_samples, evaluate, make_tasks, samples_of

from harness.core.errors import UserError
from harness.core.schema import Policy, Rule
from harness.evals import inputs, lm_eval_results, lm_eval_runs
from harness.gate import decide
from harness.gate.policy import default_policy


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks for lm-eval."""
    return make_tasks(tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def written(stock: Path) -> Path:
    """What lm-eval's own tracker writes of a run, as its command does."""
    return evaluate(stock, stock / "out", ["sums", "choose"])


@pytest.mark.slow
def test_the_stock_command_writes_what_is_read(stock: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "lm_eval"), "run", "--model", "dummy"]
    command += ["--tasks", "choose", "--include_path", str(stock), "--limit", str(ASKED)]
    command += ["--log_samples", "--output_path", str(tmp_path)]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, env=offline)
    found = lm_eval_results.load(tmp_path)["choose"].evaluation
    assert (found.items, found.metrics["acc"].n) == (ASKED, ASKED)
    assert decide(rule("acc", "choose"), *inputs.load_both(tmp_path, tmp_path)).verdict == "pass"


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def samples(folder: Path) -> Path:
    return samples_of(folder, "sums")


def change(folder: Path, edit: Callable[[dict[str, Any]], None], most: int = 10**6) -> Path:
    return change_samples(folder, "sums", edit, most)


def rule(metric: str, task: str = "sums", margin: float = 0.1) -> Policy:
    return Policy(rules=[Rule(task=task, metric=metric, margin=margin)])


def test_a_run_is_read_with_the_numbers_of_its_table(written: Path) -> None:
    found = lm_eval_results.load(written)
    assert set(found) == {"sums", "choose"}
    (path,) = written.glob("*/results_*.json")
    table = json.loads(path.read_text())["results"]
    for task, metric, key in [
        ("sums", "exact_match", "exact_match,none"),
        ("sums", "exact_match,strict-match", "exact_match,strict-match"),
        ("choose", "acc", "acc,none"),
        ("choose", "acc_norm", "acc_norm,none"),
    ]:
        result = found[task].evaluation.metrics[metric]
        assert (result.mean, result.n) == (pytest.approx(table[task][key]), ASKED)
        assert found[task].evaluation.definitions[metric].kind == "binary"
    assert table["sums"]["exact_match,none"] == pytest.approx(1 / 3)
    sums = found["sums"].evaluation
    assert (sums.task_version, sums.split, sums.items) == ("2", "test", ASKED)
    assert "bleu" not in sums.definitions, "no number per document"
    assert len(found["sums"].samples) == ASKED
    assert found["sums"].samples[0].response == "lol"
    assert found["choose"].samples == []


def test_a_run_against_itself_passes_and_a_worse_one_fails(written: Path, copy: Path) -> None:
    before, same = inputs.load_both(written, written)
    policy = default_policy({t: s.evaluation.definitions.values() for t, s in before.items()})
    assert {(r.task, r.metric) for r in policy.rules} == {
        ("sums", "exact_match,strict-match"),
        ("choose", "acc"),
    }
    assert decide(policy, before, same).verdict == "pass"

    def wrong(row: dict[str, Any]) -> None:
        row["exact_match"] = 0.0

    decision = decide(rule("exact_match"), *inputs.load_both(written, change(copy, wrong)))
    assert (decision.verdict, decision.checks[0].regressed_only) == ("fail", ASKED // 3)
    assert decision.checks[0].test == "Tango score test"


def test_a_metric_is_yes_no_only_if_both_sides_say_so(written: Path, copy: Path) -> None:
    def half(row: dict[str, Any]) -> None:
        row["exact_match"] = row["exact_match"] / 2

    before, after = inputs.load_both(written, change(copy, half))
    kinds = [s["sums"].evaluation.definitions["exact_match"].kind for s in (before, after)]
    assert kinds == ["continuous", "continuous"]
    assert decide(rule("exact_match"), before, after).checks[0].test == "t, allowing for skew"


def test_the_newest_results_of_a_model_are_read(written: Path, copy: Path) -> None:
    for path in copy.glob("*/*"):
        older = path.name.replace("20", "19", 1) if "_20" in path.name else path.name
        shutil.copy(path, path.with_name(older))
        if older.startswith("samples_sums"):
            change_older = path.with_name(older)
            change_older.write_text("not JSON")
    assert lm_eval_results.load(copy)["sums"].evaluation.items == ASKED


def test_results_of_two_models_are_ambiguous(copy: Path) -> None:
    (model,) = copy.iterdir()
    shutil.copytree(model, copy / "other")
    with pytest.raises(UserError, match="several models"):
        lm_eval_results.load(copy)
    assert set(lm_eval_results.load(copy / "other")) == {"sums", "choose"}


def test_other_documents_or_prompts_cannot_be_compared(written: Path, copy: Path) -> None:
    def other(row: dict[str, Any]) -> None:
        row["doc_hash"] = row["doc_hash"][::-1]

    with pytest.raises(UserError, match="dataset_digest"):
        decide(rule("exact_match"), *inputs.load_both(written, change(copy, other)))


def test_another_prompt_is_seen(written: Path, copy: Path) -> None:
    def other(row: dict[str, Any]) -> None:
        row["prompt_hash"] = row["prompt_hash"][::-1]

    with pytest.raises(UserError, match="prompt_digest"):
        decide(rule("exact_match"), *inputs.load_both(written, change(copy, other)))


def test_a_chat_template_is_a_part_of_the_model(written: Path, tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(written, tmp_path / name)) for name in ("old", "new")]
    for folder in folders:
        (path,) = folder.glob("*/results_*.json")
        results = json.loads(path.read_text()) | {"chat_template": f"<{folder.name}>"}
        path.write_text(json.dumps(results))

        def through_template(row: dict[str, Any], name: str = folder.name) -> None:
            row["prompt_hash"] = f"{name} {row['prompt_hash']}"

        change(folder, through_template)
    assert decide(rule("exact_match"), *inputs.load_both(*folders)).verdict == "pass"
    with pytest.raises(UserError, match="prompt_digest"):
        decide(rule("exact_match"), *inputs.load_both(written, folders[1]))


def test_a_document_without_any_metric_counts_as_asked(written: Path, copy: Path) -> None:
    def abstained(row: dict[str, Any]) -> None:
        if row["doc_id"] >= ASKED - 6:
            row["metrics"] = []

    change(copy, abstained)
    (path,) = copy.glob("*/results_*.json")
    results = json.loads(path.read_text())
    results["n-samples"]["sums"]["effective"] = ASKED - 6
    path.write_text(json.dumps(results))
    decision = decide(rule("exact_match"), *inputs.load_both(written, copy))
    assert decision.verdict == "inconclusive"
    assert f"applies to 6 of {ASKED} items on one side only" in decision.reasons[0]


def test_a_metric_that_is_not_there_names_what_is(written: Path) -> None:
    both = inputs.load_both(written, written)
    with pytest.raises(UserError, match="Did you mean 'exact_match'"):
        decide(rule("exact_match,none"), *both)


def nan(row: dict[str, Any]) -> None:
    row["exact_match"] = float("nan")


def hashless(row: dict[str, Any]) -> None:
    del row["doc_hash"]


def nameless(row: dict[str, Any]) -> None:
    row["metrics"] = [{}]


def negative(row: dict[str, Any]) -> None:
    row["doc_id"] = -1 - row["doc_id"]


def huge(row: dict[str, Any]) -> None:
    row["exact_match"] = 10**400


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (nan, "document 0: 'exact_match,strict-match' is nan"),
        (hashless, "'doc_hash' is missing"),
        (nameless, "'metrics' are not names"),
        (negative, "lm-eval does not write such values"),
        (huge, "lm-eval does not write such values"),
    ],
)
def test_malformed_samples_are_named(
    copy: Path, edit: Callable[[dict[str, Any]], None], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        lm_eval_results.load(change(copy, edit, most=1))


def test_a_metric_without_a_value_is_unscored(written: Path, copy: Path) -> None:
    def nothing(row: dict[str, Any]) -> None:
        row["exact_match"] = None

    decision = decide(rule("exact_match"), *inputs.load_both(written, change(copy, nothing)))
    assert decision.verdict == "inconclusive"
    assert "unscored (lm-eval gave no value)" in decision.reasons[0]


def test_duplicate_and_missing_samples_are_told(copy: Path) -> None:
    path = samples(copy)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines + lines[:1]))
    with pytest.raises(UserError, match="is there twice"):
        lm_eval_results.load(copy)
    path.write_text("".join(line for line in lines if json.loads(line)["doc_id"] < ASKED - 1))
    with pytest.raises(UserError, match=f"samples of {ASKED - 1} documents, but .* says that 60"):
        lm_eval_results.load(copy)


def test_a_run_without_samples_says_how_to_log_them(copy: Path) -> None:
    samples(copy).unlink()
    with pytest.raises(UserError, match="again with --log_samples"):
        lm_eval_results.load(copy)


@pytest.mark.parametrize("name", ["a/b", "x" * 300, "a\0b"])
def test_a_task_that_cannot_be_the_name_of_a_file_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "results_2026.json").write_text(json.dumps({"n-samples": {name: {"effective": 1}}}))
    with pytest.raises(UserError, match=r"kept no samples|does not write such values"):
        lm_eval_results.load(tmp_path)


def test_documents_may_hold_what_json_has_no_word_for(written: Path, copy: Path) -> None:
    def nan_in_document(row: dict[str, Any]) -> None:
        row["doc"] = {"weight": float("nan")}

    found = lm_eval_results.load(change(copy, nan_in_document))
    assert found["sums"].items[0].prompt == '{"weight":NaN}'


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"n-samples": 3}', '{"n-samples": {"a": {}}}'])
def test_a_broken_results_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "results_2026.json").write_text(text)
    (tmp_path / "samples_a_2026.jsonl").write_text("")
    with pytest.raises(UserError, match="results_2026"):
        lm_eval_results.load(tmp_path)


def test_a_huge_file_is_not_read(copy: Path) -> None:
    with samples(copy).open("r+b") as file:
        file.truncate(lm_eval_runs.MAX_BYTES + 1)  # sparse: takes no space
    with pytest.raises(UserError, match="larger than 4 GiB"):
        lm_eval_results.load(copy)
