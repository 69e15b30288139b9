"""Define what a benchmark is: items, scores, feedback.

A folder under `tasks/` works three ways: stock `lm_eval --include_path` reads its YAML, `rlrf eval`
and `rlrf score` call its `Task`, and the trainer learns from the same `Task`'s feedback.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.core.errors import UserError
from harness.core.schema import (
    Call,
    Feedback,
    Item,
    Metric,
    MetricResult,
    Record,
    Reply,
    Sample,
    Score,
    digest,
)
from harness.stats.intervals import aggregate

Answered = tuple[Item, Sample]

REFERENCES = ("answer", "page")  # keys of an item's reference that hold the right answer
NO_JUDGE = "no judge was named"


class Judge(Protocol):
    """Answer calls with text. A call that fails has a reason and raises nothing.

    `digest` covers what decides the judge's replies: revision, decoding.
    """

    id: str
    digest: str | None

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        """Return one reply per call, in order."""
        ...


def ask(judge: Judge | None, calls: Sequence[Call]) -> list[Reply]:
    """Return a reply per call, in order; equal calls share one. Without a judge every call fails.

    Raises:
        ValueError: the judge did not return one reply per call.
    """
    if judge is None:
        return [Reply(failure=NO_JUDGE) for _ in calls]
    keys = [digest(call) for call in calls]
    different = dict(zip(keys, calls, strict=True))
    replies = dict(zip(different, judge.ask(list(different.values())), strict=True))
    return [replies[key] for key in keys]


def new_score(
    sample: Sample,
    values: Mapping[str, float],
    unscored: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Score:
    """Return the score of `sample`: metric -> value, and metric -> why it has none."""
    return Score(
        task=sample.task,
        item=sample.item,
        index=sample.index,
        repeat=sample.repeat,
        values=dict(values),
        unscored=dict(unscored or {}),
        details=dict(details or {}),
    )


class Items(Protocol):
    def __call__(self, split: str, data: Path | None = None) -> list[Item]: ...


class ScoreAnswers(Protocol):
    def __call__(self, answered: Sequence[Answered], judge: Judge | None = None) -> list[Score]: ...


@dataclass(frozen=True)
class ScoreResponses:
    """Score the samples that have a response; leave the others unscored, with their reason.

    Every `Task` scores through this class, so a prompt that a server refused never counts as a
    right or a wrong answer.
    """

    score: ScoreAnswers
    metrics: tuple[Metric, ...]

    def __call__(self, answered: Sequence[Answered], judge: Judge | None = None) -> list[Score]:
        asked = [pair for pair in answered if not pair[1].unanswered]
        scored = list(self.score(asked, judge))
        if [getattr(score, "item", None) for score in scored] != [s.item for _, s in asked]:
            raise UserError(
                f"The score function of {asked[0][1].task if asked else 'a benchmark'} has to "
                f"return one Score per response, in order. It returned {len(scored)} values for "
                f"{len(asked)} responses, or in another order."
            )
        scores = iter(scored)
        return [
            self._unscored(sample) if sample.unanswered else next(scores) for _, sample in answered
        ]

    def _unscored(self, sample: Sample) -> Score:
        reason = f"no response: {sample.unanswered}"
        return new_score(sample, {}, {metric.name: reason for metric in self.metrics})


@dataclass(frozen=True)
class ListItems:
    """List the items of a split, and refuse items that are not of this task and split.

    The tasks of plugins list their items through this class, so that no evaluation or training
    starts with items that cannot be told apart.
    """

    items: Items
    task: str

    def __call__(self, split: str, data: Path | None = None) -> list[Item]:
        items = list(self.items(split, data))
        for item in items:
            if not isinstance(item, Item):
                raise self._unusable(
                    split, f"{item!r:.100} is a {type(item).__name__}, not an Item"
                )
            if (item.task, item.split) != (self.task, split):
                raise self._unusable(
                    split, f"item {item.index} says task '{item.task}', split '{item.split}'"
                )
        indices = Counter(item.index for item in items)
        if twice := [index for index, count in indices.items() if count > 1]:
            raise self._unusable(split, f"{indices[twice[0]]} items have the index {twice[0]}")
        return items

    def _unusable(self, split: str, fault: str) -> UserError:
        return UserError(f"The {split} split of {self.task} cannot be used: {fault}.")


class GiveFeedback(Protocol):
    def __call__(self, item: Item, sample: Sample, score: Score) -> Feedback: ...


class Reference(Protocol):
    def __call__(self, item: Item, response: str) -> str: ...


def own_reference(item: Item, response: str) -> str:
    """Return the item's own worked answer or page; "" if it has neither."""
    texts = (item.reference.get(key) for key in REFERENCES)
    return "\n\n".join(text for text in texts if isinstance(text, str) and text)


