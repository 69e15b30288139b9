"""The benchmarks: what is asked, how an answer is scored, and what is said about it.

Adding one = adding a folder whose package lists its `Task` values in `TASKS`.
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
    """Every task that `load` knows."""
    return sorted(_all())


def load(name: str) -> Task:
    """The task called `name`.

    Raises:
        UserError: there is none; names the nearest.
    """
    found = _all()
    if name not in found:
        raise UserError(
            f"There is no task '{name}'.{did_you_mean(name, found)} "
            f"Known: {', '.join(sorted(found))}."
        )
    return found[name]


def installed(name: str, version: str) -> Task | None:
    """The task called `name`, if this very version of it is installed."""
    task = load(name) if name in names() else None
    return task if task and task.version == version else None
