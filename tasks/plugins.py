"""Find benchmarks outside this package: in folders that a user names, and in installed packages.

A plugin is a folder like those under `tasks/`: a package whose `__init__.py` lists its `Task`
values in `TASKS`, with the YAML for lm-eval next to it. Within `including(folders)` its benchmarks
are known by name like ours. An installed package offers a plugin by an entry point of the group
`rlrf.tasks`.

A plugin in a folder is imported as `rlrf_plugins.p0123abcd.FOLDER`, where the digits stand for the
path of the folder that holds it, so it hides no module of ours, of the standard library or of
another plugin.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError

if TYPE_CHECKING:
    from tasks.task import Task

GROUP = "rlrf.tasks"  # entry points: NAME = "package.module", a module that lists TASKS
PACKAGE = "rlrf_plugins"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_included: ContextVar[tuple[Path, ...]] = ContextVar("included", default=())


@dataclass(frozen=True)
class Plugin:
    """The benchmarks of one plugin, and the folder of its YAML; `place` names it in messages."""

    place: str
    folder: Path
    tasks: tuple[Task, ...]


@contextlib.contextmanager
def including(folders: Iterable[str | Path]) -> Iterator[None]:
    """Find the plugins in `folders`, too, for the duration of the block.

    A folder is a plugin itself, or holds plugins and YAML files of lm-eval.

    Raises:
        UserError: a folder does not exist, a plugin in it cannot be imported or is malformed, or
            two benchmarks have one name.
    """
    before = _included.get()
    _included.set(tuple(dict.fromkeys((*before, *map(Path, folders)))))
    try:
        in_folders()
        yield
    finally:
        _included.set(before)


def include(folder: str | Path) -> None:
    """Find the plugins in `folder` from now on: for programs of others, such as stock lm-eval."""
    _included.set(tuple(dict.fromkeys((*_included.get(), Path(folder)))))


def included() -> tuple[Path, ...]:
    """Return the folders that are searched now, as they were named."""
    return _included.get()


def in_folders() -> dict[str, Plugin]:
    """Return benchmark -> its plugin, for the plugins in the folders that are searched now.

    Raises:
        UserError: as `including`.
    """
    plugins = {
        path.resolve(): path for folder in _included.get() for path in _plugin_folders(folder)
    }
    return _by_name([_from_folder(path) for path in plugins.values()])


@functools.cache
def installed() -> tuple[Mapping[str, Plugin], Sequence[str]]:
    """Return benchmark -> its plugin for installed packages, and what is wrong with the others.

    A broken package disables its own benchmarks only.
    """
    plugins: list[Plugin] = []
    problems = []
    for point in _entry_points():
        place = f"{point.name} ({GROUP}: {point.value})"
        try:
            value = _imported(place, point.load, None)
            module = importlib.import_module(point.module)
            tasks = _checked(place, getattr(value, "TASKS", value))
            plugin = Plugin(place, Path(str(module.__file__)).parent, tasks)
            _by_name([*plugins, plugin])
        except UserError as error:
            problems.append(str(error))
        else:
            plugins.append(plugin)
    return _by_name(plugins), problems


def packages() -> frozenset[str]:
    """Return the packages that hold the code of plugins; none is imported."""
    return frozenset({PACKAGE, *(point.module.partition(".")[0] for point in _entry_points())})


def plain_name(text: str) -> str:
    """Return the name of a module, or a text with it, without the digits of a plugin's place."""
    return re.sub(rf"\b{PACKAGE}\.p[0-9a-f]{{8}}\.", "", text)


def unlisted(folder: Path) -> list[str]:
    """Return the packages in `folder` that are no plugins because they list no TASKS."""
    return [str(path) for path in _packages(folder) if not _lists_tasks(path)]


@functools.cache
def _entry_points() -> Sequence[importlib.metadata.EntryPoint]:
    return sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name)


def _packages(folder: Path) -> list[Path]:
    """Return `folder` if it is a package, else the packages in it.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    try:
        if (folder / "__init__.py").is_file():
            return [folder]
        return sorted(path for path in folder.iterdir() if (path / "__init__.py").is_file())
    except OSError as error:
        raise UserError(
            f"The include path {folder} is not a folder that can be read "
            f"({error.strerror or error}). Name a folder with plugins or lm-eval YAML files."
        ) from error


def _plugin_folders(folder: Path) -> list[Path]:
    # A package that lists no TASKS may be anything: it is not imported.
    return [path for path in _packages(folder) if _lists_tasks(path)]


def _lists_tasks(package: Path) -> bool:
    text = (package / "__init__.py").read_text(encoding="utf-8", errors="replace")
    return re.search(r"\bTASKS\b", text) is not None


def _from_folder(folder: Path) -> Plugin:
    resolved = folder.resolve()
    if not resolved.name.isidentifier():
        raise UserError(
            f"The plugin {folder} cannot be imported: '{resolved.name}' is not the name of a "
            "Python package. Rename the folder with letters, digits and underscores."
        )
    parent = f"{PACKAGE}.p{hashlib.sha256(str(resolved.parent).encode()).hexdigest()[:8]}"
    for package, path in ((PACKAGE, []), (parent, [str(resolved.parent)])):
        if package not in sys.modules:
            sys.modules[package] = ModuleType(package)
            sys.modules[package].__path__ = path
    name = f"{parent}.{resolved.name}"
    if name not in sys.modules:
        importlib.invalidate_caches()  # the folder may be newer than the importer's listing of it
        _imported(str(folder), lambda: importlib.import_module(name), resolved)
    module = sys.modules[name]
    return Plugin(str(folder), resolved, _checked(str(folder), getattr(module, "TASKS", None)))


def _imported(place: str, load: Callable[[], Any], folder: Path | None) -> Any:
    """Return what `load` imports; say where in the plugin it fails."""
    before = set(sys.modules)
    try:
        return load()
    except (Exception, SystemExit) as error:
        for name in set(sys.modules) - before:  # what stays could hide that a file was mended
            if name.startswith(f"{PACKAGE}."):
                del sys.modules[name]
        where = failing_line(error, folder)
        missing = str(getattr(error, "name", None)) if isinstance(error, ImportError) else ""
        is_own = folder and (missing.startswith("tasks.") or missing.split(".")[0] == folder.name)
        hint = " A plugin imports its own modules by a dot: from .items import items." * bool(
            is_own
        )
        raise UserError(
            f"The plugin {place} cannot be imported: {_said(error)}"
            f"{f' ({where})' if where else ''}.{hint}"
        ) from error


def _said(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error).rstrip(".")
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {plain_name(text)}".rstrip(".: \n")


def failing_line(error: BaseException, folder: Path | None = None) -> str | None:
    """Return the file and line of a plugin where `error` was raised; None if in no plugin.

    Without `folder` any plugin that was imported from a folder counts.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_in(Path(frame.filename), folder):
            return f"{frame.filename}, line {frame.lineno}"
    return None


