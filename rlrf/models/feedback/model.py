"""A feedback model at work: answers in, critiques out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field

from harness.core.errors import UserError
from harness.core.files import parse, read_json
from harness.core.log import say
from harness.core.schema import SCHEMA_VERSION, Feedback, Record, SchemaVersion, digest
from harness.engines import LocalEngine, Sampling
from harness.engines.model_folder import check_files, model_digest
from harness.judges.critique import Critique
from harness.replies import UnparsableReplyError
from rlrf.models.feedback.asking import Asks, ask, read
from rlrf.models.feedback.cases import Subject, subject_of
from rlrf.models.feedback.config import FeedbackTraining
from tasks.task import Answered, Task

MANIFEST = "feedback_model.json"


class Manifest(Record):
    """`feedback_model.json` of a trained feedback model: what it was made from, and what it is."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    base: str = Field(description="digest of the model that training started from")
    cases: str = Field(description="digest of the answers that it learned from, in order")
    answers: int
    left_out: int = Field(description="answers whose question or feedback is too long to learn")
    cut: int = Field(description="answers that were shown cut, or with a reference that was")
    items: list[str] = Field(description="digests of the items that it learned from")
    usual: dict[str, int] = Field(description="aspect -> its most frequent grade there")
    asks: Asks
    training: FeedbackTraining
    seed: int
    files: dict[str, str] = Field(description="file -> sha256")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the feedback model in `folder`, whose files are what it says.

    Raises:
        UserError: there is none, or a file is not the one that training wrote.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder} holds no feedback model: it has no {MANIFEST}. Train one from it with "
            "`rlrf feedback-model train`."
        )
    manifest = parse(Manifest, read_json(path), str(path))
    check_files(folder, MANIFEST, manifest.files)
    return manifest


class FeedbackModel:
    """A trained feedback model; `load` gives the engine of its folder when it is needed.

    Raises:
        UserError: the folder holds none, or not what training wrote.
    """

    def __init__(self, folder: Path, load: Callable[[], LocalEngine]) -> None:
        self.manifest = read_manifest(folder)
        self.digest = digest([model_digest(folder), self.manifest.asks.model_dump(mode="json")])
        self._load = load

    def critiques(self, answered: Sequence[Answered], task: Task) -> list[Critique]:
        """Feedback on each answer, in order, or none and a reason; `task` grounds it."""
        subjects = [subject_of(item, sample.response, task) for item, sample in answered]
        return critiques(self._load(), subjects, self.manifest.asks)


def critiques(engine: LocalEngine, subjects: Sequence[Subject], asks: Asks) -> list[Critique]:
    """What the model in `engine` says of each answer, decoded greedily."""
    prompts = [ask(subject, asks, engine) for subject in subjects]
    if cut := sum(prompt is not None and prompt.cut for prompt in prompts):
        say(f"{cut} of {len(prompts)} answers or their references were cut to fit the context")
    _, most = asks.room(engine)
    replies = iter(
        engine.generate([prompt.text for prompt in prompts if prompt], Sampling(max_tokens=most))
    )
    return [
        Critique(reason="the question is too long for the model")
        if prompt is None
        else _critique(subject, next(replies)[0].text, asks)
        for subject, prompt in zip(subjects, prompts, strict=True)
    ]


def _critique(subject: Subject, reply: str, asks: Asks) -> Critique:
    try:
        aspects = read(reply, asks.aspects)
    except UnparsableReplyError as error:
        return Critique(reason=str(error))
    item = subject.item
    return Critique(feedback=Feedback(task=item.task, item=item.digest, aspects=aspects))
