"""The benchmarks: their items, scoring and feedback.

To add a benchmark, add a folder whose package lists its `Task` values in `TASKS`: here, or in a
folder of your own that is named as `--include-path` (`tasks.plugins`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import UserError
from harness.core.text import did_you_mean
from tasks import plugins
from tasks.plugins import include, including

if TYPE_CHECKING:
    from tasks.task import Task

__all__ = [
    "FOLDER",
    "folder_of",
    "folders",
    "include",
    "including",
    "installed",
    "load",
    "names",
    "problems",
]

FOLDER = Path(__file__).parent


def _all() -> dict[str, Task]:
    packages_of_ours = [m.name for m in pkgutil.iter_modules([str(FOLDER)]) if m.ispkg]
    packages = [importlib.import_module(f"tasks.{name}") for name in sorted(packages_of_ours)]
    return {task.name: task for package in packages for task in package.TASKS}


def _known() -> dict[str, Task]:
    """Return all benchmarks: those of included folders, our own, those of installed packages.

    Raises:
        UserError: a plugin in an included folder is broken, or has the name of one of ours.
    """
    ours, named = _all(), plugins.in_folders()
    if taken := sorted(ours.keys() & named.keys()):
        raise UserError(
            f"The plugin {named[taken[0]].place} defines a benchmark called '{taken[0]}', which "
            "this package has, too. Rename it: a name has to stand for one benchmark."
        )
    packaged, _ = plugins.installed()
    return {name: _task(plugin, name) for name, plugin in {**packaged, **named}.items()} | ours


def _task(plugin: plugins.Plugin, name: str) -> Task:
    return next(task for task in plugin.tasks if task.name == name)


def names(include_paths: Iterable[str | Path] = ()) -> list[str]:
    """Return the names of all tasks, with those of plugins in `include_paths`."""
    with including(include_paths):
        return sorted(_known())


def load(name: str, include_paths: Iterable[str | Path] = ()) -> Task:
    """Return the task called `name`; plugins in `include_paths` are searched, too.

    Raises:
        UserError: there is no such task, and the message names the nearest; or a plugin in
            `include_paths` is broken.
    """
    with including(include_paths):
        known = _known()
        if name in known:
            return known[name]
        notes = problems()
        for folder in plugins.included():
            notes += [
                f"{package}/__init__.py lists no TASKS, so its benchmarks are not known."
                for package in plugins.unlisted(folder)
            ]
    raise UserError(
        " ".join(
            [
                f"There is no task '{name}'.{did_you_mean(name, known)}",
                f"Known: {', '.join(sorted(known))}.",
                *notes,
            ]
        )
    )


def installed(name: str, version: str) -> Task | None:
    """Return the task called `name` if exactly this version of it is installed."""
    task = load(name) if name in names() else None
    return task if task and task.version == version else None


def folder_of(name: str) -> Path:
    """Return the folder with the YAML of the task called `name`: ours for an unknown one."""
    named, (packaged, _) = plugins.in_folders(), plugins.installed()
    plugin = named.get(name) or (None if name in _all() else packaged.get(name))
    return plugin.folder if plugin else FOLDER


def problems() -> list[str]:
    """Say which plugins of installed packages cannot be used, and why."""
    packaged, faults = plugins.installed()
    hidden = packaged.keys() & _all().keys()
    return [
        *faults,
        *(
            f"The plugin {packaged[name].place} defines a benchmark called '{name}', which this "
            "package has, too: ours is used."
            for name in sorted(hidden)
        ),
    ]


def folders(include_paths: Iterable[str | Path] = ()) -> list[Path]:
    """Return the folders in which lm-eval finds the YAML of all tasks; a later one wins."""
    with including(include_paths):
        packaged, _ = plugins.installed()
        return [
            *dict.fromkeys(plugin.folder for plugin in packaged.values()),
            FOLDER,
            *plugins.included(),
        ]
