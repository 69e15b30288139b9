"""Read the word problems of GSM8K and three variants, from files or from the Hugging Face hub.

Every item's `reference["answer"]` ends in `#### GOLD`, as GSM8K's own answers do. If the gold is
rounded, the reference also has `abs_tol` or `rel_tol`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import read_json, read_jsonl
from harness.core.schema import Item, digest
from tasks.data import check_split, find_file, hub_rows
from tasks.gsm8k.arithmetic import show
from tasks.gsm8k.quantity import readings

GATE_SIZE = 1000

INSTRUCTION = (
    "Solve the problem step by step, one computation a line. "
    "Then end with a line that has only `#### ` and the final number."
)
OR_NONE = " If the problem cannot be answered from what it says, end with `#### None`."

# GSM-Hard's golds are floats of at most ten decimals.
HARD_RELATIVE = 1e-4
HARD_ABSOLUTE = 5e-11

Row = dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """The place of a file of problems, in a user's folder and on the hub."""

    folder: str
    file: str
    hub: str
    config: str | None
    hub_splits: tuple[str, ...]


_TRAIN = _Source("gsm8k", "train.jsonl", "openai/gsm8k", "main", ("train",))
_TEST = _Source("gsm8k", "test.jsonl", "openai/gsm8k", "main", ("test",))
_SVAMP = _Source("svamp", "SVAMP.json", "ChilleD/SVAMP", None, ("train", "test"))
_HARD = _Source("gsm_hard", "gsmhardv2.jsonl", "reasoning-machines/gsm-hard", None, ("train",))
_PLUS = _Source("gsm_plus", "gsmplus_testmini.jsonl", "qintongli/GSM-Plus", None, ("testmini",))


def gsm8k(split: str, data: Path | None = None) -> list[Item]:
    """List the items of GSM8K.

    `test` is the official test set, 1,319 problems in their order; `sealed` is the same, for a
    training run to open once at its end. The official training set is divided: `gate` has the 1,000
    problems (at most a fifth of a smaller file) whose question has the smallest sha256 of its
    canonical JSON, `train` the others, both in the file's order. `data` is a folder with
    `train.jsonl` and `test.jsonl`, or with a folder `gsm8k/` of these; without it they come from
    the hub.

    Raises:
        UserError: the split is unknown, a file is missing, or a row is malformed.
    """
    check_split("gsm8k", split)
    if split in ("sealed", "test"):
        rows = _rows(_TEST, data)
    else:
        everything = _rows(_TRAIN, data)
        for where, row in everything:
            _field(where, row, "question")  # by which they are divided
        gate = _gate([row for _, row in everything])
        rows = [row for at, row in enumerate(everything) if (at in gate) == (split == "gate")]
    return _items("gsm8k", split, rows, _gsm8k)


def svamp(split: str, data: Path | None = None) -> list[Item]:
    """List SVAMP: 1,000 one-step problems with varied wording, in the order of their numbers."""
    check_split("svamp", split, ("test",))
    rows = sorted(_rows(_SVAMP, data), key=lambda row: _svamp_number(*row))
    return _items("svamp", split, rows, _svamp)


def gsm_hard(split: str, data: Path | None = None) -> list[Item]:
    """List GSM-Hard: GSM8K's test set with large numbers; fractional golds are rounded."""
    check_split("gsm_hard", split, ("test",))
    return _items("gsm_hard", split, _rows(_HARD, data), _gsm_hard)


def gsm_plus(split: str, data: Path | None = None) -> list[Item]:
    """List GSM-Plus (testmini): 2,400 perturbed problems; the gold of 300 is "None", no answer."""
    check_split("gsm_plus", split, ("test",))
    return _items("gsm_plus", split, _rows(_PLUS, data), _gsm_plus)


def gold(item: Item) -> str:
    """Return the gold answer as written after the last `####` of the reference."""
    return str(item.reference["answer"]).rpartition("####")[2].strip()


