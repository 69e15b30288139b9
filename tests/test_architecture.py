"""ARCHITECTURE.md says what the code is: its layers and its modules."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
PACKAGES = ("harness", "tasks", "rlrf")


def test_the_layers_are_those_that_the_linter_checks():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [c["layers"] for c in settings["contracts"] if c["type"] == "layers"]
    (listed,) = re.findall(r"^```layers\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert listed.splitlines() == layers


def test_every_module_that_is_named_exists():
    paths = {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*")}
    named = re.findall(r"`([\w./]+\.py)`", PAGE)
    assert named
    missing = [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in paths)]
    assert missing == []


def test_every_package_is_described():
    folders = {
        path.parent.relative_to(ROOT)
        for name in PACKAGES
        for path in (ROOT / name).rglob("__init__.py")
    }
    missing = [str(folder) for folder in folders if folder.name not in PAGE]
    assert missing == []
