from __future__ import annotations

import pytest
from helpers import toy

from rlrf.config import Pairing
from rlrf.pairs import make_pairs
from rlrf.reward import reward_by_feedback
from rlrf.training_examples import similarity

TASKS = {"toy": toy.TASK}


def pairs_of(*judged, seed=0, **settings):
    return make_pairs(reward_by_feedback(judged, TASKS), Pairing(**settings), seed)


def test_the_better_is_chosen_and_the_prompt_is_the_explored_one():
    pairs, report = pairs_of(toy.judged("four", 0.0), toy.judged("4", 1.0, repeat=1))
    assert [(p.chosen, p.rejected, p.gap) for p in pairs] == [("4", "four", 1.0)]
    assert pairs[0].prompt == "<What is 0 plus 4?>"
    assert (report.prompts, report.lessons, report.chosen_refined) == (1, 1, 0)


def test_equal_rewards_never_make_a_pair():
    pairs, report = pairs_of(toy.judged("a", 1.0), toy.judged("b", 1.0, repeat=1), threshold=0)
    assert not pairs
    assert report.skipped == {"equal rewards": 1}


def test_the_grade_breaks_ties_of_the_metric():
    pairs, _ = pairs_of(
        toy.judged("a", 0.0, grade=0), toy.judged("b", 0.0, repeat=1, grade=2), threshold=0.5
    )
    assert [(p.chosen, p.gap) for p in pairs] == [("b", 1.0)]


@pytest.mark.parametrize(
    ("judged", "settings", "cause"),
    [
        ([toy.judged("a", None)], {}, "unscored"),
        ([toy.judged("a", 1.0), toy.judged("a", 1.0, repeat=1)], {}, "one response"),
        (
            [toy.judged("a", 0.5), toy.judged("b", 0.6, repeat=1)],
            {"threshold": 0.2},
            "below threshold",
        ),
        (
            [toy.judged("a", 0.0), toy.judged("b", 1.0, repeat=1, finish_reason="length")],
            {},
            "none choosable",
        ),
        (
            [toy.judged("a", 0.0), toy.judged("b", 0.4, repeat=1)],
            {"min_chosen": 0.5},
            "none choosable",
        ),
        (
            [toy.judged("a b c", 0.0), toy.judged("a b d", 1.0, repeat=1)],
            {"max_similarity": 0.5},
            "too similar",
        ),
    ],
)
def test_a_prompt_without_a_pair_says_why(judged, settings, cause):
    pairs, report = pairs_of(*judged, **settings)
    assert not pairs
    assert report.skipped == {cause: 1}
    assert cause in report.sentence()
    assert report.median_similarity is None


def test_a_rejected_response_may_be_cut_and_says_so():
    pairs, _ = pairs_of(
        toy.judged("a", 0.0, finish_reason="length"), toy.judged("b", 1.0, repeat=1)
    )
    assert pairs[0].rejected_cut


def test_refinements_answer_the_question_and_are_counted():
    pairs, report = pairs_of(
        toy.judged("bad", 0.0),
        toy.judged("fair", 0.5, repeat=1),
        toy.judged("good", 1.0, repeat=2, draft=0),
        toy.judged("worse", 0.2, repeat=3, draft=1),
        per_prompt=1,
    )
    assert [(p.chosen, p.chosen_origin, p.rejected) for p in pairs] == [("good", "refined", "bad")]
    assert pairs[0].prompt == "<What is 0 plus 4?>"
    assert report.refinements == 2
    assert (report.refinements_better, report.refinements_worse) == (1, 1)
    assert report.chosen_refined == 1
    assert report.mean_reward == {"toy": 0.25}


def test_no_response_is_used_twice_and_the_widest_gaps_come_first():
    values = [0.0, 0.1, 0.8, 1.0]
    judged = [toy.judged(str(v), v, repeat=i) for i, v in enumerate(values)]
    pairs, _ = pairs_of(*judged, per_prompt=9)
    assert [(p.chosen, p.rejected) for p in pairs] == [("1.0", "0.0"), ("0.8", "0.1")]


def test_a_pair_that_is_too_similar_gives_way_to_a_narrower_one():
    judged = [
        toy.judged("a b c", 0.0),
        toy.judged("x y z", 0.2, repeat=1),
        toy.judged("a b d", 1.0, repeat=2),
    ]
    (pair,), _ = pairs_of(*judged)
    assert (pair.chosen, pair.rejected) == ("a b d", "a b c")
    (pair,), _ = pairs_of(*judged, max_similarity=0.5)
    assert (pair.chosen, pair.rejected, pair.similarity) == ("a b d", "x y z", 0)


def test_the_same_seed_gives_the_same_pairs_and_max_total_holds():
    judged = [
        toy.judged(f"{word} {i}", float(word == "right"), repeat=r, index=i)
        for i in range(20)
        for r, word in enumerate(["right", "wrong", "right", "wrong"])
    ]
    few, report = pairs_of(*judged, max_total=7)
    assert len(few) == report.lessons == 7
    assert few == pairs_of(*judged, max_total=7)[0]
    assert few != pairs_of(*judged, max_total=7, seed=1)[0]
    every, _ = pairs_of(*judged)
    assert all(pair in every for pair in few)


def test_similarity_counts_words_in_common():
    assert similarity("a b b", "b b a") == 1
    assert similarity("a b c d", "a x") == 0.25
    assert similarity("", "") == 0


def test_a_refinement_that_repeats_its_draft_is_counted_and_never_paired():
    draft, other = toy.judged("four", 0.0), toy.judged("4", 1.0, repeat=1)
    repeated = toy.judged("four", 0.5, repeat=8, draft=0)  # judged otherwise the second time
    pairs, report = pairs_of(draft, repeated)
    assert not pairs and report.skipped == {"one response": 1}
    assert (report.refinements, report.refinements_equal) == (1, 1)
    assert "1 repeat it" in report.sentence()
    pairs, _ = pairs_of(draft, other, repeated)
    assert [(p.chosen, p.rejected) for p in pairs] == [("4", "four")]
    _, report = pairs_of(draft, toy.judged("4", 1.0, repeat=8, draft=0))
    assert report.refinements_equal == 0 and "repeat" not in report.sentence()
