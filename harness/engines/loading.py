"""Load models, tokenizers and adapters of `transformers`, or say in a sentence why not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harness.core.errors import UserError, first_line, is_out_of_memory
from harness.core.files import read_json
from harness.engines.model_folder import CONFIG, check_adapter, check_fetched

DEFAULT_CONTEXT = 2048
GENERATION = "generation_config.json"


def find_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"There is no device '{name}' here; leave it at auto, or say cpu or cuda."
        ) from error
    return found


def load_model(folder: Path, device: torch.device, dtype: str) -> Any:
    """Load the causal language model in `folder`; "auto" is the type of its weights."""
    from transformers import AutoModelForCausalLM

    with without_bars():
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:
            if is_out_of_memory(error):
                raise
            said = first_line(error)
            if "ignore_mismatched_sizes" in said:
                said = f"its weights have other shapes than {CONFIG} says"
            raise UserError(f"Cannot load the model in {folder}: {said}") from error
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        raise UserError(
            f"The weights in {folder} lack {len(names)} of the model's tensors ({names[0]}, ...): "
            "they are another architecture's, or the folder is incomplete."
        )
    return model.to(device)


def load_tokenizer(source: Any) -> Any:
    """Load the tokenizer in the folder `source`; a loaded one is given back.

    One without an end-of-text token takes that of the model's generation configuration, or of its
    configuration, if these name one.
    """
    from transformers import AutoTokenizer

    if not isinstance(source, str | Path):
        return source
    check_fetched(Path(source))
    try:
        found = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise UserError(f"Cannot load the tokenizer in {source}: {first_line(error)}") from error
    if found.eos_token_id is None and (token := _named_end(Path(source), found)) is not None:
        found.eos_token = token
    return found


def require_end(tokenizer: Any) -> int:
    """The token that ends a text.

    Raises:
        UserError: the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer in {tokenizer.name_or_path} has no end-of-text token (eos_token), with "
            "which every response ends. Name it as eos_token in tokenizer_config.json, or as "
            "eos_token_id in generation_config.json."
        )
    return int(tokenizer.eos_token_id)


def _named_end(folder: Path, tokenizer: Any) -> str | None:
    """The token that the model's files say ends a text, if it is one of the tokenizer's."""
    for name in (GENERATION, CONFIG):
        if not (folder / name).is_file():
            continue
        settings = read_json(folder / name)
        value = settings.get("eos_token_id") if isinstance(settings, dict) else None
        first = value[0] if isinstance(value, list) and value else value
        if type(first) is int and 0 <= first < len(tokenizer):
            token = tokenizer.convert_ids_to_tokens(first)
            return token if isinstance(token, str) else None
    return None


def merge_adapter(model: Any, adapter: Path) -> Any:
    """`model` with the LoRA folder `adapter` merged into its weights."""
    from peft import PeftModel

    check_adapter(adapter)
    with without_bars():
        try:
            return PeftModel.from_pretrained(model, adapter).merge_and_unload()
        except Exception as error:
            raise UserError(
                f"The adapter {adapter} does not fit the model: {first_line(error)}"
            ) from error


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Show no progress bars of `transformers` and the hub while the block runs."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging

    shown, hub_shown = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        (enable_progress_bars if hub_shown else disable_progress_bars)()


def context(config: Any, tokenizer: Any) -> int:
    """The model's context in tokens, where lm-eval looks for it."""
    text = getattr(config, "text_config", None) or config
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(text, name, None) is not None:
            return int(getattr(text, name))
    limit = tokenizer.model_max_length
    return int(limit) if limit < 1e9 else DEFAULT_CONTEXT


def ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the tokenizer's, and those of the generation_config."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    found = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return sorted(found - {None})
