"""FActScore: how much of a biography does a knowledge source support?

A response is taken apart into atomic facts; each is verified against the entity's page. Source:
Min et al., "FActScore", EMNLP 2023 (arXiv 2305.14251). One instance, and one verified fact:

    {"entity": "Marie Curie"} -> "Write a biography of Marie Curie."
    {"text": "Marie Curie was born in Warsaw.", "supported": true}

The block `factscore:` of a judging file configures it:

    factscore: {knowledge: wiki.db, decomposer: clauses, verifier: lexical}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from harness.core.schema import Item, Record
from tasks.data import SPLITS
from tasks.factscore import decomposers, verifiers
from tasks.factscore.abstention import Rules
from tasks.factscore.feedback import feedback
from tasks.factscore.items import items
from tasks.factscore.knowledge import Bm25, Dense, Knowledge
from tasks.factscore.lexical import Lexical
from tasks.factscore.pipeline import Decomposer, Pages, Pipeline, Retriever, Verifier
from tasks.factscore.scoring import GAMMA, METRICS, K, VerifiedFacts, score
from tasks.factscore.verifiers import Nli, VerdictRule
from tasks.task import Task


class FactScoreSettings(Record):
    """The parts of FActScore, and its constants."""

    knowledge: Path = Field(description="SQLite file with a table documents(title, text)")
    decomposer: Literal["judge", "clauses", "sentences"] = "judge"
    demonstrations: Path | None = Field(
        default=None,
        description="file in the format of FActScore's demons.json; absent: the project's own",
    )
    retriever: Literal["bm25", "dense"] = "bm25"
    dense_model: str = "sentence-transformers/gtr-t5-large"
    verifier: Literal["lexical", "judge", "nli"] = "judge"
    verdict: VerdictRule = Field(
        default="commitment",
        description="how a judge's reply is read; published: FActScore's own rule",
    )
    nli_model: str | None = Field(default=None, description="folder, hub id, or hub id@revision")
    k: int = Field(default=5, ge=1, le=50, description="passages per fact")
    gamma: float = Field(default=GAMMA, ge=0, description="facts; shorter responses are penalised")
    at_k: int = Field(default=K, ge=1, description="K of F1@K, in facts")
    abstention: Rules = Field(
        default="content", description="how a response that declines is recognised"
    )

    @model_validator(mode="after")
    def _complete(self) -> FactScoreSettings:
        if self.verifier == "nli" and not self.nli_model:
            raise ValueError("verifier 'nli' needs nli_model: a folder or the id of a model")
        return self


def configure(settings: FactScoreSettings) -> Task:
    """Return FActScore with the decomposer, retriever and verifier that `settings` name.

    Raises:
        UserError: the knowledge source, the demonstrations or a model cannot be read, or a library
            for dense retrieval is not installed.
    """
    with Knowledge(settings.knowledge) as knowledge:
        source = knowledge.digest
    pipeline = Pipeline(
        pages=_pages(settings.knowledge),
        decomposer=_decomposer(settings),
        retriever=_retriever(settings),
        verifier=_verifier(settings),
        gamma=settings.gamma,
        at_k=settings.at_k,
        rules=settings.abstention,
    )
    return replace(
        TASKS[0],
        score=pipeline.score,
        ground=pipeline.ground,
        judge_prompt=pipeline.judge_prompt,
        estimator=f"knowledge {source[:8]}, {pipeline.name}, abstention {settings.abstention}",
    )


def _pages(path: Path) -> Pages:
    def pages(items: Sequence[Item]) -> list[tuple[str, ...] | None]:
        with Knowledge(path) as knowledge:
            passages = [knowledge.page(item.reference["entity"]) for item in items]
        return [None if page is None else tuple(page) for page in passages]

    return pages


def _decomposer(settings: FactScoreSettings) -> Decomposer:
    if settings.decomposer == "sentences":
        return decomposers.Sentences()
    if settings.decomposer == "clauses":
        return decomposers.Clauses()
    return decomposers.ByJudge(decomposers.load_demonstrations(settings.demonstrations))


def _retriever(settings: FactScoreSettings) -> Retriever:
    if settings.retriever == "bm25":
        return Bm25(settings.k)
    return Dense(settings.dense_model, settings.k)


def _verifier(settings: FactScoreSettings) -> Verifier:
    if settings.verifier == "lexical":
        return Lexical()
    if settings.nli_model and settings.verifier == "nli":
        return Nli(settings.nli_model)
    return verifiers.ByJudge(settings.verdict)


TASKS = [
    Task(
        name="factscore",
        version="2",
        metrics=METRICS,
        splits=SPLITS,
        items=items,
        score=score,
        feedback=feedback,
        settings=FactScoreSettings,
        configure=configure,
        evidence=VerifiedFacts,
    )
]
