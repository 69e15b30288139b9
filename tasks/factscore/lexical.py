"""Verify facts without a language model: a logistic model over the words in common.

Its weights are in `lexical.json`, with what they were fitted on; `bench/fit_lexical.py`
made them, and docs/factscore.md says what it is worth on biographies
it was not fitted on. Scoring ChatGPT's labelled biographies with it is in-sample.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness.core.schema import Record, digest
from tasks.factscore.pipeline import Claim, Finding
from tasks.factscore.text import MONTHS, NUMERALS, STOP_WORDS, Word, split, words
from tasks.task import Judge


class LexicalModel(Record):
    """P(supported) = 1 / (1 + exp(-(intercept + weights . features))); supported from threshold."""

    fitted_on: str = Field(description="data and method; scores on these data are in-sample")
    weights: dict[str, float]
    intercept: float
    threshold: float

    def probabilities(self, claims: Sequence[Claim]) -> NDArray[np.float64]:
        """Return P(supported) for each fact of one biography."""
        weights = np.array([self.weights[name] for name in NAMES])
        logit = features(claims) @ weights + self.intercept
        return np.asarray(1 / (1 + np.exp(-logit)), dtype=np.float64)


@cache
def shipped() -> LexicalModel:
    """Return the model that comes with the package."""
    text = files("tasks.factscore").joinpath("lexical.json").read_text(encoding="utf-8")
    return LexicalModel.model_validate_json(text)


class Lexical:
    """Verify by words in common, without a judge.

    The other facts of a biography count, too. But a fact that a passage says word for word is
    always supported: so are all of the 130 such facts among the labelled ones.
    """

    prompt_digest = None

    def __init__(self, model: LexicalModel | None = None) -> None:
        self._model = model or shipped()
        self.name = f"verify lexical@{digest(self._model)[:8]}"

    def verify(self, claims: Sequence[Sequence[Claim]], judge: Judge | None) -> list[list[Finding]]:
        """Return findings; none of them fails."""
        return [
            [
                Finding(bool(p >= self._model.threshold) or says(claim), evidence=nearest(claim))
                for claim, p in zip(group, self._model.probabilities(group), strict=True)
            ]
            for group in claims
        ]


PREFIX = 5  # letters
NEAR = 2.0  # facts: how far the company of a fact reaches
UNKNOWN = 0.6  # for shares of something that the fact has none of

_YEAR = re.compile(r"[12]\d{3}")
NEGATIONS = frozenset("not no never nor neither without denied".split())
_PRONOUNS = frozenset("he she his her him they them their it its".split())

OWN = (
    "recall",
    "recall_soft",
    "recall_idf",
    "recall_sentence",
    "recall_sentence_idf",
    "recall_window_idf",
    "missing",
    "missing_soft",
    "missing_none",
    "missing_one",
    "missing_longest",
    "missing_lower",
    "missing_lower_share",
    "length",
    "has_number",
    "numbers_missing",
    "year_missing",
    "years_found",
    "month_missing",
    "number_context",
    "has_name",
    "names_missing",
    "name_missing",
    "name_context",
    "order",
    "order_content",
    "starts_with_pronoun",
    "starts_with_entity",
    "off_entity",
    "quoted",
    "page",
    "recall_page",
    "recall_name",
    "recall_off_entity",
    "recall_off_entity_sentence",
)
# Facts of one sentence tend to stand or fall together, and so do those of one biography.
SHARED = (
    "recall_soft",
    "recall_window_idf",
    "names_missing",
    "numbers_missing",
    "missing_none",
    "off_entity",
)
NAMES = (*OWN, *(f"{name}@biography" for name in SHARED), *(f"{name}@near" for name in SHARED))


class Evidence:
    """Passages as sentences of words, with counts over them."""

    def __init__(self, passages: Sequence[str]) -> None:
        sentences = [sentence for passage in passages for sentence in _sentences(passage)]
        self.texts = [text for text, _, _ in sentences]
        self.sentences = [known for _, _, known in sentences]
        self.windows = [a | b for a, b in pairwise([*self.sentences, frozenset[str]()])]
        self.stems = frozenset().union(*self.sentences)
        self._prefixes = {
            w.text[:PREFIX] for _, said, _ in sentences for w in said if len(w.text) >= PREFIX
        }
        self._counts = Counter(stem for known in self.sentences for stem in known)
        order = [
            word.stem for _, said, _ in sentences for word in said if word.text not in STOP_WORDS
        ]
        self.pairs = frozenset(pairwise(order))

    def has(self, word: Word) -> bool:
        """Return whether the passages have a word, by its stem or its first letters."""
        return word.stem in self.stems or (
            len(word.text) >= PREFIX and word.text[:PREFIX] in self._prefixes
        )

    def idf(self, stem: str) -> float:
        return math.log((len(self.sentences) + 1) / (self._counts[stem] + 0.5)) + 0.1


@lru_cache(4096)
def _sentences(passage: str) -> list[tuple[str, list[Word], frozenset[str]]]:
    """Return each sentence with its words and the set of their stems, numerals also as digits."""
    sentences = [(sentence, words(sentence)) for sentence in split(passage)]
    return [
        (
            text,
            each,
            frozenset(w.stem for w in each)
            | frozenset(NUMERALS[w.text] for w in each if w.text in NUMERALS),
        )
        for text, each in sentences
    ]


def features(claims: Sequence[Claim]) -> NDArray[np.float64]:
    """Return the features of the facts of one biography, shape (facts, features).

    A fact's own features come first, in the order of `OWN`. Then come the means of the `SHARED`
    features over the other facts, and over neighbouring facts with weight exp(-distance / `NEAR`).
    For a lone fact these are its own.
    """
    own = np.array([_own(claim) for claim in claims], dtype=np.float64).reshape(-1, len(OWN))
    shared = own[:, [OWN.index(name) for name in SHARED]]
    n = len(own)
    if n < 2:
        return np.hstack([own, shared, shared])
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    weight = np.exp(-distance / NEAR) * (distance > 0)
    near = weight @ shared / weight.sum(axis=1, keepdims=True)
    return np.hstack([own, (shared.sum(axis=0) - shared) / (n - 1), near])


def nearest(claim: Claim) -> str:
    """Return the sentence of the passages with most of the claim's words; "" if none has any."""
    best, share = "", 0.0
    evidence = _evidence(tuple(sorted(claim.passages)))
    entity = {word.stem for word in words(claim.entity)}
    stems = [w.stem for w in words(claim.text) if w.text not in STOP_WORDS and w.stem not in entity]
    for text, known in zip(evidence.texts, evidence.sentences, strict=True):
        if (found := _weighted(known, stems, evidence.idf)) > share and stems:
            best, share = text, found
    return best


