"""A finished stage on disk: its files, and a manifest of what it was made from and what it made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import Field

from harness.core.errors import UserError
from harness.core.files import file_digest, parse, read_json, write_json
from harness.core.folders import is_incidental
from harness.core.outputs import refuse_strangers
from harness.core.schema import Record

MANIFEST = "manifest.json"
NO_CODE: Mapping[str, str] = MappingProxyType({})


class Manifest(Record):
    """What a stage was made from and what it made."""

    inputs: str = Field(description="digest of what the stage was made from")
    outputs: dict[str, str] = Field(description="file -> sha256")
    seconds: float
    code: dict[str, str] = Field(
        default={},
        exclude_if=lambda code: not code,
        description="code and prompts that shaped the stage -> digest; empty if not recorded",
    )


def seal(
    folder: Path, inputs: str, seconds: float = 0.0, code: Mapping[str, str] = NO_CODE
) -> None:
    """Write the manifest of the stage in `folder`."""
    manifest = Manifest(inputs=inputs, outputs=outputs(folder), seconds=seconds, code=dict(code))
    write_json(folder / MANIFEST, manifest)


def is_whole(folder: Path, inputs: str | None = None) -> bool:
    """Return whether `folder` holds a stage with unchanged files, made from `inputs` if given."""
    manifest = read_manifest(folder)
    if manifest is None or inputs not in (None, manifest.inputs):
        return False
    return outputs(folder) == manifest.outputs


def changed_code(folder: Path, code: Mapping[str, str]) -> list[str]:
    """Name the parts of `code` that changed since the stage in `folder` was made."""
    recorded = _recorded_code(folder)
    return [name for name in code if name in recorded and recorded[name] != code[name]]


def unrecorded_code(folder: Path, code: Mapping[str, str]) -> list[str]:
    """Name the parts of `code` that the manifest does not record, so a change goes unnoticed."""
    recorded = _recorded_code(folder)
    return [name for name in code if name not in recorded]


def _recorded_code(folder: Path) -> Mapping[str, str]:
    manifest = read_manifest(folder)
    return manifest.code if manifest else {}


def may_replace_stage(old: Path, new: Path | None = None) -> None:
    """Refuse to replace a folder that holds other files than a stage wrote.

    If its manifest cannot be read, the check waits until the stage is made again: the files must
    then have the names of those in `new`.

    Raises:
        UserError: the folder holds other files.
    """
    manifest = read_manifest(old)
    written = {MANIFEST} | (set(manifest.outputs) if manifest else set())
    if new is not None:
        written |= outputs(new).keys()
    if manifest is not None or new is not None:
        refuse_strangers(old, written)


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest; None if it cannot be read, so that the stage is made again."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return parse(Manifest, read_json(path), str(path))
    except UserError:
        return None


def outputs(folder: Path) -> dict[str, str]:
    """Digest the files of a stage, without its manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): file_digest(path)
        for path in files
        if path.name != MANIFEST and not is_incidental(path)
    }
