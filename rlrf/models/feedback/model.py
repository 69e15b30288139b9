"""Feedback models: language models that say what is wrong with a response, aspect by aspect.

The model sees prompt and response as a conversation, then the reference and the request. It replies
with one line per aspect, most important first, and justifies each grade before giving it:

    logical_correctness: Line 2 should be 21-5=16 [0]
    completeness: All steps are shown. [2]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from harness.core.errors import UserError
from harness.core.log import say
from harness.core.schema import AspectFeedback, Feedback, Item, Record, digest
from harness.engines import LocalEngine, Sampling
from harness.engines.model_folder import model_digest
from harness.judges.critique import MAX_JUSTIFICATION, Critique
from harness.replies import UnparsableReplyError
from rlrf.models import trained_model
from rlrf.sampling import conversation
from rlrf.training_config import Adapter, Optimisation
from tasks.task import Answered, Task

MANIFEST = "feedback_model.json"
MAX_REPLY = 20_000  # characters read
BREAK = " | "  # a line break in a justification
GRADES: dict[str, Literal[0, 1, 2]] = {"0": 0, "1": 1, "2": 2}


@dataclass(frozen=True)
class Subject:
    """A response to be judged; `reference` is what to compare it with, or ""."""

    item: Item
    response: str
    reference: str


class FeedbackTraining(Optimisation):
    """Supervised fine-tuning on the judge's feedback."""

    place: ClassVar[str] = ""

    adapter: Adapter | None = Field(
        default=None, description="LoRA, merged after training; null: train all weights"
    )
    learning_rate: float = Field(default=1e-5, gt=0)
    epochs: float = Field(default=2, gt=0)
    max_length: int = Field(
        default=2048, gt=0, description="tokens of prompt and reply; longer prompts are cut"
    )
    max_reply: int = Field(
        default=512, gt=0, description="tokens of a reply, at most half of the context"
    )


