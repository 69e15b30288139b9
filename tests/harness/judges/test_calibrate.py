"""A judge against people: what is read, what is corrected, and what the correction is worth."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.scripted import ScriptedJudge, evaluated, grades, instructions
from scipy.stats import pearsonr

import tasks
from harness.core.errors import UserError
from harness.core.schema import Call
from harness.core.scored import ScoredEvaluation
from harness.judges.checks.calibrate import Labels, change, mean, read_labels, sheet

TASK = tasks.load("just_eval")
N = 400


def people(seed: int, middle: float) -> list[int]:
    rng = random.Random(seed)
    return [max(1, min(5, round(rng.gauss(middle, 1)))) for _ in range(N)]


def judged(truth: list[int], seed: int, kind: float = 1.0) -> ScoredEvaluation:
    """A judge that is `kind` grades too kind, and noisy."""
    rng = random.Random(seed)
    said = [max(1, min(5, round(value + kind + rng.gauss(0, 0.5)))) for value in truth]

    def say(call: Call) -> str:
        return grades(said[int(call.prompt.split("town number ")[1].split("?")[0])])

    items = instructions(len(truth))
    return evaluated(TASK, items, [f"Answer {seed}."] * len(truth), ScriptedJudge(say))


def labels(saved: ScoredEvaluation, truth: list[int], labelled: Iterable[int]) -> Labels:
    return {"depth": {saved.items[i].digest: float(truth[i]) for i in labelled}}


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_kind_judge_is_corrected_to_what_people_say() -> None:
    truth = people(1, 2.6)
    saved = judged(truth, 2)
    chosen = random.Random(3).sample(range(N), 80)
    found = mean(saved, labels(saved, truth, chosen)).metrics[0]
    assert (found.labelled, found.unlabelled, found.of) == (80, N - 80, "mean")
    everyone = sum(truth) / N
    assert found.judge.mean == pytest.approx(everyone + 1, abs=0.15)
    assert found.judge.low is not None and found.judge.low > everyone  # a confident error
    assert found.corrected.low is not None and found.corrected.high is not None
    assert found.corrected.low <= everyone <= found.corrected.high
    assert found.human.stderr is not None and found.corrected.stderr is not None
    assert found.corrected.stderr < 0.75 * found.human.stderr
    assert found.effective_n == pytest.approx(
        80 * (found.human.stderr / found.corrected.stderr) ** 2
    )
    assert found.bias.low is not None and found.bias.low > 0.7
    pairs = [(truth[i], saved.scores[i].values["depth"]) for i in chosen]
    assert found.correlation.mean == pytest.approx(pearsonr(*np.transpose(pairs)).statistic)


def test_a_gain_that_only_the_judge_sees_is_taken_back() -> None:
    """The judge likes the candidate's manner: half a grade for answers that are no better."""
    before = people(1, 3)
    rng = random.Random(9)
    after = [max(1, min(5, value + rng.choice((-1, 0, 0, 1)))) for value in before]
    baseline, candidate = judged(before, 2, kind=0), judged(after, 3, kind=0.6)
    chosen = random.Random(5).sample(range(N), 100)
    found = change(
        baseline, labels(baseline, before, chosen), candidate, labels(candidate, after, chosen)
    )
    one = found.metrics[0]
    truth = (sum(after) - sum(before)) / N
    assert found.baseline == baseline.evaluation.identity
    assert one.of == "change"
    assert one.judge.low is not None and one.judge.low > truth + 0.2
    assert one.corrected.low is not None and one.corrected.high is not None
    assert one.corrected.low <= truth <= one.corrected.high


def test_a_yes_no_metric_keeps_to_its_range() -> None:
    task = tasks.load("mini_gsm8k")
    items = task.items("sealed")[:100]
    saved = evaluated(task, items, [item.reference["answer"] for item in items])
    right = {"accuracy": {item.digest: 1.0 for item in items[:20]}}
    found = mean(saved, right).metrics[0].corrected
    assert (found.mean, found.high) == (1, 1)
    assert found.low is not None and found.low < 0.95  # 20 of 20 prove little


def test_labels_for_every_item_are_the_human_mean() -> None:
    truth = people(5, 3)
    saved = judged(truth, 6)
    found = mean(saved, labels(saved, truth, range(N))).metrics[0]
    assert found.corrected.mean == pytest.approx(sum(truth) / N)
    assert (found.unlabelled, found.weight) == (0, 0)
    assert found.effective_n == pytest.approx(N)


