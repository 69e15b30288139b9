"""Judged answers to the toy task, and a tiny model that has room for prompts with a request."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from harness.core.schema import AspectFeedback, Feedback
from helpers import toy
from rlrf.config import Device
from rlrf.feedback import Judged
from rlrf.models.feedback.cases import Case
from rlrf.models.feedback.measure import Comparison
from rlrf.models.feedback.model import FeedbackManifest, FeedbackTraining, subject_of
from rlrf.models.feedback.training import train

SETTINGS = FeedbackTraining(
    learning_rate=2e-2, epochs=7, batch_size=8, max_length=600, max_reply=80
)
ANSWERS = ("It is 7.", "No.")  # good and poor


def roomy(model: Path, folder: Path) -> Path:
    """A copy of the tiny model that reads 1,024 tokens."""
    shutil.copytree(model, folder)
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | {"max_position_embeddings": 1024}))
    return folder


def feedback(item: str, grade: int) -> Feedback:
    """A grade of the sum, and a complaint about the tone, which is the same of every answer."""
    words = ("Say a number.", "Say more.", "Right.")
    return Feedback(
        task="toy",
        item=item,
        aspects=[
            AspectFeedback(aspect="sum", justification=words[grade], grade=grade),
            AspectFeedback(aspect="tone", justification="Be kind.", grade=1),
        ],
    )


def judged(prompts: int = 40) -> list[Judged]:
    """A good and a poor answer to each prompt."""
    found = []
    for index in range(prompts):
        for repeat, (answer, grade) in enumerate(zip(ANSWERS, (2, 0), strict=True)):
            one = toy.judged(answer, grade / 2, repeat=repeat, index=index)
            found.append(one.model_copy(update={"feedback": feedback(one.sample.item, grade)}))
    return found


def cases(prompts: int = 40) -> list[Case]:
    """The same with their items."""
    items = {item.digest: item for item in toy.items("train")}
    return [
        Case(subject_of(items[one.sample.item], one.sample.response, toy.TASK), one.feedback)
        for one in judged(prompts)
    ]


def fit(base: Path, out: Path, **arguments: object) -> tuple[FeedbackManifest, Comparison]:
    """Train a feedback model on the cases; `changes` are of the settings."""
    changes = arguments.pop("changes", {})
    found = {"cases": cases(), "training": SETTINGS.model_copy(update=changes)} | arguments
    return train(base=base, device=Device(device="cpu"), out=out, **found)
