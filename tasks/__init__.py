"""The benchmarks: their items, scoring and feedback.

To add a benchmark, add a folder whose package lists its `Task` values in `TASKS`.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import UserError
from harness.core.text import did_you_mean

if TYPE_CHECKING:
    from tasks.task import Task

FOLDER = Path(__file__).parent


def _all() -> dict[str, Task]:
    folders = [m.name for m in pkgutil.iter_modules([str(FOLDER)]) if m.ispkg]
    packages = [importlib.import_module(f"tasks.{name}") for name in sorted(folders)]
    return {task.name: task for package in packages for task in package.TASKS}


def names() -> list[str]:
    """Return the names of all tasks."""
    return sorted(_all())


def load(name: str) -> Task:
    """Return the task called `name`.

    Raises:
        UserError: there is no such task; the message names the nearest.
    """
    known = _all()
    if name not in known:
        raise UserError(
            f"There is no task '{name}'.{did_you_mean(name, known)} "
            f"Known: {', '.join(sorted(known))}."
        )
    return known[name]


def installed(name: str, version: str) -> Task | None:
    """Return the task called `name` if exactly this version of it is installed."""
    task = load(name) if name in names() else None
    return task if task and task.version == version else None
