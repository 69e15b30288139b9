"""Read the entities of FActScore from the user's files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import read_jsonl, read_text
from harness.core.schema import Item
from tasks.data import check_apart, check_split, find_file, fold, halves

MAX_BYTES = 16 * 1024 * 1024  # of a list of names
LIST = "prompt_entities.txt"
UNLABELED = (f"unlabeled/{LIST}", "unlabeled_entities_500.txt")
TRAIN = ("train.txt", "train.jsonl")
# The published human labels next to a list say how rare an entity is and where it comes from.
LABELS = ("InstructGPT.jsonl", "ChatGPT.jsonl", "PerplexityAI.jsonl")


def items(split: str, data: Path | None = None) -> list[Item]:
    """List a biography to write per entity, in the order of the file.

    `data` is a text file with one name per line, or a folder. The split "test" is its
    `prompt_entities.txt`, else the one in its `labeled/`, or in the same places of its
    `factscore/`. Tags `rarity` and `region` come from the published label files next to the list.

    `gate` and `sealed` are the `halves` of the published list without labels (`UNLABELED`), or of
    the "test" list if there is none. `train` is the user's: `train.txt` with one name per line, or
    `train.jsonl` with one `entity` per line.

    Raises:
        UserError: the split is unknown, no data is named, a list is missing, empty or has
            duplicates, or an entity to train on is in another split.
    """
    check_split("factscore", split)
    if data is None:
        raise UserError(
            "factscore needs a list of entities: name a text file with one per line, or a folder "
            f"that holds a {LIST}, with --data."
        )
    listed, unlabeled = _list(data), find_file(data, "factscore", UNLABELED)
    tested = _names(listed)
    if split == "test":
        return _items(split, tested, _tags(listed.parent))
    held_out = _names(unlabeled) if unlabeled else tested
    if split == "train":
        path = find_file(data, "factscore", TRAIN)
        if path is None:
            raise UserError(
                f"factscore has no entities to train on: put names, one per line, into {TRAIN[0]} "
                "in the folder that data names."
            )
        names = _names(path)
        check_apart(path, names, [*tested, *held_out])
        return _items(split, names, {})
    if unlabeled:
        elsewhere = {fold(name) for name in tested}
        held_out = [name for name in held_out if fold(name) not in elsewhere]
    sides = halves(held_out)
    mine = [name for name in held_out if sides[fold(name)] == split]
    return _items(split, mine, _tags((unlabeled or listed).parent))


def _items(
    split: str, entities: Sequence[str], tags: dict[str, dict[str, list[str]]]
) -> list[Item]:
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


def _names(path: Path) -> list[str]:
    """Return the distinct names in a list."""
    if path.suffix == ".jsonl":
        lines = [_entity(row, f"{path}, line {number}") for number, row in read_jsonl(path)]
    else:
        lines = read_text(path, MAX_BYTES, "names").splitlines()
    stripped = (line.removeprefix("\ufeff").strip() for line in lines)  # joined files keep marks
    entities = [name for name in stripped if name]
    if not entities:
        raise UserError(f"{path} contains no names: list one entity per line.")
    most, times = Counter(entities).most_common(1)[0]
    if times > 1:
        raise UserError(f"{path} contains '{most}' twice. List each entity once.")
    return entities


def _entity(row: dict[str, object], where: str) -> str:
    if not isinstance(row.get("entity"), str):
        raise UserError(f"{where}: 'entity' has to be text.")
    return str(row["entity"])


def _list(data: Path) -> Path:
    if data.is_file():
        return data
    path = find_file(data, "factscore", (LIST, f"labeled/{LIST}"))
    if path is None:
        raise UserError(f"There is no list of entities {data / LIST}.")
    return path


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
