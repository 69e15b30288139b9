"""Sentences with their atomic facts: what shows a decomposer how fine to cut.

The few that come with the package are this project's own, of invented people. The published ones
are read from the file that FActScore distributes (`demons.json`: {sentence: [fact, ...]}).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import read_json
from tasks.factscore.retrievers import Bm25

FIXED = 7  # as FActScore: shown with every sentence; one more is chosen for its words

OWN = {
    "Ilse Marrow (born 3 June 1921) was a Norwegian botanist and mountaineer who catalogued the "
    "alpine mosses of Svalbard.": [
        "Ilse Marrow was born on 3 June 1921.",
        "Ilse Marrow was Norwegian.",
        "Ilse Marrow was a botanist.",
        "Ilse Marrow was a mountaineer.",
        "Ilse Marrow catalogued the alpine mosses of Svalbard.",
    ],
    "After leaving school, he joined his father's printing firm in Leeds, where he learned "
    "engraving.": [
        "He left school.",
        "He joined his father's printing firm after leaving school.",
        "His father's printing firm was in Leeds.",
        "He learned engraving at the printing firm.",
    ],
    'Her second novel, "The Salt Road" (2004), won the Harbour Prize and was translated into '
    "twelve languages.": [
        'She wrote "The Salt Road".',
        '"The Salt Road" is a novel.',
        '"The Salt Road" is her second novel.',
        '"The Salt Road" was published in 2004.',
        '"The Salt Road" won the Harbour Prize.',
        '"The Salt Road" was translated into twelve languages.',
    ],
    "Okoro scored 31 goals in two seasons for Dunmore City and captained the team in the 1998 "
    "cup final.": [
        "Okoro played for Dunmore City.",
        "Okoro scored 31 goals for Dunmore City.",
        "Okoro scored 31 goals in two seasons.",
        "Okoro captained Dunmore City.",
        "Okoro was captain in the 1998 cup final.",
    ],
    "She is widely regarded as a pioneer of community radio, and her programmes inspired a "
    "generation of broadcasters.": [
        "She is regarded as a pioneer of community radio.",
        "She made programmes.",
        "Her programmes inspired a generation of broadcasters.",
    ],
}


@dataclass(frozen=True)
class Demonstrations:
    """Sentences with their facts: the first `FIXED` are always shown."""

    pairs: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def fixed(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return self.pairs[:FIXED]

    def nearest(self, sentence: str) -> tuple[str, tuple[str, ...]] | None:
        """Of those that are not fixed, the one most like `sentence` by BM25; None if all are."""
        others = dict(self.pairs[FIXED:])
        found = self._retriever.retrieve(tuple(others), sentence)
        return (found[0], others[found[0]]) if found else None

    @cached_property
    def _retriever(self) -> Bm25:
        return Bm25(1)


def load(path: Path | None) -> Demonstrations:
    """The demonstrations in `path`, or the project's own.

    Raises:
        UserError: the file is missing, or does not map sentences to lists of facts.
    """
    found = OWN if path is None else read_json(path)
    match found:
        case dict() if found and all(
            isinstance(facts, list) and facts and all(isinstance(f, str) for f in facts)
            for facts in found.values()
        ):
            return Demonstrations(tuple((said, tuple(facts)) for said, facts in found.items()))
        case _:
            raise UserError(
                f"{path} holds no demonstrations: a JSON object that maps each sentence to the "
                "list of its facts is expected, as in FActScore's demons.json."
            )
