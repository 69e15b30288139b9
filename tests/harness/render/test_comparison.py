"""From two evaluation folders to a page: numbers, slices, feedback and every answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.answering import POLICY, N, answered
from helpers.pages import data, parse

import tasks
from harness.board import Board
from harness.core.errors import UserError
from harness.core.scored import ScoredEvaluation
from harness.evals import evaluation
from harness.evals.inputs import load as sides_of
from harness.gate import decide
from harness.render.html import comparison


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Items 0-9 are lost, 10-29 gained, 30-49 right in both, 50-59 wrong in both."""
    root = tmp_path_factory.mktemp("evaluations")
    evaluation.save(answered(lambda i: i < 10 or 30 <= i < 50, "old"), root / "old")
    evaluation.save(answered(lambda i: 10 <= i < 50, "new", cut=3), root / "new")
    return root / "old", root / "new"


@pytest.fixture(scope="module")
def page(folders: tuple[Path, Path]) -> str:
    old, new = (evaluation.load(folder) for folder in folders)
    return comparison.compare(POLICY, old, new)


def test_every_item_has_its_prompt_both_answers_their_values_and_the_feedback(page: str) -> None:
    read = data(page)
    assert read["models"] == ["baseline", "candidate"]
    assert len(read["items"]) == N
    first = read["items"][0]
    item = tasks.load("mini_gsm8k").items("gate")[0]
    assert first["prompt"] == item.prompt and "<user>" not in first["prompt"]
    assert item.reference["answer"] in first["reference"]
    assert first["tags"] == [f"steps: {item.tags['steps'][0]}"]
    old, new = first["answers"]
    assert old["values"]["accuracy"] == 1 and new["values"]["accuracy"] == 0
    assert new["response"] == "new: #### 999999"
    assert "ended by the length limit" in new["notes"]
    assert {grade for _, grade, _ in old["feedback"]} == {2}
    assert min(grade for _, grade, _ in new["feedback"]) == 0


def test_the_verdict_and_its_numbers_are_the_gates(page: str, folders: tuple[Path, Path]) -> None:
    decision = decide(POLICY, *(evaluation.load(folder) for folder in folders))
    shown = parse(page).shown
    assert decision.verdict == "pass"
    assert "The candidate is no worse than the baseline" in shown
    assert decision.checks[0].reason in shown
    assert "0.500 → 0.667" in shown and "n = 60" in shown


def test_slices_and_reliability_are_shown(page: str) -> None:
    shown = parse(page).shown
    assert "mini_gsm8k accuracy by steps" in shown
    steps = {item.tags["steps"][0] for item in tasks.load("mini_gsm8k").items("gate")[:N]}
    for step in steps:
        assert re.search(rf"<th scope=\"row\">{step}</th>", page)
    assert re.search(r"mini_gsm8k candidate none 60 3 0", shown)


def test_intervals_of_a_page_allow_for_the_clusters_of_its_policy() -> None:
    old, new = (
        {"mini_gsm8k": answered(lambda i, every=every: i % every > 0, name)}
        for name, every in (("old", 2), ("new", 3))
    )
    by_steps = POLICY.model_copy(update={"cluster": "steps"})
    decision = decide(by_steps, old, new)
    (clustered,), (plain,) = (
        comparison.measure([old, new], decision),
        comparison.measure([old, new]),
    )
    steps = {item.tags["steps"][0] for item in old["mini_gsm8k"].items}
    for found, alone in zip(clustered.results("accuracy"), plain.results("accuracy"), strict=True):
        assert found is not None and alone is not None
        assert (found.mean, found.n, found.clusters) == (alone.mean, N, len(steps))
        assert found.stderr is not None and alone.stderr is not None
        assert found.stderr >= alone.stderr
    assert clustered.subgroups["steps"].keys() == plain.subgroups["steps"].keys()
    assert {one.clusters for found in clustered.subgroups["steps"].values() for one in found} == {1}
    assert f"n=60 in {len(steps)} clusters" in parse(comparison.compare(by_steps, old, new)).shown


def test_equal_evaluations_give_equal_bytes(page: str, folders: tuple[Path, Path]) -> None:
    again = comparison.compare(POLICY, *(evaluation.load(folder) for folder in folders))
    assert again == page


