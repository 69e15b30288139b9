"""Write the files of a new benchmark: lm-eval YAML, items, scoring, feedback and tests."""

from __future__ import annotations

import json
import keyword
import re
import sys
from pathlib import Path
from string import Template

import tasks
from harness.core.errors import UserError
from harness.core.files import make_folder, write_text
from rlrf import new_task_files

NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")
ITEMS = {  # question -> answer, three per split
    "What is the capital of France?": "Paris",
    "What is the capital of Japan?": "Tokyo",
    "What is the capital of Kenya?": "Nairobi",
    "What is the capital of Peru?": "Lima",
    "What is the capital of Norway?": "Oslo",
    "What is the capital of Egypt?": "Cairo",
    "What is the capital of Cuba?": "Havana",
    "What is the capital of Ghana?": "Accra",
    "What is the capital of Nepal?": "Kathmandu",
}
SPLITS = ("train", "gate", "sealed")


def new_task(name: str, out: Path | None = None, *, judged: bool = False) -> list[Path]:
    """Write a benchmark that works at once, to be changed file by file.

    Args:
        name: of the benchmark and of its folder: lower case letters, digits and underscores.
        out: folder that gets the folder `name`, to be named as include path; `tasks` of a checkout
            gets a benchmark of the package. Default: `tasks` if the working directory is in the
            checkout that runs, else `benchmarks` in the working directory.
        judged: grade responses by a judge instead of by code.

    Returns:
        The files, in the order in which to change them; the last one is the test.

    Raises:
        UserError: the name cannot be used, or the folder exists.
    """
    out = out or _default_out()
    is_ours = out.resolve() == tasks.FOLDER.resolve()
    _check_name(name, is_ours)
    folder = out / name
    suite = out.parent / "tests" / "tasks"
    test = (suite / name if is_ours and suite.is_dir() else folder) / f"test_{name}.py"
    for path in (folder, test):
        if path.exists():
            raise UserError(f"{path} exists. Choose another name, or delete it.")
    kind = new_task_files.JUDGED if judged else new_task_files.CHECKED
    rows = [
        {"split": SPLITS[number % len(SPLITS)], "question": question, "answer": answer}
        for number, (question, answer) in enumerate(ITEMS.items())
    ]
    files = {**new_task_files.COMMON, **kind}
    texts = {
        folder / "items.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows),
        **{folder / file: text for file, text in files.items() if file != "test"},
        **({} if is_ours else {folder / "lm_eval_hooks.py": new_task_files.HOOKS}),
        folder / f"{name}.yaml": new_task_files.YAML,
        test: kind["test"],
    }
    values = {"name": name, "metric": "accuracy", "max_tokens": "64"}
    if judged:
        values |= {"metric": "quality", "max_tokens": "256"}
    values |= _place(name, is_ours, "CRITERION, METRICS, prompt_digest" if judged else "METRICS")
    for path, text in texts.items():
        make_folder(path.parent)
        write_text(path, Template(text).substitute(values))
    return list(texts)


def _default_out() -> Path:
    checkout = tasks.FOLDER.parent
    if (checkout / "pyproject.toml").is_file() and Path.cwd().is_relative_to(checkout):
        return tasks.FOLDER
    return Path("benchmarks")


def _place(name: str, is_ours: bool, scoring: str) -> dict[str, str]:
    """Return what the templates say about where the benchmark is: ours, or a user's plugin."""
    own = f"tasks.{name}." if is_ours else "."
    imports = (
        f"from {own}feedback import feedback\n"
        f"from {own}items import SPLITS, TASK, items\n"
        f"from {own}scoring import {scoring}, score\n"
    )
    if is_ours:
        place = {"before": imports, "after": "", "path": "", "gap": "", "where": ""}
        return place | {"hooks": "tasks.hooks"}
    return {
        "before": "",
        "after": f"\n{imports}",
        "path": "from pathlib import Path\n",
        "gap": "\n",
        "where": ", [Path(__file__).parent]",
        "hooks": "lm_eval_hooks",
    }


def _check_name(name: str, is_ours: bool) -> None:
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UserError(
            f"'{name}' cannot name a benchmark: it names a Python package. Use up to 50 lower case "
            "letters, digits and underscores, and begin with a letter."
        )
    modules = {path.stem for path in tasks.FOLDER.iterdir()}
    if name in tasks.names() or name in modules:
        raise UserError(f"tasks already has '{name}'. Choose another name.")
    if not is_ours and name in sys.stdlib_module_names:
        raise UserError(
            f"'{name}' is a module of Python, which the benchmark would hide from its own test. "
            "Choose another name."
        )
