"""The lm-eval YAML of each benchmark and its `Task` say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import tasks

FILES = sorted(path for path in tasks.FOLDER.glob("*/*.yaml") if not path.name.startswith("_"))
UNKNOWN_TO_LM_EVAL = {"truncated"}  # lm-eval does not tell how a response ended


class Loader(yaml.SafeLoader):
    """Read lm-eval's `!function NAME` as NAME."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def read(path: Path) -> dict[str, Any]:
    values = yaml.load(path.read_text(), Loader)  # noqa: S506 (a SafeLoader)
    base = read(path.parent / values["include"]) if "include" in values else {}
    return base | values


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_and_its_task_agree(path):
    values = read(path)
    task = tasks.load(values["metadata"]["task"])
    assert str(values["metadata"]["version"]) == task.version
    listed = {entry["metric"]: entry["higher_is_better"] for entry in values["metric_list"]}
    known = {metric.name: metric.higher_is_better for metric in task.metrics}
    assert listed == {name: up for name, up in known.items() if name not in UNKNOWN_TO_LM_EVAL}
    generation = values["generation_kwargs"]
    assert generation["until"] == task.generation["stop"]
    assert generation["max_gen_toks"] == task.generation["max_tokens"]
    assert generation.get("temperature", 0.0) == task.generation["temperature"]


def test_every_task_has_a_file():
    assert {read(path)["metadata"]["task"] for path in FILES} == set(tasks.names())
