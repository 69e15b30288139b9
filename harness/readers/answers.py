"""Make an evaluation of the answers that another tool recorded.

Answers belong to one item if they have the same content: the prompt, and what is right. If a source
tells no content, its name of the item counts, character by character. Answers to one item are its
repeats. Items are ordered by what identifies them, so that two files with the same items in another
order are compared item by item.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.core.errors import UserError
from harness.core.files import records_digest
from harness.core.log import say
from harness.core.schema import (
    Evaluation,
    FinishReason,
    Item,
    Metric,
    ModelRef,
    Sample,
    Score,
    check_name,
    digest,
)
from harness.core.scored import ScoredEvaluation
from harness.core.text import did_you_mean, listed, quote, shorten
from harness.stats.intervals import aggregate

MAX_ANSWERS = 500_000
MAX_METRICS = 200
MAX_TEXT_CHARS = 20_000  # kept of a prompt or a response
MAX_KEPT_CHARS = 256 * 1024**2  # of all prompts of a task, and of all responses
MAX_REASON_CHARS = 300
MAX_FIELD_CHARS = 200  # of a field that may name a cluster
UNIT = (0.0, 1.0)
NOT_TOLD = "not told"
_NUMBER = re.compile(r"([-+]?)0*([0-9]+)(?:\.0*)?")


@dataclass(slots=True)
class Answer:
    """One answer to one item, as a tool recorded it.

    Attributes:
        name: what the tool calls the item, for messages.
        where: place in the file, for messages.
        prompt: content of the item; "" if the tool does not tell.
        reference: what is right, and what else makes the item this one.
        repeat: number of the answer among those to the item; None: in the order of the file.
        values: metric -> value.
        unscored: metric -> reason why it has no value.
        document: fields that may name clusters.
    """

    name: str
    where: str
    prompt: str = ""
    reference: dict[str, Any] = field(default_factory=dict)
    repeat: int | None = None
    values: dict[str, float] = field(default_factory=dict)
    unscored: dict[str, str] = field(default_factory=dict)
    response: str | None = None
    finish_reason: FinishReason | None = None
    document: dict[str, Any] = field(default_factory=dict)


def mapping(value: Any) -> dict[str, Any]:
    """Return `value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def cluster_fields(value: Any) -> dict[str, Any]:
    """Return the fields of an object that may name clusters: short texts and whole numbers."""
    return {
        name: field
        for name, field in mapping(value).items()
        if isinstance(field, str | int) and len(str(field)) <= MAX_FIELD_CHARS
    }


@dataclass(frozen=True)
class MetricInfo:
    """What a tool says of a metric: its range, and which direction is better."""

    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True


@dataclass
class Results:
    """The answers of one model to one task.

    `settings` say how the answers were made; two sides have to agree on them. `scorer` describes
    what scored them, likewise. The first of `metrics` is the primary one. `is_named` says that
    names of items identify them; else their content does.
    """

    tool: str
    source: str
    task: str
    model: str
    version: str
    answers: Iterable[Answer]
    metrics: dict[str, MetricInfo] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    scorer: str | None = None
    task_version: str = "1"
    split: str = "test"
    is_named: bool = False


def assemble(results: Results, lower_is_better: Iterable[str] = ()) -> ScoredEvaluation:
    """Make an evaluation of results; `lower_is_better` names metrics the tool says nothing of.

    Raises:
        UserError: there is no answer, or too many; an item is there twice; the answers to items
            differ in number; a value is not a number.
    """
    task = check_name(results.task, f"The task of {results.source}")
    items: dict[str, list[Answer]] = {}
    digests: dict[str, Item] = {}
    kept_chars = response_chars = 0
    keeps_responses = True
    for count, answer in enumerate(results.answers, 1):
        if count > MAX_ANSWERS:
            raise UserError(
                f"{results.source} has more than {MAX_ANSWERS:,} answers to {shorten(task)}, "
                "which are not read. A sample of them is enough for a gate."
            )
        item = _item(task, results, answer)
        kept_chars += _shorten_texts(answer)
        response_chars += len(answer.response or "")
        if response_chars > MAX_KEPT_CHARS:
            keeps_responses = False
        if not keeps_responses:
            answer.response = None
        if kept_chars > MAX_KEPT_CHARS:
            raise UserError(
                f"{results.source} holds more than {MAX_KEPT_CHARS:,} characters of prompts, which "
                "are not read. Give fewer items, or a table that names items instead."
            )
        name = item.digest
        digests.setdefault(name, item)
        items.setdefault(name, []).append(answer)
    if not items:
        raise UserError(f"{results.source} has no answer to {shorten(task)}.")
    if not keeps_responses:
        say(
            f"The responses in {results.source} have more than {MAX_KEPT_CHARS:,} characters and "
            "are not kept: alarms and reports are without them."
        )
    places = _places(results, items)
    order = sorted(items)
    if results.is_named:
        order.sort(key=lambda name: natural(digests[name].prompt))
        _require_distinct([items[name][0] for name in order], results.source)
    names = _metric_names(results, items.values())
    made: list[Item] = []
    scores: list[Score] = []
    samples: list[Sample] = []
    for name in order:
        for place in places(items[name]):
            index = len(made)
            made.append(digests[name].model_copy(update={"index": index}))
            for repeat, answer in enumerate(place):
                common: dict[str, Any] = {
                    "task": task,
                    "item": name,
                    "index": index,
                    "repeat": repeat,
                }
                scores.append(Score(**common, values=answer.values, unscored=answer.unscored))
                if keeps_responses and answer.response is not None:
                    samples.append(
                        Sample(
                            **common,
                            prompt=digests[name].prompt,
                            response=answer.response,
                            finish_reason=answer.finish_reason,
                        )
                    )
    repeats = len(scores) // len(made)
    unknown = set(lower_is_better)
    definitions = {
        name: _define(name, results.metrics.get(name, MetricInfo()), scores, unknown, i == 0)
        for i, name in enumerate(names)
    }
    evaluation = Evaluation(
        task=task,
        # With the tool's name: our own benchmark of this name is another.
        task_version=check_name(f"{results.tool} {results.task_version}", "The task's version"),
        split=results.split,
        model=ModelRef(id=check_name(results.model, "The name of the model")),
        engine=results.tool,
        decoding=_storable(results.settings) | {"repeats": repeats},
        estimator=check_name(results.scorer, "The scorer") if results.scorer else None,
        dataset_digest=digest([item.digest for item in made]),
        prompt_digest=digest({"prompts": "of the items"}),
        code_version=check_name(results.version, "The version of the tool"),
        items=len(made),
        definitions=definitions,
        metrics=aggregate(scores, definitions),
        samples_digest=records_digest(samples),
        scores_digest=records_digest(scores),
    )
    return ScoredEvaluation(evaluation, scores, samples, made)


def _item(task: str, results: Results, answer: Answer) -> Item:
    """Make the item of an answer; long prompts are identified by their digest."""
    prompt, reference = answer.prompt, _storable(answer.reference)
    if results.is_named:
        prompt, reference = answer.name, {}
    elif len(prompt) > MAX_TEXT_CHARS:
        whole = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
        reference = reference | {"prompt_sha256": whole}
    return Item(
        task=task,
        split=results.split,
        index=0,
        prompt=prompt[:MAX_TEXT_CHARS],
        reference=reference,
        document=answer.document,
    )


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    """Return JSON with NaN and infinities, which records cannot hold, as text."""
    stored: dict[str, Any] = json.loads(json.dumps(value), parse_constant=str)
    return stored


def _shorten_texts(answer: Answer) -> int:
    """Cut the texts of an answer; return how many characters are kept besides the response."""
    answer.prompt = answer.prompt[:MAX_TEXT_CHARS]
    if answer.response is not None:
        answer.response = answer.response[:MAX_TEXT_CHARS]
    answer.unscored = {n: shorten(why, MAX_REASON_CHARS) for n, why in answer.unscored.items()}
    fields = sum(len(str(value)) for value in answer.document.values())
    return len(answer.prompt) + fields


def _places(
    results: Results, items: Mapping[str, Sequence[Answer]]
) -> Callable[[Sequence[Answer]], Iterator[list[Answer]]]:
    """Return how the answers to one item are divided into places of the benchmark.

    Where a tool does not number its repeats, the same number of answers to each item is a number of
    repeats. Different numbers say that a question was asked in several places.
    """
    counts = {len(answers) for answers in items.values()}
    numbered = all(answer.repeat is not None for some in items.values() for answer in some)
    if not numbered:
        repeated = len(counts) == 1
        return lambda answers: iter([[*answers]] if repeated else [[answer] for answer in answers])
    for answers in items.values():
        seen: dict[int | None, Answer] = {}
        for answer in answers:
            other = seen.setdefault(answer.repeat, answer)
            if other is not answer and results.is_named:
                raise UserError(
                    f"{results.source} has two answers to the item {quote(answer.name)}: "
                    f"{other.where} and {answer.where}. Keep one of them, or number the answers "
                    "of an item in a column 'repeat'."
                )

    def divide(answers: Sequence[Answer]) -> Iterator[list[Answer]]:
        """Divide answers by their numbers: two with the same number are of two places."""
        by_place: list[list[Answer]] = []
        seen: Counter[int | None] = Counter()
        for answer in sorted(answers, key=lambda answer: answer.repeat or 0):
            place = seen[answer.repeat]
            seen[answer.repeat] += 1
            if place == len(by_place):
                by_place.append([])
            by_place[place].append(answer)
        yield from by_place

    sizes = {name: [len(place) for place in divide(answers)] for name, answers in items.items()}
    most = max(max(of_item) for of_item in sizes.values())
    for name, of_item in sizes.items():
        if min(of_item) < most:
            raise UserError(
                f"{results.source} has {most} answers to some items and {min(of_item)} to "
                f"{quote(items[name][0].name)}. Every item needs the same number: evaluate again, "
                "or remove the answers that others lack."
            )
    return divide


def plain_name(name: str) -> str:
    """Return a name without what a program may add to it: spaces, zeros, the decimals of 1.0."""
    plain = unicodedata.normalize("NFKC", name).strip()
    number = _NUMBER.fullmatch(plain)
    return f"{number[1]}{number[2]}" if number else plain


def _require_distinct(answers: Sequence[Answer], source: str) -> None:
    """Refuse items whose names only look alike, such as 1 and 01."""
    seen: dict[str, Answer] = {}
    for answer in answers:
        other = seen.setdefault(plain_name(answer.name), answer)
        if other is not answer:
            raise UserError(
                f"{source} has items whose names only look alike: {other.name!r} ({other.where}) "
                f"and {answer.name!r} ({answer.where}). Give an item one name, and two items "
                "names that differ in more than spaces or zeros."
            )


def natural(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sorting key by which 2 is before 10; the text itself decides between equals."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+|[0-9]+", text)
    key = [
        (0, int(part), "") if part.isdigit() and len(part) <= 18 else (1, 0, part) for part in parts
    ]
    return key, text


def _metric_names(results: Results, answers: Iterable[Sequence[Answer]]) -> list[str]:
    """List the metrics in the order of the tool, and check their values."""
    names = dict.fromkeys(results.metrics)
    for some in answers:
        for answer in some:
            names |= dict.fromkeys((*answer.values, *answer.unscored))
            for name, value in answer.values.items():
                if not math.isfinite(value):
                    raise UserError(
                        f"{results.source}, {answer.where}: {shorten(name)} is {value}, which is "
                        "not a number that can be compared."
                    )
            if len(names) > MAX_METRICS:
                raise UserError(
                    f"{results.source} has more than {MAX_METRICS} metrics, which are not read."
                )
    for name in names:
        check_name(name, f"A metric of {results.source}")
    if not names:
        raise UserError(f"{results.source} has no score: nothing can be compared.")
    return [*names]


def _define(
    name: str, info: MetricInfo, scores: Sequence[Score], lower: set[str], primary: bool
) -> Metric:
    """Define a metric: yes/no if all values are 0 or 1; its range is what the tool says."""
    values = [score.values[name] for score in scores if name in score.values]
    is_yes_no = all(value in UNIT for value in values)
    low, high = UNIT if is_yes_no and info.low is None else (info.low, info.high)
    known = low is not None and high is not None and all(low <= v <= high for v in values)
    return Metric(
        name=name,
        kind="binary" if is_yes_no and (low, high) == UNIT else "continuous",
        low=low if known else None,
        high=high if known else None,
        higher_is_better=info.higher_is_better and name not in lower,
        primary=primary,
        description="as the tool recorded it",
    )


def require_metrics(known: Collection[str], wanted: Iterable[str], source: str) -> None:
    """Refuse a metric that a source does not have.

    Raises:
        UserError: the message names the nearest metric.
    """
    for name in wanted:
        if name not in known:
            raise UserError(
                f"{source} has no metric {quote(name)}.{did_you_mean(name, known)} It has "
                f"{listed(sorted(known), 20)}."
            )
