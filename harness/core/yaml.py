"""Read YAML (or JSON) files that people write into records, with errors that name the fault."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.core.errors import UserError
from harness.core.schema import Record
from harness.core.text import did_you_mean

R = TypeVar("R", bound=Record)

MAX_BYTES = 128 * 1024  # of a file
MAX_DEPTH = 50  # of brackets
MAX_VALUES = 10_000  # in a file, where each use of an alias counts in full


def load(path: Path, model: type[R]) -> R:
    """Read `path` as a `model`.

    Raises:
        UserError: as `read`, or a value does not fit. The message names the file and the key, and
            for an unknown key the nearest known one.
    """
    value = read(path)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, model)}") from error


def read(path: Path) -> dict[Any, Any]:
    """Read the keys and values of `path`.

    Raises:
        UserError: missing, too large, not YAML, or a repeated key; the message names the file.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES:,} bytes; settings are expected.")
        value = yaml.load(content, _Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    except (AttributeError, LookupError, TypeError) as error:  # !!bool maybe, !!timestamp soon
        raise UserError(f"{path} is not YAML: a value does not fit its tag '!!'.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: keys and values are expected, such as 'alpha: 0.05'.")
    return value


class _Loader(yaml.SafeLoader):
    """Load YAML without repeated keys and within a bound on depth and on values.

    Values are counted with every use of an alias: a few lines of aliases of aliases can stand for
    more than memory holds.
    """

    _nodes = 0

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise yaml.YAMLError(f"its brackets are nested deeper than {MAX_DEPTH}")
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > MAX_VALUES:
            raise yaml.YAMLError(f"it has more than {MAX_VALUES:,} values")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        if _count_values(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MAX_VALUES:,} values")
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key '{key.value}' is there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _count_values(node: yaml.Node, counts: dict[yaml.Node, int]) -> int:
    """Count the values under `node`, those of an alias once per use."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if node not in counts:
        counts[node] = MAX_VALUES + 1  # a node that contains itself has no end
        pairs = isinstance(node, yaml.MappingNode)
        inner = [child for pair in node.value for child in pair] if pairs else node.value
        counts[node] = 1 + sum(_count_values(child, counts) for child in inner)
    return counts[node]


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Describe the first fault in a sentence: the key, the fault, and the key that was meant."""
    faults = error.errors()
    # A misspelt key is often also a missing one; its spelling is what helps.
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = sorted({*_keys(model, fault["loc"][:-1])})
        hint = did_you_mean(str(fault["loc"][-1]), known) or f" Known are {', '.join(known)}."
        return f"there is no key '{place}'.{hint}"
    if fault["type"] == "missing":
        return f"'{place}' is missing."
    value = fault["input"]
    shown = f", not {value!r}" if value is None or isinstance(value, str | int | float) else ""
    told = f"{fault['msg'].removeprefix('Value error, ')}{shown}".removesuffix(".")
    return f"{place}: {told}." if place else f"{told}."


def _keys(model: type[BaseModel], place: Sequence[int | str]) -> Iterator[str]:
    """List the keys that the block at `place` may have, over all kinds that the block may be."""
    models: list[Any] = [model]
    for part in place:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        models = [inner for field in fields for inner in _models(field.annotation)] or models
    for inner in models:
        yield from inner.model_fields


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)
