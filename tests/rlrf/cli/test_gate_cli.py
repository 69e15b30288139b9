"""`rlrf plan` and `rlrf gate` as they are typed: results, files, exit codes, sentences."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.build import build_evaluation, sample_of

import tasks
from harness.board import Board
from harness.core.schema import JudgeRef, ModelRef
from harness.core.scored import ScoredEvaluation
from harness.evals import evaluation
from harness.render.html.comparison import TITLES
from rlrf.cli import run
from rlrf.quickstart import M0

TASK = tasks.load("mini_gsm8k")
ITEMS = TASK.items("gate", None)[:400]
POLICY = "rules:\n  - {task: mini_gsm8k, metric: accuracy, tier: critical, margin: 0.1}\n"


def answered(wrong: int, items: int = 400, words: int = 0) -> ScoredEvaluation:
    """The first items of the gate split, `wrong` of them answered wrong, and `words` of chatter."""
    samples = [
        sample_of(item, "well " * words + ("#### 1000" if i < wrong else item.reference["answer"]))
        for i, item in enumerate(ITEMS[:items])
    ]
    return build_evaluation(
        TASK,
        ITEMS[:items],
        samples,
        model=ModelRef(id=f"wrong{wrong}"),
        engine="recorded",
        decoding={},
        split="gate",
        prompt_digest="p",
    )


def saved(path: Path, made: ScoredEvaluation) -> Path:
    evaluation.save(made, path)
    return path


@pytest.fixture
def m0(tmp_path: Path) -> Path:
    return saved(tmp_path / "m0", answered(40))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def rlrf(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


Capture = pytest.CaptureFixture[str]


def refused(capsys: Capture, *arguments: object) -> str:
    """What is said to bad input: exit 3, one message, no traceback, nothing on stdout."""
    capsys.readouterr()
    assert rlrf(*arguments) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err and "unexpected" not in err
    return err


# ---- plans ----------------------------------------------------------------------------------


def test_a_plan_is_written_shown_and_followed(
    tmp_path: Path, m0: Path, policy: Path, capsys: Capture
) -> None:
    plan = tmp_path / "plan.json"
    make = ["plan", policy, "--baseline", m0, "--discordance", "0.2", "--out", plan]
    assert rlrf(*make) == 0
    out = capsys.readouterr().out
    assert "mini_gsm8k accuracy" in out and "Tango score test" in out and "stated" in out
    assert rlrf(*make, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    for wrong, code in ((40, 0), (200, 1), (75, 2)):
        candidate = saved(tmp_path / f"wrong{wrong}", answered(wrong))
        assert rlrf("gate", "--plan", plan, m0, candidate, "--json") == code
        decision = json.loads(capsys.readouterr().out)
        assert decision["plan"] == told["identity"]


def test_a_sequential_plan_reports_the_items_it_used(
    tmp_path: Path, m0: Path, policy: Path, capsys: Capture
) -> None:
    plan = tmp_path / "plan.json"
    arguments = ["--baseline", m0, "--discordance", "0.2", "--sequential", "--out", plan]
    assert rlrf("plan", policy, *arguments) == 0
    assert "items if unchanged" in capsys.readouterr().out
    candidate = saved(tmp_path / "m1", answered(10))
    assert rlrf("gate", "--plan", plan, m0, candidate, "--json") == 0
    (check,) = json.loads(capsys.readouterr().out)["checks"]
    assert check["planned"] == 400 > check["n"]


def test_a_plan_can_measure_the_spread(
    tmp_path: Path, m0: Path, policy: Path, capsys: Capture
) -> None:
    again = saved(tmp_path / "again", answered(50))
    arguments = ["--baseline", m0, "--second", again, "--out", tmp_path / "p.json", "--json"]
    assert rlrf("plan", policy, *arguments) == 0
    (rule,) = json.loads(capsys.readouterr().out)["rules"]
    assert rule["spread_from"] == "second run"
    assert rule["discordance"] == pytest.approx(10 / 400, rel=0.05)


def test_an_underpowered_plan_is_refused_and_not_written(
    tmp_path: Path, policy: Path, capsys: Capture
) -> None:
    small, plan = saved(tmp_path / "small", answered(4, items=40)), tmp_path / "plan.json"
    said = refused(capsys, "plan", policy, "--baseline", small, "--out", plan)
    assert "The plan is refused: with 40 items" in said and "It takes" in said
    assert not plan.exists()


def test_plans_that_do_not_fit(tmp_path: Path, m0: Path, policy: Path, capsys: Capture) -> None:
    plan = tmp_path / "plan.json"
    assert rlrf("plan", policy, "--baseline", m0, "--discordance", "0.2", "--out", plan) == 0
    other = saved(tmp_path / "other", answered(41))
    assert "another baseline" in refused(capsys, "gate", "--plan", plan, other, m0)
    assert "one plan" in refused(capsys, "gate", "--plan", plan, "--plan", plan, m0, m0)
    assert "either" in refused(capsys, "gate", "--plan", plan, "--policy", policy, m0, m0)
    assert "no file" in refused(capsys, "gate", "--plan", tmp_path / "none.json", m0, m0)
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"extra": 1}))
    assert "plan.json: extra" in refused(capsys, "gate", "--plan", plan, m0, m0)


# ---- gates ----------------------------------------------------------------------------------


def test_a_policy_that_comes_along_is_found_by_name(m0: Path, capsys: Capture) -> None:
    assert "no evaluation of gsm8k" in refused(capsys, "gate", m0, m0, "--policy", "gsm8k")
    assert "'just_eval'" in refused(capsys, "gate", m0, m0, "--policy", "just_evil")


def test_a_model_on_a_board_is_a_baseline(tmp_path: Path, m0: Path, capsys: Capture) -> None:
    board = tmp_path / "board"
    Board(board).add_evaluation(answered(200), "old", "run")
    Board(board).add_evaluation(answered(40), "new", "run")
    candidate = saved(tmp_path / "m1", answered(60))
    assert rlrf("gate", board, candidate, "--name", "old") == 0
    assert rlrf("gate", board, candidate, "--name", "new") == 2
    assert "It has old, new" in refused(capsys, "gate", board, candidate, "--name", "M0")
    assert "say which model" in refused(capsys, "gate", board, candidate)
    assert "no leaderboard" in refused(capsys, "gate", m0, candidate, "--name", "M0")


def test_a_withdrawn_evaluation_is_no_baseline(tmp_path: Path, capsys: Capture) -> None:
    board = Board(tmp_path / "board")
    board.add_evaluation(answered(40), "M0", "run")
    board.add_evaluation(answered(200), "M0", "run")
    candidate = saved(tmp_path / "m1", answered(190))
    assert rlrf("gate", board.folder, candidate, "--name", "M0") == 0
    board.invalidate(board.rows()[-1].digest, "answers of another model", "run")
    assert rlrf("gate", board.folder, candidate, "--name", "M0") == 1
    board.invalidate(board.rows()[-1].digest, "they were its own after all", "run")
    assert rlrf("gate", board.folder, candidate, "--name", "M0") == 0


def test_alarms_are_shown_and_block_where_the_policy_says_so(
    tmp_path: Path, m0: Path, policy: Path, capsys: Capture
) -> None:
    chatty = saved(tmp_path / "m1", answered(40, words=40))
    assert rlrf("gate", m0, chatty, "--policy", policy) == 0
    assert "Alarm, mini_gsm8k length:" in capsys.readouterr().out
    policy.write_text("alarms: block\n" + POLICY)
    assert rlrf("gate", m0, chatty, "--policy", policy, "--json") == 2
    decision = json.loads(capsys.readouterr().out)
    assert {alarm["kind"] for alarm in decision["alarms"]} >= {"length"}
    assert "alarm on mini_gsm8k, length" in decision["reasons"][0]


def test_a_judge_that_drifted_holds_the_gate_up(tmp_path: Path, m0: Path, capsys: Capture) -> None:
    from harness.core.files import write_json
    from harness.judges.checks.drift import between

    drift = between(answered(40), rescored(answered(40)), margin=0.05)
    assert drift.verdict == "drifted"
    write_json(tmp_path / "drift.json", drift)
    assert rlrf("gate", m0, m0, "--drift", tmp_path / "drift.json", "--json") == 2
    (check,) = json.loads(capsys.readouterr().out)["checks"]
    assert check["reason"] == "the judge's drift is drifted"
    page = tmp_path / "page.html"
    report = ["report", "--baseline", m0, "--candidate", m0, "--out", page]
    assert rlrf(*report) == 0 and TITLES["pass"] in page.read_text()
    assert rlrf(*report, "--drift", tmp_path / "drift.json") == 0
    assert TITLES["inconclusive"] in page.read_text()
    assert TITLES["pass"] not in page.read_text()


def test_a_page_follows_the_plan_that_the_gate_follows(
    tmp_path: Path, m0: Path, policy: Path, capsys: Capture
) -> None:
    planned, page = tmp_path / "plan.json", tmp_path / "page.html"
    options = ["--baseline", m0, "--discordance", "0.2", "--sequential", "--out", planned]
    assert rlrf("plan", policy, *options) == 0
    candidate = saved(tmp_path / "m1", answered(41))
    assert rlrf("gate", m0, candidate, "--plan", planned) == 0
    report = ["report", "--baseline", m0, "--candidate", candidate, "--out", page]
    assert rlrf(*report, "--plan", planned) == 0
    assert "sequential test by betting" in page.read_text()
    assert "either" in refused(capsys, *report, "--plan", planned, "--policy", policy)
    assert "another baseline" in refused(
        capsys, "report", "--baseline", candidate, "--candidate", m0, "--plan", planned
    )


def rescored(made: ScoredEvaluation) -> ScoredEvaluation:
    """The same answers, of which a judge finds every third worth nothing."""
    scores = [
        score.model_copy(update={"values": score.values | {"accuracy": 0.0}})
        if score.index % 3 == 0
        else score
        for score in made.scores
    ]
    return replace(made, scores=scores)


def test_github_is_told_in_its_own_words(
    tmp_path: Path, m0: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("# Earlier\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    candidate = saved(tmp_path / "m1", answered(200))
    assert rlrf("gate", m0, candidate, "--github", "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["verdict"] == "fail"
    assert err.startswith("::error title=Gate%3A fail::")
    assert summary.read_text().startswith("# Earlier\n## Gate: fail")


def test_the_files_say_what_the_screen_says(tmp_path: Path, m0: Path, capsys: Capture) -> None:
    files = ["--markdown", tmp_path / "gate.md", "--junit", tmp_path / "gate.xml"]
    assert rlrf("gate", m0, m0, *files) == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "gate.md").read_text().strip()
    assert ET.parse(tmp_path / "gate.xml").getroot().get("failures") == "0"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_is_evaluated_and_gated_in_one_command(
    tmp_path: Path, policy: Path, capsys: Capture
) -> None:
    first, plan = tmp_path / "first", tmp_path / "plan.json"
    evaluate = ["--model", M0, "--tasks", "mini_gsm8k", "--limit", 96, "--out", first]
    assert rlrf("eval", *evaluate) == 0
    assert rlrf("gate", first, "--model", M0, "--policy", policy, "--out", tmp_path / "out") == 0
    assert evaluation.load(tmp_path / "out").keys() == {"mini_gsm8k"}
    arguments = ["--baseline", first, "--discordance", "0.1", "--sequential", "--out", plan]
    arguments += ["--estimand", "items"]  # 96 are too few to speak of others
    assert rlrf("plan", policy, *arguments) == 0
    capsys.readouterr()
    assert rlrf("gate", "--plan", plan, first, "--model", M0, "--json") == 0
    (check,) = json.loads(capsys.readouterr().out)["checks"]
    assert check["n"] < check["planned"] == 96


# ---- bad input ------------------------------------------------------------------------------


def test_exactly_one_candidate_is_named(m0: Path, capsys: Capture) -> None:
    assert "Name either" in refused(capsys, "gate", m0)
    assert "Name either" in refused(capsys, "gate", m0, m0, "--model", M0)


def other_items(made: ScoredEvaluation) -> ScoredEvaluation:
    return answered(40, items=399)


def other_judge(made: ScoredEvaluation) -> ScoredEvaluation:
    judge = JudgeRef(id="another", digest="d", prompt_digest="p")
    changed = made.evaluation.model_copy(update={"judge": judge})
    return replace(made, evaluation=changed)


def other_prompt(made: ScoredEvaluation) -> ScoredEvaluation:
    changed = made.evaluation.model_copy(update={"prompt_digest": "q"})
    return replace(made, evaluation=changed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_items, "dataset_digest"),
        (other_judge, "judge is None for the baseline and 'another'"),
        (other_prompt, "prompt_digest"),
    ],
)
def test_evidence_that_does_not_match(
    tmp_path: Path,
    m0: Path,
    capsys: Capture,
    change: Callable[[ScoredEvaluation], ScoredEvaluation],
    said: str,
) -> None:
    candidate = saved(tmp_path / "m1", change(answered(40)))
    told = refused(capsys, "gate", m0, candidate)
    assert "cannot be compared" in told and said in told


def rewritten(folder: Path, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Path:
    """The folder with other scores, and the digest that belongs to them."""
    import hashlib

    path = folder / "scores.jsonl"
    rows = edit([json.loads(line) for line in path.read_text().splitlines()])
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    about = folder / "evaluation.json"
    value = json.loads(about.read_text())
    value["scores_digest"] = hashlib.sha256(text.encode()).hexdigest()
    about.write_text(json.dumps(value))
    return folder


def test_scores_that_are_duplicated_or_no_numbers(
    tmp_path: Path, m0: Path, capsys: Capture
) -> None:
    twice = rewritten(saved(tmp_path / "twice", answered(40)), lambda rows: [*rows, rows[7]])
    assert "item 7" in (told := refused(capsys, "gate", m0, twice)) and "scored twice" in told

    def nan(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[3]["values"]["accuracy"] = float("nan")
        return rows

    broken = rewritten(saved(tmp_path / "nan", answered(40)), nan)
    assert "scores.jsonl, line 4" in refused(capsys, "gate", m0, broken)


def test_a_changed_evaluation_is_refused(tmp_path: Path, m0: Path, capsys: Capture) -> None:
    path = m0 / "scores.jsonl"
    path.write_text(path.read_text().replace('"accuracy":0.0', '"accuracy":1.0', 1))
    assert "was changed" in refused(capsys, "gate", m0, m0)


def test_an_unknown_metric_names_the_nearest(m0: Path, policy: Path, capsys: Capture) -> None:
    policy.write_text(POLICY.replace("accuracy", "acuracy"))
    assert "Did you mean 'accuracy'" in refused(capsys, "gate", m0, m0, "--policy", policy)


def test_too_few_items_are_inconclusive_and_say_how_many(tmp_path: Path, capsys: Capture) -> None:
    few = saved(tmp_path / "few", answered(0, items=10))
    assert rlrf("gate", few, few) == 2
    assert "about 52 items would tell" in capsys.readouterr().out


def test_a_huge_file_is_not_read(m0: Path, capsys: Capture) -> None:
    from harness.evals.evaluation import MAX_BYTES

    with (m0 / "scores.jsonl").open("r+b") as file:
        file.truncate(MAX_BYTES + 1)  # sparse: takes no space
    assert "larger than 8 GiB" in refused(capsys, "gate", m0, m0)


def test_folders_without_evidence(tmp_path: Path, m0: Path, capsys: Capture) -> None:
    assert "no folder" in refused(capsys, "gate", m0, tmp_path / "nowhere")
    (tmp_path / "results_1.json").write_text("{}")
    assert "no 'n-samples'" in refused(capsys, "gate", m0, tmp_path)


def test_a_broken_drift_file_is_named(tmp_path: Path, m0: Path, capsys: Capture) -> None:
    (tmp_path / "drift.json").write_text("[]")
    assert "drift.json" in refused(capsys, "gate", m0, m0, "--drift", tmp_path / "drift.json")
