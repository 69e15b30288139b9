"""Where the Hugging Face hub cannot be reached, nothing waits for it, and files come first."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from harness.core import hub
from rlrf.cli import run


class Offline:
    """A network without any address; it counts who asks."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, *_: Any, **__: Any) -> Any:
        self.asked += 1
        raise socket.gaierror("no address")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Offline:
    import datasets.config
    import huggingface_hub.constants

    network = Offline()
    for name in hub.PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", network)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return network


def answers(path: Path, *ids: object) -> Path:
    path.write_text("".join(json.dumps({"id": i, "response": "#### 1"}) + "\n" for i in ids))
    return path


def test_score_reads_what_it_was_given_before_it_asks_the_hub(
    offline: Offline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["score", "gsm8k", str(tmp_path / "none.jsonl")]) == 3
    assert "There is no file" in capsys.readouterr().err
    assert run(["score", "gsm8k", str(answers(tmp_path / "odd.jsonl", "first"))]) == 3
    assert "'id' is 'first'" in capsys.readouterr().err
    good = answers(tmp_path / "good.jsonl", 0)
    words = ["score", "gsm8k", str(good), "--judgments", str(tmp_path / "none.jsonl")]
    assert run(words) == 3
    assert "none.jsonl" in capsys.readouterr().err
    assert offline.asked == 0


def test_an_unreachable_hub_is_asked_for_its_address_once(
    offline: Offline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["score", "gsm8k", str(answers(tmp_path / "good.jsonl", 0))]) == 3
    assert "name its folder with --data" in capsys.readouterr().err
    assert offline.asked == 1
    command = ["eval", "--model", "nobody/nothing", "--tasks", "mini_gsm8k"]
    assert run([*command, "--out", str(tmp_path / "out")]) == 3
    assert "neither a folder here nor a model" in capsys.readouterr().err
    assert offline.asked == 2


def test_a_proxy_is_trusted_to_know_the_hub(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as settings

    with hub.without_vain_retries():
        assert settings.HF_HUB_OFFLINE
    assert not settings.HF_HUB_OFFLINE
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    with hub.without_vain_retries():
        assert not settings.HF_HUB_OFFLINE
