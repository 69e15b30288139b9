"""Which type weights are computed in, on a CPU that has no instructions for theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.jobs import job
from helpers.random_llama import make_model

from harness.engines import Sampling, loading
from harness.engines.hf import HFEngine
from harness.engines.loading import choose_dtype, has_instructions, stored_dtype
from rlrf.objectives import base
from rlrf.training_config import Adapter

OLD, NEW = {"avx2": True}, {"avx512_bf16": True, "avx512_fp16": True}


@pytest.fixture(params=["bfloat16", "float16"])
def half(request: Any, tokenizer: Any, tmp_path: Path) -> Path:
    """A model whose weights take two bytes each."""
    folder = tmp_path / str(request.param)
    kind = getattr(torch, request.param)
    make_model(len(tokenizer)).to(kind).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`on(capabilities)`: the machine is a CPU with these."""

    def set_to(capabilities: dict[str, Any]) -> None:
        monkeypatch.setattr(loading, "_capabilities", lambda: capabilities)
        loading._report.cache_clear()

    return set_to


def test_weights_are_computed_as_float32_where_the_cpu_is_slow_with_them(
    half: Path, on: Any, capsys: Any
) -> None:
    on(OLD)
    engine = HFEngine(half, device="cpu")
    assert engine.model.dtype is torch.float32
    HFEngine(half, device="cpu")
    said = capsys.readouterr().err
    assert said.count(f"no instructions for {half.name}") == 1
    ((made,),) = engine.generate(["She has 14 plums."], Sampling(max_tokens=4))
    assert made.completion_tokens


def test_weights_stay_as_they_are_where_the_cpu_has_instructions_or_the_user_says_so(
    half: Path, on: Any, capsys: Any
) -> None:
    kind = getattr(torch, half.name)
    on(NEW)
    assert HFEngine(half, device="cpu").model.dtype is kind
    on(OLD)
    assert HFEngine(half, device="cpu", dtype=half.name).model.dtype is kind
    assert choose_dtype(half, "cuda", "auto") == "auto"
    assert "instructions" not in capsys.readouterr().err


def test_weights_stay_as_they_are_where_memory_does_not_hold_them(
    half: Path, on: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    on(OLD)
    monkeypatch.setattr(loading, "_free_memory", lambda: 1000)
    assert choose_dtype(half, "cpu", "auto") == "auto"
    assert "many times slower" in capsys.readouterr().err


def test_adapters_are_trained_on_weights_of_the_type_that_is_sampled_from(
    half: Path, on: Any
) -> None:
    from harness.engines.model_folder import Checkpoint

    start, adapter = Checkpoint("M0", half), Adapter(r=2, target_modules=["q_proj"])
    for capabilities, kind in ((OLD, torch.float32), (NEW, getattr(torch, half.name))):
        on(capabilities)
        model, _ = base.load_model(job(start, adapter=adapter))
        assert model.dtype is kind


def test_float32_is_never_changed(model_folder: Path, on: Any, capsys: Any) -> None:
    on(OLD)
    assert stored_dtype(model_folder) == "float32"
    assert choose_dtype(model_folder, "cpu", "auto") == "auto"
    assert "instructions" not in capsys.readouterr().err


def test_the_type_is_read_from_the_weights_where_no_configuration_says_it(half: Path) -> None:
    import json

    config = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "dtype"}))
    assert stored_dtype(half) == half.name


@pytest.mark.parametrize(
    ("capabilities", "bfloat16", "float16"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "avx512_fp16": False}, False, False),
        ({"avx512_bf16": True}, True, False),
        ({"amx_bf16": True, "amx_fp16": True}, True, True),
        ({}, True, True),  # nothing is known
    ],
)
def test_capabilities_are_read(capabilities: Any, bfloat16: bool, float16: bool) -> None:
    assert has_instructions("bfloat16", capabilities) is bfloat16
    assert has_instructions("float16", capabilities) is float16
    assert has_instructions("float32", capabilities)


def test_the_doctor_says_what_the_cpu_is_slow_with(on: Any) -> None:
    from rlrf.doctor import examine

    for capabilities, said in ((OLD, "no instructions for bfloat16 and float16"), (NEW, "")):
        on(capabilities)
        (cpu,) = [finding for finding in examine() if finding.name == "cpu"]
        assert said in cpu.found and bool(said) == bool(cpu.advice)
