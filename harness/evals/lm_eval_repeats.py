"""Count the right responses in stock lm-eval's output with several responses per document.

lm-eval logs all responses (`repeats:` in a task's YAML), but a value only of the one that a filter
chose: the first (`take_first`), or the most frequent (`majority_vote`). So the other steps of each
filter are applied to every response again, and `exact_match` to the results. This counts only if
it gives exactly what lm-eval logged, for every document; otherwise the reason is kept.

Results files may be anyone's. Nothing in them is evaluated, and their regular expressions have a
limit of time.
"""

from __future__ import annotations

import string
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import regex

from harness.core.errors import UserError
from harness.core.schema import mean
from harness.core.scored import ScoredEvaluation
from harness.core.text import quote
from harness.stats.repeats import ANSWERS, RESPONSES

Rows = Sequence[Mapping[str, Any]]  # of one document, one per filter
EXACT_MATCH = "exact_match"
CHOOSING = {"take_first", "take_first_k", "majority_vote"}
CHANGING = {"regex", "remove_whitespace", "lowercase", "uppercase", "map", "multi_choice_regex"}
DEFAULT_STEPS = [{"function": "take_first"}]
MAX_SECONDS = 60.0  # for all regular expressions of a task
IGNORING = {"ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore"}
NOT_SETTINGS = {"metric", "aggregation", "higher_is_better"}


class _NotCountedError(Exception):
    """Why the responses cannot be counted."""


def metric_name(metric: str, filter_name: str) -> str:
    """Return the name of a metric under a filter, as in lm-eval's table."""
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def chosen_among(filters: Any) -> tuple[int, str] | None:
    """Return how many responses filters of a task need to choose from, and the name of the filter.

    None if each takes the first response, so that single responses can be scored.
    """
    needed: list[tuple[int, str]] = []
    for entry in filters if isinstance(filters, list) else ():
        for step in entry["filter"]:
            if step["function"] in CHOOSING - {"take_first"}:
                needed.append((int(step.get("k", 1)), str(entry["name"])))
    return max(needed, default=None)


def count_each(config: Mapping[str, Any], documents: Sequence[Rows]) -> list[dict[str, Any]]:
    """Return details for the score of each document: which of its responses are right.

    `config` is the configuration of the task. The details are as `harness.stats.repeats` reads
    them, and empty where documents have one response each.
    """
    responses = [_responses(rows) for rows in documents]
    if not any(len(texts) > 1 for texts in responses):
        return [{} for _ in documents]
    details: list[dict[str, Any]] = [
        {"count": len(texts), "right": {}, "votes": {}, "absence": {}} for texts in responses
    ]
    clock = _Clock()
    for place, row in enumerate(documents[0]):
        for metric in row["metrics"]:
            name = metric_name(metric, row["filter"])
            try:
                counted = _count(config, metric, place, documents, responses, clock)
            except _NotCountedError as why:
                for document in details:
                    document["absence"][name] = str(why)
                continue
            for document, (right, votes) in zip(details, counted, strict=True):
                document["right"][name], document["votes"][name] = right, votes
    return [
        {RESPONSES: {key: value for key, value in document.items() if value}}
        for document in details
    ]


def require_enough(task: Any, repeats: int) -> None:
    """Refuse fewer responses per item than a filter of the task takes.

    Raises:
        UserError: they are too few; says both numbers.
    """
    needed, name = chosen_among(task.config.filter_list) or (0, "")
    if needed > repeats:
        raise UserError(
            f"The filter {quote(name)} of {task.task_name} takes {needed} responses per item, and "
            f"{repeats} were asked for. Raise --repeats to {needed}, or take the filter out of the "
            "task's YAML."
        )


def with_compared_texts(
    scored: ScoredEvaluation, rows: Sequence[Mapping[str, Any]]
) -> ScoredEvaluation:
    """Add the texts that `exact_match` compared to the details of scores, for a vote on them."""
    by_document: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_document[row["doc_id"]].append(row)
    scores = []
    for score in scored.scores:
        texts = _compared_texts(by_document[score.index])
        more = score.details | ({ANSWERS: texts} if texts else {})
        scores.append(score.model_copy(update={"details": more}))
    return replace(scored, scores=scores)


def _compared_texts(rows: Rows) -> dict[str, str]:
    """Return what `exact_match` compared of a document with one response: metric -> text."""
    return {
        metric_name(EXACT_MATCH, row["filter"]): text
        for row in rows
        if EXACT_MATCH in row["metrics"] and isinstance(text := _chosen(row), str)
    }


def _responses(rows: Rows) -> list[str]:
    """Return the responses to a document; empty if it was not generated, or in several requests."""
    logged = rows[0].get("resps")
    if not (isinstance(logged, list) and len(logged) == 1 and isinstance(logged[0], list)):
        return []
    return logged[0] if all(isinstance(text, str) for text in logged[0]) else []


def _chosen(row: Mapping[str, Any]) -> Any:
    """Return the result of a row's filter."""
    logged = row.get("filtered_resps")
    chosen = logged[0] if isinstance(logged, list) and len(logged) == 1 else None
    return chosen[0] if isinstance(chosen, list) and len(chosen) == 1 else chosen


