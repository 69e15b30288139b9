"""Define what every stored record is made of: names, digests, canonical JSON, `Record`."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.core.errors import UserError
from harness.core.text import NOT_IN_NAMES

SCHEMA_VERSION = 1

Verdict = Literal["pass", "fail", "inconclusive"]


def _known(version: int) -> int:
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {version}, and this program reads {SCHEMA_VERSION}; install the "
            "version of rlrf-harness that wrote it, or make it again"
        )
    return version


SchemaVersion = Annotated[int, AfterValidator(_known)]
"""Version of a stored record: another version is refused rather than misread."""

MAX_NAME_CHARS = 1024  # characters


def _plain(name: str) -> str:
    if found := NOT_IN_NAMES.search(name):
        hidden = f"U+{ord(found[0]):04X}"
        raise ValueError(f"a name is one line of visible text, and this one has {hidden}")
    if len(name) > MAX_NAME_CHARS:
        raise ValueError(
            f"a name has at most {MAX_NAME_CHARS:,} characters, and this one {len(name):,}"
        )
    return name


Name = Annotated[str, AfterValidator(_plain)]
"""Name of a task, metric, model or judge: one line without hidden characters."""

_NAME: TypeAdapter[str] = TypeAdapter(Name)


def check_name(text: str, subject: str) -> str:
    """Return `text` if a record can hold it as a name.

    Raises:
        UserError: the text has hidden characters or is too long; `subject` says what it names.
    """
    try:
        return _NAME.validate_python(text)
    except ValidationError as error:
        fault = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{subject} cannot be recorded: {fault}. Choose another name.") from error


Fingerprint = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z._:-]{0,127}$")]
"""Digest, or another program's stand-in for one: no spaces, no markup, no formula."""


def canonical_json(value: Any) -> str:
    """Write JSON with sorted keys, no spaces and no NaN: equal values give equal text.

    Raises:
        ValueError: a float is NaN or infinite.
        TypeError: a value is not JSON.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """Return the sha256 (hex) of the canonical JSON of `value`, which may be a `Record`."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    # A lone surrogate in model output cannot be encoded strictly; it must not break identity.
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


class Record(BaseModel):
    """Base class of every stored value: frozen, without unknown keys, without NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def added(default: Any, description: str, **limits: Any) -> Any:
    """Define a field that older records lack: left out at its default, so they keep their bytes."""
    return Field(
        default=default,
        exclude_if=lambda value: value == default,
        description=description,
        **limits,
    )
