"""FActScore end to end: what is asked, what is found, and what happens where something lacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import tasks
from harness.core.errors import UserError
from harness.core.schema import Call, Item, Reply, Sample, Score
from harness.evals.score import score
from tasks.factscore import FactScoreSettings, configure, knowledge
from tasks.factscore.feedback import feedback
from tasks.factscore.knowledge import build_knowledge
from tasks.factscore.text import MAX_SENTENCES
from tasks.task import Judge, Task

PAGES = {
    "Ada Lund": [
        "Ada Lund (born 4 May 1931) was a Swedish painter. She studied in Uppsala.",
        "In 1962 she won the Prince Eugen Medal for her harbour paintings.",
        "She married the sculptor Nils Berg and moved to Visby, where she died in 1999.",
    ],
    "Bo Ek": ["Bo Ek is a Swedish sailor. He sailed around the world in 1987."],
}
TRUE = "Ada Lund was a Swedish painter. She studied in Uppsala. She married Nils Berg."
FALSE = "Ada Lund was a Danish footballer. She played 31 matches for Brondby in 2004."


class FakeJudge:
    """Replies by a rule, and remembers each batch."""

    id, digest = "fake", "0" * 64

    def __init__(self, reply: Callable[[Call], Reply]) -> None:
        self._reply = reply
        self.batches: list[list[Call]] = []

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        self.batches.append(list(calls))
        return [self._reply(call) for call in calls]

    @property
    def asked(self) -> list[Call]:
        return [call for batch in self.batches for call in batch]


def sentence_of(call: Call) -> str:
    return call.prompt.rsplit("Sentence: ", 1)[1].removesuffix("\nFacts:")


def careful(call: Call) -> Reply:
    """Two facts a sentence; true is what a passage says word for word."""
    if not call.choices:
        first, _, rest = sentence_of(call).partition(" and ")
        return Reply(text=f"- {first}\n- {rest}" if rest else f"- {first}")
    passages, statement = call.prompt.split("Statement: ")
    return Reply(text=str(statement.split(".")[0].split()[-1] in passages))


@pytest.fixture
def db(tmp_path: Path) -> Path:
    pages = tmp_path / "pages.jsonl"
    rows = [{"title": title, "text": text} for title, text in PAGES.items()]
    pages.write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_knowledge(pages, tmp_path / "own.db")
    return tmp_path / "own.db"


def task(db: Path, **settings: Any) -> Task:
    return configure(FactScoreSettings(knowledge=db, **settings))


def offline(db: Path, **settings: Any) -> Task:
    return task(db, decomposer="sentences", verifier="lexical", **settings)


def scored(task: Task, *told: tuple[str, str], judge: Judge | None = None) -> list[Score]:
    answered = []
    for index, (entity, response) in enumerate(told):
        item = Item(
            task="factscore",
            split="test",
            index=index,
            prompt=f"Write a biography of {entity}.",
            reference={"entity": entity},
        )
        sample = Sample(
            task="factscore", item=item.digest, index=index, prompt="", response=response
        )
        answered.append((item, sample))
    return task.score(answered, judge)


# What an answer is compared with ------------------------------------------------------------------


def test_an_answer_is_grounded_in_the_passages_on_what_it_says(db: Path, tmp_path: Path) -> None:
    rows = [{"title": "Ada Lund", "text": "She sailed far. " * 300 + "She won the Oak Medal."}]
    pages = tmp_path / "long.jsonl"
    pages.write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_knowledge(pages, tmp_path / "long.db")
    item = Item(
        task="factscore", split="test", index=0, prompt="?", reference={"entity": "Ada Lund"}
    )
    grounded = offline(tmp_path / "long.db", k=1)
    assert grounded.ground(item, "She won a medal.").endswith("She won the Oak Medal.")
    assert "Medal" not in grounded.ground(item, "She sailed.")
    both = grounded.ground(item, "She sailed. She won a medal. She sailed far.")
    assert len(both.split("\n\n")) == 2
    unknown = item.model_copy(update={"reference": {"entity": "Cy Dahl"}})
    assert offline(db).ground(unknown, "She sailed.") == ""
    assert tasks.load("factscore").ground(item, "She sailed.") == ""


# Without a model ----------------------------------------------------------------------------------


def test_own_pages_are_enough_to_tell_a_true_biography_from_a_false_one(db: Path) -> None:
    true, false = scored(offline(db), ("Ada Lund", TRUE), ("Ada Lund", FALSE))
    assert (true.values["precision"], false.values["precision"]) == (1, 0)
    assert (true.values["facts"], false.values["facts"]) == (3, 2)
    assert true.details["facts"][1] == {
        "text": "She studied in Uppsala.",
        "supported": True,
        "evidence": "She studied in Uppsala.",
    }


def test_feedback_quotes_the_fact_and_the_evidence(db: Path) -> None:
    task = offline(db)
    entity, wrong = "Ada Lund", "In 1971 she won the Prince Eugen Medal for her poems."
    (score,) = scored(task, (entity, wrong))
    item = Item(task="factscore", split="test", index=0, prompt="", reference={"entity": entity})
    sample = Sample(task="factscore", item=item.digest, index=0, prompt="", response=wrong)
    factuality = feedback(item, sample, score).aspects[0]
    assert (factuality.aspect, factuality.grade) == ("factuality", 0)
    assert f"does not support: '{wrong}'" in factuality.justification
    assert "Nearest it says: 'In 1962 she won the Prince Eugen Medal" in factuality.justification


def test_an_entity_without_a_page_is_unscored_and_the_others_are_not(db: Path) -> None:
    absent, present = scored(offline(db), ("Cy Dahl", TRUE), ("Bo Ek", "Bo Ek is a sailor."))
    why = "the knowledge source has no page 'Cy Dahl'"
    assert absent.values == {"responded": 1}
    assert absent.unscored == dict.fromkeys(("factscore", "precision", "f1_at_k", "facts"), why)
    assert present.values["precision"] == 1


def test_an_empty_or_declining_biography_has_only_not_responded(db: Path) -> None:
    judge = FakeJudge(careful)
    answers = [("Ada Lund", ""), ("Ada Lund", "I'm sorry, I cannot."), ("Cy Dahl", " \n")]
    for found in scored(task(db), *answers, judge=judge):
        assert (found.values, found.unscored) == ({"responded": 0}, {})
    assert judge.asked == []


def test_a_biography_of_nothing_but_signs_states_no_facts(db: Path) -> None:
    (found,) = scored(offline(db), ("Ada Lund", "Here is a biography of Ada Lund:"))
    assert (found.values["facts"], found.values["factscore"]) == (0, 0)
    (found,) = scored(offline(db), ("Ada Lund", "Sure, she was a Swedish painter."))
    assert found.values["facts"] == 1


def test_what_chat_models_say_around_an_answer_is_no_fact(db: Path) -> None:
    around = f"Sure! Here is a biography:\n\n{TRUE}\n\nLet me know if you need more."
    (found,) = scored(offline(db), ("Ada Lund", around))
    assert [fact["text"] for fact in found.details["facts"]][-1] == "She married Nils Berg."
    assert not any("Let me know" in fact["text"] for fact in found.details["facts"])


def test_markup_is_no_part_of_a_fact(db: Path) -> None:
    text = "# Ada Lund\n\n## Life\n- **Ada Lund** was a Swedish painter.\n- She studied in Uppsala."
    (found,) = scored(offline(db), ("Ada Lund", text))
    assert [fact["text"] for fact in found.details["facts"]] == [
        "Ada Lund was a Swedish painter.",
        "She studied in Uppsala.",
    ]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "response",
    ["Ada Lund paints. " * 60_000, "x" * 10**6, "1 " * 500_000, "A. " * 300_000, "\n-" * 500_000],
)
def test_a_runaway_biography_costs_little_and_says_what_was_left_out(
    db: Path, response: str
) -> None:
    judge = FakeJudge(careful)
    (found,) = scored(task(db), ("Ada Lund", response), judge=judge)
    assert len(judge.asked) <= 3 * MAX_SENTENCES
    assert max((len(call.prompt) for call in judge.asked), default=0) < 10_000
    assert "not read: characters after 200,000" in found.details["cut"]


def test_of_too_many_facts_the_first_are_verified_and_it_is_said(db: Path) -> None:
    numbered = FakeJudge(
        lambda call: Reply(
            text="True" if call.choices else "".join(f"- Ada {'a' * n}.\n" for n in range(150))
        )
    )
    text = "\n".join(f"Ada Lund painted {'very ' * n}well." for n in range(20))
    (found,) = scored(task(db), ("Ada Lund", text), judge=numbered)
    assert found.values["facts"] == 1000
    assert found.details["cut"] == "not verified: facts after 1000, of 3,000"


# With a judge -------------------------------------------------------------------------------------


def test_a_judge_is_asked_in_two_batches_a_call_a_sentence_and_a_call_a_fact(db: Path) -> None:
    judge = FakeJudge(careful)
    text = "Ada Lund was a painter and she studied in Uppsala. She was born in Oslo."
    first, second = scored(
        task(db), ("Ada Lund", text), ("Bo Ek", "Bo Ek is a sailor."), judge=judge
    )
    assert [len(batch) for batch in judge.batches] == [3, 4]
    assert [fact["supported"] for fact in first.details["facts"]] == [True, True, False]
    assert second.values["precision"] == 1


def test_the_best_passage_comes_last_and_k_are_shown(db: Path) -> None:
    judge = FakeJudge(careful)
    text = "She won the Prince Eugen Medal."
    scored(task(db, decomposer="sentences", k=2), ("Ada Lund", text), judge=judge)
    (call,) = judge.asked
    passages = call.prompt.split("Passage ")[1:]
    assert call.choices == ("True", "False")
    assert len(passages) <= 2
    assert "Prince Eugen Medal" in passages[-1].split("Statement")[0]
    assert "Ada Lund" in call.prompt


def test_equal_calls_are_made_once(db: Path) -> None:
    judge = FakeJudge(careful)
    found = scored(task(db), *[("Ada Lund", "She studied in Uppsala.")] * 5, judge=judge)
    assert len(judge.asked) == 2
    assert {score.values["precision"] for score in found} == {1}


def test_half_a_surrogate_pair_in_a_biography_reaches_the_judge(db: Path) -> None:
    judge = FakeJudge(careful)
    [found] = scored(task(db), ("Ada Lund", "She studied in Uppsala \ud83d."), judge=judge)
    assert found.values["facts"] == 1
    assert any("\ud83d" in call.prompt for call in judge.asked)


def test_without_the_judge_that_the_settings_need_all_is_unscored(db: Path) -> None:
    for settings in ({}, {"decomposer": "sentences"}, {"verifier": "lexical"}):
        (found,) = scored(task(db, **settings), ("Ada Lund", TRUE))
        assert found.values == {"responded": 1}
        assert "no judge was named" in found.unscored["factscore"]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(failure="timed out"), "timed out"),
        (Reply(text="- She stud", failure="cut short"), "cut short"),
        (Reply(text="I would rather not."), "holds no list of facts"),
        (Reply(), "holds no list of facts"),
    ],
)
def test_a_response_is_not_scored_on_the_facts_of_some_of_its_sentences(
    db: Path, reply: Reply, why: str
) -> None:
    def rule(call: Call) -> Reply:
        bad = not call.choices and "Uppsala" in sentence_of(call)
        return reply if bad else careful(call)

    failed, fine = scored(
        task(db), ("Ada Lund", TRUE), ("Bo Ek", "Bo Ek is a sailor."), judge=FakeJudge(rule)
    )
    assert failed.values == {"responded": 1}
    assert why in failed.unscored["factscore"]
    assert "Uppsala" in failed.unscored["factscore"]
    assert fine.values["precision"] == 1


def test_a_response_is_not_scored_on_some_of_its_findings(db: Path) -> None:
    def rule(call: Call) -> Reply:
        bad = call.choices and "Statement: She studied" in call.prompt
        return Reply(failure="refused") if bad else careful(call)

    (found,) = scored(task(db), ("Ada Lund", TRUE), judge=FakeJudge(rule))
    assert found.values == {"responded": 1}
    assert found.unscored["precision"] == "1 of 3 facts not verified: refused"


@pytest.mark.parametrize("reply", ["No", "The statement is not true.", "Falsch"])
def test_a_judge_that_denies_in_other_words_supports_nothing(db: Path, reply: str) -> None:
    judge = FakeJudge(lambda call: Reply(text=reply))
    (found,) = scored(task(db, decomposer="sentences"), ("Ada Lund", FALSE), judge=judge)
    assert (found.values["precision"], found.values["facts"]) == (0, 2)
    published = task(db, decomposer="sentences", verdict="published")
    (found,) = scored(published, ("Ada Lund", FALSE), judge=judge)
    assert found.values["precision"] == 1


def test_a_verdict_that_cannot_be_read_is_unscored_and_quoted(db: Path) -> None:
    judge = FakeJudge(lambda call: Reply(text="I would have to look that up."))
    (found,) = scored(task(db, decomposer="sentences"), ("Ada Lund", FALSE), judge=judge)
    assert found.values == {"responded": 1}
    why = "2 of 2 facts not verified: the reply commits to no verdict: 'I would have to look"
    assert found.unscored["precision"].startswith(why)


@pytest.mark.parametrize("none", ["NONE", "- NONE", "None."])
def test_a_sentence_may_state_no_fact(db: Path, none: str) -> None:
    def rule(call: Call) -> Reply:
        empty = not call.choices and "studied" in sentence_of(call)
        return Reply(text=none) if empty else careful(call)

    (found,) = scored(task(db), ("Ada Lund", TRUE), judge=FakeJudge(rule))
    assert found.values["facts"] == 2


# Demonstrations -----------------------------------------------------------------------------------


def test_the_published_demonstrations_are_shown_and_the_nearest_besides(
    db: Path, shared_data: Path
) -> None:
    path = shared_data / "factscore" / "demos" / "demons.json"
    demos = json.loads(path.read_text())
    judge = FakeJudge(careful)
    later = list(demos)[-1]
    scored(task(db, demonstrations=path), ("Ada Lund", later), judge=judge)
    shown = judge.batches[0][0].prompt
    assert [said for said in demos if f"Sentence: {said}\n" in shown] == [*list(demos)[:7], later]
    assert all(f"\n- {fact}" in shown for said in list(demos)[:7] for fact in demos[said])


@pytest.mark.parametrize("text", ["[]", "{}", '{"a": []}', '{"a": "b"}', '{"a": [1]}', "nonsense"])
def test_unfit_demonstrations_are_refused(db: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "demos.json").write_text(text)
    with pytest.raises(UserError, match=r"demos\.json"):
        task(db, demonstrations=tmp_path / "demos.json")


# Settings and identity ----------------------------------------------------------------------------


def test_the_estimator_names_every_part(db: Path, tmp_path: Path) -> None:
    estimator = offline(db).estimator or ""
    for part in (
        "knowledge ",
        "decompose sentences",
        "bm25 k5",
        "verify lexical@",
        "gamma 10, k 3",
    ):
        assert part in estimator
    ways = [
        offline(db),
        offline(db, k=4),
        offline(db, gamma=9),
        offline(db, at_k=29),
        offline(db, abstention="search"),
        offline(db, abstention="generic"),
        task(db, verdict="published"),
        task(db, verifier="lexical"),
        task(db, decomposer="sentences"),
    ]
    assert len({way.estimator for way in ways}) == len(ways)
    assert offline(db).judge_prompt is None
    assert len({way.judge_prompt for way in ways[-2:]} | {task(db).judge_prompt, None}) == 4
    demos = tmp_path / "demos.json"
    demos.write_text('{"He sang.": ["He sang."]}')
    assert task(db, demonstrations=demos).judge_prompt != task(db).judge_prompt


def test_another_knowledge_source_is_another_estimator(db: Path, tmp_path: Path) -> None:
    pages = tmp_path / "other.jsonl"
    pages.write_text('{"title": "Ada Lund", "text": "Ada Lund was a painter."}\n')
    build_knowledge(pages, tmp_path / "other.db")
    assert offline(tmp_path / "other.db").estimator != offline(db).estimator
    (tmp_path / "copy.db").write_bytes(db.read_bytes())
    assert offline(tmp_path / "copy.db").estimator == offline(db).estimator


def test_an_evaluation_says_by_what_and_whom_it_was_scored(db: Path, tmp_path: Path) -> None:
    (tmp_path / "entities.txt").write_text("Ada Lund\nBo Ek\n")
    rows = [{"id": 0, "response": TRUE}, {"id": 1, "response": "Bo Ek is a sailor."}]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers, data = tmp_path / "said.jsonl", tmp_path / "entities.txt"
    alone = score(offline(db), answers, data=data).evaluation
    asked = score(task(db), answers, data=data, judge=FakeJudge(careful)).evaluation
    assert alone.judge is None
    assert asked.judge is not None
    assert asked.judge.prompt_digest == task(db).judge_prompt
    assert alone.estimator == offline(db).estimator
    assert alone.comparable_key != asked.comparable_key
    assert alone.metrics["precision"].mean == 1
    assert alone.metrics["precision"].n == 2


def test_what_cannot_work_is_refused_before_anything_is_asked(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knowledge, "find_spec", lambda name: None)
    (tmp_path / "text.db").write_text("no database")
    with pytest.raises(UserError, match="not a knowledge source"):
        offline(tmp_path / "text.db")
    with pytest.raises(UserError, match="There is no knowledge source"):
        offline(tmp_path / "absent.db")
    with pytest.raises(UserError, match=r"rlrf-harness\[dense\]"):
        offline(db, retriever="dense")
    with pytest.raises(ValidationError, match="nli_model"):
        task(db, verifier="nli")
