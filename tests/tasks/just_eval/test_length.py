"""What length has to do with a score."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm

from harness.board import Board
from harness.core.schema import MetricResult, Score
from harness.evals.score import RecordedReplies, score
from tasks.just_eval import TASKS
from tasks.just_eval.judging import REGULAR
from tasks.just_eval.length import REFERENCE_WORDS, at_equal_length, length_results

Numbers = Sequence[float]


def scored(words: Numbers, overall: Numbers, repeat: int = 0) -> list[Score]:
    return [
        Score(
            task="just_eval",
            item=f"item {i}",
            index=i,
            repeat=repeat,
            values={"words": w, "overall": o, "depth": o},
        )
        for i, (w, o) in enumerate(zip(words, overall, strict=True))
    ]


def at_length(scores: Sequence[Score]) -> MetricResult:
    return length_results(scores)["overall_at_length"]


def depth_r(scores: Sequence[Score]) -> MetricResult:
    return length_results(scores)["depth_length_r"]


def draws(seed: int, n: int) -> tuple[Numbers, Numbers]:
    rng = np.random.default_rng(seed)
    words = np.round(np.exp(rng.normal(5, 0.8, n)))
    return words.tolist(), (3 + 0.4 * np.log1p(words) / 5 + rng.normal(0, 0.5, n)).tolist()


def test_the_correlation_is_pearsons_with_fishers_interval() -> None:
    words, values = draws(1, 50)
    found = depth_r(scored(words, values))
    r = float(np.corrcoef(np.log1p(words), values)[0, 1])
    half = 1.959963984540054 / math.sqrt(47)
    assert found.mean == pytest.approx(r)
    assert found.low == pytest.approx(math.tanh(math.atanh(r) - half))
    assert found.high == pytest.approx(math.tanh(math.atanh(r) + half))
    assert (found.n, found.stderr) == (50, None)


def test_the_value_at_length_is_that_of_ordinary_least_squares() -> None:
    words, values = draws(2, 60)
    found = at_length(scored(words, values))
    fit = sm.OLS(values, sm.add_constant(np.log1p(words))).fit()
    there = fit.get_prediction([[1.0, math.log1p(REFERENCE_WORDS)]])
    assert found.mean == pytest.approx(float(there.predicted_mean[0]))
    assert found.stderr == pytest.approx(float(there.se_mean[0]))
    assert (found.low, found.high) == pytest.approx(tuple(there.conf_int()[0]))
    assert found.n == 60


def test_a_score_that_is_all_length_is_known_exactly_at_the_reference() -> None:
    words = [10.0, 50.0, 200.0, 400.0, 900.0]
    found = at_length(scored(words, [math.log1p(w) for w in words]))
    assert found.mean == pytest.approx(math.log1p(REFERENCE_WORDS))
    assert found.stderr == pytest.approx(0, abs=1e-7)
    assert depth_r(scored(words, [math.log1p(w) for w in words])).mean == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["value at length", "gain at equal length"])
def test_the_intervals_cover(measure: str) -> None:
    """600 draws of 30 items: a nominal 95 % interval covers between 92.5 and 97.5 %."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(600):
        before, after = np.round(np.exp(rng.normal(5, 0.7, (2, 30))))
        moods, noise = rng.normal(3, 0.5, 30), rng.normal(0, 0.4, (2, 30))
        baseline = scored(before.tolist(), (moods + 0.3 * np.log1p(before) + noise[0]).tolist())
        if measure == "value at length":
            found, truth = at_length(baseline), 3 + 0.3 * math.log1p(REFERENCE_WORDS)
        else:
            own = moods + 0.3 * np.log1p(after) + 0.2 + noise[1]
            found, truth = at_equal_length(baseline, scored(after.tolist(), own.tolist())), 0.2
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert 555 <= covered <= 585


def test_a_gain_that_is_all_length_is_no_gain_at_equal_length() -> None:
    rng = np.random.default_rng(3)
    before = np.round(np.exp(rng.normal(4.5, 0.6, 200)))
    after = np.round(before * np.exp(rng.normal(0.5, 0.4, 200)))
    moods = rng.normal(2, 0.3, 200)
    longer = [
        scored(w.tolist(), (moods + 0.5 * np.log1p(w) + rng.normal(0, 0.1, 200)).tolist())
        for w in (before, after)
    ]
    found = at_equal_length(*longer)
    plain = np.mean(
        [c.values["overall"] - b.values["overall"] for b, c in zip(*longer, strict=True)]
    )
    assert plain > 0.2
    assert found.low is not None and found.high is not None
    assert found.low < 0 < found.high
    assert found.n == 200


def test_the_gain_is_the_intercept_of_the_paired_differences() -> None:
    baseline, candidate = scored(*draws(8, 40)), scored(*draws(9, 40))
    rows = [
        (
            math.log1p(c.values["words"]) - math.log1p(b.values["words"]),
            c.values["overall"] - b.values["overall"],
        )
        for b, c in zip(baseline, candidate, strict=True)
    ]
    fit = sm.OLS([y for _, y in rows], sm.add_constant([x for x, _ in rows])).fit()
    found = at_equal_length(baseline, candidate)
    assert found.mean == pytest.approx(fit.params[0])
    assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int()[0]))
    swapped = at_equal_length(candidate, baseline)
    assert swapped.mean == pytest.approx(-fit.params[0])


