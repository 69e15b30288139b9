"""Files that people write, YAML or JSON, read into a record, with errors that help."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.errors import UserError
from harness.schema import Policy, Record

R = TypeVar("R", bound=Record)


def load(path: Path, model: type[R]) -> R:
    """Read `path` as a `model`.

    Raises:
        UserError: missing, not YAML, a key given twice, a value that does not fit; names the file
            and the key, and for an unknown key the nearest known one.
    """
    try:
        value = yaml.load(path.read_bytes(), _Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: keys and values are expected, such as 'alpha: 0.05'.")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, model)}") from error


def load_policy(path: Path) -> Policy:
    """Read a gate's policy: `rules`, each with task, metric, tier and margin; `alpha`, ...

        alpha: 0.05
        rules:
          - {task: gsm8k, metric: accuracy, tier: critical, margin: 0.02}

    Raises:
        UserError: as `load`.
    """
    return load(path, Policy)


class _Loader(yaml.SafeLoader):
    """YAML where a key cannot silently replace the one of the same name before it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' is there twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong first, as a sentence: the key, the fault, and the key that was meant."""
    faults = error.errors()
    # A misspelt key is often also a missing one; its spelling is what helps.
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = sorted({*_keys(model, fault["loc"][:-1])})
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Known are {', '.join(known)}."
        return f"there is no key '{place}'. {hint}"
    if fault["type"] == "missing":
        return f"'{place}' is missing."
    found = fault["input"]
    shown = f", not {found!r}" if found is None or isinstance(found, str | int | float) else ""
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}{shown}."


def _keys(model: type[BaseModel], place: Sequence[int | str]) -> Iterator[str]:
    """The keys that the block at `place` may have; for a block of several kinds, all of theirs."""
    models: list[Any] = [model]
    for part in place:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        models = [found for field in fields for found in _models(field.annotation)] or models
    for found in models:
        yield from found.model_fields


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)
