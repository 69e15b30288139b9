"""Find model folders, check them before anything is loaded, and identify them by content.

A model folder is untrusted data. Weights are read as safetensors only, since pickles run code; a
model's own Python is never run; and nothing in a folder may lead out of it.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import file_digest, read_json
from harness.core.hub import without_vain_retries
from harness.core.schema import digest

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "*.safetensors"
SHARDS = "*.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.*", "*.tiktoken")
IDENTITY = (
    *(CONFIG, "generation_config.json", ADAPTER_CONFIG, WEIGHTS, SHARDS),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.model", "*.tiktoken", "chat_template*"),
)

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_POINTER_BYTES = 1024
# Numbers of a configuration that say how many layers there are, or how large a tensor is
COUNTS = re.compile(r"(num_|n_)(hidden_|decoder_|encoder_)?(layers?|blocks)|encoder_layers")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
COUNTS_MORE = ("decoder_layers", "depth", "num_stages")
VOCABULARIES = ("vocab_size",)
WIDTHS = ("embedding_size", "hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
PACKED = 16  # most quantised weights that one stored number may stand for
MAX_NESTED = 4  # levels of configurations in a configuration
SIZES = re.compile(r".*(_size|_dim|_rank|_inner|_experts|_heads?)|n_embd|d_model|d_ff|d_kv|ffn_dim")

MANIFESTS = "*_model.json"  # written by training next to a reward or a feedback model


@dataclass(frozen=True)
class Checkpoint:
    """Weights to load: a model folder, and the LoRA adapter on it, if any."""

    name: str
    model: Path
    adapter: Path | None = None

    @cached_property
    def digest(self) -> str:
        """Digest of weights, configuration and tokenizer, wherever they lie."""
        base = model_digest(self.model)
        return base if self.adapter is None else digest([base, model_digest(self.adapter)])


def model_digest(folder: Path) -> str:
    """Compute the digest of a model or adapter: weights, configuration and tokenizer.

    sha256 of the sorted (file name, sha256) pairs; other files in the folder do not count.

    Raises:
        UserError: the folder has no such file.
    """
    files = sorted({file for pattern in IDENTITY for file in folder.glob(pattern)})
    if not files:
        raise UserError(
            f"{folder} is not a model folder: it has no weights, configuration or tokenizer."
        )
    return digest([[file.name, file_digest(file)] for file in files if file.is_file()])


def loaded_digest(model: Any, tokenizer: Any) -> str:
    """Compute the digest of a model in memory: its tensors, configuration and tokenizer."""
    import torch

    tensors = []
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        content = hashlib.sha256(data).hexdigest()
        tensors.append([name, str(tensor.dtype), list(tensor.shape), content])
    words = sorted(tokenizer.get_vocab().items())
    return digest(
        [tensors, model.config.to_json_string(), words, str(tokenizer.chat_template or "")]
    )


def find(model: str | Path, revision: str | None = None) -> Path:
    """Find the folder of a model; download a hub model (of `revision`) if needed.

    Raises:
        UserError: there is no such folder, and the hub does not give out such a model.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(model)) or str(model).startswith("."):
        raise UserError(f"There is no model folder {folder}.")
    import huggingface_hub

    try:
        with without_vain_retries():
            return Path(
                huggingface_hub.snapshot_download(
                    str(model),
                    revision=revision,
                    allow_patterns=[*IDENTITY, MANIFESTS],
                    ignore_patterns=["*/*"],
                )
            )
    except Exception as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
        raise UserError(
            f"'{model}' is neither a folder here nor a model that the Hugging Face hub gives out "
            f"({type(error).__name__}). "
            + (
                "HF_HUB_OFFLINE is set, so only models downloaded before can be used."
                if offline
                else "Check the name, the connection and, for gated models, `hf auth login`."
            )
        ) from error


