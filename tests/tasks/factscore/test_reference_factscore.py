"""The published `factscore` package beside ours: the same where meant to be, different by name.

The package runs in an environment of its own (`reference_factscore.py` says how it is made).
"""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.core.schema import Item, Reply, Sample
from tasks.factscore import TASKS
from tasks.factscore.abstention import abstains
from tasks.factscore.decomposers import STUBS, clean_facts, parse_facts
from tasks.factscore.scoring import Fact, facts_score
from tasks.factscore.text import NUMBERED, OPENING, TITLES, is_abbreviation, split
from tasks.factscore.verifiers import published_verdict

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-factscore" / "bin" / "python"
pytestmark = pytest.mark.slow


def reference(*calls: Sequence[Any]) -> list[Any]:
    """The package's answers, one a call [function, argument, ...]."""
    if not PYTHON.exists():
        pytest.skip(f"the factscore package is not installed in {PYTHON.parents[1]}")
    with tempfile.TemporaryDirectory() as folder:  # it leaves a cache where it runs
        done = subprocess.run(
            [PYTHON, ROOT / "tests" / "helpers" / "reference_factscore.py"],
            input=json.dumps(calls),
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},  # it goes through sets
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(done.stdout))


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> list[dict[str, Any]]:
    """The labelled biographies of both models."""
    folder = shared_data / "factscore" / "labeled"
    return [
        json.loads(line)
        for name in ("InstructGPT", "ChatGPT")
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def sentences(rows: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Each labelled sentence with the facts that a model wrote of it."""
    return [
        (part["text"].strip(), [fact["text"] for fact in part["model-atomic-facts"]])
        for row in rows
        for part in row["annotations"] or []
        if part.get("model-atomic-facts")
    ]


# Abstention ---------------------------------------------------------------------------------------


def test_the_same_responses_decline(rows: list[dict[str, Any]]) -> None:
    said = [row["output"] for row in rows if row["output"].strip()]
    said += [
        "I'm sorry, but I do not know her.",
        "Please provide more context.",
        "I could not find any information on her.[1]\n\nBut here is more.",
        "She paints.\n\nThere is no information on her death.",
        "According to [1], there are no search results.",
    ]
    for ours, theirs in (("generic", "generic"), ("search", "perplexity_ai")):
        found = reference(*(["abstains", text, theirs] for text in said))
        assert [abstains(text, ours) for text in said] == found


# On purpose: empty responses decline, the apostrophe may be curly, letters may be large.
@pytest.mark.parametrize(
    "text", ["", " \n", "I\N{RIGHT SINGLE QUOTATION MARK}m sorry.", "PROVIDE MORE"]
)
def test_declining_that_the_package_misses(text: str) -> None:
    assert reference(["abstains", text, "generic"]) == [False]
    assert abstains(text, "generic")


def test_a_citation_does_not_join_paragraphs() -> None:
    """The package drops the line break with the mark, and takes both for the first paragraph."""
    text = "She paints.[1]\n\nThere is no information on her death."
    assert reference(["abstains", text, "perplexity_ai"]) == [True]
    assert not abstains(text, "search")


# Sentences ----------------------------------------------------------------------------------------


def places(sentences: Sequence[str]) -> dict[int, str]:
    """Where sentences end, in characters that are no space -> the last word before."""
    found, place = {}, 0
    for sentence in sentences:
        place += len("".join(sentence.split()))
        found[place] = sentence.split()[-1]
    return found


def test_sentences_are_repaired_alike_and_abbreviations_end_none(
    rows: list[dict[str, Any]],
) -> None:
    """The package repairs what NLTK's trained splitter gave it; here, what a plain one did.

    Every sentence end of ours is one of the package's; those it has besides follow a title, an
    abbreviation or initials, where NLTK knows better.
    """
    paragraphs = [
        line.strip()
        for row in rows
        if row["annotations"]
        for line in row["output"].splitlines()
        if line.strip()
    ]
    pieces = [re.split(r"(?<=[.!?])\s+|(?<=[.!?][\"”')])\s+", text) for text in paragraphs]
    repaired = reference(*(["repair", *pair] for pair in zip(paragraphs, pieces, strict=True)))
    more = 0
    for text, theirs in zip(paragraphs, repaired, strict=True):
        ours, ends = places(split(text)), places(theirs)
        assert set(ours) <= set(ends)
        for place in set(ends) - set(ours):
            word = ends[place].lstrip(OPENING).rstrip(".")
            assert word.lower() in TITLES | NUMBERED or is_abbreviation(word), ends[place]
            more += 1
    assert (len(paragraphs), more) == (616, 21)


# Facts --------------------------------------------------------------------------------------------


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)


STUB_ENDS = tuple(f"{stub}." for stub in STUBS)


def plain(sentence: str, facts: list[str]) -> bool:
    """Whether no rule on which the two differ applies: numbers of three or more digits without
    commas, points or letters, none the beginning of another, each in a fact; no month uncovered."""
    has = numbers(sentence)
    months = r"\b(?:Jan|Febr)uary|March|April|May|June|July|August|\w+(?:tem|to|em)ber\b"
    told = " ".join(facts)
    return (
        all(len(n) > 2 for n in has)
        and not re.search(r"\d[.,]\d|\d[a-z]", sentence)
        and len({n[:3] for n in has}) == len(set(has))
        and not any(fact.endswith(STUB_ENDS) for fact in facts)
        and set(has) <= set(numbers(told))
        and set(re.findall(months, sentence)) <= set(re.findall(months, told))
    )


def test_the_published_facts_stay_as_they_are(rows: list[dict[str, Any]]) -> None:
    """They were cleaned once; the package, without its entity recogniser, damages five."""
    told = sentences(rows)
    theirs = reference(*(["postprocess", *pair] for pair in told))
    same = sum(clean_facts(*pair) == found for pair, found in zip(told, theirs, strict=True))
    assert (len(told), same) == (2363, 2358)
    for (sentence, facts), found in zip(told, theirs, strict=True):
        ours = clean_facts(sentence, facts)
        if plain(sentence, facts):
            assert ours == found
        assert set(ours) <= set(facts)


def test_damaged_facts_are_cleaned_alike(rows: list[dict[str, Any]]) -> None:
    rng = random.Random(0)
    told = [pair for pair in sentences(rows) if plain(*pair)]
    damaged = []
    for sentence, facts in told:
        broken = list(facts)
        broken.insert(rng.randrange(len(facts) + 1), rng.choice(facts))
        broken.append(f"{facts[0].removesuffix('.')} in 1203.")
        if years := [n for n in numbers(sentence) if len(n) == 4]:
            broken.append(f"It was in {years[0][:3]}.")
        stub = rng.choice(STUBS)
        broken += [f"She was {stub}.", f"She was {stub} of the town."]
        damaged.append((sentence, broken))
    theirs = reference(*(["postprocess", *pair] for pair in damaged))
    assert len(damaged) > 1000
    differ = []
    for pair, found in zip(damaged, theirs, strict=True):
        if clean_facts(*pair) != found:
            differ.append((*pair, found, clean_facts(*pair)))
    assert differ == []


@pytest.mark.parametrize(
    ("sentence", "facts", "theirs", "ours"),
    [
        # A number that no fact tells: the package gives up cleaning; ours goes on.
        ("She won in 1990 and 1992.", ["She won in 1990.", "She won in 1990."], 2, 1),
        ("In 1990 she was born.", ["She was born.", "She was born there."], 2, 1),
        # Grouped digits are one number.
        ("It had 1,200 members.", ["It had 1200 members."], 1, 1),
        # "1" is no beginning of "1990" that could be meant.
        ("She won in 1990.", ["She won in 1990.", "She has 1 son."], 2, 1),
        # Two equal stubs contain each other: the package drops both.
        ("She is a known member.", ["She is a member.", "She is a member.", "She sang."], 1, 2),
        # "-born" is more than a stub.
        ("Ada is Norse-born.", ["Ada is Norse-born.", "Ada is Norse-born and old."], 1, 2),
        # The only fact with a name stays, whatever else it says.
        ("She met Ada Lund in 1990.", ["It was in 1990.", "She met Ada Lund in 1776."], 1, 2),
    ],
)
def test_where_cleaning_differs_on_purpose(
    sentence: str, facts: list[str], theirs: int, ours: int
) -> None:
    assert [len(found) for found in reference(["postprocess", sentence, facts])] == [theirs]
    assert len(clean_facts(sentence, facts)) == ours


def test_lists_of_facts_are_read_alike_and_prose_is_left_out(shared_data: Path) -> None:
    demos = json.loads((shared_data / "factscore" / "demos" / "demons.json").read_text())
    replies = ["\n".join(f"- {fact}" for fact in facts) for facts in demos.values()]
    theirs = reference(*(["parse", reply] for reply in replies))
    # On purpose: every fact ends in a stop, not only the last; what stands before or after the
    # list is no fact; a hyphen within a fact does not cut it.
    for reply, found in zip(replies, theirs, strict=True):
        assert parse_facts(reply) == [fact if fact[-1] == "." else f"{fact}." for fact in found]
    chatty = "Here they are:\n- She paints - a lot.\n\nI hope this helps."
    assert parse_facts(chatty) == ["She paints - a lot."]
    assert reference(["parse", chatty])[0] != parse_facts(chatty)


# Verdicts and scores ------------------------------------------------------------------------------


def test_verdicts_are_read_alike() -> None:
    replies = [
        *("True", "False.", "The answer is true", "it is false"),
        *("Not true; it is false.", "False? No, that is true.", "It does not say."),
        *("There is no information.", "Unknown", "Yes.", "I cannot tell", "nothing said"),
    ]
    found = [published_verdict(Reply(text=reply)).supported for reply in replies]
    assert found == reference(*(["verdict", reply] for reply in replies))
    # On purpose: parts of words, the first of many "true", and silence are no verdict.
    differ = ["untrue", "true or false? true, hence not false: true", ""]
    assert reference(*(["verdict", reply] for reply in differ)) == [True, False, True]
    assert [published_verdict(Reply(text=r)).supported for r in differ] == [True, True, None]


@pytest.mark.parametrize("gamma", [10, 30])
def test_scores_are_equal(rows: list[dict[str, Any]], gamma: int) -> None:
    for chosen in (rows[:183], rows[183:]):
        decided: dict[str, list[bool] | None] = {}
        for row in chosen:
            decided[row["topic"]] = row["annotations"] and [
                fact.get("label") == "S"
                for part in row["annotations"]
                for fact in part[
                    "human-atomic-facts" if part["is-relevant"] else "model-atomic-facts"
                ]
            ]
        (theirs,) = reference(["score", decided, gamma])
        scores = []
        for index, (topic, found) in enumerate(decided.items()):
            item = Item(task="factscore", split="test", index=index, prompt=topic)
            sample = Sample(task="factscore", item=item.digest, index=index, prompt="", response="")
            facts = [Fact(text="A fact.", supported=supported) for supported in found or []]
            scores.append(facts_score(sample, facts, found is None, gamma=gamma))
        ours = TASKS[0].aggregate(scores)
        pairs = {
            "factscore": "score",
            "precision": "init_score",
            "responded": "respond_ratio",
            "facts": "num_facts_per_response",
        }
        for name, theirs_name in pairs.items():
            assert ours[name].mean == pytest.approx(theirs[theirs_name], abs=1e-12)


def test_a_response_without_facts_is_zero_where_the_package_has_no_number() -> None:
    (theirs,) = reference(["score", {"A": [True], "B": []}, 0])  # with a penalty it fails
    assert math.isnan(theirs["score"])
    item = Item(task="factscore", split="test", index=0, prompt="B")
    sample = Sample(task="factscore", item=item.digest, index=0, prompt="", response="...")
    assert facts_score(sample, []).values["factscore"] == 0
