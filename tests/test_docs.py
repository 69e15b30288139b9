"""What the documentation says can be typed: every command parses, and `bash` blocks run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml

import rlrf.config
from rlrf.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page that are in one of `languages`."""
    fenced = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [block for language, block in fenced if language in languages]


COMMANDS = sorted(
    {
        line.strip()
        for page in PAGES
        for block in blocks(page, "", "bash", "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.removeprefix(".venv/bin/").startswith("rlrf ")
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_in_the_docs_exists(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if ">" in words:
        words = words[: words.index(">")]
    command: click.Command = cli
    while isinstance(command, click.Group):
        if command.invoke_without_command and not {*words[:1]} & {*command.commands}:
            break
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (page.name, target)
        for page in PAGES
        for code in [*blocks(page, "", "bash", "sh"), *re.findall(r"`([^`\n]+)`", page.read_text())]
        for target in re.findall(r"^make ([a-z][\w-]*)", code, re.MULTILINE)
    }
    assert ("CONTRIBUTING.md", "check") in named
    assert {target for _, target in named} <= targets


def test_the_citation_and_the_changelog_name_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version in headings


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


CONFIGS = sorted([*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs/guards").glob("*.yaml")])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_example_configurations_are_valid(path: Path) -> None:
    assert rlrf.config.load(path).tasks


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "bash")], ids=lambda p: p.stem
)
def test_the_bash_blocks_run(page: Path, tmp_path: Path) -> None:
    (tmp_path / "rlrf").symlink_to(ROOT / "rlrf")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "\n".join(blocks(page, "bash"))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
