"""The verifier that needs no model: a logistic model over what fact and passages share.

Its weights are in `lexical.json`, with what they were fitted on; `python -m
tasks.factscore.fit_lexical` made them, and docs/factscore.md says what it is worth on biographies
it was not fitted on. Scoring ChatGPT's labelled biographies with it is in-sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness.core.schema import Record, digest
from tasks.factscore.lexical_features import NAMES, features, nearest, says
from tasks.factscore.parts import Claim, Finding
from tasks.task import Judge


class LexicalModel(Record):
    """P(supported) = 1 / (1 + exp(-(intercept + weights . features))); supported from threshold."""

    fitted_on: str = Field(description="data and method; scores on these data are in-sample")
    weights: dict[str, float]
    intercept: float
    threshold: float

    def probabilities(self, claims: Sequence[Claim]) -> NDArray[np.float64]:
        """P(supported) for each fact of one biography."""
        weights = np.array([self.weights[name] for name in NAMES])
        logit = features(claims) @ weights + self.intercept
        return np.asarray(1 / (1 + np.exp(-logit)), dtype=np.float64)


@cache
def shipped() -> LexicalModel:
    """The model that comes with the package."""
    text = files("tasks.factscore").joinpath("lexical.json").read_text(encoding="utf-8")
    return LexicalModel.model_validate_json(text)


class Lexical:
    """Verifies by words in common; asks nobody.

    A fact is judged by its company too, but what a passage says word for word is supported
    whatever its company: all of the 130 such facts among the labelled ones are.
    """

    prompt_digest = None

    def __init__(self, model: LexicalModel | None = None) -> None:
        self._model = model or shipped()
        self.name = f"verify lexical@{digest(self._model)[:8]}"

    def verify(self, claims: Sequence[Sequence[Claim]], judge: Judge | None) -> list[list[Finding]]:
        """Findings; none fails."""
        return [
            [
                Finding(bool(p >= self._model.threshold) or says(claim), evidence=nearest(claim))
                for claim, p in zip(group, self._model.probabilities(group), strict=True)
            ]
            for group in claims
        ]
