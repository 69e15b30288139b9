"""A task small enough to think about: add two numbers; and judged responses to it."""

from __future__ import annotations

from pathlib import Path

from harness.schema import AspectFeedback, Feedback, Item, Metric, Sample, Score
from rlrf.feedback import Judged
from tasks.plugin import Answered, Judge, Task

SIZES = {"train": 40, "gate": 30, "sealed": 20}


def items(split: str, data: Path | None = None) -> list[Item]:
    first = {"train": 0, "gate": 100, "sealed": 200}[split]
    return [
        Item(
            task="toy",
            split=split,
            index=i,
            prompt=f"What is {first + i} plus 4?",
            reference={"sum": first + i + 4},
        )
        for i in range(SIZES[split])
    ]


def score(answered: list[Answered], judge: Judge | None = None) -> list[Score]:
    return [
        Score(
            task="toy",
            item=sample.item,
            index=sample.index,
            repeat=sample.repeat,
            values={"right": float(str(item.reference["sum"]) in sample.response)},
        )
        for item, sample in answered
    ]


def feedback(item: Item, sample: Sample, score: Score) -> Feedback:
    right = score.values.get("right") == 1
    brief = len(sample.response) < 20
    return Feedback(
        task="toy",
        item=sample.item,
        aspects=[
            AspectFeedback(
                aspect="correctness",
                justification="The sum is right." if right else "The sum is wrong.",
                grade=2 if right else 0,
            ),
            AspectFeedback(
                aspect="brevity",
                justification="It is brief." if brief else "Say less.",
                grade=2 if brief else 1,
            ),
        ],
    )


TASK = Task(
    name="toy",
    version="1",
    metrics=(Metric(name="right", kind="binary", primary=True),),
    splits=("train", "gate", "sealed"),
    items=items,
    score=score,
    feedback=feedback,
    generation={"max_tokens": 12, "temperature": 0.0, "stop": []},
)


def sample(
    response: str, repeat: int = 0, index: int = 0, finish_reason: str | None = "stop"
) -> Sample:
    item = items("train")[index]
    return Sample(
        task="toy",
        item=item.digest,
        index=index,
        repeat=repeat,
        prompt=f"<{item.prompt}>",
        response=response,
        finish_reason=finish_reason,
    )


def judged(
    response: str,
    value: float | None,
    *,
    repeat: int = 0,
    index: int = 0,
    draft: int | None = None,
    grade: int = 1,
    finish_reason: str | None = "stop",
) -> Judged:
    """A response with a given value of `right` (None: unscored) and a grade of one aspect."""
    one = sample(response, repeat, index, finish_reason)
    found = Score(
        task="toy",
        item=one.item,
        index=index,
        repeat=repeat,
        values={} if value is None else {"right": value},
        unscored={"right": "no judge"} if value is None else {},
    )
    said = AspectFeedback(aspect="all", justification=f"About {response}.", grade=grade)
    return Judged(
        sample=one,
        score=found,
        feedback=Feedback(task="toy", item=one.item, aspects=[said]),
        draft=draft,
    )
