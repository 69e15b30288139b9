"""The policies that engines and training are measured on, and prompts of a given length for them.

The shipped policy answers as it does in use: prompts are conversations, and most answers end before
the limit. A random model almost never ends an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import tasks
from harness.core.schema import Message
from harness.engines.prompts import render
from rlrf.quickstart import seed_policy

SHIPPED, RANDOM = "shipped policy, 1.4 M", "random Qwen3, 60 M"
GROWN = "shipped policy grown to 62 M"
# Of a random model by its millions of parameters: vocabulary, size, layers, heads, and how many of
# those have keys and values of their own.
SIZES = {
    1.4: (1057, 128, 6, 2, 1),
    10: (32_000, 192, 9, 3, 1),
    40: (32_000, 448, 10, 7, 7),
    60: (32_000, 512, 14, 8, 4),
    100: (32_000, 640, 16, 10, 5),
}


def random_model(millions: float = 60) -> Any:
    """A Qwen3 with random weights, its embeddings tied to its head."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    vocabulary, size, layers, heads, own = SIZES[millions]
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=size,
        intermediate_size=3 * size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=own,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def as_loaded(folder: Path) -> Any:
    """The model in `folder` as users load it, and as a GPU has it: its layers are not packed."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def random_policy(folder: Path, millions: float = 60) -> Path:
    """Such a model as a folder, with the shipped tokenizer."""
    from transformers import AutoTokenizer

    random_model(millions).save_pretrained(folder)
    AutoTokenizer.from_pretrained(seed_policy()).save_pretrained(folder)
    return folder


def roomy(folder: Path, context: int) -> Path:
    """The shipped policy, allowed `context` tokens; it was taught on fewer."""
    from transformers import AutoTokenizer

    model = as_loaded(seed_policy())
    model.config.max_position_embeddings = context
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(seed_policy(), model_max_length=context).save_pretrained(folder)
    return folder


@torch.no_grad()
def grown(folder: Path, context: int = 512) -> Path:
    """The shipped policy with zeros around its weights, 62 M parameters in all.

    It computes what the shipped policy computes, at the cost of a model of its size: four times as
    wide, eight layers more that add nothing to what passes through them.
    """
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    small = as_loaded(seed_policy())
    config = small.config.to_dict()
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        config[name] *= 4
    config["num_hidden_layers"] *= 3
    config["max_position_embeddings"] = context
    # The mean square of a state is a quarter of what it was.
    config["rms_norm_eps"] /= 4
    large = LlamaForCausalLM(LlamaConfig(**config))
    weights = small.state_dict()
    for name, whole in large.state_dict().items():
        whole.zero_()
        if name in weights:
            part = weights[name] / (2 if "norm" in name else 1)
            whole[tuple(slice(size) for size in part.shape)] = part
    large.generation_config = small.generation_config
    large.save_pretrained(folder)
    AutoTokenizer.from_pretrained(seed_policy(), model_max_length=context).save_pretrained(folder)
    return folder


def texts(count: int) -> list[str]:
    """Questions of the embedded world, no two of them equal."""
    items = tasks.load("mini_gsm8k").items("train")
    return [f"{i + 1}. {items[i % len(items)].prompt}" for i in range(count)]


def prompts(tokenizer: Any, count: int, length: int, *, shared: Sequence[str] = ()) -> list[str]:
    """Texts of about `length` tokens, which begin with `shared` and differ from there on."""
    made, questions = [], texts(count * (1 + math.ceil(length / 20)))
    for _ in range(count):
        parts = list(shared)
        while len(tokenizer.encode("\n".join(parts))) < length - 20:
            parts.append(questions.pop())
        made.append("\n".join(parts or [questions.pop()]))
    return made


def asked(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The texts as what a user says to a policy."""
    return [render(tokenizer, [Message(role="user", content=text)]) for text in texts]
