"""Decomposers that ask nobody: a biography's clauses, or its sentences as they are."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.factscore.clauses import clauses
from tasks.factscore.parts import Biography, Facts
from tasks.factscore.reading import sentences
from tasks.task import Judge


class Sentences:
    """Each sentence is a fact; asks nobody."""

    name = "decompose sentences"
    prompt_digest = None

    def decompose(self, biographies: Sequence[Biography], judge: Judge | None) -> list[Facts]:
        """The sentences of each biography."""
        found = [sentences(biography.text) for biography in biographies]
        return [Facts(tuple(texts), cut=cut) for texts, cut in found]


class Clauses:
    """Each clause is a fact; asks nobody."""

    name = "decompose clauses"
    prompt_digest = None

    def decompose(self, biographies: Sequence[Biography], judge: Judge | None) -> list[Facts]:
        """The clauses of each biography's sentences."""
        results = []
        for biography in biographies:
            found, cut = sentences(biography.text)
            told = [clause for text in found for clause in clauses(biography.entity, text)]
            results.append(Facts(tuple(told), cut=cut))
        return results