class Asks(Record):
    """What determines the prompt of a feedback model, besides the response."""

    aspects: list[str] = Field(min_length=1, description="names of the aspects that it may judge")
    reference: bool = Field(description="whether it is shown the reference")
    max_length: int = Field(gt=0, description="tokens of prompt and reply")
    max_reply: int = Field(gt=0, description="tokens of a reply")

    def room(self, engine: LocalEngine) -> tuple[int, int]:
        """Return the tokens for the prompt and for the reply, which gets at most half."""
        whole = min(self.max_length, engine.context)
        reply = min(self.max_reply, whole // 2)
        return whole - reply, reply

    @property
    def request(self) -> str:
        """The request that ends the prompt."""
        return (
            "Judge the answer by what matters most: a line each, aspect: why [grade]. "
            f"Grades: 0 poor, 1 partly, 2 good. Aspects: {', '.join(self.aspects)}."
        )


class FeedbackManifest(trained_model.Manifest):
    """`feedback_model.json`: what a feedback model was trained from, and its files."""

    cases: str = Field(description="digest of the answers that it learned from, in order")
    answers: int
    left_out: int = Field(description="answers whose question or feedback is too long to learn")
    cut: int = Field(description="answers that were shown cut off, or with a cut-off reference")
    items: list[str] = Field(description="digests of the items that it learned from")
    usual: dict[str, int] = Field(description="aspect -> its most frequent grade there")
    asks: Asks
    training: FeedbackTraining


def read_manifest(folder: Path) -> FeedbackManifest:
    """Read the manifest of the feedback model in `folder`, and check its files.

    Raises:
        UserError: `folder` is not a feedback model, or a file is not the one that training wrote.
    """
    manifest = trained_model.read_manifest(folder, MANIFEST, FeedbackManifest)
    if manifest is None:
        raise UserError(
            f"{folder} is not a feedback model: it has no {MANIFEST}. Train one from it with "
            "`rlrf feedback-model train`."
        )
    return manifest


class FeedbackModel:
    """A trained feedback model; `load` opens an engine on its folder when it is needed.

    Raises:
        UserError: the folder is not a feedback model, or not as training wrote it.
    """

    def __init__(self, folder: Path, load: Callable[[], LocalEngine]) -> None:
        self.manifest = read_manifest(folder)
        self.digest = digest([model_digest(folder), self.manifest.asks.model_dump(mode="json")])
        self._load = load

    def critiques(self, answered: Sequence[Answered], task: Task) -> list[Critique]:
        """Criticise each answer, in order; `task` gives the references."""
        subjects = [subject_of(item, sample.response, task) for item, sample in answered]
        return criticise(self._load(), subjects, self.manifest.asks)


def criticise(engine: LocalEngine, subjects: Sequence[Subject], asks: Asks) -> list[Critique]:
    """Ask the model in `engine` about each response, decoded greedily.

    A critique without feedback has a reason.
    """
    prompts = [ask(subject, asks, engine) for subject in subjects]
    if cut := sum(prompt is not None and prompt.cut for prompt in prompts):
        say(f"{cut} of {len(prompts)} answers or their references were cut off to fit the context")
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
        aspects = read_reply(reply, asks.aspects)
    except UnparsableReplyError as error:
        return Critique(reason=str(error))
    item = subject.item
    return Critique(feedback=Feedback(task=item.task, item=item.digest, aspects=aspects))


# Prompts and replies ---------------------------------------------------------------------------


def subject_of(item: Item, response: str, task: Task) -> Subject:
    """Pair a response with the reference that `task` compares it with."""
    return Subject(item, response, task.ground(item, response))


class Prompt(Record):
    """The prompt; `cut` says that the response or the reference did not fit completely."""

    text: str
    cut: bool = False


def ask(subject: Subject, asks: Asks, engine: LocalEngine) -> Prompt | None:
    """Write the prompt about one response; None if question and request alone are too long.

    A text that is too long loses its end: the response keeps half of the tokens that remain for
    response and reference, or more if the reference is short.
    """
    room, _ = asks.room(engine)
    reference = subject.reference if asks.reference else ""
    text = _render(subject, subject.response, reference, asks, engine)
    excess = len(engine.encode(text)) - room
    cut = excess > 0
    parts = [len(engine.encode(subject.response)), len(engine.encode(reference))]
    shared = sum(parts)
    while excess > 0:
        shared -= excess
        if shared <= 0:
            return None
        most = max(shared - parts[1], shared // 2)
        response = _head(subject.response, min(parts[0], most), parts[0])
        shown = _head(reference, shared - min(parts[0], most), parts[1])
        text = _render(subject, response, shown, asks, engine)
        excess = len(engine.encode(text)) - room
    return Prompt(text=text, cut=cut)


def _head(text: str, tokens: int, of: int) -> str:
    """Return roughly the first `tokens` of the `of` tokens of `text`."""
    return text if tokens >= of else text[: len(text) * tokens // of]


def _render(
    subject: Subject, response: str, reference: str, asks: Asks, engine: LocalEngine
) -> str:
    right = f"What is right: {reference}\n" if reference else ""
    return engine.render(conversation(subject.item.prompt, response, right + asks.request))


def write_reply(feedback: Feedback) -> str:
    """Write feedback as the reply that a model learns."""
    lines = []
    for one in feedback.aspects:
        justification = BREAK.join(map(single_spaced, one.justification.splitlines()))
        lines.append(f"{one.aspect}: {justification} [{one.grade}]")
    return "\n".join(lines)


def read_reply(reply: str, aspects: Sequence[str]) -> list[AspectFeedback]:
    """Read what a reply says about `aspects`; lines that judge no aspect are skipped.

    Raises:
        UnparsableReplyError: no line judges an aspect, or an aspect is judged twice.
    """
    known = {_name(aspect): aspect for aspect in aspects}
    judged: dict[str, AspectFeedback] = {}
    for line in reply[:MAX_REPLY].splitlines():
        name, _, rest = line.partition(":")
        aspect = known.get(_name(name))
        why, _, last = rest.rstrip(" *.").removesuffix("]").rpartition("[")
        grade = GRADES.get(last.strip())
        justification = single_spaced(why)[:MAX_JUSTIFICATION].replace(BREAK, "\n")
        if aspect is None or grade is None or not justification:
            continue
        if aspect in judged:
            raise UnparsableReplyError(f"{aspect} is judged twice")
        judged[aspect] = AspectFeedback(aspect=aspect, justification=justification, grade=grade)
    if not judged:
        raise UnparsableReplyError("no line of the reply judges an aspect")
    return list(judged.values())


def single_spaced(text: str) -> str:
    """Replace white space by single spaces."""
    return " ".join(text.split())


def _name(aspect: str) -> str:
    """Normalise the name of an aspect: no bullets, no emphasis."""
    return single_spaced(aspect.replace("_", " ").strip("-*#. ").lower())