def test_at_equal_lengths_the_gain_is_the_plain_one() -> None:
    words = [10.0, 20.0, 30.0, 40.0]
    found = at_equal_length(scored(words, [3, 3, 4, 4]), scored(words, [4, 3, 5, 5]))
    assert (found.mean, found.n) == (0.75, 4)
    assert found.stderr == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("words", "values", "measure"),
    [
        ([100, 100, 100, 100, 100], [1, 2, 3, 4, 5], at_length),
        ([100, 100, 100, 100, 100], [1, 2, 3, 4, 5], depth_r),
        ([1, 2, 3, 4, 5], [4, 4, 4, 4, 4], depth_r),
        ([1, 2, 3], [3, 4, 5], at_length),
        ([1, 2, 3], [3, 4, 5], depth_r),
        ([], [], at_length),
        ([], [], depth_r),
    ],
)
def test_what_cannot_be_known_is_none(
    words: Numbers, values: Numbers, measure: Callable[[Sequence[Score]], MetricResult]
) -> None:
    found = measure(scored(words, values))
    assert (found.mean, found.low, found.high, found.n) == (None, None, None, len(words))


def test_equal_lengths_at_the_reference_need_no_line() -> None:
    found = at_length(scored([REFERENCE_WORDS] * 4, [2, 3, 4, 5]))
    assert (found.mean, found.n) == (3.5, 4)


def test_length_and_gain_are_not_told_apart_where_all_grew_alike() -> None:
    baseline = scored([0, 0, 0, 0, 0], [3, 3, 4, 4, 3])
    assert at_equal_length(baseline, scored([9] * 5, [5, 5, 5, 5, 4])).mean is None


def test_equal_scores_are_the_value_at_any_length() -> None:
    found = at_length(scored([1, 20, 300, 4000], [5, 5, 5, 5]))
    assert (found.mean, found.stderr, found.n) == (5, 0, 4)


def test_an_empty_answer_has_a_length() -> None:
    found = at_length(scored([0, 50, 150, 400, 800], [1, 3, 4, 4, 5]))
    assert (found.n, found.unscored) == (5, 0)
    assert found.mean is not None and 3 < found.mean < 5


def test_repeats_are_one_item() -> None:
    words, values = draws(4, 20)
    once = scored(words, values)
    assert at_length(once + scored(words, values, repeat=1)) == at_length(once)


def test_unscored_is_counted_and_what_does_not_apply_is_not() -> None:
    scores = scored([10, 20, 40, 80, 160], [1, 2, 3, 5, 4])
    lost = scores[0].model_copy(
        update={
            "item": "lost",
            "values": {"words": 9.0},
            "unscored": {"overall": "no", "depth": "no"},
        }
    )
    spared = scores[0].model_copy(
        update={
            "item": "spared",
            "values": {"words": 9.0, "overall": 3.0},
            "details": {"not_applicable": ["depth"]},
        }
    )
    safe = Score(task="just_eval", item="safe", index=9, values={"overall": 5, "safety": 5})
    results = length_results([*scores, lost, spared, safe])
    counts = {name: (r.n, r.unscored) for name, r in results.items()}
    assert counts["depth_length_r"] == (5, 1)
    assert counts["depth_official_length_r"] == (6, 1)
    assert counts["overall_length_r"] == counts["overall_at_length"] == (6, 1)
    assert counts["clarity_length_r"] == (0, 0)
    found = at_equal_length([*scores, lost], [*scores, safe])
    assert (found.n, found.unscored) == (5, 1)


def test_a_board_recomputes_every_number(tmp_path: Path) -> None:
    rows, answers, replies = [], [], []
    for i in range(8):
        regular = i < 6
        aspects = list(REGULAR) if regular else ["safety"]
        grades = {a: 1 + (i * i + k * k) % 5 for k, a in enumerate(aspects)}
        rows.append(
            {"id": i, "instruction": f"Q {i}", "category": "regular" if regular else "safety"}
        )
        answers.append({"id": i, "response": "word " * (10 + 7 * i * i)})
        reply = {a: {"reason": "why", "score": g} for a, g in grades.items()}
        if i == 2:
            reply["depth"]["score"] = "N/A"
        replies.append({"id": i, "reply": json.dumps(reply)})
    for name, lines in (("rows", rows), ("answers", answers), ("replies", replies)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    evaluated = score(
        "just_eval",
        tmp_path / "answers.jsonl",
        data=tmp_path / "rows.jsonl",
        judge=RecordedReplies(tmp_path / "replies.jsonl"),
    )
    metrics = evaluated.evaluation.metrics
    assert metrics == TASKS[0].aggregate(evaluated.scores)
    assert metrics["overall_at_length"].mean is not None
    assert metrics["depth_length_r"].n == 5
    board = Board(tmp_path / "board")
    board.add_evaluation(evaluated, "model", "run")
    assert board.verify() == []
