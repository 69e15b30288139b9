"""The recipes are true: their code and commands run in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "docs" / "recipes"
COPIED = ["harness", "tasks", "rlrf", "tests", "pyproject.toml"]
EXECUTED = ["benchmark", "judged-benchmark", "method"]
BLOCK = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```', re.DOTALL | re.MULTILINE)
FILE = re.compile(r"`((?:harness|tasks|rlrf|docs|bench|tests)/[\w./-]*\w/?)`")


def run(command: list[str], place: Path, text: str = "") -> None:
    """Run a command in the copy, whose packages come before the installed ones."""
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(place),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        command, cwd=place, env=env, input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def apply_diff(text: str, place: Path) -> None:
    """Apply a diff by content alone: the old lines of each hunk stand once in their file."""
    for name, hunks in re.findall(
        r"^--- a/(\S+)\n\+\+\+ .*\n((?:[-@+ ].*\n)+?)(?=--- |\Z)", text, re.M
    ):
        path = place / name
        for hunk in re.split(r"^@@.*\n", hunks, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if line[0] in " -")
            new = "".join(line[1:] for line in lines if line[0] in " +")
            current = path.read_text()
            assert current.count(old) == 1, f"{name} does not have these lines once:\n{old}"
            path.write_text(current.replace(old, new))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", EXECUTED)
def test_a_recipe_works_in_a_copy_of_the_project(recipe: str, tmp_path: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(source, tmp_path / name)
    page = (RECIPES / f"{recipe}.md").read_text()
    for language, title, content in BLOCK.findall(page):
        if title:
            (tmp_path / title).write_text(content)
        elif language == "diff":
            apply_diff(content, tmp_path)
        elif language == "sh":
            run(["bash", "-euo", "pipefail"], tmp_path, content)


@pytest.mark.parametrize("page", sorted(RECIPES.glob("*.md")), ids=lambda page: page.stem)
def test_every_file_that_a_recipe_names_exists(page: Path) -> None:
    text = page.read_text()
    made = [title for _, title, _ in BLOCK.findall(text) if title]
    named = {name for name in FILE.findall(text) if "NAME" not in name and name not in made}
    assert named
    made_by_scaffold = ("tasks/capitals", "tests/tasks/capitals", "tasks/essays")
    missing = {
        name
        for name in named
        if not name.startswith(made_by_scaffold) and not (ROOT / name).exists()
    }
    assert missing == set()
