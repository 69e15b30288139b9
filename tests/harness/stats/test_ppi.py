"""Prediction-powered means: closed forms, and intervals that hold what they promise."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, t, ttest_1samp

from harness.core.errors import UserError
from harness.stats.noninferiority import unseen_change
from harness.stats.ppi import YES_NO, YES_NO_CHANGE, Corrected, Numbers, corrected_mean

RUNS = 4000


def data(n: int, others: int, agree: float, seed: int, runs: int = 1) -> tuple[Numbers, Numbers]:
    """Latent quality as people and a judge see it, shape (runs, n + others), correlated."""
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(runs, n + others))
    noise = rng.normal(size=(runs, n + others))
    return people, agree * people + math.sqrt(1 - agree**2) * noise


def grades(quality: Numbers, middle: float) -> Numbers:
    return np.clip(np.rint(quality + middle), 1, 5)


def covered(found: Corrected, truth: float) -> float:
    return float(((found.low <= truth) & (truth <= found.high)).mean())


def test_with_weight_0_it_is_the_classical_mean() -> None:
    people, judge = data(30, 500, 0.8, seed=1)
    found = corrected_mean(people[0, :30], judge[0, :30], judge[0, 30:], weight=0)
    classical = ttest_1samp(people[0, :30], 0).confidence_interval(0.95)
    assert float(found.mean) == pytest.approx(people[0, :30].mean())
    assert (float(found.low), float(found.high)) == pytest.approx((classical.low, classical.high))
    assert float(found.effective_n) == pytest.approx(30)


def test_with_weight_1_it_is_plain_prediction_powered_inference() -> None:
    people, judge = data(40, 300, 0.8, seed=2)
    y, f, rest = people[0, :40], judge[0, :40], judge[0, 40:]
    found = corrected_mean(y, f, rest, weight=1)
    error = math.sqrt(np.var(y - f, ddof=1) / 40 + np.var(rest, ddof=1) / 300)
    assert float(found.mean) == pytest.approx(rest.mean() + (y - f).mean())
    assert float(found.stderr) == pytest.approx(error)
    assert float(found.high - found.mean) == pytest.approx(t.ppf(0.975, 39) * error)


def test_the_tuned_weight_gives_the_smallest_error_and_a_useless_judge_gets_none() -> None:
    people, judge = data(400, 4000, 0.7, seed=3)
    y, f, rest = people[0, :400], judge[0, :400], judge[0, 400:]
    best = corrected_mean(y, f, rest)
    nearby = [float(corrected_mean(y, f, rest, weight=w).stderr) for w in np.linspace(-1, 2, 61)]
    assert float(best.stderr) <= 1.01 * min(nearby)
    assert float(best.weight) == pytest.approx(0.7 / (1 + 400 / 4000), abs=0.08)
    noise = np.random.default_rng(4).normal(size=4400)
    assert abs(float(corrected_mean(y, noise[:400], noise[400:]).weight)) < 0.15
    assert float(corrected_mean(y, np.ones(400), np.ones(4000)).weight) == 0


def test_a_judge_with_a_scale_of_its_own_loses_nothing() -> None:
    people, judge = data(50, 500, 0.8, seed=5)
    y, f, rest = people[0, :50], judge[0, :50], judge[0, 50:]
    own, scaled = corrected_mean(y, f, rest), corrected_mean(y, 7 - f / 4, 7 - rest / 4)
    for name in ("mean", "low", "high", "effective_n"):
        assert float(getattr(own, name)) == pytest.approx(float(getattr(scaled, name)))


def test_labels_for_all_items_leave_nothing_to_the_judge() -> None:
    people, judge = data(25, 1, 0.9, seed=6)
    for others in (0, 1):
        found = corrected_mean(people[0, :25], judge[0, :25], judge[0, 25 : 25 + others])
        assert float(found.mean) == pytest.approx(people[0, :25].mean())
        assert float(found.weight) == 0


def test_labels_that_are_all_alike_are_no_certainty() -> None:
    found = corrected_mean(np.full(20, 4), np.full(20, 5), np.full(100, 5), span=4)
    assert float(found.mean) == 4
    assert float(found.low) == pytest.approx(4 - 4 * unseen_change(20, 0.025))
    assert float(found.low) < 3.5


def test_a_handful_of_labels_is_refused() -> None:
    with pytest.raises(UserError, match="at least 10 are needed"):
        corrected_mean(np.ones(9), np.ones(9), np.ones(100))


@pytest.mark.parametrize("agree", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("n", "others"), [(10, 90), (20, 20), (20, 400), (100, 400)])
@pytest.mark.parametrize("weight", [None, 1.0])
def test_the_interval_of_grades_covers(
    n: int, others: int, agree: float, weight: float | None
) -> None:
    """The judge is half a grade too kind; the truth is what people would say of all."""
    people, judge = data(n, others, agree, seed=n + others, runs=RUNS)
    y, f = grades(people, 4.2), grades(judge, 4.7)
    truth = 1 + sum(norm.sf(cut - 4.2) for cut in (1.5, 2.5, 3.5, 4.5))
    found = corrected_mean(y[:, :n], f[:, :n], f[:, n:], weight=weight)
    assert 0.92 <= covered(found, truth) <= 0.975


@pytest.mark.parametrize("agree", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("n", [10, 20, 50, 200])
def test_the_interval_of_a_gain_covers(n: int, agree: float) -> None:
    """Two models' answers to the same items; each side of the judge errs in its own way."""
    base, judge_base = data(n, 5 * n, agree, seed=n, runs=RUNS)
    gain, judge_gain = data(n, 5 * n, agree, seed=n + 1, runs=RUNS)
    y = grades(0.6 * base + 0.8 * gain, 3.5) - grades(base, 3.2)
    f = grades(0.6 * judge_base + 0.8 * judge_gain, 4.2) - grades(judge_base, 3.4)
    cuts = (1.5, 2.5, 3.5, 4.5)
    truth = sum(norm.sf(c - 3.5) - norm.sf(c - 3.2) for c in cuts)
    found = corrected_mean(y[:, :n], f[:, :n], f[:, n:])
    assert 0.93 <= covered(found, truth) <= 0.97


