"""Load models, tokenizers and adapters of `transformers`, and choose the type of the weights.

A CPU without instructions for bfloat16 computes such weights many times slower than float32: a
product of 512 rows ran at 7 GFLOP/s instead of 50 to 67. float16 is as slow on most CPUs that have
instructions for bfloat16.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError, first_line, is_out_of_memory
from harness.core.files import read_json
from harness.core.log import say
from harness.engines import model_folder
from harness.engines.model_folder import CONFIG, check_adapter, check_fetched

if TYPE_CHECKING:
    import torch

DEFAULT_CONTEXT = 2048  # tokens, where neither configuration nor tokenizer names a limit
GENERATION = "generation_config.json"
DTYPES = ("auto", "float32", "bfloat16", "float16")
# dtype -> capabilities of CPUs with instructions for it, as torch names them
INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "arm_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "avx10_1", "avx10_2", "fp16", "arm_fp16"),
}
STORED = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # names in safetensors
MEMORY_SHARE = 0.6  # of the free memory, for weights in float32; the rest is for the work


# Devices and types ------------------------------------------------------------------------------


def find_device(name: str) -> torch.device:
    """Find the device called `name`; "auto" is CUDA if there is one, else the CPU."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"There is no device '{name}' here; leave it at auto, or say cpu or cuda."
        ) from error
    return device


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that the local engines do not have."""
    if dtype not in DTYPES:
        raise UserError(f"There is no dtype '{dtype}'; choose one of {', '.join(DTYPES)}.")


def choose_dtype(folder: Path, device: torch.device | str, dtype: str) -> str:
    """Choose the dtype to load the model in `folder` as: `dtype`, or float32 instead of "auto".

    float32 is chosen if this CPU has no instructions for the type of the weights, and memory holds
    the weights as float32. The choice is reported once per type.
    """
    if dtype != "auto" or str(device).partition(":")[0] != "cpu":
        return dtype
    stored = stored_dtype(folder)
    if stored not in INSTRUCTIONS or has_instructions(stored):
        return dtype
    size = 4 * sum(math.prod(shape) for _, shape in model_folder.weights(folder).values())
    fits = size <= MEMORY_SHARE * _free_memory()
    _report(stored, fits)
    return "float32" if fits else dtype


def stored_dtype(folder: Path) -> str:
    """Read the dtype of the weights in `folder`: the configuration's, else that of most weights."""
    config = read_json(folder / CONFIG)
    for settings in (config, config.get("text_config") if isinstance(config, dict) else None):
        if isinstance(settings, dict):
            named = settings.get("dtype") or settings.get("torch_dtype")
            if isinstance(named, str) and named in DTYPES[1:]:
                return named
    sizes: Counter[str] = Counter()
    for kind, shape in model_folder.weights(folder).values():
        sizes[STORED.get(kind, kind)] += math.prod(shape)
    return sizes.most_common(1)[0][0] if sizes else "float32"


def has_instructions(dtype: str, capabilities: Mapping[str, Any] | None = None) -> bool:
    """Check whether this CPU has instructions to multiply numbers of `dtype`.

    `capabilities` are the CPU's, as torch names them. A CPU that torch does not know counts as
    having the instructions.
    """
    known = _capabilities() if capabilities is None else capabilities
    if dtype not in INSTRUCTIONS or not known:
        return True
    return any(known.get(name) for name in INSTRUCTIONS[dtype])


def _capabilities() -> Mapping[str, Any]:
    import torch

    ask = getattr(torch.cpu, "get_capabilities", None)
    return ask() if ask is not None else {}


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


@functools.cache
def _report(stored: str, fits: bool) -> None:
    say(
        f"This CPU has no instructions for {stored}: weights in {stored} are computed as float32, "
        "which is many times faster. Set dtype to have another type."
        if fits
        else f"WARNING: this CPU has no instructions for {stored}, and memory does not hold the "
        f"weights as float32: computing in {stored} is many times slower."
    )


# Models -----------------------------------------------------------------------------------------


def load_model(folder: Path, device: torch.device, dtype: str) -> Any:
    """Load the causal language model in `folder`; "auto" is the type of its weights.

    Raises:
        UserError: why the model cannot be loaded.
    """
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
            reason = first_line(error)
            if "ignore_mismatched_sizes" in reason:
                reason = f"its weights have other shapes than {CONFIG} says"
            raise UserError(f"Cannot load the model in {folder}: {reason}") from error
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        raise UserError(
            f"The weights in {folder} lack {len(names)} of the model's tensors ({names[0]}, ...): "
            "they are another architecture's, or the folder is incomplete."
        )
    return model.to(device)


def merge_adapter(model: Any, adapter: Path) -> Any:
    """Merge the LoRA folder `adapter` into the weights of `model`."""
    from peft import PeftModel

    check_adapter(adapter)
    with without_bars():
        try:
            return PeftModel.from_pretrained(model, adapter).merge_and_unload()
        except Exception as error:
            raise UserError(
                f"The adapter {adapter} does not fit the model: {first_line(error)}"
            ) from error


def load_config(folder: Path) -> Any:
    """Load the configuration of the model in `folder`.

    Raises:
        UserError: it cannot be used.
    """
    from transformers import AutoConfig

    model_folder.check(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise UserError(f"{folder / CONFIG} cannot be used: {first_line(error)}") from error


def context_of(config: Any, tokenizer: Any) -> int:
    """Read the model's context in tokens, where lm-eval looks for it; `config` may be None."""
    text = getattr(config, "text_config", None) or config
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(text, name, None) is not None:
            return int(getattr(text, name))
    limit = tokenizer.model_max_length
    return int(limit) if limit < 1e9 else DEFAULT_CONTEXT


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Hide progress bars of `transformers` and the hub while the block runs."""
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


# Tokenizers -------------------------------------------------------------------------------------


def load_tokenizer(source: Any) -> Any:
    """Load the tokenizer in the folder `source`; a loaded tokenizer is returned as it is.

    A tokenizer without an end-of-text token gets the one that the model's generation configuration
    or configuration names.

    Raises:
        UserError: the tokenizer cannot be loaded.
    """
    from transformers import AutoTokenizer

    if not isinstance(source, str | Path):
        return source
    check_fetched(Path(source))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise UserError(f"Cannot load the tokenizer in {source}: {first_line(error)}") from error
    if tokenizer.eos_token_id is None and (token := _named_end(Path(source), tokenizer)):
        tokenizer.eos_token = token
    return tokenizer


def check_vocabulary(tokens: int, rows: int, model: str | Path) -> None:
    """Refuse a tokenizer with more `tokens` than the model's embedding has `rows`.

    Raises:
        UserError: the tokenizer is another model's.
    """
    if tokens > rows:
        raise UserError(
            f"The tokenizer of {model} has {tokens:,} tokens and the model only {rows:,}: "
            "it is another model's tokenizer. Use the one it was trained with."
        )


def require_end(tokenizer: Any) -> int:
    """Return the token that ends a text.

    Raises:
        UserError: the tokenizer has no such token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer in {tokenizer.name_or_path} has no end-of-text token (eos_token), with "
            "which every response ends. Name it as eos_token in tokenizer_config.json, or as "
            "eos_token_id in generation_config.json."
        )
    return int(tokenizer.eos_token_id)


def ends_of(model: Any, tokenizer: Any) -> list[int]:
    """List the tokens that end a response: the tokenizer's and those of the generation_config."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return sorted(ends - {None})


def _named_end(folder: Path, tokenizer: Any) -> str | None:
    """Find the end-of-text token in the model's files, if the tokenizer has it."""
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
