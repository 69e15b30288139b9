"""Shared by side models: the manifest next to their weights, and splits of their training data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import Field

from harness.core.files import file_digest, parse, read_json
from harness.core.schema import SCHEMA_VERSION, Record, SchemaVersion, digest
from harness.engines.model_folder import check_files


class Manifest(Record):
    """What a side model was trained from, and the digests of its files."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    base: str = Field(description="digest of the model that training started from")
    seed: int
    files: dict[str, str] = Field(description="file -> sha256")


class HasPrompt(Protocol):
    """An example that belongs to a prompt."""

    @property
    def prompt(self) -> str: ...


M = TypeVar("M", bound=Manifest)
P = TypeVar("P", bound=HasPrompt)


def read_manifest(folder: Path, name: str, kind: type[M]) -> M | None:
    """Read the manifest `name` in `folder`, if there is one, and check the files that it lists.

    Raises:
        UserError: the manifest cannot be read, or a file is not the one that training wrote.
    """
    path = folder / name
    if not path.is_file():
        return None
    manifest = parse(kind, read_json(path), str(path))
    check_files(folder, name, manifest.files)
    return manifest


def file_digests(folder: Path) -> dict[str, str]:
    """Compute the digests of the files in `folder`, for its manifest."""
    return {file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.is_file()}


def split_by_prompt(examples: Sequence[P], share: float, seed: int) -> tuple[list[P], list[P]]:
    """Split examples into about `share` of them and the rest, with each prompt on one side.

    Prompts are taken in an order given by `seed` and their text, until the share is reached.
    """
    order = sorted({one.prompt for one in examples}, key=lambda prompt: digest([seed, prompt]))
    counts: dict[str, int] = {}
    for one in examples:
        counts[one.prompt] = counts.get(one.prompt, 0) + 1
    taken: set[str] = set()
    size = 0
    for prompt in order:
        if size >= share * len(examples):
            break
        taken.add(prompt)
        size += counts[prompt]
    return [e for e in examples if e.prompt in taken], [
        e for e in examples if e.prompt not in taken
    ]