@pytest.mark.parametrize("share", [0.5, 0.84, 0.95])
@pytest.mark.parametrize("n", [10, 20, 50, 200])
def test_the_interval_of_a_share_covers_near_one_too(n: int, share: float) -> None:
    people, judge = data(n, 10 * n, 0.8, seed=n, runs=RUNS)
    cut = norm.ppf(share)
    y, f = (people > -cut).astype(float), (judge > -cut - 0.2).astype(float)
    found = corrected_mean(y[:, :n], f[:, :n], f[:, n:], outcomes=YES_NO)
    assert covered(found, share) >= 0.94
    assert found.low.min() >= 0
    assert found.high.max() <= 1


@pytest.mark.parametrize("n", [10, 20, 50, 200])
def test_the_interval_of_a_gain_in_a_share_covers(n: int) -> None:
    before, judge_before = data(n, 5 * n, 0.8, seed=n, runs=RUNS)
    moved, judge_moved = data(n, 5 * n, 0.8, seed=n + 1, runs=RUNS)
    after, judge_after = 0.9 * before + 0.436 * moved, 0.9 * judge_before + 0.436 * judge_moved
    y = (after > -1.2).astype(float) - (before > -1.0)
    f = (judge_after > -1.6).astype(float) - (judge_before > -1.2)
    truth = float(norm.cdf(1.2 / math.hypot(0.9, 0.436)) - norm.cdf(1.0))
    found = corrected_mean(y[:, :n], f[:, :n], f[:, n:], outcomes=YES_NO_CHANGE)
    assert covered(found, truth) >= 0.94


def test_a_good_judge_multiplies_the_labels() -> None:
    people, judge = data(1000, 9000, 0.9, seed=8, runs=20)
    found = corrected_mean(people[:, :1000], judge[:, :1000], judge[:, 1000:])
    # n / (1 - r^2 N / (n + N)) labels would do as well.
    assert float(np.median(found.effective_n)) == pytest.approx(1000 / (1 - 0.81 * 0.9), rel=0.05)


def test_real_labels_of_few_biographies_tell_of_all(shared_data: Path) -> None:
    """157 biographies by ChatGPT: the share of facts that people found supported on Wikipedia.

    The judge is crude: a fact counts as supported if the page has its words. 40 biographies are
    labelled, drawn 2,000 times; the mean of all 157 is known.
    """
    knowledge = shared_data / "factscore" / "knowledge"
    pages: dict[str, set[str]] = {}
    for line in (knowledge / "kb_wikipedia_157.jsonl").read_text().splitlines():
        row = json.loads(line)
        pages[row["title"]] = set(re.findall(r"\w+", " ".join(row["passages"]).lower()))
    people, judge = defaultdict(list), defaultdict(list)
    facts = (knowledge / "chatgpt_facts_with_bm25_passage_ids.jsonl").read_text()
    for line in facts.splitlines():
        row = json.loads(line)
        words = re.findall(r"\w+", row["fact"].lower())
        people[row["topic"]].append(row["labels"] == ["S"])
        judge[row["topic"]].append(all(word in pages[row["topic"]] for word in words))
    y = np.array([np.mean(people[topic]) for topic in people])
    f = np.array([np.mean(judge[topic]) for topic in people])
    order = np.random.default_rng(0).permuted(np.tile(np.arange(len(y)), (2000, 1)), axis=1)
    chosen, others = order[:, :40], order[:, 40:]
    found = corrected_mean(y[chosen], f[chosen], f[others])
    assert abs(f.mean() - y.mean()) > 0.1  # the judge alone is far off
    assert covered(found, float(y.mean())) >= 0.94
    assert float(np.median(found.effective_n)) > 50
