"""Read or download preferences: which of two responses to a prompt is better."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from harness.core.errors import UserError
from harness.core.files import parse, read_jsonl
from harness.core.schema import Record, digest
from harness.core.text import did_you_mean
from rlrf.pairs import Pair

COLUMNS = ("prompt", "chosen", "rejected", "domain")
MAX_PAIRS = 1_000_000


class Preference(Record):
    """`chosen` is better than `rejected` as a response to `prompt`.

    Prompts are text as a policy model sees it, in its chat template; `render_prompts` applies one.
    """

    prompt: str
    chosen: str
    rejected: str
    domain: str = Field(default="", description="topic of the prompt, to measure by")

    @field_validator("rejected")
    @classmethod
    def _is_another_text(cls, rejected: str, info: Any) -> str:
        if rejected == info.data.get("chosen"):
            raise ValueError("it equals the chosen response, so nothing is preferred")
        return rejected


def read_preferences(path: Path) -> list[Preference]:
    """Read JSON lines of preferences, or of a run's pairs (`RUN/iter_k/pairs/pairs.jsonl`).

    The domain of a run's pair is its task.

    Raises:
        UserError: the file is missing or empty, or a line is not a preference.
    """
    preferences = []
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        if "gap" in row:
            pair = parse(Pair, row, where)
            texts = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            preferences.append(Preference(**texts, domain=pair.task))
        else:
            preferences.append(parse(Preference, row, where))
    if not preferences:
        raise UserError(f"{path} holds no preferences.")
    return preferences


def download_preferences(
    name: str, columns: Mapping[str, str], *, split: str = "train"
) -> list[Preference]:
    """Download preferences from a data set of the Hugging Face hub, without running its code.

    `columns` maps `prompt`, `chosen`, `rejected` and optionally `domain` to names of columns. Of a
    conversation in a column only the last message counts.

    Raises:
        UserError: the data set cannot be loaded, or a column or row is not usable.
    """
    check_columns(columns)
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:
        raise UserError(
            f"The data set '{name}', split {split}, cannot be loaded ({type(error).__name__}). "
            "Check the name, the split and the connection."
        ) from error
    return from_rows(rows, columns, name)


def check_columns(columns: Mapping[str, str]) -> None:
    """Check that `columns` has the required keys and no unknown ones.

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
    """Convert a `datasets.Dataset`; rows whose two responses are equal are left out.

    Raises:
        UserError: a column is missing, or a value is neither text nor a conversation.
    """
    for column in columns.values():
        if column not in rows.column_names:
            raise UserError(
                f"{name} has no column '{column}'; it has {', '.join(sorted(rows.column_names))}."
            )
    if len(rows) > MAX_PAIRS:
        raise UserError(f"{name} has {len(rows):,} rows; at most {MAX_PAIRS:,} are read.")
    preferences = []
    for number, row in enumerate(rows.select_columns(sorted(set(columns.values()))), 1):
        where = f"{name}, row {number}"
        texts = {key: _text(row[column], f"{where}, {column}") for key, column in columns.items()}
        if texts["chosen"] != texts["rejected"]:
            preferences.append(parse(Preference, texts, where))
    if not preferences:
        raise UserError(f"{name} holds no preferences.")
    return preferences


def _text(value: Any, where: str) -> str:
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    if not isinstance(value, str):
        raise UserError(f"{where} is neither text nor a conversation.")
    return value


def is_hub_name(name: str) -> bool:
    """Whether `name` looks like a data set on the hub."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def render_prompts(
    preferences: Sequence[Preference], render: Callable[[str], str]
) -> list[Preference]:
    """Apply a chat template to the prompts, which are users' turns."""
    return [one.model_copy(update={"prompt": render(one.prompt)}) for one in preferences]


def preferences_digest(preferences: Sequence[Preference]) -> str:
    """Compute a digest of the preferences and their order."""
    return digest([one.model_dump(mode="json") for one in preferences])
