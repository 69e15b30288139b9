"""From verified facts to scores.

A response that declines to answer responds to nothing: it has `responded` 0 and no other metric,
so that every mean but the respond ratio is over the responses that do answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from harness.core.schema import Item, Metric, Record, Sample, Score
from tasks.factscore.abstention import Rules, abstains
from tasks.task import Answered, Judge

GAMMA = 10  # facts; shorter responses are penalised
K = 30  # facts: the median of the 339 human-labelled responses; frozen with the task's version

METRICS = (
    Metric(
        name="factscore",
        kind="continuous",
        primary=True,
        description="share of supported facts, short responses penalised; over responses",
    ),
    Metric(
        name="precision",
        kind="continuous",
        description="share of supported facts, without the penalty; over responses",
    ),
    Metric(
        name="f1_at_k",
        kind="continuous",
        description="precision and the share of k supported facts, in one; over responses",
    ),
    Metric(
        name="responded",
        kind="binary",
        description="respond ratio: the share of items that are not declined",
    ),
    Metric(
        name="facts",
        kind="continuous",
        high=10_000,
        description="atomic facts a response",
    ),
)
OF_FACTS = ("factscore", "precision", "f1_at_k", "facts")


def facts_score(
    item: Item,
    sample: Sample,
    facts: Sequence[Fact],
    abstained: bool | None = None,
    *,
    gamma: float = GAMMA,
    k: int = K,
    rules: Rules = "content",
    cut: str = "",
) -> Score:
    """The score of one response from its verified facts.

    precision = s / n, for s supported of n facts; 0 if n = 0.
    factscore = precision * (1 if n > gamma else exp(1 - gamma / n)) (Min et al., EMNLP 2023,
    arXiv 2305.14251, and its reference implementation).
    f1_at_k = the harmonic mean of precision and min(s / k, 1); 0 if s = 0 (F1@K of Wei et al.,
    NeurIPS 2024, arXiv 2403.18802, where k is the median number of facts of a data set).

    Whether the response declines is taken from `abstained`, else detected by `rules`. `cut` says
    what of an overlong response its facts do not cover; it is kept in the details.
    """
    if abstained is None:
        abstained = abstains(sample.response, rules)
    values = {"responded": 0.0 if abstained else 1.0}
    if not abstained:
        n = len(facts)
        supported = sum(fact.supported for fact in facts)
        precision = supported / n if n else 0.0
        recall = min(supported / k, 1.0)
        penalty = 1.0 if n > gamma else math.exp(1 - gamma / n) if n else 0.0
        values |= {
            "factscore": precision * penalty,
            "precision": precision,
            "f1_at_k": 2 * precision * recall / (precision + recall) if supported else 0.0,
            "facts": float(n),
        }
    return _score(
        item,
        sample,
        values,
        {},
        {
            "facts": [fact.model_dump(exclude_defaults=True) for fact in facts],
            "gamma": gamma,
            "k": k,
        }
        | ({"cut": cut} if cut else {}),
    )


def unverified_score(
    item: Item, sample: Sample, why: str, abstained: bool | None = None, *, rules: Rules = "content"
) -> Score:
    """The score of a response whose facts nobody verified: all but `responded` is unscored."""
    if abstained is None:
        abstained = abstains(sample.response, rules)
    unscored = {} if abstained else dict.fromkeys(OF_FACTS, why)
    return _score(item, sample, {"responded": 0.0 if abstained else 1.0}, unscored, {})


def score(answered: Sequence[Answered], judge: Judge | None = None) -> list[Score]:
    """What can be said without a verifier: whether each response answers at all.

    A judge of whole answers does not verify facts; scores from facts come by `facts_score`.
    """
    return [unverified_score(item, sample, "no verifier") for item, sample in answered]


def _score(
    item: Item,
    sample: Sample,
    values: dict[str, float],
    unscored: dict[str, str],
    details: dict[str, object],
) -> Score:
    return Score(
        task=item.task,
        item=item.digest,
        index=item.index,
        repeat=sample.repeat,
        values=values,
        unscored=unscored,
        details=details,
    )


class Fact(Record):
    """One claim of a response: what the knowledge source does not support is not supported."""

    text: str
    supported: bool = Field(strict=True)
    evidence: str = Field(default="", description="what of the source speaks to it")
