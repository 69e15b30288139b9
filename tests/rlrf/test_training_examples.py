from __future__ import annotations

import pytest
from helpers import toy

from rlrf.config import Explore, Pairing
from rlrf.methods.rejection_sampling import best_responses
from rlrf.methods.rrhf import make_rankings
from rlrf.objectives.sft import Example
from rlrf.pairs import make_pairs
from rlrf.reward import Reward, Rewarded, reward_by_feedback
from rlrf.training_examples import collect, distinct, similarity

TASKS = {"toy": toy.TASK}


def found(*responses, index=0, **fields) -> list[Rewarded]:
    """Responses to a prompt from (text, value) or (text, value, fields)."""
    judged = [
        toy.judged(text, value, repeat=repeat, index=index, **fields, **(more[0] if more else {}))
        for repeat, (text, value, *more) in enumerate(responses)
    ]
    return reward_by_feedback(judged, TASKS)


def lessons_of(responses, *, most=None, seed=0):
    """A lesson from the first response to each prompt that has several."""

    def first(of_prompt):
        if len(of_prompt) == 1:
            return "one response"
        sample = of_prompt[0].sample
        return [Example(**sample.model_dump(include=set(Example.model_fields)))]

    return collect(responses, first, kind="responses", most=most, seed=seed)


def several(prompts):
    return [one for i in range(prompts) for one in found(("a", 1), ("b", 0), index=i)]


def test_a_report_counts_prompts_lessons_and_causes():
    responses = [*several(3), *found(("lonely", 1), index=9)]
    lessons, report = lessons_of(responses)
    assert [one.index for one in lessons] == [0, 1, 2]
    assert (report.prompts, report.sampled, report.lessons, report.trained) == (4, 7, 3, 3)
    assert report.by_task == {"toy": 3}
    assert report.skipped == {"one response": 1}
    assert report.sentence() == ("3 responses from 4 prompts; prompts without one: one response 1")


def test_of_too_many_lessons_the_seed_decides_which_stay():
    kept = {
        seed: [one.index for one in lessons_of(several(12), most=4, seed=seed)[0]]
        for seed in (0, 1)
    }
    assert kept[0] == [one.index for one in lessons_of(several(12), most=4, seed=0)[0]]
    assert kept[0] != kept[1]
    assert len(kept[0]) == 4 and kept[0] == sorted(kept[0])
    assert lessons_of(several(12), most=4)[1].lessons == 4


def test_refinements_are_set_against_the_drafts_that_they_rewrite():
    drafts = found(("good", 1), ("bad", 0))
    refined = [
        one
        for repeat, (draft, value) in enumerate([(1, 1.0), (0, 0.0), (0, 1.0), (1, None)], start=2)
        for one in reward_by_feedback(
            [toy.judged(f"rewrite {repeat}", value, repeat=repeat, draft=draft)], TASKS
        )
    ]
    _, report = lessons_of([*drafts, *refined])
    # Better, worse, as good as the draft, and one that has no score.
    assert (report.refinements, report.refinements_better, report.refinements_worse) == (4, 1, 1)
    assert report.mean_reward == {"toy": 0.5}  # of what was explored
    assert "1 of 4 refinements are better than their draft, 1 worse" in report.sentence()


def test_rewards_are_shown_in_the_unit_of_what_gave_them():
    sample = toy.sample("a")
    other = toy.sample("b", repeat=1)
    _, report = lessons_of(
        [Rewarded(sample, Reward(0.9), raw=7.0), Rewarded(other, Reward(0.1), raw=-2.0)]
    )
    assert report.mean_reward == {"toy": 2.5}
    assert lessons_of([Rewarded(sample, None)])[1].mean_reward == {}


def test_a_text_counts_once_and_only_with_a_reward():
    texts = distinct(found(("a", None), ("b", 1), ("b", 1), ("c", 0)))
    assert [one.sample.repeat for one in texts] == [1, 3]


def test_similarity_is_the_share_of_words_in_common():
    assert similarity("a b c", "a b c") == 1
    assert similarity("a a b", "a b") == pytest.approx(2 / 3)
    assert similarity("", "") == 0 == similarity("a", "b")


def test_where_nothing_is_rewritten_nothing_is_said_of_it():
    assert "refinements" not in lessons_of(several(1))[1].sentence()


# Rejection sampling


def best(responses, **settings):
    examples, report = best_responses(responses, Pairing(**settings), 0)
    return [one.response for one in examples], report


def test_the_best_responses_are_kept():
    responses = found(("fair", 0, {"grade": 2}), ("good", 1, {"grade": 1}), ("poor", 0))
    assert best(responses, per_prompt=1)[0] == ["good"]
    assert best(responses, per_prompt=2)[0] == ["good", "fair"]  # the grade decides
    assert best(responses, per_prompt=9)[1].trained == 3


