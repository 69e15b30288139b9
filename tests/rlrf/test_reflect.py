from __future__ import annotations

from helpers import toy

from harness.engines import Completion, Engine
from rlrf.config import Explore, Reflect
from rlrf.context import pick_from_task, rotate
from rlrf.feedback import give_feedback
from rlrf.reflect import choose_drafts, reflect, request
from rlrf.sampling import conversation, explore

TASKS = {"toy": toy.TASK}
ITEMS = {item.digest: item for item in toy.items("train")}


class Echo(Engine):
    """An engine that answers every prompt with its length, and keeps what it was asked."""

    name, model_id, model_digest = "echo", "echo", "0"

    def __init__(self):
        self.asked = []

    def render(self, messages):
        return "".join(f"[{m.role}: {m.content}]" for m in messages)

    def generate(self, prompts, sampling, on_done=None):
        self.asked.append((list(prompts), sampling))
        return [
            [Completion(f"{len(p)} {j}", "stop", len(p), 2) for j in range(sampling.n)]
            for p in prompts
        ]


def test_rotation_is_disjoint_until_all_were_used_and_then_starts_again():
    rotations = [rotate(10, 4, rotation, 0, "toy/gate") for rotation in range(3)]
    assert sorted(rotations[0] + rotations[1] + rotations[2])[:10] != list(range(10))
    assert not set(rotations[0]) & set(rotations[1])
    assert set(rotations[0] + rotations[1] + rotations[2]) == set(range(10))
    assert all(len(set(positions)) == 4 for positions in rotations)
    assert rotate(10, 4, 0, 1, "toy/gate") != rotations[0]
    assert rotate(3, 9, 5, 0, "x") == [0, 1, 2]


def test_items_of_two_iterations_are_different():
    first, second = (pick_from_task(toy.TASK, "train", 15, rotation=k, seed=0) for k in (0, 1))
    assert not {i.digest for i in first} & {i.digest for i in second}


def test_exploring_samples_every_prompt_n_times():
    engine = Echo()
    items = toy.items("train")[:3]
    samples = explore(engine, {"toy": items}, TASKS, Explore(n=2, temperature=0.9), seed=7)
    assert [(s.index, s.repeat) for s in samples] == [(i, j) for i in range(3) for j in range(2)]
    assert samples[0].prompt == "[user: What is 0 plus 4?]"
    ((_, sampling),) = engine.asked
    assert (sampling.n, sampling.temperature, sampling.seed) == (2, 0.9, 7)
    assert sampling.max_tokens == toy.TASK.generation["max_tokens"]


def test_equal_responses_are_scored_once():
    scored = []

    def score(answered, judge=None):
        scored.extend(answered)
        return toy.score(answered)

    task = toy.TASK.__class__(**{**toy.TASK.__dict__, "score": score})
    samples = [toy.sample("4", repeat) for repeat in range(3)] + [toy.sample("5", 3)]
    judged = give_feedback(samples, ITEMS, {"toy": task})
    assert len(scored) == 2
    assert [one.score.repeat for one in judged] == [0, 1, 2, 3]
    assert [one.score.values["right"] for one in judged] == [1, 1, 1, 0]


def test_the_request_says_what_is_wrong_and_asks_for_a_rewrite():
    (one,) = give_feedback([toy.sample("five")], ITEMS, TASKS)
    assert request(one.feedback) == "The sum is wrong.\nRewrite the answer."
    turns = conversation(toy.items("train")[0].prompt, "five", request(one.feedback))
    assert [(t.role, t.content) for t in turns] == [
        ("user", "What is 0 plus 4?"),
        ("assistant", "five"),
        ("user", "The sum is wrong.\nRewrite the answer."),
    ]


def test_drafts_are_distinct_imperfect_and_the_most_promising():
    judged = [
        toy.judged("perfect", 1.0, repeat=0, grade=2),
        toy.judged("near", 0.8, repeat=1),
        toy.judged("near", 0.8, repeat=2),
        toy.judged("poor", 0.1, repeat=3, grade=0),
        toy.judged("fair", 0.5, repeat=4),
        toy.judged("unknown", None, repeat=5),
    ]
    drafts = choose_drafts(judged, TASKS, 2, seed=0)
    assert [d.sample.repeat for d in drafts] == [1, 4]
    assert choose_drafts(judged, TASKS, 0, seed=0) == []


def test_refinements_know_their_draft_and_follow_the_explored_repeats():
    engine = Echo()
    judged = [toy.judged("a", 0.0, repeat=0), toy.judged("b", 0.0, repeat=1)]
    refined = reflect(engine, judged, ITEMS, TASKS, Reflect(m=2), first_repeat=4, seed=3)
    assert [(r.draft, r.sample.repeat) for r in refined] == [(0, 4), (1, 5)]
    assert "[assistant: a]" in refined[0].sample.prompt
    assert "About a.\nRewrite the answer." in refined[0].sample.prompt
    assert reflect(engine, [], ITEMS, TASKS, Reflect(), first_repeat=4, seed=3) == []
