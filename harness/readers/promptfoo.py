"""Read what promptfoo wrote with `--output results.json` or `results.jsonl`.

Each test case is an item, compared by its variables and assertions. The metrics are `success`,
which is the primary one, `score`, and each named metric of an assertion. A provider's error leaves
the test unscored. A file that holds several providers or prompts holds several models: promptfoo's
--filter-providers and --filter-prompts write one of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.text import listed, shorten
from harness.readers.answers import (
    NOT_TOLD,
    UNIT,
    Answer,
    MetricInfo,
    Results,
    cluster_fields,
    mapping,
)
from harness.readers.json_stream import JsonStream, decoded, first_keys, open_bytes, open_json
from harness.readers.reader import FileReader, Selection

TOOL = "promptfoo"
ERRORED = 2  # promptfoo's failureReason where the provider or an assertion broke
TASK = "promptfoo"


def recognises(path: Path) -> bool:
    keys = first_keys(path)
    if _is_lines(path):
        return {"gradingResult", "namedScores", "success"} <= keys
    return "evalId" in keys or "results.version" in keys


def read(path: Path, selection: Selection) -> Iterable[Results]:
    """Read the results of one provider and one prompt.

    Raises:
        UserError: the file is damaged, holds several models, or a result is malformed.
    """
    results = Results(
        tool=TOOL,
        source=str(path),
        task=TASK,
        model=NOT_TOLD,
        version=NOT_TOLD,
        answers=(),
        metrics={"success": MetricInfo(*UNIT), "score": MetricInfo(*UNIT)},
    )
    answers = _answers(results, _lines(path) if _is_lines(path) else _rows(path, results))
    results.answers = answers
    return [results]


def _is_lines(path: Path) -> bool:
    return ".jsonl" in path.suffixes


def _rows(path: Path, results: Results) -> Iterator[tuple[Any, str]]:
    with open_json(path) as document:
        for key in document.members():
            if key == "results" and document.kind() == "{":
                for inner in document.members():
                    if inner == "results":
                        for number, _ in enumerate(document.elements(), 1):
                            yield document.value(), f"result {number}"
            elif key == "metadata":
                told = document.value()
                if isinstance(told, dict) and told.get("promptfooVersion"):
                    results.version = str(told["promptfooVersion"])
        document.end()


def _lines(path: Path) -> Iterator[tuple[Any, str]]:
    with open_bytes(path) as file:
        stream, number = JsonStream(decoded(file), str(path)), 0
        while stream.kind():
            number += 1
            yield stream.value(), f"line {number}"


def _answers(results: Results, rows: Iterable[tuple[Any, str]]) -> Iterator[Answer]:
    systems: dict[tuple[str, str], None] = {}
    for row, where in rows:
        if not isinstance(row, dict) or not isinstance(row.get("success"), bool):
            raise UserError(
                f"{results.source}, {where}: not a result of promptfoo, which says of each test "
                "whether it was a 'success'."
            )
        provider, prompt = mapping(row.get("provider")), mapping(row.get("prompt"))
        model = str(provider.get("label") or provider.get("id") or row.get("provider") or NOT_TOLD)
        systems[model, str(prompt.get("label") or prompt.get("raw"))] = None
        if len(systems) > 1:
            shown = listed(f"{model} with the prompt {text!r}" for model, text in systems)
            raise UserError(
                f"{results.source} holds results of several models or prompts: {shown}. One side "
                "is one of them: run promptfoo with --filter-providers or --filter-prompts."
            )
        results.model = model
        results.settings = {"prompt": shorten(prompt.get("label") or prompt.get("raw"), 1000)}
        yield _answer(row, where)


def _answer(row: dict[str, Any], where: str) -> Answer:
    case, response = mapping(row.get("testCase")), mapping(row.get("response"))
    variables = case.get("vars", row.get("vars"))
    output = response.get("output")
    answer = Answer(
        name=str(case.get("description") or where),
        where=where,
        prompt=_text(variables),
        reference={"assert": json.loads(_text(case["assert"]))} if "assert" in case else {},
        response=output if isinstance(output, str) or output is None else _text(output),
        document=cluster_fields(variables) | cluster_fields(case.get("metadata")),
    )
    named = _named_metrics(case)
    if _errored(row, response):
        reason = f"promptfoo reports an error: {shorten(row.get('error') or response.get('error'))}"
        answer.unscored = dict.fromkeys(("success", "score", *named), reason)
        return answer
    answer.values["success"] = float(row["success"])
    named_scores = mapping(row.get("namedScores"))
    for name, value in (("score", row.get("score")), *named_scores.items()):
        if isinstance(value, int | float) and abs(value) < float("inf"):
            answer.values[name] = float(value)
        else:
            answer.unscored[name] = f"promptfoo gave {shorten(value)}, which is not a number"
    return answer


def _errored(row: dict[str, Any], response: dict[str, Any]) -> bool:
    """Tell whether a test broke; older versions did not tell it from a failed assertion."""
    if "failureReason" in row:
        return bool(row["failureReason"] == ERRORED)
    return bool(response.get("error")) or (bool(row.get("error")) and not row.get("gradingResult"))


def _named_metrics(case: dict[str, Any]) -> list[str]:
    checks = case.get("assert")
    return [
        check["metric"]
        for check in (checks if isinstance(checks, list) else [])
        if isinstance(check, dict) and isinstance(check.get("metric"), str)
    ]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


READER = FileReader(TOOL, (".json", ".jsonl"), recognises, read)
