"""Several responses per item as they are typed: `eval`, `score`, `slices` and `gate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tasks
from rlrf.cli import run
from rlrf.quickstart import M0

ITEMS = tasks.load("mini_gsm8k").items("gate", None)
N = 4


def responses(path: Path, right: int, *, repeats: int = N) -> Path:
    """Answers to all items: the first `right` of each are right, and the others differ."""
    rows = [
        {
            "id": item.index,
            "repeat": repeat,
            "response": item.reference["answer"] if repeat < right else f"#### {-1 - repeat}",
        }
        for item in ITEMS
        for repeat in range(repeats)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    return path


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*map(str, arguments), "--json"]) == 0
    (evaluation,) = json.loads(capsys.readouterr().out)
    return {name: result["mean"] for name, result in evaluation["metrics"].items()}


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run([*map(str, arguments)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_recorded_responses_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = responses(tmp_path / "a.jsonl", 1)
    found = shown(capsys, "score", "mini_gsm8k", answers, "--split", "gate")
    assert found["accuracy"] == 0.25
    counted = {name: value for name, value in found.items() if "@" in name or "^" in name}
    assert counted == pytest.approx(
        {"pass@2": 0.5, "pass@4": 1, "pass^2": 0, "pass^4": 0, "maj@2": 0.25, "maj@4": 0.25}
    )
    two = responses(tmp_path / "b.jsonl", 2)
    found = shown(capsys, "score", "mini_gsm8k", two, "--split", "gate", "--k", "4,3")
    assert "pass@2" not in found
    assert [found[name] for name in ("pass^3", "maj@3", "maj@4")] == pytest.approx([0, 2 / 3, 1])
    assert run(["score", "mini_gsm8k", str(two), "--split", "gate"]) == 0
    assert "| mini_gsm8k | maj@4            | 1.000 [0.996, 1.000] | 1000 |" in (
        capsys.readouterr().out
    )


def test_a_model_is_asked_several_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        *("eval", "--model", M0, "--tasks", "mini_gsm8k", "--split", "gate", "--limit", 6),
        *("--repeats", 3, "--temperature", 1, "--out", tmp_path / "m0"),
    ]
    found = shown(capsys, *asked)
    assert {"pass@2", "pass@3", "pass^2", "pass^3", "maj@2", "maj@3"} <= found.keys()
    assert found["pass^3"] <= found["accuracy"] <= found["pass@3"]
    assert shown(capsys, *asked, "--k", 1)["pass@1"] == pytest.approx(found["accuracy"])
    assert found == shown(capsys, "score", "mini_gsm8k", tmp_path / "m0" / "mini_gsm8k")


def test_values_of_k_are_checked_before_a_model_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["eval", "--model", "nowhere", "--tasks", "mini_gsm8k", "--repeats", 4, "--k"]
    said = refused(capsys, *asked, "2,8")
    assert "--k is 8, and an item has 4 responses. Raise --repeats to 8, or choose" in said
    for text in ("two", "0", "", "1.5", "-1", "9999999999"):
        assert "--k is" in refused(capsys, *asked, text)


def test_more_than_were_recorded_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("score", "mini_gsm8k", responses(tmp_path / "a.jsonl", 1), "--split", "gate")
    said = refused(capsys, *asked, "--k", 16)
    assert "pass@16 of mini_gsm8k takes 16 responses per item, and the evaluation has 4" in said


def test_rules_and_slices_name_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = []
    for right in (1, 2):
        answers, out = responses(tmp_path / f"{right}.jsonl", right), tmp_path / f"right_{right}"
        assert run(["score", "mini_gsm8k", str(answers), "--split", "gate", "--out", str(out)]) == 0
        sides.append(str(out))
    capsys.readouterr()
    by_steps = ("slices", f"{sides[0]}/mini_gsm8k", "--by", "steps", "--metrics")
    assert run([*by_steps, "pass@3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out).values()
    assert sum(results["pass@3"]["n"] for results in found) == len(ITEMS)
    assert {results["pass@3"]["mean"] for results in found} == {0.75}
    assert "takes 5 responses" in refused(capsys, *by_steps, "pass@5")
    policy = tmp_path / "policy.yaml"
    policy.write_text("rules:\n  - {task: mini_gsm8k, metric: pass@2, margin: .03}\n")
    assert run(["gate", *sides, "--policy", str(policy)]) == 0
    assert run(["gate", *reversed(sides), "--margin", "maj@4=0.03"]) == 1
    assert "mini_gsm8k maj@4 (critical): fail" in capsys.readouterr().out
    policy.write_text(policy.read_text().replace("pass@2", "pass@8"))
    said = refused(capsys, "gate", *sides, "--policy", policy)
    assert "pass@8 of mini_gsm8k takes 8 responses per item, and the evaluation has 4." in said
    page = tmp_path / "page.html"
    policy.write_text(policy.read_text().replace("pass@8", "pass@3"))
    ends = ["--baseline", sides[0], "--candidate", sides[1]]
    assert run(["report", *ends, "--policy", str(policy), "--out", str(page)]) == 0
    assert "pass@3: 0.75" in page.read_text()
