"""Reward models are loaded as safetensors only, and no Python of theirs is run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors

from harness.core.errors import UserError, is_out_of_memory
from harness.engines import loading
from harness.engines.model_folder import check
from rlrf.quiet import quiet


def load_tokenizer(folder: Path) -> Any:
    """Load the folder's tokenizer, which pads with its end token where it has no padding.

    Raises:
        UserError: it cannot be read, or has no end token.
    """
    tokenizer = loading.load_tokenizer(folder)
    loading.require_end(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_reward_model(folder: Path) -> None:
    """See that `folder` holds a reward model, without reading its weights.

    Raises:
        UserError: there is none, its head is no reward's, or the tokenizer is another model's.
    """
    check(folder)
    check_tokenizer(load_tokenizer(folder), _config(folder, new_head=False), folder)


def check_tokenizer(tokenizer: Any, config: Any, folder: Path) -> None:
    """See that every token has an embedding in the model of `config`.

    Raises:
        UserError: it is another model's tokenizer.
    """
    loading.check_vocabulary(len(tokenizer), config.get_text_config().vocab_size, folder)


def context(model: Any, tokenizer: Any, wanted: int | None = None) -> int:
    """The most tokens that `model` reads, and no more than `wanted`."""
    limits = (getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length)
    known = [limit for limit in (*limits, wanted) if limit is not None and limit < 10**9]
    return min(known, default=2048)


@quiet()
def load_model(folder: Path, dtype: str, *, new_head: bool) -> Any:
    """The folder's model, with a head of one number; with `new_head`, one that may be made anew.

    Raises:
        UserError: it cannot be loaded, has no such head, or its head gives several numbers.
    """
    import transformers

    check(folder)
    _config(folder, new_head=new_head)
    with _cannot_be_loaded(folder):
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if info["missing_keys"] and not new_head:
        raise UserError(
            f"The weights in {folder} lack {', '.join(sorted(info['missing_keys']))}: they are no "
            "reward model's, whatever its configuration says."
        )
    return model


def _config(folder: Path, *, new_head: bool) -> Any:
    """The folder's configuration, which has a head of one number or, with `new_head`, none."""
    import transformers

    with _cannot_be_loaded(folder):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    has_head = any("SequenceClassification" in name for name in config.architectures or [])
    if has_head and config.num_labels != 1:
        raise UserError(
            f"The model in {folder} gives {config.num_labels} numbers a text; a reward is one."
        )
    if not has_head and not new_head:
        raise UserError(
            f"{folder} holds no reward model: its head gives words, not a number. Train one "
            "from it with `rlrf reward-model train`."
        )
    return config


@contextlib.contextmanager
def _cannot_be_loaded(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        said = (str(error).strip().splitlines() or ["no message"])[0][:300]
        raise UserError(f"The model in {folder} cannot be loaded ({said}).") from error