def test_a_constant_judge_is_not_followed() -> None:
    truth = people(5, 3)
    said = ScriptedJudge(lambda call: grades(4))
    saved = evaluated(TASK, instructions(N), ["Yes."] * N, said)
    found = mean(saved, labels(saved, truth, range(50))).metrics[0]
    assert (found.weight, found.correlation.mean) == (0, None)
    assert found.corrected.mean == found.human.mean


def test_labels_are_read_by_index(tmp_path: Path) -> None:
    saved = judged(people(1, 3), 2)
    rows = [{"id": 3, "depth": 4, "factuality": None}, {"id": "7", "depth": 2.5, "overall": 3}]
    assert read_labels(write(tmp_path / "l.jsonl", rows), saved) == {
        "depth": {saved.items[3].digest: 4.0, saved.items[7].digest: 2.5},
        "overall": {saved.items[7].digest: 3.0},
    }


def test_a_sheet_shows_answers_and_no_grades_and_is_read_back(tmp_path: Path) -> None:
    saved = judged(people(1, 3), 2)
    rows = sheet(saved, 30, seed=4)
    assert rows == sheet(saved, 30, seed=4) != sheet(saved, 30, seed=5)
    assert len(rows) == 30
    assert rows[0]["response"] == "Answer 2."
    assert all(row["depth"] is None for row in rows)
    assert "safety" not in rows[0]  # it does not apply to this request
    rows[0]["depth"] = 4
    read = read_labels(write(tmp_path / "l.jsonl", rows), saved)
    assert read == {"depth": {saved.items[rows[0]["id"]].digest: 4.0}}


def test_a_sheet_may_ask_for_some_metrics_alone() -> None:
    saved = evaluated(TASK, instructions(3), ["Yes."] * 3)
    assert sheet(saved, None, names=["depth"])[0].keys() == {"id", "prompt", "response", "depth"}
    with pytest.raises(UserError, match="Did you mean 'depth'"):
        sheet(saved, None, names=["dept"])


def test_a_metric_with_few_labels_is_left_out_and_said() -> None:
    truth = people(1, 3)
    saved = judged(truth, 2)
    some = labels(saved, truth, range(20)) | {"clarity": labels(saved, truth, range(3))["depth"]}
    found = mean(saved, some)
    assert [one.metric for one in found.metrics] == ["depth"]
    assert found.too_few == {"clarity": 3}


def test_labels_of_the_best_answers_only_are_seen() -> None:
    truth = people(1, 3)
    saved = judged(truth, 2)
    best = sorted(range(N), key=lambda i: -truth[i])[:60]
    assert (mean(saved, labels(saved, truth, best)).metrics[0].p_random or 0) < 1e-6
    drawn = random.Random(1).sample(range(N), 60)
    assert (mean(saved, labels(saved, truth, drawn)).metrics[0].p_random or 0) > 0.01


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([{"id": 1, "depht": 3}], "Did you mean 'depth'"),
        ([{"id": 1, "depth": 6}], "runs from 1 to 5"),
        ([{"id": 1, "depth": "good"}], r"line 1: values.depth: .*valid number"),
        ([{"id": 1, "depth": float("nan")}], r"line 1: values.depth: .*finite"),
        ([{"id": 1, "depth": 1}, {"id": 1, "depth": 1}], "there before, in line 1"),
        ([{"id": 4000, "depth": 1}], "no item with id 4000"),
        ([{"depth": 1}], "line 1: id"),
        ([{"id": 1}], "There are no labels"),
    ],
)
def test_what_cannot_be_a_label_is_refused(tmp_path: Path, rows: list[Any], why: str) -> None:
    saved = evaluated(TASK, instructions(5), ["Yes."] * 5)
    with pytest.raises(UserError, match=why):
        read_labels(write(tmp_path / "l.jsonl", rows), saved)


def test_too_few_labels_and_sides_that_do_not_match_are_refused() -> None:
    truth = people(1, 3)
    saved = judged(truth, 2)
    with pytest.raises(UserError, match=r"9 items have both .* of depth"):
        mean(saved, labels(saved, truth, range(9)))
    other = evaluated(TASK, instructions(5), ["Yes."] * 5, ScriptedJudge(lambda call: grades(3)))
    with pytest.raises(UserError, match="differ in their dataset_digest"):
        change(saved, {}, other, {})
    with pytest.raises(UserError, match="no metric in common"):
        change(saved, {}, saved, {})
