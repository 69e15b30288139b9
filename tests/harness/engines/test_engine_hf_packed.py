"""Large layers on a CPU are laid out for their products, and nothing else about a model changes."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
from helpers.random_llama import make_model
from test_engine_hf import GREEDY, PROMPTS, WARM, by_generate, texts

from harness.engines import Sampling
from harness.engines.hf import HFEngine
from harness.engines.onednn_linear import torch_head

LARGE = {"hidden_size": 512, "intermediate_size": 640, "attention_bias": True}

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="packed on x86 alone"
)


@pytest.fixture(scope="module")
def large(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    make_model(len(tokenizer), **LARGE).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def packed(model: Any) -> set[str]:
    return {name for name, layer in model.named_modules() if type(layer).__name__ == "OneDNNLinear"}


@pytest.mark.parametrize("max_batch", [1, 4, 256])
def test_greedy_is_generate_token_for_token(large: Path, tokenizer: Any, max_batch: int) -> None:
    engine, plain = HFEngine(large, device="cpu", max_batch=max_batch), load(large)
    assert "model.layers.0.mlp.up_proj" in packed(engine.model)
    found = [
        [tokenizer.decode(by_generate(plain, tokenizer, prompt, 24), skip_special_tokens=True)]
        for prompt in PROMPTS
    ]
    assert texts(engine, PROMPTS, GREEDY) == found


def test_samples_are_those_of_the_model_as_loaded(large: Path, tokenizer: Any) -> None:
    engine = HFEngine(large, device="cpu")
    plain = HFEngine(load(large), tokenizer=tokenizer, device="cpu")
    assert packed(engine.model) and not packed(plain.model)
    assert texts(engine, PROMPTS, WARM) == texts(plain, PROMPTS, WARM)
    pairs = [(tokenizer.encode(prompt), tokenizer.encode(" plums.")) for prompt in PROMPTS]
    for (found, same), (expected, as_before) in zip(
        engine.loglikelihood(pairs), plain.loglikelihood(pairs), strict=True
    ):
        assert found == pytest.approx(expected, abs=1e-3)
        assert same == as_before


def test_likelihoods_round_as_torch_does_where_the_head_is_the_embeddings(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    folder = tmp_path / "tied"
    sizes = {"hidden_size": 1024, "intermediate_size": 256, "tie_word_embeddings": True}
    make_model(len(tokenizer), **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    engine = HFEngine(folder, device="cpu")
    head = engine.model.get_output_embeddings()
    assert "lm_head" in packed(engine.model)
    states = torch.randn(3, 1024)
    real, used = torch.nn.functional.linear, []

    def linear(inputs: Any, weight: Any, bias: Any = None) -> Any:
        used.append(weight is engine.model.get_input_embeddings().weight)
        return real(inputs, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    engine.loglikelihood([([5, 6], [7])])
    assert any(used)
    used.clear()
    fast = head(states)
    assert used == []
    with torch_head(engine.model):
        assert torch.allclose(head(states), fast, atol=1e-4)
    assert used == [True]
    assert not any("embeddings" in name for name in head.state_dict())


def test_bfloat16_is_as_exact_as_before(large: Path, tokenizer: Any) -> None:
    import torch

    engine, plain = HFEngine(large, device="cpu", dtype="bfloat16"), load(large).bfloat16()
    assert packed(engine.model) or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ids = torch.tensor([tokenizer.encode(PROMPTS[0])])
    with torch.inference_mode():
        exact = load(large)(ids).logits
        found, before = ((model(ids).logits - exact).norm() for model in (engine.model, plain))
    assert found <= 1.2 * before


def test_a_packed_model_is_saved_whole(large: Path, tmp_path: Path) -> None:
    import torch

    engine = HFEngine(large, device="cpu")
    engine.model.save_pretrained(tmp_path)
    saved = load(tmp_path).state_dict()
    for name, weight in load(large).state_dict().items():
        assert torch.equal(saved[name], weight), name


def test_a_model_that_was_handed_over_can_still_be_trained(large: Path, tokenizer: Any) -> None:
    import torch

    model = load(large)
    HFEngine(model, tokenizer=tokenizer, device="cpu").generate(PROMPTS[:1], Sampling(max_tokens=2))
    model(torch.tensor([[3, 4, 5]])).logits.sum().backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None


def test_small_layers_stay_as_they_are(model_folder: Path) -> None:
    assert not packed(HFEngine(model_folder, device="cpu").model)
