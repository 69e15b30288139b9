"""Describe pydantic models in Markdown: the files that users write, and the public records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from markup import escape
from pydantic import BaseModel

Schema = Mapping[str, Any]
Path = tuple[str, ...]  # of a key, from the top of its file
Block = tuple[Schema, Path]

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_NAMES = {"string": "text", "boolean": "true or false", "null": "null", "object": "mapping"}


@dataclass(frozen=True)
class Part:
    """A model with a section of its own."""

    model: type[BaseModel]
    title: str
    about: str
    anchor: str
    reference: str  # the text of a link to it, with the link's text in brackets


def describe(parts: Sequence[Part], level: int = 2) -> str:
    """Describe every key of every model in Markdown: type, default, description, nested keys.

    A model inside another one is described there, unless it has a section of its own.
    """
    return "\n".join(line for part in parts for line in _Writer(part, parts, level).section())


class _Writer:
    """Writes the keys of one model, block by block, from its JSON schema."""

    def __init__(self, part: Part, parts: Sequence[Part], level: int) -> None:
        self._part = part
        self._level = level
        self._schema: Schema = part.model.model_json_schema(mode="validation")
        self._definitions: Schema = self._schema.get("$defs", {})
        self._elsewhere = {other.model.__name__: other for other in parts if other is not part}

    def section(self) -> Iterator[str]:
        """Write the heading, what the model is for, and its keys."""
        yield f"{'#' * self._level} {self._part.title} {{ #{self._part.anchor} }}\n"
        yield f"{self._part.about}\n"
        yield from self._block(self._schema, ())

    def _block(self, block: Schema, path: Path) -> Iterator[str]:
        """Write the keys of a block, then the blocks inside it."""
        if path:
            yield f"{'#' * (self._level + 1)} `{_dotted(path)}` {{ #{self._anchor(path)} }}\n"
            if about := block.get("description"):
                yield escape(_first_paragraph(about)) + "\n"
        nested: list[Block] = []
        required = set(block.get("required", ()))
        for name, key in block.get("properties", {}).items():
            here = (*path, name)
            kind, blocks = self._kind(key, here)
            nested += blocks
            yield f"`{_dotted(here)}` {{ #{self._anchor(here)}{'-key' if blocks else ''} }}"
            facts = [kind, "required" if name in required else self._default(key, blocks)]
            yield f":   *{', '.join(fact for fact in facts if fact)}*"
            described = key.get("description") or (blocks and blocks[0][0].get("description"))
            if described:
                yield f"    <br>{escape(_sentence(_first_paragraph(described)))}"
            yield ""
        for inner, place in nested:
            yield from self._block(inner, place)

    def _kind(self, key: Schema, path: Path) -> tuple[str, list[Block]]:
        """Say what values a key takes; return the blocks that it can hold."""
        if "$ref" in key:
            return self._named(key["$ref"].rsplit("/", 1)[1], path)
        if choices := key.get("anyOf") or key.get("oneOf"):
            found = [self._kind(choice, path) for choice in choices]
            kinds = [kind for kind, _ in found if kind != "null"]
            if len(kinds) < len(found):
                kinds.append("null")
            return " or ".join(kinds), [block for _, blocks in found for block in blocks]
        inner, of = key.get("items"), key.get("additionalProperties")
        if isinstance(inner, Mapping):
            kind, blocks = self._kind(inner, (*path[:-1], f"{path[-1]}[]"))
            return f"list of {_plural(kind)}", blocks
        if isinstance(of, Mapping):
            kind, blocks = self._kind(of, (*path, "NAME"))
            return f"mapping of names to {_plural(kind)}", blocks
        return _plain(key), []

    def _named(self, name: str, path: Path) -> tuple[str, list[Block]]:
        """Say what values a key takes whose type has a name."""
        if part := self._elsewhere.get(name):
            return f"{part.reference}(#{part.anchor})", []
        definition = self._definitions[name]
        if "properties" not in definition:
            return self._kind(definition, path)
        return f"a [block](#{self._anchor(path)})", [(definition, path)]

    def _default(self, key: Schema, blocks: list[Block]) -> str:
        value = key.get("default")
        if value is None:
            return "optional"
        if blocks and isinstance(value, Mapping):
            changed = _differences(value, blocks[0][0])
            return f"default `{_yaml(changed)}`" if changed else ""
        return f"default `{_yaml(value)}`"

    def _anchor(self, path: Path) -> str:
        return _dotted((self._part.anchor, *path)).replace("[]", "")


def _differences(value: Mapping[str, Any], block: Schema) -> dict[str, Any]:
    """Return the defaults of a block at this place that are not the block's own defaults."""
    own = {name: key.get("default") for name, key in block["properties"].items()}
    return {
        name: given
        for name, given in value.items()
        if given != own[name] and not isinstance(given, Mapping)
    }


def _plain(key: Schema) -> str:
    """Say what values a key takes that holds neither blocks nor lists."""
    if "enum" in key or "const" in key:
        quoted = [f"`{_yaml(value)}`" for value in key.get("enum", [key.get("const")])]
        return f"{', '.join(quoted[:-1])} or {quoted[-1]}" if len(quoted) > 1 else quoted[0]
    kind = key.get("type", "any value")
    bounds = [f"{word} {key[bound]:g}" for bound, word in _BOUNDS.items() if bound in key]
    return f"{_NAMES.get(kind, kind)} {' and '.join(bounds)}".strip()


def _dotted(path: Path) -> str:
    return ".".join(path)


def _plural(kind: str) -> str:
    return {"text": "texts", "integer": "integers", "number": "numbers"}.get(
        kind, kind.replace("a [block]", "[blocks]").replace("a [", "[")
    )


def _yaml(value: object) -> str:
    """Write a value as a user would in YAML, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("...\n").strip()


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n", maxsplit=1)[0].split())


def _sentence(text: str) -> str:
    """Begin with a capital, unless the text begins with a name, and end with a full stop."""
    if re.match(r"[a-z]+(-[a-z]+)*[ ,;:]", text):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "?", ")")) else f"{text}."