def check(folder: Path) -> None:
    """Check that the model in `folder` can be loaded safely.

    Raises:
        UserError: what is missing or unsafe, and what to do about it.
    """
    if not (folder / CONFIG).exists():
        if (folder / ADAPTER_CONFIG).exists():
            raise UserError(
                f"{folder} is a LoRA adapter. Name its base as the model, and {folder} as the "
                "adapter."
            )
        raise UserError(
            f"The model folder {folder} has no {CONFIG}; name one that `save_pretrained` of "
            "transformers wrote."
        )
    if (folder / ADAPTER_CONFIG).exists():
        raise UserError(
            f"{folder} has an adapter next to a model, and not every program reads both. Move the "
            "adapter to its own folder, and name that as the adapter."
        )
    check_inside(folder)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} is not a model configuration.")
    if "/" in str(config.get("attn_implementation")):
        raise UserError(
            f"{folder / CONFIG} takes its attention from a repository of code "
            f"({config['attn_implementation']}), and code of models is never run. Remove "
            "'attn_implementation'."
        )
    check_weights(folder)
    _check_sizes(folder, config)
    if not any(found for pattern in TOKENIZER for found in folder.glob(pattern)):
        raise UserError(
            f"The model folder {folder} has no tokenizer. Save it there with "
            "`tokenizer.save_pretrained`."
        )


def check_inside(folder: Path) -> None:
    """Check that no link and no name of a weights file leads out of `folder`.

    Links into the hub's `blobs` folder are allowed. Files that Git LFS did not fetch are refused.

    Raises:
        UserError: something leads out of the folder, or is a pointer instead of a file.
    """
    check_fetched(folder)
    root = folder.resolve()
    homes = [root]
    if root.parent.name == "snapshots":
        homes.append(root.parent.parent / "blobs")
    for entry in sorted((*folder.glob("*"), *folder.glob("*/*"))):
        if entry.is_symlink() and not any(entry.resolve().is_relative_to(home) for home in homes):
            raise UserError(
                f"{entry} is a link out of the model folder, to {entry.resolve()}. If that is the "
                "file you want, copy it there."
            )
    for index in sorted(folder.glob(SHARDS)):
        known = read_json(index)
        shards = known.get("weight_map") if isinstance(known, dict) else None
        if not isinstance(shards, dict):
            raise UserError(f"{index} is not an index of weights. Download the model again.")
        for shard in sorted(set(map(str, shards.values()))):
            if not re.fullmatch(r"[^/\\\0]+\.safetensors", shard):
                raise UserError(
                    f"{index} names {shard!r}, which is not a safetensors file of that folder. "
                    "Download the model again, from somebody you trust."
                )


def check_fetched(folder: Path) -> None:
    """Check that Git LFS fetched the files of a model.

    Raises:
        UserError: a file is a pointer.
    """
    for file in sorted({file for pattern in IDENTITY for file in folder.glob(pattern)}):
        try:
            if file.stat().st_size > MAX_POINTER_BYTES or not file.is_file():
                continue
            is_pointer = file.read_bytes().startswith(LFS_POINTER)
        except OSError:  # whoever loads the file says what is wrong with it
            continue
        if is_pointer:
            raise UserError(
                f"{file} is a Git LFS pointer, and the file itself was not fetched. Run "
                f"`git lfs pull` in {folder}, or download the model again."
            )


