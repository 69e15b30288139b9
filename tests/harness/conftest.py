"""A tiny random Llama with a tokenizer, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.random_llama import make_model, make_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer: Any) -> Any:
    import torch

    torch.set_num_threads(1)
    return make_model(len(tokenizer))


@pytest.fixture(scope="session")
def model_folder(model: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def engine(model_folder: Path) -> Any:
    from harness.engines.hf import HFEngine

    return HFEngine(model_folder)
