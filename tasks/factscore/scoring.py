"""Score a response by its verified facts.

A response that declines to answer has `responded` 0 and no other metric, so every mean except the
respond ratio is over the responses that do answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from harness.core.schema import Metric, Record, Sample, Score
from tasks.factscore.abstention import Rules, abstains
from tasks.task import Answered, Evidence, Judge, new_score

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


class Fact(Record):
    """One atomic fact of a response. What the knowledge source does not say is not supported."""

    text: str
    supported: bool = Field(strict=True)
    evidence: str = Field(default="", description="what the source says about the fact")


class VerifiedFacts(Evidence):
    """The facts of one response. Whether it declines is `abstained`, or detected if None."""

    facts: list[Fact]
    abstained: bool | None = None

    def score(self, sample: Sample) -> Score:
        """Score `sample` by these facts."""
        return facts_score(sample, self.facts, self.abstained)

    @classmethod
    def score_without(cls, sample: Sample) -> Score:
        """Score a sample without recorded facts: only `responded` has a value."""
        return unverified_score(sample, "no facts were recorded")


def facts_score(
    sample: Sample,
    facts: Sequence[Fact],
    abstained: bool | None = None,
    *,
    gamma: float = GAMMA,
    k: int = K,
    rules: Rules = "content",
    cut: str = "",
) -> Score:
    """Score one response by its verified facts.

    precision = s / n, for s supported of n facts; 0 if n = 0.
    factscore = precision * (1 if n > gamma else exp(1 - gamma / n)) (Min et al., EMNLP 2023,
    arXiv 2305.14251, and its reference implementation).
    f1_at_k = the harmonic mean of precision and min(s / k, 1); 0 if s = 0 (F1@K of Wei et al.,
    NeurIPS 2024, arXiv 2403.18802, where k is the median number of facts of a data set).

    Args:
        abstained: whether the response declines; None: detect it by `rules`.
        cut: what part of an overlong response the facts do not cover, kept in the details.
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
    listed = [fact.model_dump(exclude_defaults=True) for fact in facts]
    details = {"facts": listed, "gamma": gamma, "k": k} | ({"cut": cut} if cut else {})
    return new_score(sample, values, details=details)


def unverified_score(
    sample: Sample, why: str, abstained: bool | None = None, *, rules: Rules = "content"
) -> Score:
    """Score a response whose facts nobody verified: only `responded` has a value."""
    if abstained is None:
        abstained = abstains(sample.response, rules)
    unscored = {} if abstained else dict.fromkeys(OF_FACTS, why)
    return new_score(sample, {"responded": 0.0 if abstained else 1.0}, unscored)


def score(answered: Sequence[Answered], judge: Judge | None = None) -> list[Score]:
    """Score whether each response answers at all, which takes no verifier.

    `Pipeline.score` verifies facts; a judging file configures it.
    """
    return [unverified_score(sample, "no verifier") for _, sample in answered]
