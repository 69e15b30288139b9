"""Score biographies by FActScore: facts of a response, passages per fact, findings, a score.

The estimator's identity names each replaceable part: decomposer, retriever, verifier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

from harness.core.schema import Item, Score, digest
from tasks.factscore.abstention import Rules, abstains
from tasks.factscore.scoring import Fact, facts_score, unverified_score
from tasks.factscore.text import sentences
from tasks.task import Answered, Judge

MAX_FACTS = 1_000  # verified of one response

# Returns the passages of the page of each item's entity; None if there is no page.
Pages = Callable[[Sequence[Item]], list[tuple[str, ...] | None]]


@dataclass(frozen=True)
class Pipeline:
    """A way to score biographies; `score` is a task's."""

    pages: Pages
    decomposer: Decomposer
    retriever: Retriever
    verifier: Verifier
    gamma: float
    at_k: int
    rules: Rules

    @property
    def name(self) -> str:
        """The estimator's identity: scores of different estimators are never compared."""
        parts = (self.decomposer.name, self.retriever.name, self.verifier.name)
        return f"{', '.join(parts)}, gamma {self.gamma:g}, k {self.at_k}"

    @property
    def judge_prompt(self) -> str | None:
        """Digest of what a judge is asked; None if no judge is asked."""
        digests = [self.decomposer.prompt_digest, self.verifier.prompt_digest]
        return digest(digests) if any(digests) else None

    def score(self, answered: Sequence[Answered], judge: Judge | None = None) -> list[Score]:
        """Score each response, or say why its page, facts or findings are missing.

        The judge is asked for all facts in one batch, then for all findings in another. A
        response is never scored by a part of its facts.
        """
        declined = [abstains(sample.response, self.rules) for _, sample in answered]
        pages = self.pages([item for item, _ in answered])
        biographies = {
            number: Biography(item.reference["entity"], sample.response, page)
            for number, ((item, sample), page) in enumerate(zip(answered, pages, strict=True))
            if page is not None and not declined[number]
        }
        facts = dict(
            zip(
                biographies,
                self.decomposer.decompose(list(biographies.values()), judge),
                strict=True,
            )
        )
        facts = {number: _bounded(found) for number, found in facts.items()}
        claims = {
            number: [self._claim(biographies[number], text) for text in found.texts]
            for number, found in facts.items()
            if not found.failure
        }
        verified = self.verifier.verify(list(claims.values()), judge)
        findings = dict(zip(claims, verified, strict=True))
        return [
            self._score(answer, facts.get(number), findings.get(number), declined[number])
            for number, answer in enumerate(answered)
        ]

    def ground(self, item: Item, response: str) -> str:
        """Return the passages relevant to the sentences of `response`, the best of each first.

        Each passage comes once; "" if there is no page.
        """
        [page] = self.pages([item])
        if page is None:
            return ""
        statements, _ = sentences(response)
        entity = item.reference["entity"]
        retrieved = [
            self.retriever.retrieve(page, f"{entity} {sentence}") for sentence in statements
        ]
        ranks = zip_longest(*retrieved)
        return "\n\n".join(dict.fromkeys(text for rank in ranks for text in rank if text))

    def _claim(self, biography: Biography, fact: str) -> Claim:
        passages = self.retriever.retrieve(biography.page, f"{biography.entity} {fact}")
        return Claim(biography.entity, fact, passages)

    def _score(
        self,
        answer: Answered,
        facts: Facts | None,
        findings: Sequence[Finding] | None,
        declined: bool,
    ) -> Score:
        item, sample = answer
        why = ""
        if facts is None:
            why = f"the knowledge source has no page '{item.reference['entity']}'"
        elif findings is None:
            why = facts.failure
        elif failed := [finding for finding in findings if finding.supported is None]:
            why = f"{len(failed)} of {len(findings)} facts not verified: {failed[0].failure}"
        if why or facts is None or findings is None:
            return unverified_score(sample, why, declined)
        return facts_score(
            sample,
            [
                Fact(text=text, supported=bool(finding.supported), evidence=finding.evidence)
                for text, finding in zip(facts.texts, findings, strict=True)
            ],
            declined,
            gamma=self.gamma,
            k=self.at_k,
            cut=facts.cut,
        )


def _bounded(facts: Facts) -> Facts:
    if len(facts.texts) <= MAX_FACTS:
        return facts
    cut = f"not verified: facts after {MAX_FACTS}, of {len(facts.texts):,}"
    return Facts(facts.texts[:MAX_FACTS], facts.failure, "; ".join(filter(None, (facts.cut, cut))))


@dataclass(frozen=True)
class Biography:
    """A response to be scored, and the passages of its entity's page."""

    entity: str
    text: str
    page: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """The atomic facts of a biography, or as `failure` why there are none.

    `cut` says what part of an overlong biography was not read.
    """

    texts: tuple[str, ...] = ()
    failure: str = ""
    cut: str = ""


@dataclass(frozen=True)
class Claim:
    """A fact to verify against passages, the best passage first."""

    entity: str
    text: str
    passages: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """Whether passages support a claim; None, with the reason, if that could not be decided.

    `evidence` is the nearest sentence of the passages, for people to read.
    """

    supported: bool | None
    failure: str = ""
    evidence: str = ""


class Decomposer(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def prompt_digest(self) -> str | None:
        """Digest of the judge prompt; None if no judge is asked."""

    def decompose(self, biographies: Sequence[Biography], judge: Judge | None) -> list[Facts]:
        """Return the facts of each biography, in order, with all calls in one batch."""
        ...


class Retriever(Protocol):
    @property
    def name(self) -> str: ...

    def retrieve(self, page: tuple[str, ...], query: str) -> tuple[str, ...]:
        """Return the passages of `page` most relevant to `query`, the best first."""
        ...


class Verifier(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def prompt_digest(self) -> str | None:
        """Digest of the judge prompt; None if no judge is asked."""

    def verify(self, claims: Sequence[Sequence[Claim]], judge: Judge | None) -> list[list[Finding]]:
        """Return a finding per claim of each biography, in order, with all calls in one batch."""
        ...