def _is_in(file: Path, folder: Path | None) -> bool:
    folders = [folder] if folder else [Path(p) for p in _loaded_folders()]
    return any(file.is_relative_to(folder) for folder in folders)


def _loaded_folders() -> list[str]:
    return [
        str(Path(str(module.__file__)).parent)
        for name, module in list(sys.modules.items())
        if name.startswith(f"{PACKAGE}.") and getattr(module, "__file__", None)
    ]


def _checked(place: str, listed: Any) -> tuple[Task, ...]:
    """Return the tasks that a plugin lists, if each has what every use of it needs.

    Raises:
        UserError: TASKS or a task in it is malformed.
    """
    from tasks.task import ListItems, Task

    if not isinstance(listed, list | tuple) or not listed:
        got = "missing" if listed is None else f"{type(listed).__name__} {listed!r}"[:100]
        raise UserError(
            f"The plugin {place} has to list its benchmarks: TASKS = [Task(...)] in its "
            f"__init__.py. TASKS is {got}."
        )
    for task in listed:
        if not isinstance(task, Task):
            raise UserError(
                f"The plugin {place} lists {task!r:.100} in TASKS, which is a "
                f"{type(task).__name__}, not a tasks.task.Task."
            )
        if fault := next(_faults(task), None):
            raise UserError(f"The plugin {place} has a task that cannot be used: {fault}.")
        if not isinstance(task.items, ListItems):  # in place, for what `configure` derives from it
            object.__setattr__(task, "items", ListItems(task.items, task.name))
    return tuple(listed)


def _faults(task: Task) -> Iterator[str]:
    """Say what is wrong with a task."""
    from harness.core.schema import Metric

    name, metrics, generation = task.name, task.metrics, task.generation
    if not isinstance(name, str) or not NAME.fullmatch(name):
        yield f"its name is {name!r:.100}; use letters, digits, '_', '-' and '.'"
    if not _is_text(task.version):
        yield f"the version of {name} is {task.version!r:.100}; give a text, such as '1'"
    if not _is_list_of(task.splits, _is_text):
        yield f"the splits of {name} are {task.splits!r:.100}; list names, such as ('gate',)"
    if not _is_list_of(metrics, lambda metric: isinstance(metric, Metric)):
        yield f"the metrics of {name} are {metrics!r:.100}; list Metric values"
    elif len({metric.name for metric in metrics}) != len(metrics):
        yield f"two metrics of {name} have one name"
    elif (primary := sum(metric.primary for metric in metrics)) != 1:
        yield f"{primary} metrics of {name} are primary; mark exactly one with primary=True"
    for part, value in (
        ("items", task.items),
        ("score", getattr(task.score, "score", None)),
        ("feedback", task.feedback),
    ):
        if not callable(value):
            yield f"{part} of {name} is not a function"
    longest = generation.get("max_tokens") if isinstance(generation, Mapping) else None
    if (
        not isinstance(longest, int)
        or longest < 1
        or not isinstance(generation.get("stop"), list | tuple)
    ):
        yield (
            f"generation of {name} is {generation!r:.100}; give max_tokens and stop, such as "
            "{'max_tokens': 512, 'stop': []}"
        )


def _is_list_of(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(is_right, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _by_name(plugins: Sequence[Plugin]) -> dict[str, Plugin]:
    """Return benchmark -> plugin.

    Raises:
        UserError: two benchmarks have one name.
    """
    known: dict[str, Plugin] = {}
    for plugin in plugins:
        for task in plugin.tasks:
            if task.name in known:
                other = known[task.name].place
                where = (
                    f"{plugin.place} twice"
                    if other == plugin.place
                    else (f"{other} and by {plugin.place}")
                )
                raise UserError(
                    f"A benchmark called '{task.name}' is defined by {where}. Rename one, or leave "
                    "one out: a name has to stand for one benchmark."
                )
            known[task.name] = plugin
    return known
