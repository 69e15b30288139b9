"""Read what DeepEval keeps of a test run.

That is a file `test_run_*.json` in the folder DEEPEVAL_RESULTS_FOLDER, or `.latest_test_run.json`
in the folder `.deepeval`. Test cases are compared by input, expected output and context. The
primary metric is `success`: whether a test case passed all its metrics. Each metric of DeepEval is
a metric, and its threshold tells which direction is better. Conversations are not read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.text import shorten
from harness.readers.answers import NOT_TOLD, UNIT, Answer, MetricInfo, Results, cluster_fields
from harness.readers.json_stream import JsonStream, first_keys, open_json
from harness.readers.reader import FileReader, Selection

TOOL = "deepeval"
TASK = "deepeval"
# Metrics whose score is the share of what is bad; any score meets some thresholds, so that a run
# need not show it.
LOWER_IS_BETTER = {"Bias", "Hallucination", "Toxicity"}


def recognises(path: Path) -> bool:
    keys = first_keys(path)
    return "testCases" in keys or "testRunData.testCases" in keys or "testRunData.testFile" in keys


def read(path: Path, selection: Selection) -> Iterable[Results]:
    """Read the test cases of a run.

    Raises:
        UserError: the file is damaged, holds conversations, or a test case is malformed.
    """
    results = Results(
        tool=TOOL,
        source=str(path),
        task=TASK,
        model=NOT_TOLD,
        version=NOT_TOLD,
        answers=(),
        metrics={"success": MetricInfo(*UNIT)},
    )
    results.answers = _answers(path, results)
    return [results]


def _answers(path: Path, results: Results) -> Iterator[Answer]:
    directions: dict[str, set[bool]] = {}
    thresholds: dict[str, str] = {}
    with open_json(path) as document:
        for case, where in _cases(document, results):
            yield _answer(case, f"{path}, {where}", where, directions, thresholds)
    for name, possible in directions.items():
        lower = possible == {False} or (len(possible) != 1 and name in LOWER_IS_BETTER)
        if possible == set():
            raise UserError(
                f"{path}: the scores of {shorten(name)} and its threshold do not tell whether a "
                "higher score is better. Gate by 'success' in a table of the test cases instead."
            )
        results.metrics[name] = MetricInfo(*UNIT, higher_is_better=not lower)
    results.scorer = shorten(", ".join(f"{n} {t}" for n, t in sorted(thresholds.items())), 1000)


def _cases(document: JsonStream, results: Results) -> Iterator[tuple[Any, str]]:
    for key in document.members():
        if key == "testRunData" and document.kind() == "{":
            yield from _cases(document, results)
        elif key == "testCases" and document.kind() == "[":
            for number, _ in enumerate(document.elements(), 1):
                yield document.value(), f"test case {number}"
        elif key == "conversationalTestCases" and document.kind() == "[":
            for _ in document.elements():
                raise UserError(
                    f"{document.where} holds conversations, which are not read: only single-turn "
                    "test cases are. Write a table with a row per conversation instead."
                )
        elif key == "hyperparameters":
            told = document.value()
            if isinstance(told, dict):
                results.model = shorten(told.pop("model", NOT_TOLD))
                results.settings = {str(k): shorten(v) for k, v in told.items()}


def _answer(
    case: Any,
    place: str,
    where: str,
    directions: dict[str, set[bool]],
    thresholds: dict[str, str],
) -> Answer:
    if not isinstance(case, dict) or not isinstance(case.get("input"), str):
        raise UserError(f"{place}: not a test case of DeepEval: it has no 'input'.")
    reference = {"expected_output": case.get("expectedOutput"), "context": case.get("context")}
    output = case.get("actualOutput")
    answer = Answer(
        name=str(case.get("name") or where),
        where=where,
        prompt=case["input"],
        reference={k: v for k, v in reference.items() if v is not None},
        response=output if isinstance(output, str) else None,
        document=cluster_fields(case.get("metadata", case.get("additionalMetadata"))),
    )
    errors = []
    for metric in case.get("metricsData") or []:
        if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
            raise UserError(f"{place}: a metric without a name.")
        name, score, error = metric["name"], metric.get("score"), metric.get("error")
        if name in answer.values or name in answer.unscored:
            raise UserError(f"{place}: {shorten(name)} is there twice.")
        possible = directions.setdefault(name, {True, False})
        thresholds[name] = f"(threshold {metric.get('threshold')})"
        if error or not isinstance(score, int | float) or not math.isfinite(score):
            answer.unscored[name] = f"DeepEval reports: {shorten(error or 'no score')}"
            errors.append(answer.unscored[name])
            continue
        answer.values[name] = float(score)
        possible &= _possible_directions(score, metric.get("threshold"), metric.get("success"))
    if isinstance(case.get("success"), bool) and not errors:
        answer.values["success"] = float(case["success"])
    else:
        answer.unscored["success"] = errors[0] if errors else "DeepEval does not say"
    return answer


def _possible_directions(score: float, threshold: Any, success: Any) -> set[bool]:
    """Return which directions agree with the success: True if a higher score is better."""
    if not isinstance(threshold, int | float) or not isinstance(success, bool):
        return {True, False}
    passes = {True: score >= threshold, False: score <= threshold}
    return {higher for higher, passed in passes.items() if passed == success}


READER = FileReader(TOOL, (".json", ""), recognises, read)