def weights(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Read type and shape of each tensor in `folder`, by name, without reading weights.

    Raises:
        UserError: a file is damaged, cut short or missing.
    """
    from safetensors import SafetensorError, safe_open

    for index in sorted(folder.glob(SHARDS)):
        named = set(map(str, read_json(index)["weight_map"].values()))
        if absent := sorted(name for name in named if not (folder / name).exists()):
            raise UserError(f"{folder} lacks {absent[0]}, which {index.name} names: fetch it.")
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in sorted(folder.glob(WEIGHTS)):
        try:
            with safe_open(file, "np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (it is not a mapping)
                    tensor = tensors.get_slice(name)
                    shapes[name] = str(tensor.get_dtype()), tuple(tensor.get_shape())
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"Cannot load the model in {folder}: {file.name} is damaged or cut short "
                f"({str(error)[:200]}). Fetch or save it again."
            ) from error
    return shapes


def _check_sizes(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that the numbers of a configuration fit the weights next to it.

    `transformers` builds a model from its configuration before it reads weights, so a false number
    could take all memory and hours.

    Raises:
        UserError: a number does not fit.
    """
    tensors = weights(folder)
    count = len(tensors)
    total = sum(math.prod(shape) for _, shape in tensors.values())
    for name, value in _numbers(config):
        key = name.rpartition(".")[2]
        if COUNTS.fullmatch(key) or key in COUNTS_MORE:
            most, of = count, "tensors"
        elif SIZES.fullmatch(key):
            most, of = PACKED * total, "weights"
        else:
            continue
        if key in LAYERS and value < 1:
            raise UserError(
                f"{folder / CONFIG} says that {name} is {value:,}; it must be 1 or more."
            )
        if value > most:
            raise UserError(
                f"{folder / CONFIG} says that {name} is {value:,}, and the weights of {folder} "
                f"have {count:,} tensors with {total:,} numbers in all: too few {of} for that. "
                "The configuration is damaged or another model's; download the model again."
            )
    rows, columns = (_first(config, names) for names in (VOCABULARIES, WIDTHS))
    if rows * columns > PACKED * total:
        raise UserError(
            f"{folder / CONFIG} says that {rows:,} tokens have {columns:,} numbers each, and the "
            f"weights of {folder} are {total:,} numbers in all. The configuration is damaged or "
            "another model's; download the model again."
        )


def _numbers(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, float]]:
    """Yield name and value of each number in a configuration and in those nested in it."""
    for name, value in config.items():
        if isinstance(value, dict) and name.endswith("config") and place.count(".") < MAX_NESTED:
            yield from _numbers(value, f"{place}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{place}{name}", value


def _first(config: Mapping[str, Any], names: Sequence[str]) -> float:
    """Return the first number of `config` under one of `names`, or 0."""
    return next((config[n] for n in names if isinstance(config.get(n), int | float)), 0)


def check_adapter(folder: Path) -> None:
    """Check that the LoRA adapter in `folder` can be loaded safely.

    Raises:
        UserError: what is missing or unsafe, and what to do about it.
    """
    if not (folder / ADAPTER_CONFIG).exists():
        raise UserError(f"{folder} is not a LoRA adapter: it has no {ADAPTER_CONFIG}.")
    check_inside(folder)
    config = read_json(folder / ADAPTER_CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UserError(f"{folder} is not a LoRA adapter, and other kinds are not supported.")
    check_weights(folder)
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise UserError(f"The adapter {folder} has no {ADAPTER_WEIGHTS}. Save it again.")
    widest = max((max(shape, default=1) for _, shape in weights(folder).values()), default=0)
    patterns = config.get("rank_pattern")
    ranks = [config.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    for rank in ranks:
        if isinstance(rank, int | float) and rank > widest:
            raise UserError(
                f"{folder / ADAPTER_CONFIG} says that the adapter has rank {rank:,}, and no tensor "
                f"of its weights has a side of more than {widest:,}. It is damaged or another "
                "adapter's; download the adapter again."
            )


def check_files(folder: Path, manifest: str, files: Mapping[str, str]) -> None:
    """Check that the files of `folder` are those that training wrote.

    `files` are names and sha256, as the file `manifest` lists them.

    Raises:
        UserError: a file is different or missing.
    """
    for name, expected in sorted(files.items()):
        file = folder / Path(name).name
        if not file.is_file() or file_digest(file) != expected:
            raise UserError(
                f"{file} is not the file that training wrote ({manifest} says so). Train the "
                f"model again, or delete {manifest} if the change is yours."
            )


def check_weights(folder: Path) -> None:
    """Check that the weights in `folder` are safetensors.

    Raises:
        UserError: there are no weights, or only pickles.
    """
    if any(folder.glob(WEIGHTS)):
        return
    if pickles := sorted(found.name for pattern in PICKLES for found in folder.glob(pattern)):
        raise UserError(
            f"The weights in {folder} are a pickle ({pickles[0]}), which can run code when it is "
            "read. Convert them: load the model where you trust it and call "
            "`save_pretrained(..., safe_serialization=True)`."
        )
    raise UserError(f"The model folder {folder} has no weights ({WEIGHTS}).")
