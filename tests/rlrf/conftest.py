"""A tiny model and a toy task that the whole loop can run on in seconds."""

from __future__ import annotations

import pytest
from helpers import judged, tiny, toy

import tasks
from harness.engines.model_folder import Checkpoint


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a random model."""
    return tiny.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def start(tiny_model):
    """The random model as a checkpoint, to train from."""
    return Checkpoint("M0", tiny_model)


@pytest.fixture(scope="session")
def roomy_model(tiny_model, tmp_path_factory):
    """The folder of a random model that reads longer texts."""
    return judged.roomy(tiny_model, tmp_path_factory.mktemp("roomy") / "model")


@pytest.fixture(scope="session")
def critic(roomy_model, tmp_path_factory):
    """A feedback model of the toy task: its folder, its manifest and how it agrees."""
    out = tmp_path_factory.mktemp("critic") / "model"
    return out, *judged.fit(roomy_model, out)


@pytest.fixture
def toy_letters(tmp_path, monkeypatch):
    """The task `toy_letters`, known to the plugins and to lm-eval."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "toy.yaml").write_text(toy.YAML)
    monkeypatch.setattr(tasks, "FOLDER", folder)
    monkeypatch.setattr(tasks, "_all", lambda: {"toy_letters": toy.LETTERS})
