"""Choose the type of a model's weights, where the user leaves that to the machine.

A CPU without instructions for bfloat16 computes such weights many times slower than float32: a
product of 512 rows ran at 7 GFLOP/s instead of 50 to 67. float16 is as slow on most CPUs that have
instructions for bfloat16.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.files import read_json
from harness.core.log import say
from harness.engines import model_folder

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
# Capability of a CPU, as torch names them -> the type it has instructions for.
INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "arm_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "avx10_1", "avx10_2", "fp16", "arm_fp16"),
}
STORED = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # as safetensors name them
MEMORY_SHARE = 0.6  # of the free memory, for weights in float32; the rest is for the work


def choose_dtype(folder: Path, device: torch.device | str, dtype: str) -> str:
    """Return the type to load the model in `folder` as: `dtype`, or float32 in place of "auto".

    That is where the weights are of a type that this CPU has no instructions for, and memory
    holds them as float32; it is said once for each type.
    """
    if dtype != "auto" or str(device).partition(":")[0] != "cpu":
        return dtype
    stored = stored_dtype(folder)
    if stored not in INSTRUCTIONS or has_instructions(stored):
        return dtype
    size = 4 * sum(math.prod(shape) for _, shape in model_folder.weights(folder).values())
    is_room = size <= MEMORY_SHARE * _free_memory()
    _tell(stored, is_room)
    return "float32" if is_room else dtype


def stored_dtype(folder: Path) -> str:
    """The type of the weights in `folder`: what its configuration says, else that of most."""
    config = read_json(folder / model_folder.CONFIG)
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
    """Whether this CPU multiplies numbers of `dtype` by instructions of its own.

    `capabilities` are the CPU's, as torch names them. Where torch does not know them, nothing is
    said against the CPU.
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
def _tell(stored: str, is_room: bool) -> None:
    if is_room:
        say(
            f"This CPU has no instructions for {stored}: weights in {stored} are computed as "
            "float32, which is many times faster. Set dtype to have another type."
        )
    else:
        say(
            f"WARNING: this CPU has no instructions for {stored}, and memory does not hold the "
            f"weights as float32: computing in {stored} is many times slower."
        )
