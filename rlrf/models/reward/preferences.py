"""Preferences: which of two responses to a prompt is better, and where they are read from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import Field, field_validator

from harness.core.errors import UserError
from harness.core.files import parse, read_jsonl
from harness.core.schema import Record, digest
from harness.core.text import did_you_mean
from rlrf.pairs import Pair

COLUMNS = ("prompt", "chosen", "rejected", "domain")
MAX_PAIRS = 1_000_000


class Preference(Record):
    """`chosen` is better than `rejected` as an answer to `prompt`.

    Prompts are text as the policy sees it, after any chat template; `rendered` makes it of a
    user's turn.
    """

    prompt: str
    chosen: str
    rejected: str
    domain: str = Field(default="", description="what the prompt is about; slices the measures")

    @field_validator("rejected")
    @classmethod
    def _is_another_text(cls, rejected: str, info: Any) -> str:
        if rejected == info.data.get("chosen"):
            raise ValueError("it is the chosen response, so nothing is preferred")
        return rejected


def read_preferences(path: Path) -> list[Preference]:
    """Read JSON lines of preferences, or of a run's pairs (`RUN/iter_k/pairs/pairs.jsonl`).

    A run's pairs have their task as the domain.

    Raises:
        UserError: no such file, nothing in it, or a line is no preference (names line and fault).
    """
    found = []
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        if "gap" in row:
            pair = parse(Pair, row, where)
            texts = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            found.append(Preference(**texts, domain=pair.task))
        else:
            found.append(parse(Preference, row, where))
    if not found:
        raise UserError(f"{path} holds no preferences.")
    return found


def download_preferences(
    name: str, columns: Mapping[str, str], *, split: str = "train", revision: str | None = None
) -> list[Preference]:
    """Preferences of a data set of the Hugging Face hub; no code of the data set is run.

    `columns` maps `prompt`, `chosen`, `rejected` and, if there is one, `domain` to the names of
    its columns. A conversation in a column counts as its last message.

    Raises:
        UserError: the hub does not give it out, a column is not there, or a row is no preference.
    """
    check_columns(columns)
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:
        raise UserError(
            f"The data set '{name}', split {split}, cannot be loaded ({type(error).__name__}). "
            "Check the name, the split and the connection."
        ) from error
    return from_rows(rows, columns, name)


def check_columns(columns: Mapping[str, str]) -> None:
    """See that `columns` names what is needed and nothing else.

    Raises:
        UserError: a key is unknown or missing.
    """
    for key in columns:
        if key not in COLUMNS:
            hint = did_you_mean(key, COLUMNS) or f" Known are {', '.join(COLUMNS)}."
            raise UserError(f"There is no '{key}' in a preference.{hint}")
    if missing := [key for key in COLUMNS[:3] if key not in columns]:
        raise UserError(
            f"Say which column is the {missing[0]}: --column {missing[0]}=NAME, and so for each "
            "of prompt, chosen and rejected."
        )


def from_rows(rows: Any, columns: Mapping[str, str], name: str) -> list[Preference]:
    """Preferences of a `datasets.Dataset`; rows whose two responses are equal say nothing.

    Raises:
        UserError: a column is not there, or a value is neither text nor a conversation.
    """
    for column in columns.values():
        if column not in rows.column_names:
            raise UserError(
                f"{name} has no column '{column}'; it has {', '.join(sorted(rows.column_names))}."
            )
    if len(rows) > MAX_PAIRS:
        raise UserError(f"{name} has {len(rows):,} rows; at most {MAX_PAIRS:,} are read.")
    found = []
    for number, row in enumerate(rows.select_columns(sorted(set(columns.values()))), 1):
        where = f"{name}, row {number}"
        texts = {key: _text(row[column], f"{where}, {column}") for key, column in columns.items()}
        if texts["chosen"] != texts["rejected"]:
            found.append(parse(Preference, texts, where))
    if not found:
        raise UserError(f"{name} holds no preferences.")
    return found


def _text(value: Any, where: str) -> str:
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    if not isinstance(value, str):
        raise UserError(f"{where} is neither text nor a conversation.")
    return value


def is_hub_name(name: str) -> bool:
    """Whether `name` can be that of a data set on the hub."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def rendered(found: Sequence[Preference], render: Callable[[str], str]) -> list[Preference]:
    """The preferences with each prompt, a user's turn, as `render` shows it to a policy."""
    return [one.model_copy(update={"prompt": render(one.prompt)}) for one in found]


class Prompted(Protocol):
    """What belongs to a prompt."""

    @property
    def prompt(self) -> str: ...


P = TypeVar("P", bound=Prompted)


def split(found: Sequence[P], share: float, seed: int) -> tuple[list[P], list[P]]:
    """(about `share` of `found`, the rest): all that belongs to a prompt is on one side.

    Prompts are taken in an order that `seed` and their text decide, until the share is reached.
    """
    order = sorted({one.prompt for one in found}, key=lambda prompt: digest([seed, prompt]))
    counts: dict[str, int] = {}
    for one in found:
        counts[one.prompt] = counts.get(one.prompt, 0) + 1
    taken: set[str] = set()
    size = 0
    for prompt in order:
        if size >= share * len(found):
            break
        taken.add(prompt)
        size += counts[prompt]
    return [p for p in found if p.prompt in taken], [p for p in found if p.prompt not in taken]


def preferences_digest(found: Sequence[Preference]) -> str:
    """Identity of the preferences, in their order."""
    return digest([one.model_dump(mode="json") for one in found])
