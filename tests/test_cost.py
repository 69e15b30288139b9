"""The paper model of cost: its arithmetic against published counts and PyTorch's own, its tables
against the page that shows them."""

from __future__ import annotations

from pathlib import Path

import cost
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def measured():
    return cost.load()


@pytest.mark.parametrize(
    ("model", "published"), [("LLAMA_7B", 6_738_415_616), ("LLAMA_70B", 68_976_648_192)]
)
def test_shapes_have_as_many_parameters_as_published(model, published):
    found = getattr(cost, model).parameters
    assert found == pytest.approx(published, rel=1e-4)  # norms are left out


def test_a_forward_pass_has_the_operations_that_pytorch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=500,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    shape = cost.Model("small", 3, 64, 160, 4, 2, 16, 500)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 96, dtype=torch.long), use_cache=False)
    # Counted is the whole square of attention, of which half is masked.
    assert shape.forward(96, 96, 96) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_the_constants_say_what_another_model_takes(measured):
    """Within a factor of 1.5, as measured when they were."""
    assert len(measured.checks) == 4
    for paper, found in measured.checks.values():
        assert 1 / 1.5 < paper / found < 1.5
    for share in (measured.prefill, measured.decode, measured.train):
        assert 0 < share <= 1


def test_generation_scales_and_what_is_serial_does_not(measured):
    for model in (cost.LLAMA_7B, cost.LLAMA_70B):
        few, many = (cost.iteration(model, gpus, measured) for gpus in (8, 512))
        for stage in ("explore", "feedback", "reflect"):
            assert 40 < few[stage] / many[stage] <= 64
        for stage in ("records", "gate"):
            assert few[stage] == many[stage]
        assert many["load"] > few["load"]
        # One answer after the other: an evaluation takes at least its longest.
        assert many["evaluate"] > few["evaluate"] / 4
        # Training is not slower with more GPUs than it has a use for.
        assert many["train"] <= few["train"]
        assert sum(many.values()) > 2 * sum(few.values()) / 64


def test_the_longest_response_is_what_is_left_when_all_else_is_shared_out(measured):
    at = cost.replica(cost.LLAMA_7B, cost.Gpu(), cost.Assumed(), measured)
    one = cost.generate(
        cost.LLAMA_7B, at, prompts=1, n=1, prompt=256, response=256, longest=1024, rows=512
    )
    alone = 1024 * cost.step(cost.LLAMA_7B, at, 1, 256 + 512, 0)
    assert one == pytest.approx(alone, rel=0.05)


def test_the_page_shows_what_the_code_says(measured):
    assert cost.page(measured) in (ROOT / "docs" / "results" / "scale.md").read_text()


def test_the_picture_is_drawn_from_the_same_numbers(measured, tmp_path):
    cost.picture(measured, tmp_path / "cost.svg")
    drawn = (tmp_path / "cost.svg").read_text()
    assert drawn.startswith("<?xml") and "without a bend" in drawn
