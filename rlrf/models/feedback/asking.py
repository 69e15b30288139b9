"""What a feedback model is asked, and how its reply is written and read.

The model sees question and answer as the conversation that they are, then what is right and the
request. It replies with a line an aspect, those that matter most first, and justifies each grade
before it gives it:

    logical_correctness: Line 2 should be 21-5=16 [0]
    completeness: All steps are shown. [2]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from harness.core.schema import AspectFeedback, Feedback, Message, Record
from harness.engines import LocalEngine
from harness.judges.critique import MAX_JUSTIFICATION
from harness.replies import UnparsableReplyError
from rlrf.models.feedback.cases import Subject

MAX_REPLY = 20_000  # characters read
BREAK = " | "  # a line break in a justification
GRADES: dict[str, Literal[0, 1, 2]] = {"0": 0, "1": 1, "2": 2}


class Asks(Record):
    """What decides the prompt of a feedback model, beside the answer."""

    aspects: list[str] = Field(min_length=1, description="that it may judge, by name")
    reference: bool = Field(description="whether it is shown what is right")
    max_length: int = Field(gt=0, description="tokens of prompt and reply")
    max_reply: int = Field(gt=0, description="tokens of a reply")

    def room(self, engine: LocalEngine) -> tuple[int, int]:
        """Tokens for the prompt and for the reply; the reply has at most half of all."""
        whole = min(self.max_length, engine.context)
        reply = min(self.max_reply, whole // 2)
        return whole - reply, reply

    @property
    def request(self) -> str:
        """What ends the prompt."""
        return (
            "Judge the answer by what matters most: a line each, aspect: why [grade]. "
            f"Grades: 0 poor, 1 partly, 2 good. Aspects: {', '.join(self.aspects)}."
        )


class Prompt(Record):
    """What the model is shown; `cut` says that answer or reference did not fit in whole."""

    text: str
    cut: bool = False


def ask(subject: Subject, asks: Asks, engine: LocalEngine) -> Prompt | None:
    """The prompt about one answer; None where question and request alone are too long.

    What is too long loses its end: the answer keeps half of the room that there is for answer and
    reference, or more where the reference is short.
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
    """About the first `tokens` of the `of` tokens of `text`."""
    return text if tokens >= of else text[: len(text) * tokens // of]


def _render(
    subject: Subject, response: str, reference: str, asks: Asks, engine: LocalEngine
) -> str:
    right = f"What is right: {reference}\n" if reference else ""
    return engine.render(
        [
            Message(role="user", content=subject.item.prompt),
            Message(role="assistant", content=response),
            Message(role="user", content=right + asks.request),
        ]
    )


def write(feedback: Feedback) -> str:
    """Feedback as the reply that a model is to learn."""
    return "\n".join(
        f"{said.aspect}: {BREAK.join(map(words, said.justification.splitlines()))} [{said.grade}]"
        for said in feedback.aspects
    )


def read(reply: str, aspects: Sequence[str]) -> list[AspectFeedback]:
    """What a reply says of `aspects`; lines that judge none of them are passed over.

    Raises:
        UnparsableReplyError: no line judges an aspect, or one is judged twice.
    """
    known = {_name(aspect): aspect for aspect in aspects}
    found: dict[str, AspectFeedback] = {}
    for line in reply[:MAX_REPLY].splitlines():
        name, _, said = line.partition(":")
        aspect = known.get(_name(name))
        why, _, last = said.rstrip(" *.").removesuffix("]").rpartition("[")
        grade = GRADES.get(last.strip())
        justification = words(why)[:MAX_JUSTIFICATION].replace(BREAK, "\n")
        if aspect is None or grade is None or not justification:
            continue
        if aspect in found:
            raise UnparsableReplyError(f"{aspect} is judged twice")
        found[aspect] = AspectFeedback(aspect=aspect, justification=justification, grade=grade)
    if not found:
        raise UnparsableReplyError("no line of the reply judges an aspect")
    return list(found.values())


def words(text: str) -> str:
    """Text with single spaces."""
    return " ".join(text.split())


def _name(aspect: str) -> str:
    """The name of an aspect, without bullets and emphasis."""
    return words(aspect.replace("_", " ").strip("-*#. ").lower())
