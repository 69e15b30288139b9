"""Read the instructions of Just-Eval, from files or from the Hugging Face hub.

A row is an object with `instruction` and `category` ("regular" or "safety"), and optionally `id`
(default: its position), `source_id`, `dataset`, `task`, `topic` and `difficulty`, as in the hub's
data set and in the published outputs of models. All rows are the split "test"; "gate" and "sealed"
are its halves, and "train" is the user's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import read_json, read_jsonl
from harness.core.schema import Item
from tasks.data import Half, check_apart, check_split, find_file, fold, halves, hub_rows
from tasks.just_eval.judging import aspects_of

TRAIN = "train.jsonl"
HUB = "re-align/just-eval-instruct"
TAGS = ("task", "topic", "difficulty", "dataset")


def items(split: str, data: Path | None = None) -> list[Item]:
    """List the items of a split by index, which is the published id.

    `gate` and `sealed` are `halves` of the regular instructions and of the harmful ones. `train` is
    `train.jsonl` in the folder `data` or its `just_eval/`: one `instruction` (or `prompt`) per
    line, regular unless its `category` says otherwise; duplicates are one item.

    `data` is a JSON list or JSONL file of rows, or a folder of such files: those in the folder, in
    its `outputs/` and in its `just_eval/`; other files are ignored. Files may overlap, such as the
    outputs of several models: an instruction is one item with the tags of all files. Without
    `data` the instructions come from the hub.

    Raises:
        UserError: the split is unknown, there are no instructions, a row is malformed, files
            disagree, or a training item is in the test set.
    """
    check_split("just_eval", split)
    if split == "train":
        return _train(data)
    official = _official(data)
    if split == "test":
        return official
    sides = _halves(official, "regular") | _halves(official, "safety")
    return [
        item.model_copy(update={"split": split})
        for item in official
        if sides[fold(item.prompt)] == split
    ]


def _halves(official: list[Item], category: str) -> dict[str, Half]:
    return halves(item.prompt for item in official if item.tags["category"] == [category])


def _official(data: Path | None) -> list[Item]:
    if data is None:
        loaded = hub_rows(HUB, None, ["test"], "Name a folder with the instructions with --data.")
        sources: list[tuple[str, list[Any]]] = [(HUB, [row for _, row in loaded])]
    else:
        sources = [(str(path), rows) for path in _files(data) if _is_ours(rows := _rows(path))]
    items: dict[int, Item] = {}
    for name, rows in sources:
        for position, row in enumerate(rows):
            where = f"{name}, row {position + 1}"
            item = _item(row, position, where)
            known = items.get(item.index)
            if known is None:
                items[item.index] = item
            elif known.digest == item.digest:
                items[item.index] = known.model_copy(update={"tags": item.tags | known.tags})
            else:
                raise UserError(
                    f"{where}: id {item.index} has another instruction or category than before. "
                    "Keep one version of the instructions in the folder."
                )
    if not items:
        raise UserError(
            f"No instructions in {data}: a JSON list or JSONL with 'instruction' and 'category' "
            "in each row is expected."
        )
    return [items[index] for index in sorted(items)]


def _train(data: Path | None) -> list[Item]:
    path = find_file(data, "just_eval", [TRAIN]) if data is not None else None
    if path is None:
        raise UserError(
            'just_eval has no instructions to train on: put yours as {"instruction": ...} lines '
            f"into a file {TRAIN} next to the official ones, and name the folder as data."
        )
    rows: dict[str, tuple[dict[str, Any], str]] = {}
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        text = row.get("instruction", row.get("prompt"))
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}: 'instruction' has to be text.")
        filled = {"category": "regular"} | row | {"instruction": text, "id": len(rows)}
        rows.setdefault(fold(text), (filled, where))
    if not rows:
        raise UserError(f"{path} holds no instructions.")
    texts = [row["instruction"] for row, _ in rows.values()]
    check_apart(path, texts, [item.prompt for item in _official(data)])
    return [
        _item(row, position, where).model_copy(update={"split": "train"})
        for position, (row, where) in enumerate(rows.values())
    ]


def _files(data: Path) -> list[Path]:
    if not data.is_dir():
        return [data]
    folders = (data, data / "outputs", data / "just_eval", data / "just_eval" / "outputs")
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.name.endswith((".json", ".jsonl", ".jsonl.gz")) and path.name != TRAIN
    ]


def _rows(path: Path) -> list[Any]:
    if path.suffix == ".json":
        value = read_json(path)
        return value if isinstance(value, list) else []
    return [row for _, row in read_jsonl(path)]


def _is_ours(rows: list[Any]) -> bool:
    return bool(rows) and isinstance(rows[0], dict) and "instruction" in rows[0]


def _item(row: Any, position: int, where: str) -> Item:
    if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
        raise UserError(f"{where}: 'instruction' has to be text.")
    category = row.get("category")
    if category not in ("regular", "safety"):
        raise UserError(f"{where}: 'category' has to be 'regular' or 'safety', not {category!r}.")
    number = str(row.get("id", position))
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        raise UserError(f"{where}: 'id' has to be a whole number, not {number[:40]!r}.")
    tags = {name: _words(row.get(name)) for name in TAGS}
    tags["source"] = [source.split("-")[0] for source in _words(row.get("source_id"))]
    # Some instructions are there twice, from two sources; their ids differ.
    return Item(
        task="just_eval",
        split="test",
        index=int(number),
        prompt=row["instruction"],
        reference={"id": int(number), "aspects": list(aspects_of(category))},
        tags={"category": [category]} | {name: words for name, words in tags.items() if words},
    )


def _words(value: Any) -> list[str]:
    words = value if isinstance(value, list) else [value]
    return [word for word in words if isinstance(word, str) and word]