def test_what_was_cut_off_or_is_too_poor_is_not_learned():
    responses = found(("cut", 1, {"finish_reason": "length"}), ("whole", 1), ("bad", 0))
    assert best(responses)[0] == ["whole", "bad"]
    assert best(responses, min_chosen=0.5)[0] == ["whole"]
    all_cut = found(("a", 1), ("b", 0), finish_reason="length")
    assert best(all_cut)[1].skipped == {"none choosable": 1}


@pytest.mark.parametrize(
    ("responses", "cause"),
    [
        (found(("a", None), ("b", None)), "unscored"),
        (found(("a", 1), ("a", 1)), "one response"),
        (found(("a", 1), ("b", 1)), "equal rewards"),
    ],
)
def test_prompts_that_say_nothing_give_no_response_and_no_ranking(responses, cause):
    examples, report = best(responses)
    assert (examples, report.skipped) == ([], {cause: 1})
    rankings, report = make_rankings(responses, Pairing(), 0)
    assert (rankings, report.skipped) == ([], {cause: 1})


# RRHF


def test_a_ranking_is_best_first_and_ties_have_equal_ranks():
    responses = found(
        ("poor", 0),
        ("good", 1),
        ("fair", 0, {"grade": 2}),
        ("as poor", 0, {"finish_reason": "length"}),
    )
    (ranking,), report = make_rankings(responses, Pairing(), 0)
    assert ranking.responses == ["good", "fair", "poor", "as poor"]
    assert ranking.ranks == [0, 1, 2, 2]
    assert ranking.cut == [False, False, False, True]
    assert ranking.prompt == toy.sample("good").prompt
    assert (report.kind, report.lessons, report.trained) == ("rankings", 1, 4)


def test_of_many_responses_the_ends_are_ranked():
    responses = found(*((str(i), 0, {"grade": 0}) for i in range(4)), ("best", 1), ("second", 0.5))
    (ranking,), _ = make_rankings(responses, Pairing(per_prompt=1), 0)
    assert (ranking.responses, ranking.ranks) == (["best", "3"], [0, 1])
    (ranking,), _ = make_rankings(responses, Pairing(per_prompt=2), 0)
    assert (ranking.responses, ranking.ranks) == (["best", "second", "2", "3"], [0, 1, 2, 2])


def test_a_ranking_has_a_best_that_is_worth_learning():
    cut = found(("cut", 1, {"finish_reason": "length"}), ("whole", 0))
    assert make_rankings(cut, Pairing(), 0)[1].skipped == {"none choosable": 1}
    low = found(("low", 0.3), ("lower", 0))
    assert make_rankings(low, Pairing(min_chosen=0.5), 0)[1].skipped == {"none choosable": 1}
    assert make_rankings(low, Pairing(threshold=0.5), 0)[1].skipped == {"below threshold": 1}
    assert len(make_rankings(low, Pairing(threshold=0.3), 0)[0]) == 1


LONGER = "raise explore.max_tokens, so that responses are not cut off"
WARMER = "raise explore.n or explore.temperature, so that responses are not all equally good"


@pytest.mark.parametrize(
    ("responses", "explore", "pairs", "said"),
    [
        (("cut", "cut"), {}, {}, f"none choosable 1: {LONGER}"),
        (("cut", "cut"), {}, {"min_chosen": 0.5},
         f"none choosable 1: lower pairs.min_chosen, which is 0.5; or {LONGER}"),
        (("low", "bad"), {}, {"min_chosen": 0.8},
         "none choosable 1: lower pairs.min_chosen, which is 0.8"),
        (("bad", "worse"), {}, {}, f"equal rewards 1: {WARMER}"),
        (("cut bad", "cut worse"), {}, {}, f"equal rewards 1: {WARMER}; or {LONGER}"),
        (("bad",), {"n": 1}, {},
         "one response 1: raise explore.n above 1, so that responses differ"),
        (("bad", "bad"), {"temperature": 0}, {},
         "one response 1: raise explore.temperature above 0, so that responses differ"),
    ],
)  # fmt: skip
def test_the_advice_names_a_setting_that_can_help(responses, explore, pairs, said):
    values = {"cut": 1.0, "low": 0.5}
    read = [
        (text + ("" if i == 0 or text == "bad" else f" {i}"),
         values.get(text, 0.0) if i == 0 else 0.0,
         {"finish_reason": "length" if text.startswith("cut") else "stop"})
        for i, text in enumerate(responses)
    ]  # fmt: skip
    config = Pairing(**pairs)
    made, report = make_pairs(found(*read), config, seed=0)
    assert made == []
    assert report.remedy(Explore(**explore), config) == said


def test_a_report_without_cut_responses_is_stored_as_before():
    _, report = make_pairs(found(("a", 1), ("b", 0)), Pairing(), seed=0)
    assert not {"cut", "advice"} & report.model_dump(mode="json").keys()