def says(claim: Claim) -> bool:
    """Return whether a sentence of the passages says the fact word for word, except its subject.

    A sentence with a negation that the fact does not have says something else.
    """
    entity = {word.stem for word in words(claim.entity)}
    fact_words = words(claim.text)
    subject = next((i for i, w in enumerate(fact_words) if not _names(w, entity)), len(fact_words))
    predicate = [word.text for word in fact_words[subject:]]
    if len(predicate) < 2 or not any(text not in STOP_WORDS for text in predicate):
        return False
    denied = NEGATIONS - {word.text for word in fact_words}
    return any(
        _contains([word.text for word in sentence], predicate)
        for passage in claim.passages
        for _, sentence, _ in _sentences(passage)
        if not any(word.text in denied for word in sentence)
    )


def _names(word: Word, entity: Collection[str]) -> bool:
    return word.stem in entity or word.text in _PRONOUNS


def _contains(words: Sequence[str], run: Sequence[str]) -> bool:
    return any(words[i : i + len(run)] == run for i in range(len(words) - len(run) + 1))


def _own(claim: Claim) -> list[float]:
    evidence = _evidence(tuple(sorted(claim.passages)))
    entity = {word.stem for word in words(claim.entity)}
    said = words(claim.text)
    content = [w for w in said if w.text not in STOP_WORDS and w.stem not in entity]
    stems = [w.stem for w in content]
    idf = {stem: evidence.idf(stem) for stem in stems}
    hard = [w.stem in evidence.stems for w in content]
    soft = [evidence.has(w) for w in content]
    lost = [w for w, known in zip(content, soft, strict=True) if not known]

    numbers = [w for w in content if w.is_number]
    years = [w for w in numbers if _YEAR.fullmatch(w.text)]
    months = [w for w in content if w.text in MONTHS]
    names = [w for w in content if w.capital and w is not said[0] and w.text not in MONTHS]
    names = [w for w in names if not w.is_number]
    lower = [w for w in content if not w.capital and not w.is_number]
    lower_lost = [w for w in lost if not w.capital and not w.is_number]

    def unknown(group: Iterable[Word]) -> int:
        return sum(w.stem not in evidence.stems for w in group)

    recall_soft = _share(soft, 1.0)
    recall_sentence_idf = _best(evidence.sentences, stems, idf.__getitem__)
    plain = [stem for stem in stems if not stem[:1].isdigit()]
    with_number = _having(evidence.sentences, numbers)
    telling = [w.stem for w in said if w.text not in STOP_WORDS]
    pronoun = bool(said) and said[0].text in _PRONOUNS
    off = not any(w.text in _PRONOUNS or w.stem in entity for w in said)
    page = math.log1p(len(evidence.sentences))

    return [
        _share(hard, 1.0),
        recall_soft,
        _weighted(evidence.stems, stems, idf.__getitem__),
        _best(evidence.sentences, stems, _equal),
        recall_sentence_idf,
        _best(evidence.windows, stems, idf.__getitem__),
        min(len(hard) - sum(hard), 5),
        min(len(lost), 5),
        not lost,
        len(lost) == 1,
        max((len(w.text) for w in lost), default=0),
        len(lower_lost),
        len(lower_lost) / len(lower) if lower else 0.0,
        math.log1p(len(content)),
        bool(numbers),
        unknown(numbers),
        unknown(years) > 0,
        bool(years) and unknown(years) == 0,
        unknown(months) > 0,
        _best(with_number, plain, idf.__getitem__) if numbers and plain else UNKNOWN,
        bool(names),
        unknown(names) / len(names) if names else 0.0,
        unknown(names) > 0,
        _best(_having(evidence.sentences, names), stems, _equal) if names else UNKNOWN,
        _share([pair in evidence.pairs for pair in pairwise(telling)], 0.5),
        _share([pair in evidence.pairs for pair in pairwise(stems)], 0.5),
        pronoun,
        bool(said) and said[0].stem in entity,
        off,
        '"' in claim.text,
        page,
        recall_soft * page,
        recall_soft * bool(names),
        recall_soft * off,
        recall_sentence_idf * off,
    ]


@lru_cache(256)
def _evidence(passages: tuple[str, ...]) -> Evidence:
    return Evidence(passages)


def _share(held: Sequence[bool], of_none: float) -> float:
    return sum(held) / len(held) if held else of_none


def _equal(_stem: str) -> float:
    return 1.0


def _weighted(known: frozenset[str], stems: Sequence[str], weight: Callable[[str], float]) -> float:
    """Return the weighted recall of `stems` in `known`; 1 if there is nothing to recall."""
    total = sum(map(weight, stems))
    return sum(weight(stem) for stem in stems if stem in known) / total if total else 1.0


def _best(
    sentences: Sequence[frozenset[str]], stems: Sequence[str], weight: Callable[[str], float]
) -> float:
    return max((_weighted(known, stems, weight) for known in sentences), default=0.0)


def _having(sentences: Sequence[frozenset[str]], group: Sequence[Word]) -> list[frozenset[str]]:
    stems = {word.stem for word in group}
    return [known for known in sentences if stems & known]
