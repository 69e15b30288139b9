"""The entities of FActScore: a name a line, in files that the user has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from harness.errors import UserError
from harness.schema import Item
from harness.store import read_jsonl

LIST = "prompt_entities.txt"
# The published human labels beside a list say how rare an entity is and where it comes from.
LABELS = ("InstructGPT.jsonl", "ChatGPT.jsonl", "PerplexityAI.jsonl")


def items(split: str, data: Path | None = None) -> list[Item]:
    """A biography to write for each entity, in the order of the list.

    The one split is "test". `data` is a text file with a name a line, or a folder: its
    `prompt_entities.txt`, else the one in its `labeled/`, or the same in its `factscore/`. Tags
    `rarity` and `region` come from the published label files, where they lie beside the list.

    Raises:
        UserError: the split is unknown, no data is named, the list is missing, empty or repeats.
    """
    if split != "test":
        raise UserError(f"factscore has one split, 'test'; there is no '{split}'.")
    if data is None:
        raise UserError(
            "factscore needs a list of entities: name a text file with one a line, or a folder "
            f"that holds a {LIST}, with --data."
        )
    path = _list(data)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a list of names: it is not UTF-8 text.") from error
    entities = [line.strip() for line in lines if line.strip()]
    if not entities:
        raise UserError(f"{path} names no entity.")
    most, times = Counter(entities).most_common(1)[0]
    if times > 1:
        raise UserError(f"{path} names '{most}' twice; each entity is asked for once.")
    tags = _tags(path.parent)
    return [
        Item(
            task="factscore",
            split=split,
            index=index,
            prompt=f"Write a biography of {entity}.",
            reference={"entity": entity},
            tags=tags.get(entity, {}),
        )
        for index, entity in enumerate(entities)
    ]


def _list(data: Path) -> Path:
    if data.is_file():
        return data
    folders = (data, data / "labeled", data / "factscore", data / "factscore" / "labeled")
    for folder in folders:
        if (folder / LIST).is_file():
            return folder / LIST
    raise UserError(f"There is no list of entities {data / LIST}.")


def _tags(folder: Path) -> dict[str, dict[str, list[str]]]:
    tags = {}
    for name in LABELS:
        if (folder / name).is_file():
            for number, row in read_jsonl(folder / name):
                match row:
                    case {"topic": str(topic), "cat": [str(rarity), str(region)]}:
                        tags[topic] = {"rarity": [rarity], "region": [region]}
                    case _:
                        raise UserError(
                            f"{folder / name}, line {number}: 'topic' and 'cat' (rarity and "
                            "region) are expected."
                        )
    return tags
