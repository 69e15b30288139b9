"""How many rows the free memory holds at a time."""

from __future__ import annotations

from typing import Any

import psutil
import torch

MOST = 512  # rows; with more, a row was no cheaper
PART = 0.5  # of the free memory; the rest is for what a forward pass needs beside
COPIES = 6  # of a row's logits while a token is chosen, as float32


def rows_that_fit(model: Any, device: torch.device, columns: int, scored: int = 1) -> int:
    """How many rows of `columns` tokens, with logits for `scored` of them, fit on `device`.

    A power of two, as sums are rounded by how many rows there are: a little more or less memory
    free than the time before is to change no sample.
    """
    config = model.config.get_text_config(decoder=True)
    past = numbers_kept(config) * model.dtype.itemsize * columns
    logits = COPIES * torch.float32.itemsize * config.vocab_size * scored
    most = max(1, min(MOST, int(PART * free_memory(device) / (past + logits))))
    return 1 << (most.bit_length() - 1)


def numbers_kept(config: Any) -> int:
    """Numbers in the keys and values of a token, by the `config` of a model's language part."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * dim)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on `device`."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return int(psutil.virtual_memory().available)
