"""FActScore, end to end: facts of each response, passages for each fact, a finding, a score."""

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

# The passages of the page of each item's entity; None where there is no page.
Pages = Callable[[Sequence[Item]], list[tuple[str, ...] | None]]


@dataclass(frozen=True)
class Pipeline:
    """One way to score biographies; `score` is a task's."""

    pages: Pages
    decomposer: Decomposer
    retriever: Retriever
    verifier: Verifier
    gamma: float
    at_k: int
    rules: Rules

    @property
    def name(self) -> str:
        """The estimator's identity: scores by different ones are never compared."""
        parts = (self.decomposer.name, self.retriever.name, self.verifier.name)
        return f"{', '.join(parts)}, gamma {self.gamma:g}, k {self.at_k}"

    @property
    def judge_prompt(self) -> str | None:
        """Digest of what a judge is asked; None if none is."""
        asked = [self.decomposer.prompt_digest, self.verifier.prompt_digest]
        return digest(asked) if any(asked) else None

    def score(self, answered: Sequence[Answered], judge: Judge | None = None) -> list[Score]:
        """The score of each response; one whose page, facts or findings lack says why.

        The judge is asked for all facts in one batch, then for all findings in another. A
        response is never scored on a part of its facts.
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
        """The passages that are to the point of what `response` says, each once.

        Those of all its sentences, the best of each first; "" where there is no page.
        """
        [page] = self.pages([item])
        if page is None:
            return ""
        said, _ = sentences(response)
        entity = item.reference["entity"]
        found = [self.retriever.retrieve(page, f"{entity} {sentence}") for sentence in said]
        ranks = zip_longest(*found)
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
    """The atomic facts of a biography; `failure` says why they could not be had.

    `cut` says what of an overlong biography was left unread.
    """

    texts: tuple[str, ...] = ()
    failure: str = ""
    cut: str = ""


@dataclass(frozen=True)
class Claim:
    """A fact to be verified against passages, the best first."""

    entity: str
    text: str
    passages: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """Whether passages support a claim; None, with the reason, where that could not be found.

    `evidence` is what of the passages speaks to the claim, for people to read.
    """

    supported: bool | None
    failure: str = ""
    evidence: str = ""


class Decomposer(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def prompt_digest(self) -> str | None:
        """Of what it asks a judge; None if it asks none."""

    def decompose(self, biographies: Sequence[Biography], judge: Judge | None) -> list[Facts]:
        """The facts of each biography, in order; all are asked for in one batch."""
        ...


class Retriever(Protocol):
    @property
    def name(self) -> str: ...

    def retrieve(self, page: tuple[str, ...], query: str) -> tuple[str, ...]:
        """The passages of `page` that are most to the point, the best first."""
        ...


class Verifier(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def prompt_digest(self) -> str | None:
        """Of what it asks a judge; None if it asks none."""

    def verify(self, claims: Sequence[Sequence[Claim]], judge: Judge | None) -> list[list[Finding]]:
        """A finding for each claim of each biography, in order; asked for in one batch."""
        ...
