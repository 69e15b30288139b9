"""pass@k, pass^k and maj@k: equal to counting all subsets, unbiased, and with honest intervals."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from helpers.quiz import make
from scipy.stats import binom

from harness.core.errors import UserError
from harness.core.scored import ScoredEvaluation
from harness.stats.intervals import aggregate_repeats
from harness.stats.repeats import (
    MAX_VOTERS,
    majority_at_k,
    pass_all_k,
    pass_at_k,
    reported_names,
    with_repeat_metrics,
)

Vote = str | None


def answered(
    items: Sequence[Sequence[tuple[float | str, Vote]]], *, votes: bool = True
) -> ScoredEvaluation:
    """An evaluation of items with these responses: right or not, and the answer."""
    rows = [{"accuracy": value} for responses in items for value, _ in responses]
    made = make(rows, repeats=len(items[0]))
    answers = [answer for responses in items for _, answer in responses]
    scores = [
        score.model_copy(update={"details": {"answer": answer} if votes else {}})
        for score, answer in zip(made.scores, answers, strict=True)
    ]
    return replace(made, scores=scores)


def majority_by_counting(right: Sequence[float], votes: Sequence[Vote], k: int) -> float:
    """The mean over all subsets of k, each counted by hand; ties are shared."""
    worth = {
        vote: np.mean([r for r, v in zip(right, votes, strict=True) if v == vote])
        for vote in {*votes}
    }
    values = []
    for subset in itertools.combinations(votes, k):
        cast = Counter(vote for vote in subset if vote is not None)
        winners = [vote for vote in cast if cast[vote] == max(cast.values())] or [None]
        values.append(np.mean([worth[vote] for vote in winners]))
    return float(np.mean(values))


# One item ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_and_pass_all_k_are_the_shares_of_subsets(n: int) -> None:
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = [*itertools.combinations([1] * right + [0] * (n - right), k)]
        assert pass_at_k(n, right, k) == pytest.approx(np.mean([max(s) for s in subsets]))
        assert pass_all_k(n, right, k) == pytest.approx(np.mean([min(s) for s in subsets]))


@pytest.mark.parametrize(("n", "k"), [(10, 1), (64, 8), (200, 100), (1000, 999)])
def test_pass_at_k_is_the_published_formula(n: int, k: int) -> None:
    for right in (0, 1, n // 3, n - 1, n):
        none = math.comb(n - right, k) / math.comb(n, k)
        assert pass_at_k(n, right, k) == pytest.approx(1 - none, abs=1e-12)
        assert pass_all_k(n, right, k) == pytest.approx(
            math.comb(right, k) / math.comb(n, k), abs=1e-12
        )


@pytest.mark.parametrize("chance", [0.01, 0.3, 0.9])
def test_pass_metrics_are_unbiased_at_any_number_of_responses(chance: float) -> None:
    n, k = 12, 5
    weights = binom.pmf(range(n + 1), n, chance)
    expected = sum(w * pass_at_k(n, c, k) for c, w in enumerate(weights))
    assert expected == pytest.approx(1 - (1 - chance) ** k)
    expected = sum(w * pass_all_k(n, c, k) for c, w in enumerate(weights))
    assert expected == pytest.approx(chance**k)


def test_majority_is_that_of_all_subsets() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(1, 9))
        votes = rng.choice(["18", "20", "7", "no", None], n).tolist()
        right = [float(vote == "18") for vote in votes]
        if rng.random() < 0.2:  # equal answers of unequal worth
            right = rng.integers(0, 2, n).astype(float).tolist()
        for k in range(1, n + 1):
            counted = majority_by_counting(right, votes, k)
            assert majority_at_k(right, votes, k) == pytest.approx(counted, abs=1e-12)


def test_majority_is_unbiased_at_any_number_of_responses() -> None:
    chances = {"18": 0.45, "20": 0.35, None: 0.2}
    n, k = 6, 3

    def expected(responses: int) -> float:
        total = 0.0
        for votes in itertools.product(chances, repeat=responses):
            right = [float(vote == "18") for vote in votes]
            weight = math.prod(chances[vote] for vote in votes)
            total += weight * majority_at_k(right, votes, k)
        return total

    assert expected(n) == pytest.approx(expected(k))


@pytest.mark.parametrize(
    ("votes", "k", "value"),
    [
        (["18", "18", "7"], 3, 1),
        (["18", "7", "7"], 3, 0),
        (["18", "7"], 2, 1 / 2),
        (["18", "7", "20"], 3, 1 / 3),
        (["18", None, None], 3, 1),
        ([None, None, None], 2, 0),
        (["18"] * MAX_VOTERS, 7, 1),
    ],
)
def test_ties_share_the_vote_and_missing_answers_do_not_vote(
    votes: list[Vote], k: int, value: float
) -> None:
    assert majority_at_k([float(vote == "18") for vote in votes], votes, k) == value


def test_majority_of_very_many_answers_stays_a_share() -> None:
    rng = np.random.default_rng(1)
    votes = rng.integers(0, 40, MAX_VOTERS).astype(str).tolist()
    values = [majority_at_k([float(v == "3") for v in votes], votes, k) for k in (1, 2, 64, 127)]
    assert values[0] == pytest.approx(votes.count("3") / MAX_VOTERS)
    assert all(0 <= value <= 1 for value in values)


# All items --------------------------------------------------------------------------------------


def test_a_table_reports_powers_of_two_and_all_responses() -> None:
    made = answered([[(1, "a")] * 6, [(0, "b")] * 6])
    assert reported_names(made) == [
        *("pass@2", "pass@4", "pass@6"),
        *("pass^2", "pass^4", "pass^6"),
        *("maj@2", "maj@4", "maj@6"),
    ]
    assert reported_names(made, [1, 5])[:2] == ["pass@1", "pass@5"]
    assert not any(
        name.startswith("maj") for name in reported_names(answered([[(1, "")] * 6], votes=False))
    )


def test_one_response_per_item_and_graded_tasks_report_nothing() -> None:
    assert reported_names(answered([[(1, "a")], [(0, "b")]])) == []
    assert reported_names(make([{"grade": 2.0}] * 8, repeats=4)) == []


def test_each_item_counts_once_and_the_first_k_is_the_mean() -> None:
    made = answered([[(1, "a"), (0, "b"), (0, "b"), (0, "c")], [(1, "a")] * 4, [(0, "d")] * 4])
    found = aggregate_repeats(made, ["pass@1", "pass@2", "pass^2", "maj@3", "maj@4"])
    means = {name: result.mean for name, result in found.items()}
    assert means == pytest.approx(
        {
            "pass@1": (1 / 4 + 1) / 3,
            "pass@2": (1 / 2 + 1) / 3,
            "pass^2": 1 / 3,
            "maj@3": (1 / 6 + 1) / 3,  # of a b c a third, in 2 of 4 subsets
            "maj@4": 1 / 3,
        }
    )
    assert {result.n for result in found.values()} == {3}
    assert made.evaluation.metrics["accuracy"].mean == pytest.approx(means["pass@1"])


def test_an_item_with_an_unscored_response_is_unscored_with_its_reason() -> None:
    made = answered([[(1, "a"), ("no response: refused", None)], [(1, "a"), (1, "a")]])
    counted = with_repeat_metrics(made, ["pass@2", "maj@2"])
    reason = "1 of 2 responses have no value: no response: refused"
    assert [score.unscored.get("pass@2", "") for score in counted.scores] == [reason] * 2 + [""] * 2
    assert counted.scores[2].values["maj@2"] == 1
    found = aggregate_repeats(made, ["pass@2"])["pass@2"]
    assert (found.mean, found.n, found.unscored) == (1, 1, 2)


def test_another_yes_no_metric_is_counted_where_it_is_named() -> None:
    rows = [{"accuracy": 1.0, "responded": float(i % 2)} for i in range(4)]
    found = aggregate_repeats(make(rows, repeats=2), ["pass@2(responded)", "pass^2(responded)"])
    assert [found[name].mean for name in found] == [1, 0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "pass@8",
            r"pass@8 of quiz takes 8 responses per item, and the evaluation has 2\. .*--rep",
        ),
        ("maj@3", r"takes 3 responses per item, and the evaluation has 2"),
        ("pass@2(grade)", r"grade of quiz is not a yes/no metric .* pass@2\(accuracy\)"),
        ("pass@2(refused)", "refused of quiz is not a yes/no metric of which yes is better"),
        ("pass@2(acuracy)", "no metric 'acuracy'.* Did you mean 'accuracy'"),
    ],
)
def test_what_cannot_be_counted_is_a_sentence(name: str, said: str) -> None:
    rows = [{"accuracy": 1.0, "grade": 2.0, "refused": 0.0} for _ in range(4)]
    with pytest.raises(UserError, match=said):
        with_repeat_metrics(make(rows, repeats=2), [name])


def test_a_vote_needs_answers_and_not_too_many_responses() -> None:
    with pytest.raises(UserError, match="maj@2 of quiz votes on answers, and the scores have none"):
        with_repeat_metrics(answered([[(1, "")] * 2], votes=False), ["maj@2"])
    many = answered([[(1, "a")] * (MAX_VOTERS + 1)])
    with pytest.raises(UserError, match=f"not computed from more than {MAX_VOTERS} responses"):
        with_repeat_metrics(many, ["maj@2"])
    assert reported_names(many)[-1] == f"maj@{MAX_VOTERS + 1}"


@pytest.mark.parametrize("name", ["pass@0", "pass@", "pass@-1", "maj@1.5", "pass@01", "accuracy"])
def test_other_names_are_left_alone(name: str) -> None:
    made = answered([[(1, "a")] * 2])
    assert with_repeat_metrics(made, [name]) is made


@pytest.mark.parametrize(
    ("name", "chances"),
    [
        ("pass@4", (0.3, 3.0)),  # most items are hopeless
        ("pass^2", (0.3, 3.0)),
        ("pass@2", (3.0, 0.3)),  # most items are easy
        ("maj@3", (0.5, 0.5)),
    ],
)
def test_intervals_over_few_items_of_skewed_difficulty_cover(
    name: str, chances: tuple[float, float]
) -> None:
    """24 items of 6 responses each; the truth is the mean over the population of items."""
    rng = np.random.default_rng(7)
    difficulty = rng.beta(*chances, 200_000)
    k = int(name[-1])
    truth = {
        "pass@": 1 - (1 - difficulty) ** k,
        "pass^": difficulty**k,
        "maj@": binom.sf(1, 3, difficulty),  # two answers: right and wrong
    }[name.rstrip("1234")].mean()
    covered = 0
    for _ in range(300):
        right = rng.random((24, 6)) < rng.beta(*chances, 24)[:, None]
        made = answered([[(float(r), str(r)) for r in row] for row in right])
        found = aggregate_repeats(made, [name])[name]
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert covered >= 300 * 0.93
