"""Prepare the pages and the navigation of the documentation site."""

from __future__ import annotations

import functools
import importlib
import os
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from command_line import command_line
from configuration import Part, describe
from markup import fenced, four_space_lists, prose_by
from python_api import python_api

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Pages outside docs/, and their places in the site.
ROOT_PAGES = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security-policy.md",
    "README.md": "index.md",
}
# The model of each kind of file that users write, by the name of its class.
FILES = {
    "Config": (
        "Run",
        "The file of `rlrf train` and of the commands that run one stage. `model` and `tasks` "
        "are enough.",
    ),
    "Policy": (
        "Gate policy",
        "The file of `rlrf gate --policy` and `rlrf plan`, and the block `gate.policy` of a run.",
    ),
    "Judging": (
        "Judge",
        "The file of `--judge`, and the key `judge` of a run: how answers are judged.",
    ),
    "Prompts": (
        "Judge prompts",
        "The file named by `just_eval.prompt` in a judge file.",
    ),
    "SelfEvolution": (
        "Self-evolved rewards",
        "The file of `rlrf reward-model self-evolve`.",
    ),
    "RewardTraining": (
        "Reward model training",
        "The file of `rlrf reward-model train --settings`.",
    ),
    "FeedbackTraining": (
        "Feedback model training",
        "The file of `rlrf feedback-model train --settings`.",
    ),
}
SHOWN_BYTES = 64 * 1024  # of a file that a page links to
MAX_SHOWN_FILES = 40  # of a folder
LINK = re.compile(r"\[(?P<text>[^][]*)\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def sources() -> dict[str, Path]:
    """Return the pages of the site: place in the site -> file of the repository."""
    found = {path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.md"))}
    outside = {place: ROOT / name for name, place in ROOT_PAGES.items() if place not in found}
    return found | outside


def prepare(out: Path, site: Path) -> None:
    """Write the sources of the site to `out`, replacing what was there; `site` is its place."""
    if out == ROOT:
        sys.exit(
            f"The sources of the site would replace the pages in {DOCS}. Choose another --out."
        )
    shutil.rmtree(out / "docs", ignore_errors=True)
    pages = sources()
    shown: dict[Path, str] = {}
    for place, source in pages.items():
        rewrite = functools.partial(LINK.sub, functools.partial(_link, source, place, shown))
        text = four_space_lists(prose_by(rewrite, source.read_text()))
        _write(out / "docs" / place, _inserted(text))
    for path, place in shown.items():
        _write(out / "docs" / place, _shown(path))
    for path in DOCS.rglob("*"):
        if path.suffix in {".svg", ".png", ".css", ".js", ".csv"}:
            _copy(path, out / "docs" / path.relative_to(DOCS))
    config: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    config["nav"] = navigation(config["nav"], sorted(pages))
    config["site_dir"] = os.path.relpath(site, out)
    handlers = config["plugins"][-1]["mkdocstrings"]["handlers"]
    handlers["python"]["paths"] = [os.path.relpath(ROOT, out)]
    _write(out / "mkdocs.yml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def navigation(entries: list[Any], pages: list[str]) -> list[Any]:
    """Fill in the patterns of a navigation with the pages that no other entry names."""
    named = {entry for entry in _leaves(entries) if "*" not in entry}
    return _filled(entries, [page for page in pages if page not in named])


def _leaves(entries: Any) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
        return
    for entry in entries.values() if isinstance(entries, dict) else entries:
        yield from _leaves(entry)


def _filled(entries: list[Any], rest: list[str]) -> list[Any]:
    filled: list[Any] = []
    for entry in entries:
        if isinstance(entry, str) and "*" in entry:
            folder = posixpath.dirname(entry)
            matching = [page for page in rest if posixpath.dirname(page) == folder]
            filled += sorted(
                matching, key=lambda page: (posixpath.basename(page) != "index.md", page)
            )
        elif isinstance(entry, dict):
            (title, inside), *_ = entry.items()
            value = _filled(inside, rest) if isinstance(inside, list) else inside
            if value:
                filled.append({title: value})
        else:
            filled.append(entry)
    return filled


def _inserted(text: str) -> str:
    """Replace the marks of a page by what is generated from the code."""
    for mark, generate in _GENERATED.items():
        comment = f"<!-- generated: {mark} -->"
        if comment in text:
            before, _, after = text.partition(comment)
            paragraphs = before.rstrip().split("\n\n")
            if paragraphs[-1].startswith("`make docs` inserts"):
                before = "\n\n".join(paragraphs[:-1])
            text = f"{before}\n\n{generate()}{after}"
    return text


def _command_line() -> str:
    from rlrf.cli import cli

    return command_line(cli, "rlrf")


def _configuration() -> str:
    return describe(
        [
            Part(_model(name), title, about, _slug(title), f"a [{title.lower()}]")
            for name, (title, about) in FILES.items()
        ]
    )


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def _python_api() -> str:
    import rlrf

    return python_api(rlrf)


_GENERATED = {
    "command line": _command_line,
    "configuration": _configuration,
    "python": _python_api,
}


def _model(name: str) -> Any:
    """Import a class by its name, from the one module of the project that defines it."""
    if name == "Judging":  # each task that takes settings adds a block
        from harness.judges.config import judging_model

        return judging_model()
    definition = re.compile(rf"^class {name}\(", re.MULTILINE)
    modules = [
        path.relative_to(ROOT).with_suffix("")
        for package in ("rlrf", "harness", "tasks")
        for path in sorted((ROOT / package).rglob("*.py"))
        if definition.search(path.read_text())
    ]
    if len(modules) != 1:
        sys.exit(
            f"docs/hooks describes the files that users write; the model {name} should be defined "
            f"in one module, but is in {len(modules)}. Correct FILES in docs/hooks/pages.py."
        )
    return getattr(importlib.import_module(".".join(modules[0].parts)), name)


def _link(source: Path, place: str, shown: dict[Path, str], link: re.Match[str]) -> str:
    """Rewrite a link of a page for the site; a file's name as its text becomes the page's title."""
    path = Path(os.path.normpath(source.parent / link["path"]))
    if path.is_relative_to(DOCS):
        target = path.relative_to(DOCS).as_posix()
    elif not path.is_relative_to(ROOT) or not path.exists():
        return link[0]  # the build of the site reports it
    elif (name := path.relative_to(ROOT).as_posix()) in ROOT_PAGES:
        target = ROOT_PAGES[name]
    else:
        target = shown.setdefault(path, f"files/{name.replace('.', '-')}.md")
    text = _title(path) if link["text"] == path.name and path.suffix == ".md" else link["text"]
    relative = posixpath.relpath(target, posixpath.dirname(place) or ".")
    return f"[{text}]({relative}{link['anchor'] or ''})"


def _title(page: Path) -> str:
    heading = re.search(r"^# (.+)$", page.read_text(), re.MULTILINE) if page.is_file() else None
    return heading[1] if heading else page.name


def _shown(path: Path) -> str:
    """Make a page that shows a file of the repository, or the files of a folder."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_file():
        return f"# {name}\n\n{_quoted(path)}"
    files = [file for file in sorted(path.iterdir()) if file.is_file()]
    if len(files) > MAX_SHOWN_FILES:
        sys.exit(f"A page links to {name}, which has {len(files)} files. Link to one of them.")
    return f"# {name}\n\n" + "\n".join(f"## {file.name}\n\n{_quoted(file)}" for file in files)


def _quoted(path: Path) -> str:
    text = path.read_bytes()[:SHOWN_BYTES].decode(errors="replace")
    languages = {".yaml": "yaml", ".yml": "yaml", ".py": "python", ".sh": "sh", ".json": "json"}
    return fenced(text.rstrip("\n"), languages.get(path.suffix, "text"))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
