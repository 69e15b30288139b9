"""Fit the lexical verifier on human-labelled facts, and say what it is worth on unseen entities.

    python bench/fit_lexical.py FACTS.jsonl PAGES.jsonl

FACTS has {"topic", "fact", "labels"} a line, the facts of a biography in its order; PAGES has
{"title", "passages"}. Writes `tasks/factscore/lexical.json` and prints, as JSON, what the model
reaches out of fold: entities are held out whole, and everything that is chosen (scaling, weights,
threshold) is chosen without them. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.files import file_digest, read_jsonl, write_json
from harness.core.log import write_out
from tasks.factscore.knowledge import Bm25
from tasks.factscore.lexical import NAMES, LexicalModel, features
from tasks.factscore.pipeline import Claim

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FOLDS = 10
WEIGHTS = Path(__file__).parents[1] / "tasks" / "factscore" / "lexical.json"
K = 5
STRENGTH = 0.01  # C of the L2 penalty, on standardised features
RESAMPLES = 2000


@dataclass(frozen=True)
class Labelled:
    """Facts with their features, whether people found them supported, and of whom they are."""

    x: Floats  # (facts, features)
    supported: Bools
    entity: NDArray[np.str_]

    def only(self, chosen: NDArray[Any]) -> Labelled:
        """The facts that a mask or a list of indices chooses."""
        return Labelled(self.x[chosen], self.supported[chosen], self.entity[chosen])


def read_pages(path: Path) -> dict[str, tuple[str, ...]]:
    """Title -> passages, without the marks that the published ones carry."""
    marks = re.compile(r"(?:</?s>)+")
    return {
        row["title"]: tuple(marks.sub(" ", passage).strip() for passage in row["passages"])
        for _, row in read_jsonl(path)
    }


def read_labelled(facts: Path, pages: Path) -> Labelled:
    """The labelled facts of entities that have a page, with features of passages by BM25.

    Irrelevant counts as not supported, as in FActScore.
    """
    texts = read_pages(pages)
    by_entity: dict[str, list[tuple[str, bool]]] = {}
    for _, row in read_jsonl(facts):
        if row["topic"] in texts:
            by_entity.setdefault(row["topic"], []).append((row["fact"], row["labels"][0] == "S"))
    retriever = Bm25(K)
    blocks = [
        features(
            [
                Claim(entity, fact, retriever.retrieve(texts[entity], f"{entity} {fact}"))
                for fact, _ in told
            ]
        )
        for entity, told in by_entity.items()
    ]
    return Labelled(
        np.vstack(blocks),
        np.array([supported for told in by_entity.values() for _, supported in told]),
        np.array([entity for entity, told in by_entity.items() for _ in told]),
    )


def fit(data: Labelled, fitted_on: str) -> LexicalModel:
    """Logistic regression on standardised features, the scaling folded into the weights.

    The threshold makes as many facts supported as people did: a score is a share, and this is
    what leaves it unbiased.
    """
    from sklearn.linear_model import LogisticRegression

    center, scale = data.x.mean(axis=0), data.x.std(axis=0)
    scale[scale == 0] = 1.0
    model = LogisticRegression(C=STRENGTH, max_iter=5000)
    model.fit((data.x - center) / scale, data.supported)
    weights = model.coef_[0] / scale
    intercept = float(model.intercept_[0] - weights @ center)
    probability = 1 / (1 + np.exp(-(data.x @ weights + intercept)))
    return LexicalModel(
        fitted_on=fitted_on,
        weights={n: round(float(w), 6) for n, w in zip(NAMES, weights, strict=True)},
        intercept=round(intercept, 6),
        threshold=round(float(np.quantile(probability, 1 - data.supported.mean())), 6),
    )


def out_of_fold(data: Labelled, seed: int = 0) -> tuple[Floats, Bools]:
    """P(supported) and the finding for every fact, by models that never saw its entity."""
    from sklearn.model_selection import GroupKFold

    probability = np.empty(len(data.supported))
    found = np.empty(len(data.supported), dtype=bool)
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(data.x, groups=data.entity):
        model = fit(data.only(train), "a fold")
        weights = np.array([model.weights[name] for name in NAMES])
        probability[test] = 1 / (1 + np.exp(-(data.x[test] @ weights + model.intercept)))
        found[test] = probability[test] >= model.threshold
    return probability, found


def accuracy(supported: Bools, found: Bools) -> float:
    return float((supported == found).mean())


def f1_not_supported(supported: Bools, found: Bools) -> float:
    """Micro F1 with "not supported" as the class that is looked for, as FActScore reports it."""
    hit = int((~supported & ~found).sum())
    return 2 * hit / (int((~supported).sum()) + int((~found).sum()))


def interval(
    statistic: Callable[[Bools, Bools], float],
    supported: Bools,
    found: Bools,
    entity: NDArray[np.str_],
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of the bootstrap that draws entities whole."""
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(entity == name) for name in np.unique(entity)]
    draws = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        draws.append(statistic(supported[drawn], found[drawn]))
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def report(data: Labelled, found: Bools) -> dict[str, Any]:
    """Accuracy and F1 with intervals, and the shares of supported facts."""
    told: dict[str, Any] = {"facts": len(found), "entities": len(np.unique(data.entity))}
    for name, statistic in (("accuracy", accuracy), ("f1_not_supported", f1_not_supported)):
        low, high = interval(statistic, data.supported, found, data.entity)
        told[name] = {
            "value": round(statistic(data.supported, found), 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }
    told["supported"] = {
        "people": round(float(data.supported.mean()), 4),
        "verifier": round(float(found.mean()), 4),
    }
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fit the lexical verifier.")
    parser.add_argument("facts", type=Path)
    parser.add_argument("pages", type=Path)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    given = parser.parse_args(arguments)
    data = read_labelled(given.facts, given.pages)
    _, found = out_of_fold(data)
    fitted_on = (
        f"{len(data.supported)} human-labelled facts of ChatGPT's biographies of "
        f"{len(np.unique(data.entity))} entities (FActScore), facts sha256 "
        f"{file_digest(given.facts)[:8]}, pages sha256 {file_digest(given.pages)[:8]}; "
        f"BM25 k{K}; L2 logistic regression, C {STRENGTH:g}. Scores on those biographies are "
        "in-sample."
    )
    write_json(given.out, fit(data, fitted_on))
    write_out(json.dumps(report(data, found), indent=2) + "\n")


if __name__ == "__main__":
    main()
