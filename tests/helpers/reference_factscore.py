"""The pure parts of the `factscore` package (0.2.0), for comparison: JSON in, JSON out.

Run by an environment of its own, since it pins libraries that this project cannot have:

    python -m venv .venv-factscore
    .venv-factscore/bin/pip install --no-deps factscore==0.2.0 numpy rank-bm25 tqdm

What its modules import at the top but these parts do not call (spaCy, NLTK, openai, its own
models) is replaced by empty modules. Its named-entity recogniser is replaced by one that finds
months; it finds numbers by itself.
"""

from __future__ import annotations

import json
import sys
import types
from typing import Any


class _Anything(types.ModuleType):
    """A module that has every name, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **named: None


# The last two are its own models, which need torch.
for _name in ("spacy", "nltk", "nltk.tokenize", "openai", "factscore.clm", "factscore.npm"):
    sys.modules[_name] = _Anything(_name)

from factscore import atomic_facts  # noqa: E402
from factscore.abstain_detection import is_response_abstained  # noqa: E402
from factscore.factscorer import FactScorer  # noqa: E402


class _Entity:
    label_ = "DATE"

    def __init__(self, text: str) -> None:
        self.text = text


class _Document:
    def __init__(self, text: str) -> None:
        words = (word.strip(".,;:()'\"") for word in text.split())
        self.ents = [_Entity(word) for word in words if word.lower() in atomic_facts.MONTHS]


class _Model:
    """Says what it was told to say."""

    def __init__(self, text: str) -> None:
        self._text = text

    def generate(self, prompt: str) -> tuple[str, None]:
        return self._text, None


class _Retrieval:
    def get_passages(self, topic: str, fact: str, k: int) -> list[dict[str, str]]:
        return [{"title": topic, "text": "A passage."}]

    def save_cache(self) -> None:
        """There is none."""


class _Recorded(FactScorer):
    """Scores decisions that are known."""

    decided: dict[str, list[bool]]

    def _get_score(
        self, topic: str, generation: str, facts: list[str], source: str, cost_estimate: Any = None
    ) -> list[dict[str, Any]]:
        verdicts = self.decided[topic]
        return [{"atom": f, "is_supported": v} for f, v in zip(facts, verdicts, strict=True)]


def abstains(text: str, rules: str) -> bool:
    return bool(is_response_abstained(text, rules))


def repair(paragraph: str, pieces: list[str]) -> list[str]:
    initials = atomic_facts.detect_initials(paragraph)
    return list(atomic_facts.fix_sentence_splitter(pieces, initials))


def postprocess(sentence: str, facts: list[str]) -> list[str]:
    ((_, kept),), _ = atomic_facts.postprocess_atomic_facts([(sentence, facts)], [], _Document)
    return list(kept)


def parse(reply: str) -> list[str]:
    return list(atomic_facts.text_to_sentences(reply))


def score(decisions: dict[str, list[bool] | None], gamma: int) -> dict[str, float]:
    scorer = _Recorded(model_name="npm")
    scorer.retrieval["known"] = _Retrieval()
    scorer.decided = {topic: found for topic, found in decisions.items() if found is not None}
    facts = [found and [f"Fact {n}." for n in range(len(found))] for found in decisions.values()]
    out = scorer.get_score(
        list(decisions),
        [""] * len(decisions),
        gamma=gamma,
        atomic_facts=facts,
        knowledge_source="known",
    )
    return {name: float(value) for name, value in out.items() if name != "decisions"}


def verdict(reply: str) -> bool:
    scorer = FactScorer(model_name="npm")
    scorer.model_name = "retrieval"
    scorer.lm = _Model(reply)
    scorer.retrieval["known"] = _Retrieval()
    (found,) = scorer._get_score("Topic", "", ["A fact."], "known")
    return bool(found["is_supported"])


if __name__ == "__main__":
    FUNCTIONS = {f.__name__: f for f in (abstains, repair, postprocess, parse, score, verdict)}
    asked = json.load(sys.stdin)
    json.dump([FUNCTIONS[name](*arguments) for name, *arguments in asked], sys.stdout)
