"""A task small enough to think about: add two numbers; and judged responses to it."""

from __future__ import annotations

from pathlib import Path

from harness.core.schema import AspectFeedback, Feedback, Item, Metric, Sample, Score
from rlrf.feedback import Judged
from tasks.task import Answered, Judge, Task

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


# A task that even a random model answers now better, now worse: use letters, end with a digit.

YAML = """
task: toy_letters
custom_dataset: !function tasks.hooks.dataset
test_split: gate
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: ""
process_results: !function tasks.hooks.process_results
generation_kwargs:
  until: ["1", "2", "3", "4", "5", "6", "7", "8", "9", "0"]
  do_sample: true
  temperature: 1.0
  max_gen_toks: 24
metric_list:
  - {metric: letters, aggregation: mean, higher_is_better: true}
metadata: {task: toy_letters, version: 1}
"""


def _letters(response: str) -> float:
    return sum(c.isascii() and c.isalpha() for c in response) / max(len(response), 1)


def _letter_items(split: str, data: Path | None = None) -> list[Item]:
    return [item.model_copy(update={"task": "toy_letters"}) for item in items(split)]


def _letter_scores(answered: list[Answered], judge: Judge | None = None) -> list[Score]:
    return [
        Score(
            task="toy_letters",
            item=sample.item,
            index=sample.index,
            repeat=sample.repeat,
            values={"letters": _letters(sample.response)},
        )
        for _, sample in answered
    ]


def _letter_feedback(item: Item, sample: Sample, score: Score) -> Feedback:
    grade = min(2, int(score.values["letters"] * 3))
    said = AspectFeedback(aspect="letters", justification="Use more letters.", grade=grade)
    return Feedback(task="toy_letters", item=sample.item, aspects=[said])


LETTERS = Task(
    name="toy_letters",
    version="1",
    metrics=(Metric(name="letters", kind="continuous", primary=True),),
    splits=("train", "gate", "sealed"),
    items=_letter_items,
    score=_letter_scores,
    feedback=_letter_feedback,
    generation={"max_tokens": 24, "temperature": 0.0, "stop": list("1234567890")},
)
