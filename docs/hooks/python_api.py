"""List the public Python names for mkdocstrings, and describe the records that they use."""

from __future__ import annotations

import ast
import inspect
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from configuration import Part, describe
from pydantic import BaseModel

OURS = ("rlrf", "harness", "tasks")  # packages whose classes are described


def python_api(package: types.ModuleType) -> str:
    """Write a section per name in `package.__all__`, then one per class in their signatures."""
    public = [
        entry
        for name in getattr(package, "__all__", ())
        for entry in _entries(f"{package.__name__}.{name}", getattr(package, name))
    ]
    public.sort(key=lambda entry: inspect.isclass(entry[1]))  # functions first
    sections = [_section(name, value) for name, value in public]
    used = list(_used(value for _, value in public))
    classes = [value for value in used if not issubclass(value, BaseModel)]
    if classes:
        sections.append("## Types\n\nClasses in the signatures above.\n")
        sections += [_section(value.__name__, value, level=3) for value in _sorted(classes)]
    records = _with_nested(value for value in used if issubclass(value, BaseModel))
    if records:
        sections.append("## Records\n\nWhat the functions take and return. Records are frozen.\n")
        sections.append(describe([_record(model) for model in _sorted(records)], level=3))
    return "\n".join(sections)


def _entries(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Return a public object with its name, or the public objects of a public module."""
    if not inspect.ismodule(value):
        yield name, value
        return
    named = getattr(value, "__all__", None)
    for inner, member in vars(value).items():
        defined_here = callable(member) and member.__module__ == value.__name__
        if inner in named if named is not None else defined_here and not inner.startswith("_"):
            yield f"{name}.{inner}", member


def _section(name: str, value: Any, level: int = 2) -> str:
    """Ask mkdocstrings for an object, by the place that defines it, under its public name."""
    lines = [
        f"::: {value.__module__}.{value.__qualname__}",
        "    options:",
        f"      heading: {name}",
        f"      toc_label: {name}",
        f"      heading_level: {level}",
    ]
    return "\n".join(lines) + "\n"


def _record(model: type[BaseModel]) -> Part:
    return Part(
        model,
        title=model.__name__,
        about=inspect.getdoc(model) or "",
        anchor=f"{model.__module__}.{model.__qualname__}",
        reference=f"[{model.__name__}]",
    )


def _used(public: Iterable[Any]) -> set[type]:
    """Return the project's classes in the signatures of public functions and methods."""
    known = list(public)
    found = {
        used
        for value in known
        for function in _functions(value)
        for annotation in _annotations(function)
        for used in _classes(annotation)
    }
    return found - {value for value in known if inspect.isclass(value)}


def _functions(value: Any) -> Iterator[Any]:
    """Return a function, or the public methods and properties of a class."""
    if not inspect.isclass(value):
        yield inspect.unwrap(value)
        return
    for name, member in vars(value).items():
        if not name.startswith("_"):
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if inspect.isfunction(function):
                yield inspect.unwrap(function)


def _annotations(function: Any) -> list[Any]:
    """Return the types in a signature, also those imported for type checkers only."""
    names = dict(function.__globals__)
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[function.__module__]))):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for line in node.body:
                exec(ast.unparse(line), names)  # noqa: S102 (imports of our own modules)
    return list(typing.get_type_hints(function, globalns=names).values())


def _classes(annotation: Any) -> Iterator[type]:
    if inspect.isclass(annotation) and annotation.__module__.split(".")[0] in OURS:
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _classes(argument)


def _with_nested(models: Iterable[type[BaseModel]]) -> set[type[BaseModel]]:
    """Return the models, and those that their fields hold."""
    found: set[type[BaseModel]] = set()
    waiting = list(models)
    while waiting:
        model = waiting.pop()
        if model not in found:
            found.add(model)
            for field in model.model_fields.values():
                waiting += [
                    used for used in _classes(field.annotation) if issubclass(used, BaseModel)
                ]
    return found


def _sorted(classes: Iterable[type]) -> list[Any]:
    return sorted(classes, key=lambda value: value.__name__)
