"""The two policies that the engines are measured on, and prompts of a given length for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import tasks
from rlrf.quickstart import seed_policy

SHIPPED, RANDOM = "shipped policy, 3 M", "random Llama, 54 M"


def random_llama(folder: Path) -> Path:
    """A Llama of 54 M parameters, a vocabulary of 32,000 rows and the shipped tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(seed_policy())
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=12,
        num_attention_heads=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def texts(count: int) -> list[str]:
    """Questions of the embedded world, no two of them equal."""
    items = tasks.load("mini_gsm8k").items("train")
    return [f"{i + 1}. {items[i % len(items)].prompt}" for i in range(count)]


def prompts(folder: Path, count: int, length: int, *, shared: Sequence[str] = ()) -> list[str]:
    """Prompts of about `length` tokens, which begin with `shared` and differ from there on."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    made, questions = [], texts(count * (1 + length // 20))
    for _ in range(count):
        parts = list(shared)
        while len(tokenizer.encode("\n".join(parts))) < length - 20:
            parts.append(questions.pop())
        made.append("\n".join(parts or [questions.pop()]))
    return made
