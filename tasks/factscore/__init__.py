"""FActScore: how much of a biography does a knowledge source support?

A response is taken apart into atomic facts; each is verified against the entity's page. Source:
Min et al., "FActScore", EMNLP 2023 (arXiv 2305.14251). One instance, and one verified fact:

    {"entity": "Marie Curie"} -> "Write a biography of Marie Curie."
    {"text": "Marie Curie was born in Warsaw.", "supported": true}
"""

from tasks.data import SPLITS
from tasks.factscore.feedback import feedback
from tasks.factscore.items import items
from tasks.factscore.scoring import METRICS, VerifiedFacts, score
from tasks.factscore.settings import FactScoreSettings, configured
from tasks.task import Task

__all__ = ["TASKS", "FactScoreSettings", "configure"]


def configure(settings: FactScoreSettings) -> Task:
    """Return FActScore with the decomposer, retriever and verifier that `settings` name.

    Raises:
        UserError: a file or model cannot be read, or a library is not installed.
    """
    return configured(TASKS[0], settings)


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
