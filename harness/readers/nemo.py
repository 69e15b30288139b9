"""Read what NeMo Evaluator's own runner keeps of each answer: `byob_predictions.jsonl`.

The runner writes it, in a folder per benchmark, with --save-predictions. Each number or yes/no of
a scorer is a metric, and the first is the primary one. Answers are compared by prompt and target;
`--n-repeats` are repeats. `results.yml` and `byob_results.json` hold means only, which a gate
cannot compare. What NeMo Evaluator keeps of another harness is that harness's own output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.text import shorten
from harness.readers.answers import NOT_TOLD, Answer, Results, cluster_fields, mapping
from harness.readers.json_stream import JsonStream, decoded, open_bytes
from harness.readers.reader import FileReader, Selection

TOOL = "nemo-evaluator"
PREDICTIONS, MEANS = "byob_predictions.jsonl", ("results.yml", "byob_results.json")


def recognises(path: Path) -> bool:
    # The means are recognised to say what to name instead of them.
    alone = not (path.parent / PREDICTIONS).exists() and not [*path.parent.glob(f"*/{PREDICTIONS}")]
    return path.name == PREDICTIONS or (path.name in MEANS and alone)


def read(path: Path, selection: Selection) -> Iterable[Results]:
    """Read the answers to one benchmark.

    Raises:
        UserError: the file holds means only, is damaged, or an answer is malformed.
    """
    if path.name in MEANS:
        raise UserError(
            f"{path} holds NeMo Evaluator's means only, and a gate compares answers. Evaluate "
            f"with --save-predictions and name the folder with {PREDICTIONS}; for another harness, "
            "name the folder that it wrote, such as the results of lm-eval."
        )
    task = path.resolve().parent.name
    return [
        Results(
            tool=TOOL,
            source=str(path),
            task=task,
            model=NOT_TOLD,
            version=NOT_TOLD,
            answers=_answers(path),
        )
    ]


def _answers(path: Path) -> Iterator[Answer]:
    read: list[Answer] = []
    names: dict[str, None] = {}
    with open_bytes(path) as file:
        stream, number = JsonStream(decoded(file), str(path)), 0
        while stream.kind():
            number += 1
            answer = _answer(stream.value(), f"{path}, line {number}", f"line {number}")
            names |= dict.fromkeys((*answer.values, *answer.unscored))
            read.append(answer)
    names.pop("", None)
    for answer in read:
        why = answer.unscored.pop("", "NeMo Evaluator gave no score")
        for name in names:
            if name not in answer.values:
                answer.unscored.setdefault(name, why)
        yield answer


def _answer(row: Any, place: str, where: str) -> Answer:
    """Read a line; "" stands for all metrics among the reasons of an answer without scores."""
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f"{place}: not an answer as NeMo Evaluator keeps it: it has no 'prompt'.")
    metadata = mapping(row.get("metadata"))
    response = row.get("response")
    answer = Answer(
        name=str(row.get("sample_id", where)),
        where=where,
        prompt=row["prompt"],
        reference={"target": row.get("target")},
        repeat=_repeat(metadata),
        response=response if isinstance(response, str) else None,
        document=cluster_fields(metadata),
    )
    scores = row.get("scores")
    if not isinstance(scores, dict):
        why = row.get("error") or row.get("status") or "no scores"
        answer.unscored[""] = f"NeMo Evaluator reports: {shorten(why)}"
        return answer
    for name, value in scores.items():
        if isinstance(value, int | float) and math.isfinite(value):
            answer.values[name] = float(value)
        elif isinstance(value, int | float) or value is None:
            answer.unscored[name] = f"NeMo Evaluator gave {value}"
    return answer


def _repeat(metadata: dict[str, Any]) -> int:
    repeat = metadata.get("_repeat", 0)
    return repeat if isinstance(repeat, int) else 0


READER = FileReader(TOOL, (".jsonl", ".yml", ".json"), recognises, read)