def _gate(rows: list[Row]) -> set[int]:
    order = sorted(range(len(rows)), key=lambda at: digest(rows[at].get("question")))
    return set(order[: min(GATE_SIZE, len(rows) // 5)])


def _rows(source: _Source, data: Path | None) -> list[tuple[str, Row]]:
    """(where, row) pairs; `where` names the file and the line for an error message."""
    if data is None:
        todo = f"Download {source.file} and name its folder with --data."
        return hub_rows(source.hub, source.config, source.hub_splits, todo)
    if not data.is_dir():
        raise UserError(f"{data} is not a folder; name the folder that holds {source.file}.")
    path = find_file(data, source.folder, [source.file])
    if path is None:
        raise UserError(
            f"There is no {source.file} in {data} or {data / source.folder}. "
            f"Put it there, or leave the folder out to load {source.hub} from the hub."
        )
    if path.suffix == ".jsonl":
        return [(f"{path}, line {number}", row) for number, row in read_jsonl(path)]
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: a JSON list of objects is expected.")
    return [(f"{path}, row {number}", row) for number, row in enumerate(rows, 1)]


Read = Callable[[str, Row], tuple[str, Row, dict[str, list[str]]]]


def _items(task: str, split: str, rows: Iterable[tuple[str, Row]], read: Read) -> list[Item]:
    items = []
    for index, (where, row) in enumerate(rows):
        prompt, reference, tags = read(where, row)
        item = Item(
            task=task, split=split, index=index, prompt=prompt, reference=reference, tags=tags
        )
        answer = gold(item)
        if answer != "None" and not readings(answer):
            raise UserError(f"{where}: the gold answer '{answer[:40]}' is not a number.")
        items.append(item)
    return items


def _field(where: str, row: Row, name: str) -> str:
    value = row.get(name)
    is_infinite = isinstance(value, float) and not math.isfinite(value)
    if not isinstance(value, str | int | float) or is_infinite or not str(value).strip():
        raise UserError(f"{where}: the field '{name}' is missing or empty.")
    return str(value).strip()


def prompt(question: str, instruction: str = INSTRUCTION) -> str:
    """Return the question with instructions on how to answer it."""
    return f"Question: {question}\n\n{instruction}"


def _gsm8k(where: str, row: Row) -> tuple[str, Row, dict[str, list[str]]]:
    answer = _field(where, row, "answer")
    if "####" not in answer:
        raise UserError(f"{where}: the answer has no line '#### N'.")
    steps = sum(bool(line.strip()) for line in answer.splitlines()) - 1
    tags = {"steps": [str(min(steps, 8))]}  # 8 stands for 8 and more
    return prompt(_field(where, row, "question")), {"answer": answer}, tags


def _svamp_number(where: str, row: Row) -> int:
    number = re.search(r"[0-9]{1,9}$", _field(where, row, "ID"))
    if number is None:
        raise UserError(f"{where}: the ID does not end in a number.")
    return int(number[0])


def _svamp(where: str, row: Row) -> tuple[str, Row, dict[str, list[str]]]:
    body = _field(where, row, "Body")
    body += "" if body.endswith((".", "?", "!", ",")) else "."
    question = f"{body} {_field(where, row, 'Question')}"
    kind = _field(where, row, "Type").replace("Divison", "Division")
    answer = f"{_field(where, row, 'Equation')}\n#### {_written(where, row, 'Answer')}"
    return prompt(question), {"answer": answer}, {"type": [kind]}


def _gsm_hard(where: str, row: Row) -> tuple[str, Row, dict[str, list[str]]]:
    answer = _written(where, row, "target")
    reference: Row = {"answer": f"#### {answer}"}
    if "." in answer:
        reference |= {"rel_tol": HARD_RELATIVE, "abs_tol": HARD_ABSOLUTE}
    return prompt(_field(where, row, "input")), reference, {}


def _gsm_plus(where: str, row: Row) -> tuple[str, Row, dict[str, list[str]]]:
    answer = _field(where, row, "answer")
    solution = _field(where, row, "solution").rpartition("####")[0].strip()
    reference: Row = {"answer": f"{solution}\n#### {answer}".lstrip()}
    places = len(answer.partition(".")[2])
    if places > 1:  # 4.33 stands for 13/3
        reference["abs_tol"] = 0.5 * 10.0**-places
    tags = {"perturbation": [_field(where, row, "perturbation_type")]}
    return prompt(_field(where, row, "question"), INSTRUCTION + OR_NONE), reference, tags


def _written(where: str, row: Row, name: str) -> str:
    """Write a JSON number as its shortest decimal: 51.0 is 51, 2.0107e-06 is 0.0000020107."""
    try:
        value = Fraction(_field(where, row, name))
    except ValueError as error:
        raise UserError(f"{where}: the field '{name}' is not a number.") from error
    return show(value, places=20)


def worked_examples() -> list[tuple[str, str]]:
    """Read the questions and worked answers for few-shot prompts; none is from a benchmark."""
    rows = read_jsonl(Path(__file__).parent / "shots.jsonl")
    return [(row["question"], row["answer"]) for _, row in rows]


def shot_docs() -> list[dict[str, str]]:
    """Return the worked examples as lm-eval's few-shot documents."""
    return [
        {"prompt": prompt(question), "reference": json.dumps({"answer": answer})}
        for question, answer in worked_examples()
    ]


def shot_target(doc: dict[str, Any]) -> str:
    """Return the worked answer of a document."""
    return str(json.loads(doc["reference"])["answer"])
