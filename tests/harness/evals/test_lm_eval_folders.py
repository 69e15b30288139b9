"""Several calls of lm-eval in one folder, groups of tasks, older versions, ranges of metrics.

All output is the installed lm-eval's own; what other versions write is made from it by the
differences between them, which are named where they are made.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.lm_eval_stock import (
    ASKED,
    LOSSES_ASKED,
    change_results,
    change_samples,
    evaluate,
    make_tasks,
    results_of,
    samples_of,
)

from harness.core.errors import UserError
from harness.core.schema import Decision, Policy, Rule
from harness.core.scored import ScoredEvaluation
from harness.evals import inputs, lm_eval_results, lm_eval_runs
from harness.gate import gate, plan
from harness.gate.planned_rule import AssumedSpread
from harness.gate.policy import default_policy, parse_margins
from rlrf.cli import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def two_calls(tasks: Path) -> Path:
    """Two calls of lm-eval into one output path, one task each."""
    out = evaluate(tasks, tasks / "two", ["choose"])
    return evaluate(tasks, out, ["sums"])


@pytest.fixture(scope="module")
def school(tasks: Path) -> Path:
    """A group in a group, by size; the tasks have 10, 40 and 55 documents."""
    return evaluate(tasks, tasks / "school_out", ["school"], limit=None)


@pytest.fixture(scope="module")
def losses(tasks: Path) -> Path:
    """More documents than a metric without a range needs for a bound."""
    return evaluate(tasks, tasks / "losses_out", ["losses"], limit=None)


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    def copy(folder: Path, name: str = "copy") -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    return copy


def rlrf(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


def rule(task: str, metric: str, margin: float = 0.1) -> Policy:
    return Policy(rules=[Rule(task=task, metric=metric, margin=margin)])


def decided(before: Path, after: Path, policy: Policy | None = None) -> Decision:
    wanted = policy.tasks if policy else None
    old, new = inputs.load_both(before, after, wanted=wanted)
    return gate(old, new, policy or default(old))


def default(side: dict[str, ScoredEvaluation], *margins: str) -> Policy:
    definitions = {task: one.evaluation.definitions.values() for task, one in side.items()}
    return default_policy(definitions, parse_margins(margins))


def nothing_right(row: dict[str, Any]) -> None:
    row["acc"] = 0.0


# ---- several calls ---------------------------------------------------------------------------


def test_every_call_into_a_folder_is_read_and_told(
    two_calls: Path, copy_of: Callable[[Path], Path], capsys: Capture
) -> None:
    worse = change_samples(copy_of(two_calls), "choose", nothing_right)
    assert decided(two_calls, two_calls).verdict == "pass"
    capsys.readouterr()
    assert rlrf("gate", two_calls, worse) == 1
    told = capsys.readouterr().err
    for file in two_calls.rglob("results_*.json"):
        assert told.count(file.name) == 2
    assert "choose from" in told and "sums from" in told


def test_the_newest_of_two_calls_for_one_task_counts_and_the_older_is_named(
    tasks: Path, two_calls: Path, copy_of: Callable[[Path], Path], capsys: Capture
) -> None:
    copy = copy_of(two_calls)
    change_samples(copy, "choose", nothing_right)
    older = {path.name for path in copy.rglob("results_*.json")}
    evaluate(tasks, copy, ["choose"])
    assert decided(two_calls, copy).verdict == "pass"
    told = capsys.readouterr().err
    assert "Not read: choose from" in told and "there is a newer run" in told
    assert any(name in told for name in older)


def test_two_calls_for_one_task_that_differ_in_their_settings_are_refused(
    tasks: Path, two_calls: Path, copy_of: Callable[[Path], Path]
) -> None:
    copy = evaluate(tasks, copy_of(two_calls), ["choose"], limit=15)
    with pytest.raises(UserError, match=r"number of documents is 60 in results_.* and 15 in"):
        lm_eval_results.load(copy)
    assert set(lm_eval_results.load(copy, ["sums"])) == {"sums"}
    newest = max(copy.rglob("results_*.json"), key=lambda path: path.name)
    assert lm_eval_results.load(newest)["choose"].evaluation.items == 15


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda r: r["n-shot"].update(choose=5), "number of few-shot examples is 0 in .* 5"),
        (lambda r: r["versions"].update(choose=9), "task version"),
        (lambda r: r["configs"]["choose"].update(doc_to_text="Q: {{q}}"), "doc_to_text"),
        (lambda r: r.update(system_instruction_sha="s"), "system instruction"),
        (lambda r: r.update(chat_template="t", chat_template_sha="t"), "chat template"),
        (lambda r: r["config"].update(gen_kwargs={"temperature": 1}), "gen_kwargs"),
    ],
)
def test_a_setting_that_differs_between_two_calls_is_named(
    tasks: Path,
    two_calls: Path,
    copy_of: Callable[[Path], Path],
    edit: Callable[[dict[str, Any]], None],
    said: str,
) -> None:
    copy = copy_of(two_calls)
    newest = max(copy.rglob("results_*.json"), key=lambda path: path.name)
    for old in copy.rglob("*_choose_*.jsonl"):
        shutil.copy(old, newest.with_name(newest.name.replace("results", "samples_choose") + "l"))
    choose = min(copy.rglob("results_*.json"), key=lambda path: path.name)
    results = json.loads(choose.read_text())
    edit(results)
    newest.write_text(json.dumps(results))
    with pytest.raises(UserError, match=f"two runs of choose with different settings: {said}"):
        lm_eval_results.load(copy)


def test_calls_for_two_models_are_refused_and_where_a_model_ran_does_not_matter(
    two_calls: Path, copy_of: Callable[[Path], Path]
) -> None:
    copy = copy_of(two_calls)
    first, second = sorted(copy.rglob("results_*.json"))

    def with_arguments(path: Path, arguments: Any) -> None:
        results = json.loads(path.read_text())
        results["config"]["model_args"] = arguments
        path.write_text(json.dumps(results))

    with_arguments(first, "pretrained=m,dtype=float32,device=cuda:0")  # as text, before 0.4.10
    with_arguments(second, {"pretrained": "m", "dtype": "float32", "device": "cpu"})
    assert set(lm_eval_results.load(copy)) == {"choose", "sums"}
    results = json.loads(second.read_text()) | {"model_name": "made-up"}
    second.write_text(json.dumps(results))  # by lm-eval, where no argument names the model
    assert set(lm_eval_results.load(copy)) == {"choose", "sums"}
    with_arguments(second, {"pretrained": "m", "dtype": "float16"})
    with pytest.raises(UserError, match=r"several models: model argument dtype is float32 in"):
        lm_eval_results.load(copy)


# ---- where the output lies -------------------------------------------------------------------


def test_a_folder_per_task_is_one_side(two_calls: Path, tmp_path: Path) -> None:
    for task, file in zip(
        ("choose", "sums"), sorted(two_calls.rglob("results_*.json")), strict=True
    ):
        place = tmp_path / "experiments" / task / file.parent.name
        place.mkdir(parents=True)
        shutil.copy(file, place)
        shutil.copy(samples_of(two_calls, task), place)
    assert decided(two_calls, tmp_path).verdict == "pass"
    assert set(lm_eval_results.load(tmp_path)) == {"choose", "sums"}


def test_one_task_in_two_folders_is_refused(two_calls: Path, tmp_path: Path) -> None:
    for name in ("before", "after"):
        shutil.copytree(two_calls, tmp_path / name)
    with pytest.raises(UserError, match=r"choose in several places.*before.*after|after.*before"):
        lm_eval_results.load(tmp_path)


@pytest.mark.parametrize("folder_too", [True, False])
def test_a_link_to_results_in_the_same_folder_is_not_a_second_run(
    two_calls: Path, copy_of: Callable[[Path], Path], folder_too: bool
) -> None:
    copy = copy_of(two_calls)
    file = max(copy.rglob("results_*.json"))
    (file.parent / "results_latest.json").symlink_to(file.name)
    if folder_too:
        (copy / "latest").symlink_to(file.parent.relative_to(copy))
        (copy / "again").symlink_to(".")
    assert decided(two_calls, copy).verdict == "pass"


def test_an_output_path_that_is_a_file_name_is_found_by_that_name(
    tasks: Path, two_calls: Path, tmp_path: Path
) -> None:
    for name in ("mine", "yours"):
        evaluate(tasks, tmp_path / f"{name}.json", ["choose"])
    (file,) = tmp_path.glob("mine_*.json")
    for named in (tmp_path / "mine.json", file):
        found = lm_eval_results.load(named)
        assert (set(found), found["choose"].evaluation.items) == ({"choose"}, ASKED)
    assert rlrf("gate", tmp_path / "mine.json", tmp_path / "yours.json") in (0, 2)
    with pytest.raises(UserError, match="several places"):
        lm_eval_results.load(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        inputs.load(tmp_path / "ours.json")


def test_evaluations_of_two_programs_in_one_folder_are_refused(
    two_calls: Path, copy_of: Callable[[Path], Path]
) -> None:
    copy = copy_of(two_calls)
    (copy / "quiz").mkdir()
    (copy / "quiz" / "evaluation.json").write_text("{}")
    with pytest.raises(UserError, match=r"evaluations of rlrf .* and results of lm-eval"):
        inputs.load(copy)


def test_what_is_not_a_plain_file_is_not_read(
    two_calls: Path, copy_of: Callable[[Path], Path]
) -> None:
    copy = copy_of(two_calls)
    path = samples_of(copy, "choose")
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="not a regular file"):
        lm_eval_results.load(copy)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file"):
        lm_eval_results.load(copy)


def test_a_folder_without_end_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    assert lm_eval_runs.find(tmp_path) == []
    monkeypatch.setattr(lm_eval_runs, "MAX_FOLDERS", 3)
    for name in "abcd":
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="more than 3 folders"):
        lm_eval_runs.find(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"results": ', "not JSON"),
        (b"\xff\xfe\xff", "not JSON text"),
        (b'{"n-samples": {}, "n-samples": {}}', "'n-samples' is there twice"),
        (b"[" * 100_000, "not JSON text"),
    ],
    ids=["cut short", "not UTF-8", "a key twice", "nested without end"],
)
def test_a_broken_results_file_is_told(
    two_calls: Path, copy_of: Callable[[Path], Path], content: bytes, said: str
) -> None:
    copy = copy_of(two_calls)
    max(copy.rglob("results_*.json"), key=lambda path: path.name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        lm_eval_results.load(copy)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"doc_id": 1', "line 1: not JSON"),
        (b'{"doc_id": "\xff"}', "line 1: not JSON"),
        (b'{"doc_id": 1, "acc": 0.0, "acc": 1.0}', "line 1: .*'acc' is there twice"),
    ],
)
def test_broken_samples_are_told(
    two_calls: Path, copy_of: Callable[[Path], Path], content: bytes, said: str
) -> None:
    copy = copy_of(two_calls)
    samples_of(copy, "choose").write_bytes(content)
    with pytest.raises(UserError, match=said):
        lm_eval_results.load(copy)


def test_another_number_of_documents_is_said_in_numbers(tasks: Path, tmp_path: Path) -> None:
    folders = [evaluate(tasks, tmp_path / str(n), ["choose"], limit=n) for n in (20, 15)]
    with pytest.raises(UserError, match="20 documents of choose and the candidate 15"):
        inputs.load_both(*folders)


# ---- versions --------------------------------------------------------------------------------


def as_before_0_4_10(results: dict[str, Any]) -> None:
    del results["lm_eval_version"]
    results |= {"fewshot_as_multiturn": False, "chat_template": ""}
    results["config"]["model_args"] = ""


def as_before_0_4_7(row: dict[str, Any]) -> None:
    del row["filter"], row["metrics"]


def test_a_setting_that_changes_nothing_does_not_keep_versions_apart(
    two_calls: Path, copy_of: Callable[[Path], Path]
) -> None:
    copy = copy_of(two_calls)
    for path in copy.rglob("results_*.json"):
        results = json.loads(path.read_text())
        as_before_0_4_10(results)
        path.write_text(json.dumps(results))
    assert decided(two_calls, copy).verdict == "pass"
    assert decided(copy, two_calls).verdict == "pass"


def through_template(multiturn: bool, shots: int) -> Callable[[dict[str, Any]], None]:
    def edit(results: dict[str, Any]) -> None:
        results |= {"chat_template": "t", "chat_template_sha": "t"}
        results["fewshot_as_multiturn"] = multiturn
        results["n-shot"] = dict.fromkeys(results["n-shot"], shots)

    return edit


@pytest.mark.parametrize("shots", [0, 3])
def test_turns_of_few_shot_examples_matter_where_there_are_any(
    school: Path, copy_of: Callable[..., Path], shots: int
) -> None:
    folders = [
        change_results(copy_of(school, str(turns)), through_template(turns, shots))
        for turns in (True, False)
    ]
    policy = rule("school_c", "acc")
    if shots == 0:
        assert decided(*folders, policy).verdict == "pass"
    else:
        with pytest.raises(UserError, match="prompt_digest"):
            decided(*folders, policy)


def test_samples_without_the_names_of_filters_are_read_by_the_configuration(
    two_calls: Path, copy_of: Callable[[Path], Path]
) -> None:
    copy = copy_of(two_calls)
    for task in ("choose", "sums"):
        change_samples(copy, task, as_before_0_4_7)
    old, new = (lm_eval_results.load(folder) for folder in (two_calls, copy))
    for task in ("choose", "sums"):
        assert old[task].scores == new[task].scores
        assert old[task].evaluation.metrics == new[task].evaluation.metrics
    assert decided(two_calls, copy).verdict == "pass"
    path = samples_of(copy, "sums")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines + lines[:1]))
    with pytest.raises(UserError, match="there are 3 samples, and the task has 2 filters"):
        lm_eval_results.load(copy)


# ---- groups ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "called"), [("school", "school"), ("lower", "school::lower")])
def test_a_group_has_the_score_of_lm_evals_table(school: Path, group: str, called: str) -> None:
    table = json.loads(results_of(school).read_text())["results"]
    logged = lm_eval_results.load(school, [group])[group]
    assert logged.evaluation.metrics["acc"].mean == pytest.approx(table[called]["acc,none"])
    assert len({item.digest for item in logged.items}) == len(logged.scores)
    assert logged.evaluation.definitions["acc"].primary
    decision = decided(school, school, rule(group, "acc", 0.2))
    assert (decision.verdict, decision.checks[0].test) == ("pass", "Tango score test")


def test_a_loss_in_one_task_is_a_loss_of_its_group(
    school: Path, copy_of: Callable[[Path], Path]
) -> None:
    before = lm_eval_results.load(school)["school_b"].evaluation.metrics["acc"].mean
    worse = change_samples(copy_of(school), "school_b", nothing_right)
    (check,) = decided(school, worse, rule("school", "acc")).checks
    assert before is not None
    assert (check.n, check.delta) == (105, pytest.approx(-before * 40 / 105))


def test_a_group_whose_tasks_count_alike_is_gated_where_they_have_one_size(
    tasks: Path, tmp_path: Path
) -> None:
    """Ten documents that weigh as much as 55 would make the test pass too often."""
    uneven = evaluate(tasks, tmp_path / "uneven", ["evenly"], limit=None)
    with pytest.raises(UserError, match=r"weight_by_size: false.*school_a, school_b, school_c"):
        lm_eval_results.load(uneven, ["evenly"])
    even = evaluate(tasks, tmp_path / "even", ["evenly"], limit=10)
    assert lm_eval_results.load(even, ["evenly"])["evenly"].evaluation.metrics["acc"].n == 30


def test_groups_are_gated_only_where_a_policy_names_them(school: Path) -> None:
    found = lm_eval_results.load(school)
    assert set(found) == {"school_a", "school_b", "school_c"}
    with pytest.raises(UserError, match=r"no task or group schol; .* groups lower, school"):
        lm_eval_results.load(school, ["schol"])


def test_a_group_without_a_score_says_what_to_gate(tasks: Path, tmp_path: Path) -> None:
    out = evaluate(tasks, tmp_path / "out", ["unscored"], limit=None)
    with pytest.raises(UserError, match=r"no score of the group unscored.*school_a, school_c"):
        lm_eval_results.load(out, ["unscored"])


def test_a_score_of_another_kind_than_a_mean_is_not_gated(
    school: Path, copy_of: Callable[[Path], Path]
) -> None:
    def largest(results: dict[str, Any]) -> None:
        results["results"]["school"]["acc,none"] = 0.987

    copy = change_results(copy_of(school), largest)
    with pytest.raises(UserError, match=r"not the mean over all documents.*Gate its tasks instead"):
        lm_eval_results.load(copy, ["school"])


def test_a_policy_needs_the_samples_of_its_own_tasks_alone(
    school: Path, copy_of: Callable[[Path], Path], tmp_path: Path, capsys: Capture
) -> None:
    copy = copy_of(school)
    samples_of(copy, "school_b").unlink()
    policy = tmp_path / "policy.yaml"
    rules = [{"task": f"school_{x}", "metric": "acc", "margin": 0.3} for x in "ac"]
    policy.write_text(json.dumps({"rules": rules}))
    assert rlrf("gate", copy, copy, "--policy", policy) == 0
    assert "school_b" not in capsys.readouterr().err
    page = tmp_path / "page.html"
    report = ["report", "--baseline", copy, "--candidate", copy, "--policy", policy]
    assert rlrf(*report, "--out", page) == 0
    assert rlrf("gate", copy, copy) == 3
    assert "kept no samples of school_b" in capsys.readouterr().err
    with pytest.raises(UserError, match="kept no samples of school_b"):
        lm_eval_results.load(copy, ["school"])


# ---- ranges and margins ----------------------------------------------------------------------


def all_wrong_but_one(row: dict[str, Any]) -> None:
    row["acc"] = 1e6 if row["doc_id"] == 0 else 0.0


def test_a_candidate_cannot_widen_the_range(
    two_calls: Path, copy_of: Callable[[Path], Path], capsys: Capture
) -> None:
    copy = change_samples(copy_of(two_calls), "choose", all_wrong_but_one)
    capsys.readouterr()
    assert rlrf("gate", two_calls, copy) == 3
    assert "acc of document 0 of choose is 1e+06, and the metric runs from 0 to 1" in (
        capsys.readouterr().err
    )


def test_a_candidate_with_grades_between_no_and_yes_meets_the_same_margin(
    two_calls: Path, copy_of: Callable[[Path], Path]
) -> None:
    def half(row: dict[str, Any]) -> None:
        row["acc"] = row["acc"] / 2

    before, after = inputs.load_both(two_calls, change_samples(copy_of(two_calls), "choose", half))
    metrics = [side["choose"].evaluation.definitions["acc"] for side in (before, after)]
    assert metrics[0] == metrics[1]
    assert (metrics[0].kind, metrics[0].low, metrics[0].high) == ("continuous", 0, 1)
    (margin,) = {r.margin for r in default(before).rules}
    assert margin == 0.05


def test_values_beyond_its_definition_make_the_range_of_a_metric_unknown(
    two_calls: Path, copy_of: Callable[[Path], Path]
) -> None:
    def in_percent(row: dict[str, Any]) -> None:
        row["acc"] = 100 * row["acc"]

    copy = change_samples(copy_of(two_calls), "choose", in_percent)
    before, _ = inputs.load_both(copy, copy)
    assert before["choose"].evaluation.definitions["acc"].span is None
    with pytest.raises(UserError, match=r"range of choose\.acc is not known.*'choose\.acc=0\.02'"):
        default(before)
    assert {(r.task, r.margin) for r in default(before, "choose.acc=5").rules} == {
        ("choose", 5.0),
        ("sums", 0.05),
    }


def test_a_metric_of_unknown_range_asks_for_a_margin_by_name(
    losses: Path, copy_of: Callable[[Path], Path], capsys: Capture, tmp_path: Path
) -> None:
    def scattered(row: dict[str, Any]) -> None:
        row["loss"] += (row["doc_id"] % 5 - 2) * 0.1 + (5 if row["doc_id"] == 0 else 0)

    def worse(row: dict[str, Any]) -> None:
        row["loss"] += 1000 + row["doc_id"] % 3

    near = change_samples(copy_of(losses, "near"), "losses", scattered)
    far = change_samples(copy_of(losses, "far"), "losses", worse)
    capsys.readouterr()
    assert rlrf("gate", losses, near) == 3
    told = capsys.readouterr().err
    assert "losses.loss" in told and "--margin 'losses.loss=0.02'" in told
    for margin in ("loss=2", "losses.loss=2"):
        assert rlrf("gate", losses, near, "--margin", margin) == 0
        assert rlrf("gate", losses, far, "--margin", margin) == 1
    assert rlrf("gate", losses, losses, "--margin", "loss=2") == 2
    assert "the range of the metric is not known" in capsys.readouterr().out
    page = ["report", "--baseline", losses, "--candidate", near, "--out", tmp_path / "p.html"]
    assert rlrf(*page) == 3
    assert rlrf(*page, "--margin", "loss=2") == 0


def test_a_named_margin_gates_a_metric_that_is_not_the_headline(losses: Path) -> None:
    side = inputs.load(losses)
    rules = {r.metric: (r.tier, r.margin) for r in default(side, "loss=2", "acc=0.1").rules}
    assert rules == {"loss": ("critical", 2.0), "acc": ("critical", 0.1)}


@pytest.mark.parametrize(
    ("margins", "said"),
    [
        (["acc"], "not METRIC=VALUE"),
        (["acc=much"], "not METRIC=VALUE"),
        (["acc=-1"], "above 0"),
        (["acc=nan"], "above 0"),
        (["=1"], "not METRIC=VALUE"),
        (["acc=1", "acc=2"], "Two margins are named for acc"),
        (["ac=0.1", "loss=1"], "'ac', which no task has. Did you mean 'acc'"),
        (["choose.acc=0.1", "loss=1"], "'choose.acc', which no task has"),
    ],
)
def test_a_margin_that_says_nothing_is_refused(
    losses: Path, margins: list[str], said: str, capsys: Capture
) -> None:
    options = [part for margin in margins for part in ("--margin", margin)]
    assert rlrf("gate", losses, losses, *options) == 3
    assert said in capsys.readouterr().err


def test_margins_are_part_of_a_policy_and_of_a_plan(
    losses: Path, tmp_path: Path, capsys: Capture
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(rule("losses", "acc", 0.2).model_dump(mode="json")))
    assert rlrf("gate", losses, losses, "--policy", policy, "--margin", "acc=1") == 3
    assert "either a policy or margins" in capsys.readouterr().err
    made = tmp_path / "plan.json"
    again = ["--discordance", "0.2", "--out", made]
    assert rlrf("plan", policy, "--baseline", losses, *again) == 0
    assert rlrf("gate", losses, losses, "--plan", made) == 0
    assert rlrf("gate", losses, losses, "--plan", made, "--margin", "acc=1") == 3


def test_a_number_that_is_not_a_mean_over_documents_cannot_be_gated(losses: Path) -> None:
    """Perplexity is logged as log-likelihoods, whose better direction is the other one."""
    known = lm_eval_results.load(losses)["losses"].evaluation.definitions
    assert set(known) == {"acc", "loss", "told"}, "a median that happens to be the mean is one"


def test_a_function_of_the_tasks_own_that_is_not_the_mean_is_left_out(
    losses: Path, copy_of: Callable[[Path], Path]
) -> None:
    def skewed(row: dict[str, Any]) -> None:
        row["told"] = float(row["doc_id"] == 0)

    copy = change_samples(copy_of(losses), "losses", skewed)
    assert "told" not in lm_eval_results.load(copy)["losses"].evaluation.definitions


def test_a_direction_that_nobody_told_is_not_guessed(
    losses: Path, copy_of: Callable[[Path], Path]
) -> None:
    def silent(results: dict[str, Any]) -> None:
        results["higher_is_better"]["losses"] = {"loss": None, "acc": None}

    known = lm_eval_results.load(change_results(copy_of(losses), silent))["losses"]
    assert set(known.evaluation.definitions) == {"acc"}, "accuracy needs no telling"


def test_a_document_that_does_not_count_in_a_mean_without_gaps_is_left_out(
    losses: Path, copy_of: Callable[[Path], Path]
) -> None:
    def some(row: dict[str, Any]) -> None:
        row["acc"] = float("nan") if row["doc_id"] % 4 == 0 else row["acc"]

    def mean_of_the_rest(results: dict[str, Any]) -> None:
        results["configs"]["losses"]["metric_list"][1]["aggregation"] = "nanmean"

    copy = change_samples(copy_of(losses), "losses", some)
    with pytest.raises(UserError, match="'acc' is nan, which cannot be compared"):
        lm_eval_results.load(copy)
    change_results(copy, mean_of_the_rest)
    assert lm_eval_results.load(copy)["losses"].evaluation.metrics["acc"].n == LOSSES_ASKED * 3 // 4
    (check,) = decided(copy, copy, rule("losses", "acc", 0.2)).checks
    assert check.verdict == "pass"
    assert f"; it applies to {LOSSES_ASKED * 3 // 4} of {LOSSES_ASKED} items" in check.reason


def test_a_plan_for_lm_evals_output_can_be_followed(two_calls: Path) -> None:
    policy = rule("choose", "acc", 0.3)
    before = inputs.load(two_calls, wanted=policy.tasks)
    made = plan.make_plan(policy, before, assumed=AssumedSpread(discordance=0.2))
    old, new = inputs.load_both(two_calls, two_calls, wanted=policy.tasks)
    assert gate(old, new, policy, plan=made).plan == made.identity


def test_boards_and_certificates_take_the_output_of_lm_eval(
    two_calls: Path, tmp_path: Path, capsys: Capture
) -> None:
    board = tmp_path / "board"
    assert rlrf("board", "add", board, two_calls, "--name", "dummy") == 0
    assert rlrf("board", "verify", board) == 0
    assert rlrf("board", "render", board) == 0
    assert "exact_match,strict-match" in capsys.readouterr().out
    policy = tmp_path / "policy.yaml"
    policy.write_text("rules: [{task: choose, metric: acc, margin: 0.1}]\n")
    assert rlrf("noise", *[two_calls] * 5, "--policy", policy) == 0
