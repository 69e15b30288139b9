"""vLLM in its own environment answers as `HFEngine` does here, and as its own server does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.random_llama import CONTEXT, make_model, make_tokenizer
from helpers.serving import VLLM, vllm_serve
from helpers.vllm_alone import PAIRS
from test_engine_hf import GREEDY, PROMPTS

from harness.core.errors import UserError
from harness.core.schema import Message
from harness.engines import Completion, Sampling
from harness.engines.open import EngineSpec, open_engine

ROOT = Path(__file__).parents[3]
needs_vllm = pytest.mark.skipif(
    not VLLM.exists(), reason="there is no .venv-vllm; `make vllm` makes it"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with heads of 32, the smallest that vLLM has on a CPU, and two adapters."""
    import torch
    from peft import LoraConfig, get_peft_model

    place = tmp_path_factory.mktemp("vllm")
    tokenizer = make_tokenizer()
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    for number, name in enumerate(("adapter", "other")):
        model = make_model(len(tokenizer), **wide)
        model.save_pretrained(place / "model")
        torch.manual_seed(number)
        tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        for key, tensor in tuned.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(tensor, std=0.3)
        tuned.save_pretrained(place / name)
    tokenizer.save_pretrained(place / "model")
    return place


@pytest.fixture(scope="module")
def told(folder: Path) -> Any:
    """What vLLM gave, by what it was asked."""
    places = [folder / name for name in ("model", "adapter", "other")]
    env = {"PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [VLLM, "tests/helpers/vllm_alone.py", *places, json.dumps(PROMPTS)],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {"stderr": done.stderr} | json.loads(done.stdout.splitlines()[-1])


def here(folder: Path, prompts: list[str], sampling: Sampling, adapter: str = "") -> list[Any]:
    """What the engine hf gives for the same."""
    used = folder / adapter if adapter else None
    engine = open_engine(EngineSpec(str(folder / "model"), adapter=used, device="cpu"))
    return [[vars(c) for c in row] for row in engine.generate(prompts, sampling)]


def whole(answers: list[list[Completion]]) -> list[list[Completion]]:
    """The answers without half a character at their end, of which a server says nothing."""
    return [[replace(c, text=c.text.rstrip("\ufffd")) for c in row] for row in answers]


def test_without_vllm_the_engine_says_what_to_install(model_folder: Path) -> None:
    if "vllm" in sys.modules:
        pytest.skip("vllm is here")
    with pytest.raises(UserError, match=r"pip install 'rlrf-harness\[vllm\]'"):
        open_engine(EngineSpec(str(model_folder), kind="vllm"))


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_answers_as_hf_does(folder: Path, told: Any) -> None:
    greedy = here(folder, PROMPTS, GREEDY)
    assert told["greedy"] == greedy
    assert {row[0]["finish_reason"] for row in greedy} == {"stop", "length"}
    assert told["thrice"] == [row * 3 for row in greedy]
    assert told["done"] == [3] * len(PROMPTS)
    stop = Sampling(max_tokens=24, stop=("a", "o"))
    assert told["stopped"] == here(folder, PROMPTS, stop)
    assert told["stopped"] != greedy
    long = ["She has 14 plums. " * 100, "", "<|end|>"]
    assert told["long"] == here(folder, long, GREEDY)
    assert "1 of 3 prompts were longer" in told["stderr"]
    assert told["context"] == CONTEXT
    assert f"context of {CONTEXT} tokens" in told["refused"]
    model = open_engine(EngineSpec(str(folder / "model"), device="cpu"))
    assert told["digest"] == model.model_digest


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sample_depends_on_seed_prompt_and_number(told: Any) -> None:
    warm = told["warm"]
    texts = {sample["text"] for row in warm for sample in row}
    assert len(texts) > 2 * len(PROMPTS), "samples differ"
    assert told["backwards"] == warm[::-1]
    assert told["alone"] == [warm[2][:2]]
    assert told["other seed"] != warm
    assert told["many"][20:24] == told["some of many"]


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_adapter_is_used_by_its_content(folder: Path, told: Any) -> None:
    adapted, other = (here(folder, PROMPTS, GREEDY, name) for name in ("adapter", "other"))
    assert told["adapted"] == told["adapted again"] == adapted
    assert told["other adapted"] == other
    assert told["base again"] == told["greedy"]
    assert told["greedy"] != adapted != other
    merged = open_engine(
        EngineSpec(str(folder / "model"), adapter=folder / "adapter", device="cpu")
    ).model_digest
    assert told["adapter digest"] == merged


def is_as_likely(found: Any, folder: Path) -> bool:
    """Whether `found` are the likelihoods of PAIRS by the engine hf, cut to the room of vLLM."""
    engine = open_engine(EngineSpec(str(folder / "model"), device="cpu"))
    room = CONTEXT - 1
    pairs = [((before + after)[-room : -len(after)], after) for before, after in PAIRS]
    expected = engine.loglikelihood(pairs)
    assert [value for value, _ in found] == pytest.approx([v for v, _ in expected], abs=1e-4)
    return [bool(greedy) for _, greedy in found] == [greedy for _, greedy in expected]


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_texts_are_as_likely_as_with_hf(folder: Path, told: Any) -> None:
    assert is_as_likely(told["likelihoods"], folder)
    assert (
        "vLLM's CPU build fails at this where it may load adapters" in told["refused likelihoods"]
    )


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_texts_are_as_likely_with_its_server(folder: Path, tmp_path: Path) -> None:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    model = folder / "model"
    with vllm_serve(model, tmp_path / "log", "tiny", CONTEXT) as base_url:
        at = {"base_url": base_url, "max_batch": 4}
        engine = open_engine(EngineSpec("tiny", kind="openai", tokenizer=model, **at))
        found = engine.loglikelihood(PAIRS)
        assert is_as_likely(found, folder)
        stock = LocalCompletionsAPI(
            base_url=f"{base_url}/completions", model="tiny", tokenizer=str(model),
            tokenizer_backend="huggingface", max_length=CONTEXT,
        )  # fmt: skip
        theirs = stock._loglikelihood_tokens([(("", ""), *pair) for pair in PAIRS])
        assert [value for value, _ in found] == pytest.approx([v for v, _ in theirs], abs=1e-4)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in theirs]
        without = open_engine(EngineSpec("tiny", kind="openai", **at))
        with pytest.raises(UserError, match="its tokenizer is unknown; name its folder"):
            without.loglikelihood(PAIRS)


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_server_continues_rendered_prompts_alike(folder: Path, tmp_path: Path) -> None:
    # A server's text lacks a token that ends an answer, even one that is no special token.
    model = Path(shutil.copytree(folder / "model", tmp_path / "model"))
    (model / "generation_config.json").write_text('{"eos_token_id": 1}')
    engine = open_engine(EngineSpec(str(model), device="cpu"))
    prompts = [engine.render([Message(role="user", content=prompt)]) for prompt in PROMPTS]
    warm = Sampling(temperature=1.0, max_tokens=24, n=3, stop=("zz",), seed=3)
    with vllm_serve(model, tmp_path / "log", "tiny", CONTEXT) as base_url:
        at = {"base_url": base_url, "max_batch": 4}
        rendered = open_engine(EngineSpec("tiny", kind="openai", tokenizer=model, **at))
        expected = whole(engine.generate(prompts, GREEDY))
        assert whole(rendered.generate(prompts, GREEDY)) == expected
        served = open_engine(EngineSpec("tiny", kind="openai", **at))
        assert whole(served.generate(PROMPTS, GREEDY)) == expected
        once = served.generate(PROMPTS, warm)
        assert served.generate(PROMPTS[::-1], warm)[::-1] == once
        assert all(len({c.text for c in row}) > 1 for row in once)
        assert "refuses" not in served.description
        with pytest.raises(UserError, match="not the model 'other'"):
            open_engine(EngineSpec("other", kind="openai", **at)).generate(["plums"], GREEDY)
        with pytest.raises(UserError, match=r"refuses the call .400"):
            served.generate(["plums " * 500], GREEDY)
