"""`rlrf judge`, as it is typed: folders in, tables and exit codes out, judges behind a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers.faulty import Act, Asked, FaultyServer, completion
from helpers.scripted import (
    ScriptedJudge,
    answer_in,
    better,
    evaluated,
    grades,
    instructions,
    mini,
    pair_in,
)

import tasks
from harness.core.errors import UserError
from harness.core.schema import Call
from harness.evals import evaluation
from rlrf.cli.judge import judge

TASK = tasks.load("just_eval")
REAL = "It lies on a river, has a market on Fridays, and is known for its bridge of 1582."


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(judge, [str(a) for a in arguments], standalone_mode=False)


def shown(*arguments: str | Path) -> Any:
    done = run(*arguments, "--json")
    assert done.exception is None, done.output
    return json.loads(done.stdout)


def folder(path: Path, kind: str = "complete") -> Path:
    """An evaluation on the embedded benchmark, which needs no judge."""
    evaluation.save(mini(kind), path)
    return path


def judged(path: Path, grade: Callable[[int], float], count: int = 60) -> Path:
    """Answers to Just-Eval, graded by their number."""
    said = ScriptedJudge(
        lambda call: grades(grade(int(call.prompt.split("number ")[1].split("?")[0])))
    )
    evaluation.save(evaluated(TASK, instructions(count), [REAL] * count, said), path)
    return path


@pytest.fixture
def judging(
    tmp_path: Path, serve: Callable[..., FaultyServer]
) -> Callable[[Callable[[Call], str]], Path]:
    """`judging(say)`: a judge file that names a server which answers as `say` does."""

    def write(say: Callable[[Call], str]) -> Path:
        def script(number: int, asked: Asked) -> Act:
            return Act(body=completion(say(Call(prompt=asked.prompt))))

        server = serve(script)
        path = tmp_path / "judge.yaml"
        path.write_text(
            f"judge:\n  base_url: {server.base_url}\n  model: scripted\n"
            f"  cache: {tmp_path / 'judge.sqlite'}\n  max_concurrency: 4\n"
        )
        return path

    return write


def test_check_needs_no_judge_where_the_task_has_a_verifier(tmp_path: Path) -> None:
    done = run("check", folder(tmp_path / "mini"))
    assert done.return_value == 0
    assert "pass: overall of mini_just_eval" in done.stdout
    assert "| injected | pass" in done.stdout


@pytest.mark.slow
def test_check_exits_1_for_a_judge_that_is_fooled(tmp_path: Path, judging: Any) -> None:
    file = judging(lambda call: grades(5 if "```json" in call.prompt.split("[answered")[1] else 3))
    done = run("check", judged(tmp_path / "e", lambda i: 3), "--judge", file, "--items", "20")
    assert done.return_value == 1
    found = shown("check", tmp_path / "e", "--judge", file, "--items", "20")
    assert found["verdict"] == "fail"
    assert found["judge"]["id"] == "scripted"
    assert found["canaries"][4]["won"] == 20


@pytest.mark.slow
def test_check_exits_2_where_there_is_too_little_to_tell(tmp_path: Path, judging: Any) -> None:
    file = judging(lambda call: grades(5 if answer_in(call) == REAL else 1))
    e = judged(tmp_path / "e", lambda i: 3)
    assert run("check", e, "--judge", file, "--items", "10").return_value == 2
    assert run("check", e, "--judge", file, "--items", "20").return_value == 0


def test_compare_asks_in_both_orders(tmp_path: Path, judging: Any) -> None:
    def longer(call: Call) -> str:
        first, second = pair_in(call)
        return better("first" if len(first) > len(second) else "second")

    file = judging(longer)
    items = instructions(20)
    for name, text in (("a", "It has a bridge."), ("b", REAL)):
        evaluation.save(evaluated(TASK, items, [text] * 20, model=name), tmp_path / name)
    done = run("compare", tmp_path / "a", tmp_path / "b", "--judge", file)
    assert "20 wins, 0 losses, 0 ties" in done.stdout
    found = shown("compare", tmp_path / "a", tmp_path / "b", "--judge", file, "--items", "5")
    assert (found["wins"], found["consistency"]["mean"], len(found["pairs"])) == (5, 1, 5)


@pytest.mark.slow
def test_agree_reads_what_several_judges_said(tmp_path: Path) -> None:
    one = judged(tmp_path / "one", lambda i: 1 + i % 5)
    other = judged(tmp_path / "other", lambda i: 1 + i % 4)
    done = run("agree", one, other)
    assert "| interval alpha" in done.stdout
    assert f"mean, {other}" in done.stdout
    same = judged(tmp_path / "same", lambda i: 1 + i % 5)
    found = shown("agree", one, same)
    depth = next(m for m in found["metrics"] if m["metric"] == "depth")
    assert depth["alpha"]["nominal"]["alpha"] == 1


def test_calibrate_corrects_a_mean_and_a_gain(tmp_path: Path) -> None:
    kind = judged(tmp_path / "kind", lambda i: min(5, 2 + i % 4))
    strict = judged(tmp_path / "strict", lambda i: 1 + i % 4)
    labels = tmp_path / "labels.jsonl"
    labels.write_text(
        "".join(json.dumps({"id": i, "depth": 1 + i % 4}) + "\n" for i in range(0, 60, 3))
    )
    found = shown("calibrate", kind, labels)["metrics"][0]
    assert found["judge"]["mean"] == pytest.approx(3.5)
    assert found["corrected"]["mean"] == pytest.approx(2.5, abs=0.05)
    gain = shown("calibrate", kind, labels, "--baseline", strict, labels)
    assert gain["baseline"]
    assert gain["metrics"][0]["of"] == "change"
    assert gain["metrics"][0]["corrected"]["mean"] == pytest.approx(0, abs=0.05)
    assert "| depth " in run("calibrate", kind, labels).stdout


def test_a_sheet_is_filled_in_and_calibrates(tmp_path: Path) -> None:
    e, labels = judged(tmp_path / "e", lambda i: 1 + i % 4), tmp_path / "labels.jsonl"
    assert run("sheet", e, "--items", "20", "--out", labels).exception is None
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    assert len(rows) == 20
    error = run("sheet", e, "--out", labels).exception
    assert isinstance(error, UserError) and "labels.jsonl exists" in str(error)
    filled = [row | {"depth": 1 + row["id"] % 4} for row in rows]
    labels.write_text("".join(json.dumps(row) + "\n" for row in filled))
    found = shown("calibrate", e, labels)["metrics"][0]
    assert found["corrected"]["mean"] == pytest.approx(2.5, abs=0.01)


def test_labels_that_were_picked_are_warned_of(tmp_path: Path) -> None:
    e, labels = judged(tmp_path / "e", lambda i: 1 + i % 4), tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps({"id": i, "depth": 4}) + "\n" for i in range(3, 60, 4)))
    assert "hardly drawn at random" in run("calibrate", e, labels).stderr


def test_drift_asks_anew_past_the_cache(tmp_path: Path, judging: Any) -> None:
    strictness = {"now": 3.0}
    file = judging(lambda call: grades(strictness["now"]))
    before = judged(tmp_path / "before", lambda i: 3)
    assert run("drift", before, "--judge", file).return_value == 0
    strictness["now"] = 2.0
    done = run("drift", before, "--judge", file)
    assert done.return_value == 1
    assert "drifted: just_eval, 60 items scored twice" in done.stdout


def test_drift_compares_two_scorings_as_they_are(tmp_path: Path) -> None:
    before = judged(tmp_path / "before", lambda i: 3)
    after = judged(tmp_path / "after", lambda i: 3 - (i % 5 == 0))
    assert run("drift", before, before).return_value == 0
    assert run("drift", before, after).return_value == 2
    found = shown("drift", before, after, "--margin", "0.1")
    depth = next(m for m in found["metrics"] if m["metric"] == "depth")
    assert (depth["verdict"], depth["changed"]["mean"]) == ("stable", 0.2)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["check", "nowhere"], "There is no evaluation in nowhere"),
        (["drift", "mini"], "Name either a second evaluation"),
        (["drift", "mini", "mini", "--judge", "empty.yaml"], "Name either a second evaluation"),
        (["drift", "mini", "--judge", "empty.yaml"], "names no judge"),
        (["compare", "mini", "mini", "--judge", "empty.yaml"], "names no judge"),
        (["agree", "mini"], "One judge cannot disagree"),
        (["check", "."], "holds evaluations of"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "mini")
    judged(tmp_path / "other", lambda i: 3, 3)
    Path("empty.yaml").write_text("{}\n")
    error = run(*arguments).exception
    assert isinstance(error, UserError)
    assert why in str(error)
