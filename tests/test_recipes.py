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
EXECUTED = ["benchmark", "judged-benchmark", "method", "reader"]
BLOCK = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```', re.DOTALL | re.MULTILINE)
PATH = (
    r"(?:harness|tasks|rlrf|docs|bench|tests)/[\w./-]*\w/?|(?:README|CHANGELOG)\.md|pyproject\.toml"
)
FILE = re.compile(rf"(?<![\w./-])(?:{PATH})")
CODE = re.compile(r"`([^`\n]+)`")
NAMES_IN_FILE = re.compile(rf"((?:`[\w.]+(?:\([^`]*\))?`(?:,| and|)\s+)+)(?:in|of)\s+`({PATH})`")
MADE_BY_SCAFFOLD = ("tasks/rivers", "tests/tasks/rivers")
PAGES = sorted(RECIPES.glob("*.md"))


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


def paths_in(text: str) -> set[str]:
    """Find the files and folders that code on a page names, but for those that a reader makes."""
    code = [*CODE.findall(BLOCK.sub("", text)), *(content for *_, content in BLOCK.findall(text))]
    made = [title for _, title, _ in BLOCK.findall(text) if title]
    named = {name for part in code for name in FILE.findall(part)}
    return {
        name
        for name in named
        if "NAME" not in name and not name.startswith((*made, *MADE_BY_SCAFFOLD))
    }


def says(file: str, name: str, form: str) -> bool:
    """Say whether a file has each part of a dotted name, such as `Feedback.text()`, in a form."""
    text = (ROOT / file).read_text()
    parts = re.sub(r"\(.*", "", name).split(".")
    return all(re.search(form.format(part), text, re.MULTILINE) for part in parts)


DEFINED = r"\b(?:def|class)\s+{0}\b|^\s*{0}\b[^=\n]*[:=]"
USED = r"\b{}\b"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_path_that_a_recipe_names_exists(page: Path) -> None:
    named = paths_in(page.read_text())
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_name_that_a_recipe_places_in_a_file_is_defined_there(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    placed = [
        (name, file) for names, file in NAMES_IN_FILE.findall(text) for name in CODE.findall(names)
    ]
    assert [(name, file) for name, file in placed if not says(file, name, DEFINED)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_name_in_a_row_of_a_table_occurs_in_the_files_of_the_row(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    for row in (line for line in text.splitlines() if line.startswith("| ")):
        code = CODE.findall(row)
        files = [part for part in code if FILE.fullmatch(part) and (ROOT / part).is_file()]
        names = [part for part in code if re.fullmatch(r"[\w.]*[A-Z_][\w.]*(?:\(\))?", part)]
        strange = [
            name
            for name in names
            if name not in files
            and "NAME" not in name
            and not any(says(f, name, USED) for f in files)
        ]
        assert not files or strange == [], row