def _count(
    config: Mapping[str, Any],
    metric: str,
    place: int,
    documents: Sequence[Rows],
    responses: Sequence[list[str]],
    clock: _Clock,
) -> list[tuple[list[int], list[int]]]:
    """Return per document which responses are right, and a number for each different answer."""
    rows = [of_document[place] for of_document in documents if len(of_document) > place]
    filter_name = documents[0][place]["filter"]
    if any(row["filter"] != filter_name for row in rows) or len(rows) < len(documents):
        raise _NotCountedError("its documents do not have the same filters")
    if metric != EXACT_MATCH:
        raise _NotCountedError(
            f"lm-eval logged one value per document, and only {EXACT_MATCH} can be computed again "
            "for each response"
        )
    if config.get("process_results"):
        raise _NotCountedError("the task has its own code for scores, which is not run here")
    steps = _steps(config, filter_name)
    is_equal = _exact_match(config, clock)
    try:
        answers = _apply(
            [s for s in steps if s["function"] not in CHOOSING], responses, rows, clock
        )
        chosen = [_only(text) for text in _apply(steps, responses, rows, clock)]
    except _NotCountedError:
        raise
    except Exception as error:  # of settings, patterns and texts that lm-eval's code does not take
        raise _NotCountedError(
            f"lm-eval's filter {quote(filter_name)} cannot be applied again "
            f"({type(error).__name__})"
        ) from error
    counted = []
    for row, texts, text in zip(rows, answers, chosen, strict=True):
        target, logged = row.get("target"), _chosen(row)
        right = [int(is_equal(answer, target)) for answer in texts]
        of_chosen = [
            is_equal(answer, target) for answer in (text if isinstance(text, list) else [text])
        ]
        value = row.get(metric)
        is_same = (
            isinstance(value, float | int)
            and abs(value - mean([float(equal) for equal in of_chosen])) < 1e-9
        )
        if text != logged or not is_same:
            raise _NotCountedError(
                f"its filter and {EXACT_MATCH}, applied again, do not give what lm-eval logged for "
                f"document {row['doc_id']}"
            )
        numbers: dict[Any, int] = {}
        counted.append((right, [numbers.setdefault(str(a), len(numbers)) for a in texts]))
    return counted


def _only(chosen: Any) -> Any:
    return chosen[0] if isinstance(chosen, list) and len(chosen) == 1 else chosen


def _steps(config: Mapping[str, Any], filter_name: str) -> list[dict[str, Any]]:
    """Return the steps of a filter of the task."""
    filters = config.get("filter_list") or [{"name": "none", "filter": DEFAULT_STEPS}]
    for entry in filters if isinstance(filters, list) else ():
        steps = entry.get("filter") if isinstance(entry, dict) else None
        if isinstance(steps, list) and entry.get("name") == filter_name:
            for step in steps:
                name = step.get("function") if isinstance(step, dict) else None
                if name not in CHOOSING | CHANGING or "regexes_to_ignore" in step:
                    raise _NotCountedError(
                        f"its filter {quote(filter_name)} has a step {quote(name)}, which is not "
                        "run here"
                    )
            return steps
    raise _NotCountedError(f"the results have no filter {quote(filter_name)}")


def _apply(
    steps: Sequence[Mapping[str, Any]], texts: Sequence[Any], rows: Rows, clock: _Clock
) -> list[Any]:
    """Apply lm-eval's filters to the responses of each document."""
    import lm_eval.filters  # noqa: F401  # registers them
    from lm_eval.api.registry import get_filter

    documents = [row.get("doc") for row in rows]
    filtered: Iterable[Any] = texts
    for step in steps:
        settings = {key: value for key, value in step.items() if key != "function"}
        applied = get_filter(step["function"])(**settings)
        if hasattr(applied, "regex"):
            applied.regex = _Pattern(applied.regex_pattern, clock)
        filtered = list(applied.apply(filtered, documents))
    return list(filtered)


class _Clock:
    """A limit of time for regular expressions."""

    def __init__(self) -> None:
        self._end = time.monotonic() + MAX_SECONDS

    def limit(self, search: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of `regex` in the time that is left.

        Raises:
            _NotCountedError: it takes longer.
        """
        try:
            return search(*arguments, timeout=max(self._end - time.monotonic(), 0.01))
        except TimeoutError:
            raise _NotCountedError(
                f"its regular expressions took longer than {MAX_SECONDS:g} seconds"
            ) from None


class _Pattern:
    """A regular expression with a limit of time, as lm-eval's filters use it."""

    def __init__(self, pattern: str, clock: _Clock) -> None:
        self._pattern = regex.compile(pattern)
        self._clock = clock

    def findall(self, text: str) -> Any:
        return self._clock.limit(self._pattern.findall, text)


def _exact_match(config: Mapping[str, Any], clock: _Clock) -> Callable[[Any, Any], bool]:
    """Return lm-eval's `exact_match` with the settings of the task, for one pair of texts."""
    entries = config.get("metric_list")
    chosen = [
        entry
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict) and entry.get("metric") == EXACT_MATCH
    ]
    settings = {k: v for k, v in chosen[0].items() if k not in NOT_SETTINGS} if chosen else {}
    ignored = settings.get("regexes_to_ignore") or []
    if not settings.keys() <= IGNORING or not isinstance(ignored, list):
        raise _NotCountedError(f"{EXACT_MATCH} has settings that are not known here")
    try:
        patterns = [regex.compile(pattern) for pattern in ignored]
    except (regex.error, TypeError) as error:
        raise _NotCountedError(f"{EXACT_MATCH} ignores a malformed regular expression") from error
    dropped = string.punctuation if settings.get("ignore_punctuation") else ""
    dropped += string.digits if settings.get("ignore_numbers") else ""
    table = str.maketrans("", "", dropped)

    def plain(text: Any) -> str:
        if not isinstance(text, str):
            raise _NotCountedError("its answers or targets are not texts")
        shown: str = text
        for pattern in patterns:
            shown = clock.limit(pattern.sub, "", shown)
        return (shown.lower() if settings.get("ignore_case") else shown).translate(table)

    return lambda answer, target: plain(answer) == plain(target)