def test_of_several_repeats_the_first_answer_is_shown_with_the_items_means() -> None:
    one = {"mini_gsm8k": answered(lambda i: i < 10, "old", repeats=3)}
    (question, *_) = comparison.questions([one, one])
    (answer, _) = question.answers
    assert answer is not None
    assert answer.values["accuracy"] == 1
    assert answer.notes == ["the first of 3 answers; values are their means"]
    (measured,) = comparison.measure([one, one])
    assert measured.responses == [3 * N, 3 * N]


def test_a_kind_of_tag_with_very_many_tags_shows_the_most_frequent() -> None:
    scored = answered(lambda i: True, "old")
    items = [
        item.model_copy(update={"tags": {"topic": ["all", f"topic {item.index}"]}})
        for item in scored.items
    ]
    one = {"mini_gsm8k": ScoredEvaluation(scored.evaluation, scored.scores, scored.samples, items)}
    (measured,) = comparison.measure([one, one])
    ((key, tags),) = measured.subgroups.items()
    assert key == f"topic, the 40 most frequent of {N + 1}"
    assert len(tags) == 40 and tags["all"][0].n == N


def test_unscored_answers_are_counted_with_their_reasons() -> None:
    scored = answered(lambda i: True, "old")
    lost = [
        score.model_copy(update={"values": {}, "unscored": {"accuracy": "the judge timed out"}})
        if score.index < 5
        else score
        for score in scored.scores
    ]
    one = {"mini_gsm8k": ScoredEvaluation(scored.evaluation, lost, scored.samples, scored.items)}
    (measured,) = comparison.measure([one])
    assert measured.reasons == [{"accuracy": {"the judge timed out": 5}}]


def test_evaluations_made_in_two_ways_do_not_stand_on_one_page() -> None:
    one = {"mini_gsm8k": answered(lambda i: True, "old")}
    other = {"mini_gsm8k": answered(lambda i: True, "new", prompt_digest="q" * 64)}
    with pytest.raises(UserError, match="cannot be compared"):
        comparison.compare(POLICY, one, other)
    with pytest.raises(UserError, match="cannot stand on one page"):
        comparison.measure([one, other])


def test_the_scores_of_a_task_that_is_not_installed_are_shown_without_feedback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = {"mini_gsm8k": answered(lambda i: True, "old")}
    monkeypatch.setattr(tasks, "_all", dict)
    (question, *_) = comparison.questions([one, one])
    assert question.answers[0] is not None and question.answers[0].feedback == []


def test_the_command_writes_the_page_and_leaves_the_evaluations_alone(
    folders: tuple[Path, Path], page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlrf.cli.report import report as command

    monkeypatch.chdir(tmp_path)
    old, new = map(str, folders)
    done = CliRunner().invoke(
        command, ["--baseline", old, "--candidate", new, "--json"], catch_exceptions=False
    )
    written = (tmp_path / "report.html").read_bytes()
    assert json.loads(done.output) == {"page": "report.html", "bytes": len(written)}
    assert data(written.decode()) == data(page)
    assert not list(folders[1].glob("*.html"))


def test_of_a_baseline_on_a_leaderboard_the_scores_are_shown(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    from rlrf.cli.report import report as command

    (old,) = evaluation.load(folders[0]).values()
    Board(tmp_path / "board").add_evaluation(old, "M0", "r")
    arguments = [
        "--baseline",
        str(tmp_path / "board"),
        "--name",
        "M0",
        "--candidate",
        str(folders[1]),
    ]
    out = tmp_path / "page.html"
    CliRunner().invoke(command, [*arguments, "--out", str(out)], catch_exceptions=False)
    page = out.read_text()
    assert "0.500 → 0.667" in parse(page).shown
    before, after = data(page)["items"][0]["answers"]
    assert before["values"]["accuracy"] == 1 and before["response"] == ""
    assert before["notes"] == ["a leaderboard keeps scores, not answers"]
    assert after["response"] == "new: #### 999999"
    both = comparison.compare(POLICY, *[sides_of(tmp_path / "board", "M0")] * 2)
    assert "Item by item" not in both and "application/json" not in both


@pytest.mark.parametrize(
    "arguments", [[], ["--baseline", "x"], ["run", "--baseline", "x", "--candidate", "y"]]
)
def test_the_command_says_what_to_name(arguments: list[str]) -> None:
    from rlrf.cli.report import report as command

    done = CliRunner().invoke(command, arguments)
    assert isinstance(done.exception, UserError)
    assert "--baseline and --candidate" in str(done.exception)