class Rewrite(Protocol):
    def __call__(self, item: Item, sample: Sample, score: Score) -> str | None: ...


class Evidence(Record):
    """What was established about one response before, and scores it without a judge.

    A benchmark derives a record with its own fields from this one. `response` is the text that the
    evidence is about, where it was recorded.
    """

    response: str | None = None

    @abstractmethod
    def score(self, sample: Sample) -> Score:
        """Score `sample` by this evidence."""

    @classmethod
    @abstractmethod
    def score_without(cls, sample: Sample) -> Score:
        """Score a sample for which no evidence was recorded."""


@dataclass(frozen=True)
class Task:
    """A benchmark, as the harness and the trainer see it.

    Attributes:
        items: `items(split, data)` lists the items of a split.
        score: `score(answered, judge)` returns one score per answer, in order. It never raises
            because of what a model wrote.
        feedback: `feedback(item, sample, score)` says what is wrong with one answer.
        rewrite: `rewrite(item, sample, score)` corrects one answer, where the right one is known.
        judge_prompt: digest of what a judge is asked, None if it is asked nothing.
        derive: metrics that are computed over all scores rather than per item.
        ground: `ground(item, response)` returns the text with which a model that criticises the
            answer compares it; "" if there is none.
        settings: the record that the task's block in a judging file holds, if it takes one.
        configure: `configure(settings)` returns the task as such a block says.
        evidence: the record that scores a response in place of a judge (`rlrf score --facts`).
    """

    name: str
    version: str
    metrics: tuple[Metric, ...]
    splits: tuple[str, ...]
    items: Items
    score: ScoreAnswers
    feedback: GiveFeedback
    rewrite: Rewrite | None = None
    generation: Mapping[str, Any] = field(
        default_factory=lambda: {"max_tokens": 512, "temperature": 0.0, "stop": []}
    )
    prompt_style: str = "chat"
    estimator: str | None = None
    judge_prompt: str | None = None
    derive: Callable[[Sequence[Score]], dict[str, MetricResult]] | None = None
    ground: Reference = own_reference
    settings: type[Record] | None = None
    configure: Callable[[Any], Task] | None = None
    evidence: type[Evidence] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.score, ScoreResponses):
            object.__setattr__(self, "score", ScoreResponses(self.score, self.metrics))

    @property
    def primary(self) -> Metric:
        """Return the metric that decides where one number is needed."""
        return next(metric for metric in self.metrics if metric.primary)

    def aggregate(self, scores: Sequence[Score]) -> dict[str, MetricResult]:
        """Return every metric over `scores`: item means first, then those of `derive`."""
        results = aggregate(scores, {metric.name: metric for metric in self.metrics})
        if self.derive is not None:
            results |= self.derive(scores)
        return results


def quality(metric: Metric, value: float) -> float:
    """Return where `value` lies in the metric's range: 0 at the worst end, 1 at the best.

    Raises:
        UserError: the metric has no known range.
    """
    if metric.low is None or metric.span is None:
        raise UserError(
            f"The range of '{metric.name}', the primary metric of its task, is not known, and "
            "rewards are a share of that range. Give the metric a low and a high end."
        )
    share = (value - metric.low) / metric.span
    return share if metric.higher_is_better else 1 - share
