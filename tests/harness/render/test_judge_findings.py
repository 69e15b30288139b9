"""What was found out about a judge reaches the page, from the files that the commands print."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.answering import POLICY, answered
from helpers.pages import parse

import tasks
from harness.core.errors import UserError
from harness.core.files import write_json
from harness.core.schema import JudgeRef, MetricResult, Record
from harness.judges.checks import calibrate, canaries, drift, panel
from harness.judges.checks.pairwise import Comparison
from harness.render.html import judge_findings
from harness.render.html.comparison import compare

JUDGE = JudgeRef(id="a <b>judge</b>", digest="d")
SHARE = MetricResult(mean=0.7, stderr=0.05, low=0.6, high=0.8, n=60)


def found() -> list[Record]:
    one = answered(lambda i: i < 30, "old")
    return [
        drift.between(one, one),
        panel.agree({"first": one, "second": one}),
        canaries.check(tasks.load("mini_gsm8k"), one, None, required=0.3),
        calibrate.mean(one, {"accuracy": {item.digest: 1.0 for item in one.items[:20]}}),
        Comparison(
            task="mini_gsm8k",
            baseline="b",
            candidate="c",
            judge=JUDGE,
            seed=0,
            win_rate=SHARE,
            p_value=0.01,
            wins=40,
            losses=15,
            ties=5,
            consistency=SHARE,
            position_bias=SHARE,
            unscored={},
            pairs=[],
        ),
    ]


def test_every_kind_of_finding_is_shown_with_its_numbers(tmp_path: Path) -> None:
    for number, record in enumerate(found()):
        write_json(tmp_path / f"{number}.json", record)
    read = [judge_findings.read(tmp_path / f"{number}.json") for number in range(5)]
    assert [one.title.split()[0] for one in read] == [
        "Drift:", "Agreement", "Canaries:", "the", "Preference",
    ]  # fmt: skip
    assert read[0].verdict == "stable"
    for one in read:
        assert one.table.rows
        assert {len(row) for row in one.table.rows} == {len(one.table.heads)}
    sides = [{"mini_gsm8k": answered(lambda i: i < 30, name)} for name in ("old", "new")]
    told = parse(compare(POLICY, *sides, read)).shown
    assert "a <b>judge</b>" in told and "40, 15, 5" in told
    assert "0.7 [0.6, 0.8] n=60" in told


@pytest.mark.parametrize("value", [{}, [], {"task": "x"}, 3])
def test_a_file_that_is_no_finding_is_refused(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "x.json", value)
    with pytest.raises(UserError, match="not a finding about a judge"):
        judge_findings.read(tmp_path / "x.json")


def test_a_malformed_finding_names_its_field(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"canaries": []})
    with pytest.raises(UserError, match=r"x\.json: task: Field required"):
        judge_findings.read(tmp_path / "x.json")
