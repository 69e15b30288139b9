"""The human labels give the published numbers; the sentences are those that people labelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.core.schema import Item, Sample
from harness.evals.score import score
from harness.stats.intervals import subgroups
from tasks.factscore import TASKS
from tasks.factscore.abstention import abstains
from tasks.factscore.items import items
from tasks.factscore.scoring import Fact, K, facts_score
from tasks.factscore.text import split


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "factscore"


@pytest.fixture(scope="module")
def entities(folder: Path) -> dict[str, Item]:
    return {item.reference["entity"]: item for item in items("test", folder)}


def labelled(folder: Path, model: str) -> list[dict[str, Any]]:
    path = folder / "labeled" / f"{model}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def human_facts(row: dict[str, Any]) -> list[Fact]:
    """Irrelevant is not supported; an irrelevant sentence has the facts that the model saw."""
    return [
        Fact(text=fact["text"], supported=fact.get("label") == "S")
        for part in row["annotations"] or []
        for fact in part["human-atomic-facts" if part["is-relevant"] else "model-atomic-facts"]
    ]


@pytest.mark.parametrize(
    ("model", "published"),
    [
        ("InstructGPT", {"factscore": 42.58, "responded": 99.5, "facts": 26.2}),
        ("ChatGPT", {"factscore": 58.28, "responded": 85.8, "facts": 34.6}),
    ],
)
def test_published_scores(
    folder: Path, entities: dict[str, Item], model: str, published: dict[str, float]
) -> None:
    scores = []
    for row in labelled(folder, model):
        item = entities[row["topic"]]
        sample = Sample(
            task=item.task, item=item.digest, index=item.index, prompt="", response=row["output"]
        )
        declined = row["annotations"] is None
        scores.append(facts_score(sample, human_facts(row), abstained=declined))
        assert abstains(row["output"]) == abstains(row["output"], "generic") == declined
    found = {name: r.mean or 0.0 for name, r in TASKS[0].aggregate(scores).items()}
    # Every response states more than ten facts, so that the penalty takes nothing here.
    assert round(100 * found["precision"], 2) == published["factscore"]
    assert round(100 * found["factscore"], 2) == published["factscore"]
    assert round(100 * found["responded"], 1) == published["responded"]
    assert round(found["facts"], 1) == published["facts"]
    if model == "ChatGPT":
        rarity = subgroups(list(entities.values()), scores, "rarity")
        shares = {tag: round(100 * (r["precision"].mean or 0)) for tag, r in rarity.items()}
        assert (shares["very rare"], shares["very freq"]) == (26, 80)


def test_recorded_facts_are_scored_from_a_file(
    folder: Path, entities: dict[str, Item], tmp_path: Path
) -> None:
    rows = {row["topic"]: row for row in labelled(folder, "ChatGPT")}
    answers, verified = [], []
    for entity, item in entities.items():
        row = rows[entity]
        answers.append({"id": item.index, "response": row["output"]})
        facts = [fact.model_dump(exclude_defaults=True) for fact in human_facts(row)]
        verified.append({"id": item.index, "response": row["output"], "facts": facts})
    paths = (tmp_path / "answers.jsonl", tmp_path / "facts.jsonl")
    for path, lines in zip(paths, (answers, verified), strict=True):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = score("factscore", paths[0], data=folder, facts=paths[1]).evaluation
    assert found.estimator == "recorded facts"
    shown = {name: result.mean or 0.0 for name, result in found.metrics.items()}
    assert round(100 * shown["factscore"], 2) == 58.28
    assert (round(100 * shown["responded"], 1), round(shown["facts"], 1)) == (85.8, 34.6)
    assert (found.metrics["factscore"].n, found.metrics["responded"].n) == (157, 183)


def test_k_is_the_median_number_of_facts(folder: Path) -> None:
    counts = sorted(
        len(human_facts(row))
        for model in ("InstructGPT", "ChatGPT")
        for row in labelled(folder, model)
        if row["annotations"]
    )
    assert (len(counts), counts[len(counts) // 2]) == (339, K)


def test_entity_lists(folder: Path, entities: dict[str, Item]) -> None:
    assert len(entities) == 183
    assert all(set(item.tags) == {"rarity", "region"} for item in entities.values())
    assert len(items("test", folder / "unlabeled_entities_500.txt")) == 500


def test_sentences_are_those_that_were_labelled(folder: Path) -> None:
    """They come from a trained splitter, which errs in some that this one gets."""
    found = same = 0
    for model in ("InstructGPT", "ChatGPT"):
        for row in labelled(folder, model):
            if row["annotations"]:
                gold = {" ".join(part["text"].split()) for part in row["annotations"]}
                found += len(gold)
                same += len(gold & {" ".join(s.split()) for s in split(row["output"])})
    assert same / found > 0.995
