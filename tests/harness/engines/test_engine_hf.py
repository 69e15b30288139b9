"""The transformers engine: equal to `generate` when greedy, repeatable when not, and careful."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.random_llama import CONTEXT, make_model, make_tokenizer

from harness.core.errors import UserError
from harness.core.schema import Message
from harness.engines import Sampling
from harness.engines.hf import HFEngine, choose, draw
from harness.engines.model_folder import model_digest

PROMPTS = [
    "She has 14 plums.",
    "How many plums does she have now?",
    "buys",
    "She buys 7 more. She has 14 plums. She buys 7 more. She has 14 plums. How many more?",
    "plums plums plums",
    "14",
]
GREEDY = Sampling(max_tokens=24)
WARM = Sampling(temperature=1.0, max_tokens=24, n=4, seed=3)


def by_generate(model: Any, tokenizer: Any, prompt: str, max_tokens: int) -> list[int]:
    import torch

    ids = torch.tensor([tokenizer.encode(prompt)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=0,
    )
    return list(out[0, ids.shape[1] :].tolist())


def texts(engine: HFEngine, prompts: list[str], sampling: Sampling) -> list[list[str]]:
    return [[c.text for c in found] for found in engine.generate(prompts, sampling)]


# Decoding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_batch", [1, 4, 256])
def test_greedy_is_generate_token_for_token(model: Any, tokenizer: Any, max_batch: int) -> None:
    engine = HFEngine(model, tokenizer=tokenizer, max_batch=max_batch)
    found = engine.generate(PROMPTS, GREEDY)
    lengths = set()
    for prompt, (completion,) in zip(PROMPTS, found, strict=True):
        ids = by_generate(model, tokenizer, prompt, GREEDY.max_tokens)
        assert completion.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert completion.completion_tokens == len(ids)
        assert completion.prompt_tokens == len(tokenizer.encode(prompt))
        ended = ids[-1] in model.generation_config.eos_token_id
        assert completion.finish_reason == ("stop" if ended else "length")
        lengths.add(len(ids))
    assert len(lengths) > 1, "rows have to leave the batch at different steps"


def test_sliding_window_attention_is_generate_too(tokenizer: Any) -> None:
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(1)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            sliding_window=8,
            initializer_range=0.3,
            eos_token_id=[1, *range(20, 40)],
        )
    ).eval()
    engine = HFEngine(model, tokenizer=tokenizer)
    for prompt, (text,) in zip(PROMPTS, texts(engine, PROMPTS, GREEDY), strict=True):
        ids = by_generate(model, tokenizer, prompt, GREEDY.max_tokens)
        assert text == tokenizer.decode(ids, skip_special_tokens=True)


def test_absolute_positions_are_generate_too(tokenizer: Any) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4,
        initializer_range=0.3, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    engine = HFEngine(model, tokenizer=tokenizer)
    assert engine.context == CONTEXT
    for prompt, (text,) in zip(PROMPTS, texts(engine, PROMPTS, GREEDY), strict=True):
        ids = by_generate(model, tokenizer, prompt, GREEDY.max_tokens)
        assert text == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_sample_depends_on_seed_prompt_and_number_alone(model: Any, tokenizer: Any) -> None:
    engine = HFEngine(model, tokenizer=tokenizer)
    found = texts(engine, PROMPTS, WARM)
    assert len({text for row in found for text in row}) > len(PROMPTS), "samples differ"
    assert texts(engine, PROMPTS[::-1], WARM) == found[::-1]
    assert texts(engine, PROMPTS[2:3], WARM) == found[2:3]
    assert [row[:2] for row in found] == texts(engine, PROMPTS, replace(WARM, n=2))
    small = HFEngine(model, tokenizer=tokenizer, max_batch=3)
    assert texts(small, PROMPTS, WARM) == found
    assert texts(engine, PROMPTS, replace(WARM, seed=4)) != found


def test_draws_follow_the_distribution() -> None:
    import torch

    n, logits = 20_000, torch.tensor([1.0, -torch.inf, 3.0, 2.0, 0.0])
    sampling = Sampling(temperature=2.0, max_tokens=1, seed=5)
    drawn = draw([("plums", j) for j in range(n)], sampling)[:, 0]
    seen = torch.bincount(choose(logits.expand(n, -1), sampling, drawn), minlength=5) / n
    shares = torch.softmax(logits / 2.0, -1)
    assert ((seen - shares).abs() <= 5 * (shares * (1 - shares) / n).sqrt()).all()
    edges = torch.tensor([0.0, 1 - 2**-24])
    assert choose(logits.expand(2, -1), sampling, edges).tolist() == [0, 4]


def test_top_p_keeps_the_fewest_likeliest_tokens(model: Any, tokenizer: Any) -> None:
    import torch

    engine = HFEngine(model, tokenizer=tokenizer)
    sampling = Sampling(temperature=1.0, top_p=0.5, max_tokens=1, n=300)
    (found,) = engine.generate(["plums"], sampling)
    with torch.inference_mode():
        shares = model(torch.tensor([tokenizer.encode("plums")])).logits[0, -1].softmax(-1)
    kept, total = set(), 0.0
    for token in shares.argsort(descending=True).tolist():
        if total >= 0.5:
            break
        kept.add(tokenizer.decode([token], skip_special_tokens=True))
        total += float(shares[token])
    assert {c.text for c in found} <= kept
    narrow = texts(engine, PROMPTS, replace(WARM, top_p=1e-6, n=1))
    assert narrow == texts(engine, PROMPTS, GREEDY), "top_p towards 0 is greedy"


def test_greedy_samples_of_a_prompt_are_one(engine: HFEngine) -> None:
    done: list[int] = []
    found = engine.generate(PROMPTS, replace(GREEDY, n=3), done.append)
    assert all(len(set(row)) == 1 and len(row) == 3 for row in found)
    assert sum(done) == 3 * len(PROMPTS)


def test_progress_comes_row_by_row(engine: HFEngine) -> None:
    done: list[int] = []
    engine.generate(PROMPTS, WARM, done.append)
    assert done == [1] * (len(PROMPTS) * WARM.n)


def test_stop_strings_cut_before_and_stop(engine: HFEngine) -> None:
    whole = engine.generate(PROMPTS, WARM)
    inside = (c.text[i : i + 2] for row in whole for c in row for i in range(2, len(c.text) - 4))
    stop = next(pair for pair in inside if pair.isascii())
    cut = engine.generate(PROMPTS, replace(WARM, stop=(stop, "never to be seen")))
    shorter = 0
    for before, after in zip(
        (c for row in whole for c in row), (c for row in cut for c in row), strict=True
    ):
        assert after.text == before.text.split(stop)[0]
        if stop in before.text:
            assert after.finish_reason == "stop"
            shorter += after.completion_tokens < before.completion_tokens
    assert shorter, "a row with a stop string leaves early"


def test_no_prompts_and_an_empty_prompt(engine: HFEngine) -> None:
    assert engine.generate([], GREEDY) == []
    ((completion,),) = engine.generate([""], GREEDY)
    assert completion.prompt_tokens == 1


def test_a_long_prompt_loses_its_beginning_and_says_so(
    engine: HFEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "She has 14 plums. " * 100
    ((cut,), (whole,)) = engine.generate([long, "plums"], GREEDY)
    assert cut.prompt_tokens == CONTEXT - GREEDY.max_tokens
    assert whole.prompt_tokens < 10
    assert capsys.readouterr().err.count("1 of 2 prompts") == 1


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=CONTEXT),
        Sampling(max_tokens=0),
        Sampling(n=0),
        Sampling(temperature=-1),
        Sampling(temperature=float("nan")),
        Sampling(top_p=0),
    ],
)
def test_impossible_sampling_is_refused(engine: HFEngine, sampling: Sampling) -> None:
    with pytest.raises(UserError, match=r"max_tokens is|n is"):
        engine.generate(["plums"], sampling)


# Memory -----------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_batch_and_loses_nothing(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    engine = HFEngine(model, tokenizer=tokenizer)
    expected = texts(engine, PROMPTS, WARM)
    real, sizes = engine.reader.forward, []

    def forward(tokens: Any, *rest: Any) -> Any:
        sizes.append(len(tokens))
        if len(sizes) in (3, 9) or (len(tokens) > 6 and tokens.shape[1] == 1 and len(sizes) > 20):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(tokens, *rest)

    monkeypatch.setattr(engine.reader, "forward", forward)
    done: list[int] = []
    found = engine.generate(PROMPTS, WARM, done.append)
    assert [[c.text for c in row] for row in found] == expected
    assert sum(done) == len(PROMPTS) * WARM.n
    assert "Out of memory" in capsys.readouterr().err


def test_one_answer_too_many_for_memory_is_said(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(model, tokenizer=tokenizer)

    def forward(*_: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(engine.reader, "forward", forward)
    with pytest.raises(UserError, match="does not fit in the memory"):
        engine.generate(PROMPTS, GREEDY)


def test_other_failures_are_not_taken_for_memory(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HFEngine(model, tokenizer=tokenizer)

    def forward(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(engine.reader, "forward", forward)
    with pytest.raises(RuntimeError, match="shapes"):
        engine.generate(PROMPTS, GREEDY)


def test_nan_is_said(tokenizer: Any) -> None:
    import torch

    model = make_model(len(tokenizer))
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="gives NaN"):
        HFEngine(model, tokenizer=tokenizer).generate(["plums"], GREEDY)


# Prompts ----------------------------------------------------------------------------------------


def test_render_is_the_chat_template(engine: HFEngine) -> None:
    turns = [Message(role="system", content="Be kind."), Message(role="user", content="Hello")]
    assert engine.render(turns) == "<|system|>Be kind.<|end|><|user|>Hello<|end|><|assistant|>"


def test_render_without_a_template_is_plain_text(model: Any) -> None:
    engine = HFEngine(model, tokenizer=make_tokenizer(chat_template=None))
    turns = [Message(role="system", content="Be kind."), Message(role="user", content="Hello")]
    assert engine.render(turns) == "Be kind.\n\nHello"
    assert engine.render(turns[1:]) == "Hello"


def test_a_template_without_a_system_role_gets_the_words_in_the_first_turn(model: Any) -> None:
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}"
        "{% endif %}[{{ m['content'] }}]{% endfor %}"
    )
    engine = HFEngine(model, tokenizer=make_tokenizer(chat_template=template))
    turns = [Message(role="system", content="Be kind."), Message(role="user", content="Hello")]
    assert engine.render(turns) == "[Be kind.\n\nHello]"


def test_a_bos_token_is_not_given_twice(model: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer(bos_token="<|system|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", 2)]
    )
    engine = HFEngine(model, tokenizer=tokenizer)
    assert engine.encode("plums")[0] == 2
    assert engine.encode("<|system|>plums") == engine.encode("plums")


# Likelihoods ------------------------------------------------------------------------------------


def test_loglikelihood_is_the_models(model: Any, tokenizer: Any) -> None:
    import torch

    engine = HFEngine(model, tokenizer=tokenizer, max_batch=2)
    greedy = by_generate(model, tokenizer, "plums", 3)
    pairs = [
        (tokenizer.encode("She has"), tokenizer.encode(" 14 plums.")),
        (tokenizer.encode("plums"), greedy),
        (tokenizer.encode("She has 14 plums. She buys 7 more."), tokenizer.encode(" more")),
    ]
    found = engine.loglikelihood(pairs)
    for (before, after), (value, is_greedy) in zip(pairs, found, strict=True):
        with torch.inference_mode():
            shares = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
        at = range(len(before) - 1, len(before) + len(after) - 1)
        expected = sum(float(shares[i, t]) for i, t in zip(at, after, strict=True))
        assert value == pytest.approx(expected, rel=1e-5)
        assert is_greedy == (after == greedy)


# Folders ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        HFEngine(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickle"):
        HFEngine(folder)


def test_damaged_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="Cannot load the model"):
        HFEngine(folder)


def test_weights_of_another_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match="lack 9 of the model's tensors"):
        HFEngine(folder)


def test_a_folder_without_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        HFEngine(folder)


def test_an_adapter_is_no_model(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(UserError, match="LoRA adapter"):
        HFEngine(folder)


def test_a_folder_without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        HFEngine(folder)


def test_another_models_tokenizer(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="another model's tokenizer"):
        HFEngine(make_model(len(tokenizer) - 1), tokenizer=tokenizer)


def test_a_models_own_code_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(UserError, match="Cannot load"):
        HFEngine(folder)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "a b"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match="no model folder"):
        HFEngine(name)


def test_a_hub_model_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        HFEngine("nobody/no-such-model-here")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "int3"}, "dtype 'int3'"),
        ({"device": "toaster"}, "device 'toaster'"),
        ({"max_batch": 0}, "max_batch is 0"),
    ],
)
def test_options_that_do_not_exist(model_folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        HFEngine(model_folder, **options)


def test_identity_is_weights_configuration_and_tokenizer(folder: Path, engine: HFEngine) -> None:
    whole = model_digest(folder)
    assert whole == engine.model_digest
    (folder / "README.md").write_text("Hello")
    (folder / "trainer_state.json").write_text("{}")
    assert model_digest(folder) == whole
    for name in ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        assert model_digest(folder) != whole
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="is not a model folder"):
        model_digest(folder.parent)


def test_identity_in_memory(tokenizer: Any) -> None:
    first = HFEngine(make_model(len(tokenizer)), tokenizer=tokenizer)
    again = HFEngine(make_model(len(tokenizer)), tokenizer=tokenizer)
    other = HFEngine(make_model(len(tokenizer), seed=1), tokenizer=tokenizer)
    assert first.model_digest == again.model_digest != other.model_digest


def test_an_adapter_changes_answers_and_identity(
    model_folder: Path, tokenizer: Any, tmp_path: Path, engine: HFEngine
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with_lora = get_peft_model(make_model(len(tokenizer)), lora)
    with_lora.save_pretrained(tmp_path / "adapter")
    merged = HFEngine(model_folder, adapter=tmp_path / "adapter")
    assert merged.model_digest != engine.model_digest
    for prompt, (text,) in zip(PROMPTS, texts(merged, PROMPTS, GREEDY), strict=True):
        ids = by_generate(with_lora, tokenizer, prompt, GREEDY.max_tokens)
        assert text == tokenizer.decode(ids, skip_special_tokens=True)
    assert texts(merged, PROMPTS, GREEDY) != texts(engine, PROMPTS, GREEDY)
    with pytest.raises(UserError, match="not a LoRA adapter"):
        HFEngine(model_folder, adapter=tmp_path)
