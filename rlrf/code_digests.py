"""Digest the code and the words that shape what a stage makes, to notice when they change.

The version of this program is part of every run, but authors of a task edit its code without a new
version. Each digest has a name for use in messages.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from harness.core.files import file_digest
from harness.core.schema import digest
from tasks import FOLDER
from tasks.plugins import packages, plain_name
from tasks.task import Task

Code = Mapping[str, str]  # name of the code or prompts that shape a stage -> digest

OURS = "tasks"  # a package whose modules are followed from a task's functions, as plugins' are
MAX_DEPTH = 6  # levels of objects that a task's functions hold
PLAIN = (str, int, float, bool, bytes, type(None))
SETTINGS = ("generation", "version", "judge_prompt", "estimator", "prompt_style")


def tasks_code(tasks: Mapping[str, Task]) -> dict[str, str]:
    """Digest the code that scores, criticises and rewrites responses, per task."""
    return {f"the code of task {name}": _task(task) for name, task in tasks.items()}


def generation_settings(tasks: Mapping[str, Task]) -> dict[str, str]:
    """Digest the generation settings, per task."""
    return {
        f"the generation settings of task {name}": digest(dict(task.generation))
        for name, task in tasks.items()
    }


def source(name: str, *things: ModuleType | type | Callable[..., Any]) -> dict[str, str]:
    """Digest the source of modules, classes and functions, under one name.

    A package stands for all modules in its folder.
    """
    return {name: digest([_source(thing) for thing in things])}


def _source(thing: Any) -> Any:
    if not isinstance(thing, ModuleType):
        return inspect.getsource(thing)
    file = Path(str(thing.__file__))
    files = sorted(file.parent.glob("*.py")) if hasattr(thing, "__path__") else [file]
    return {path.name: file_digest(path) for path in files}


def _task(task: Task) -> str:
    roots = [
        getattr(task, field.name) for field in fields(task) if callable(getattr(task, field.name))
    ]
    functions = list(_functions(roots))
    modules = {function.__module__ for function in functions}
    return digest(
        {
            "functions": sorted(map(_function, functions)),
            "files": _files(modules),
            "settings": {name: _plain(getattr(task, name)) for name in SETTINGS},
            "metrics": [metric.model_dump(mode="json") for metric in task.metrics],
        }
    )


def _functions(roots: Iterable[Any]) -> Iterator[FunctionType]:
    """Find the functions that `roots` are or hold, in partials, closures, methods, containers."""
    seen: set[int] = set()
    waiting = [(root, 0) for root in roots]
    while waiting:
        one, depth = waiting.pop(0)
        if id(one) in seen or depth > MAX_DEPTH or isinstance(one, PLAIN):
            continue
        seen.add(id(one))
        held: list[Any] = []
        if isinstance(one, functools.partial):
            held = [one.func, *one.args, *one.keywords.values()]
        elif isinstance(one, MethodType):
            held = [one.__func__, one.__self__]
        elif isinstance(one, FunctionType):
            yield one
            held = [cell.cell_contents for cell in one.__closure__ or () if _is_filled(cell)]
        elif isinstance(one, dict):
            held = list(one.values())
        elif isinstance(one, list | tuple):
            held = list(one)
        elif not isinstance(one, type):
            held = [m for m in vars(type(one)).values() if isinstance(m, FunctionType)]
            if is_dataclass(one):
                held += [getattr(one, field.name) for field in fields(one)]
        waiting += [(inner, depth + 1) for inner in held]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _function(function: FunctionType) -> str:
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):  # made at run time
        text = hashlib.sha256(function.__code__.co_code).hexdigest()
    names = function.__code__.co_freevars
    cells = [cell for cell in function.__closure__ or () if _is_filled(cell)]
    held = {
        name: repr(cell.cell_contents)
        for name, cell in zip(names, cells, strict=False)
        if isinstance(cell.cell_contents, PLAIN)
    }
    defaults = [repr(one) for one in function.__defaults__ or () if isinstance(one, PLAIN)]
    return digest([plain_name(function.__module__), function.__qualname__, text, held, defaults])


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _files(modules: Iterable[str]) -> dict[str, str]:
    """Digest the files of `modules`, of modules that they import from the tasks, and the data files
    in the folders of their packages."""
    found: dict[str, str] = {}
    waiting, seen = sorted(modules), set(modules)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path is None:
            continue
        found[plain_name(name)] = file_digest(path)
        if not _is_plugin(name):
            continue
        if path.parent != FOLDER and _is_in_package(name, path):
            for other in path.parent.iterdir():
                if other.is_file() and not _is_skipped(other):
                    found[f"{path.parent.name}/{other.name}"] = file_digest(other)
        for imported in _imports(path, found[plain_name(name)], name):
            if _is_plugin(imported) and imported not in seen:
                seen.add(imported)
                waiting.append(imported)
    return found


def _is_in_package(name: str, path: Path) -> bool:
    """Return whether the folder of a module is a package, rather than one that holds packages."""
    return "." in plain_name(name) or path.name == "__init__.py"


def _is_skipped(path: Path) -> bool:
    """Return whether a file is code, which imports lead to, or left by editors and desktops."""
    return path.suffix in (".py", ".pyc") or path.name.startswith(".") or path.name.endswith("~")


def _file(name: str) -> Path | None:
    """Find the source file of a module, imported or not; None if it has none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # an attribute of a module, or the main program
        spec = None
    loaded = sys.modules.get(name)
    file = spec.origin if spec is not None else getattr(loaded, "__file__", None)
    path = Path(file) if file and file.endswith(".py") else None
    return path if path is not None and path.is_file() else None


def _is_plugin(name: str) -> bool:
    return name.partition(".")[0] in {OURS, *packages()}


@functools.lru_cache(maxsize=256)
def _imports(path: Path, _digest: str, name: str) -> tuple[str, ...]:
    """Return the modules that the file, which is the module `name`, may import."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                ups = node.level - (path.name == "__init__.py")
                parents = name.split(".")[: -ups or None]
                module = ".".join([*parents, *([module] if module else [])])
            found += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return tuple(found)
