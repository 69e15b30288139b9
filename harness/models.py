"""Model folders: found, checked before anything is loaded, and identified by their content.

A model folder is somebody else's data. Weights are read as safetensors only, since pickles run
code; a model's own Python is never run; and nothing in a folder may lead out of it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.schema import digest
from harness.store import file_digest, read_json

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

MANIFESTS = "*_model.json"  # what training leaves beside a reward or a feedback model


def model_digest(folder: Path) -> str:
    """Identity of a model or adapter: weights, configuration and tokenizer, by name and content.

    sha256 of the sorted (file name, sha256) pairs; what else lies in the folder does not count.

    Raises:
        UserError: the folder holds none of these.
    """
    files = sorted({file for pattern in IDENTITY for file in folder.glob(pattern)})
    if not files:
        raise UserError(f"{folder} holds no model: no weights, configuration or tokenizer.")
    return digest([[file.name, file_digest(file)] for file in files if file.is_file()])


def loaded_digest(model: Any, tokenizer: Any) -> str:
    """Identity of a model in memory: its tensors, configuration and tokenizer."""
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
    """The folder of a model: itself, or where the hub's files (of `revision`) were downloaded to.

    Raises:
        UserError: there is no such folder, and the hub gives out no such model.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(model)) or str(model).startswith("."):
        raise UserError(f"There is no model folder {folder}.")
    import huggingface_hub

    try:
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
                "HF_HUB_OFFLINE is set, so only what was downloaded before can be used."
                if offline
                else "Check the name, the connection and, for gated models, `hf auth login`."
            )
        ) from error


def check(folder: Path) -> None:
    """See that `folder` holds a model that can be loaded safely.

    Raises:
        UserError: what is missing or unsafe, and what to do about it.
    """
    if not (folder / CONFIG).exists():
        if (folder / ADAPTER_CONFIG).exists():
            raise UserError(
                f"{folder} is a LoRA adapter: name its base as the model, and {folder} as the "
                "adapter."
            )
        raise UserError(
            f"The model folder {folder} has no {CONFIG}; name one that `save_pretrained` of "
            "transformers wrote."
        )
    if (folder / ADAPTER_CONFIG).exists():
        raise UserError(
            f"{folder} holds an adapter beside a model, and not every program reads both. Give the "
            "adapter a folder of its own, and name that as the adapter."
        )
    check_inside(folder)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} is not a model configuration.")
    if "/" in str(config.get("attn_implementation")):
        raise UserError(
            f"{folder / CONFIG} wants its attention from a repository of code "
            f"({config['attn_implementation']}), and no code of a model's is run. Take "
            "'attn_implementation' out."
        )
    check_weights(folder)
    if not any(found for pattern in TOKENIZER for found in folder.glob(pattern)):
        raise UserError(
            f"The model folder {folder} has no tokenizer. Save it there with "
            "`tokenizer.save_pretrained`."
        )


def check_inside(folder: Path) -> None:
    """See that nothing in `folder` leads out of it: no link, and no name of a part of the weights.

    The hub's own folders are links into the `blobs` beside them.

    Raises:
        UserError: something does.
    """
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
            raise UserError(f"{index} is no index of weights. Download the model again.")
        for shard in sorted(set(map(str, shards.values()))):
            if not re.fullmatch(r"[^/\\\0]+\.safetensors", shard):
                raise UserError(
                    f"{index} names {shard!r}, which is no safetensors file of that folder. "
                    "Download the model again, from somebody you trust."
                )


def check_adapter(folder: Path) -> None:
    """See that `folder` holds a LoRA adapter that can be loaded safely.

    Raises:
        UserError: what is missing or unsafe, and what to do about it.
    """
    if not (folder / ADAPTER_CONFIG).exists():
        raise UserError(f"{folder} is no LoRA adapter: it has no {ADAPTER_CONFIG}.")
    check_inside(folder)
    config = read_json(folder / ADAPTER_CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UserError(f"{folder} is no LoRA adapter, and no other kind is used here.")
    check_weights(folder)
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise UserError(f"The weights of an adapter are in {ADAPTER_WEIGHTS}; {folder} has none.")


def check_files(folder: Path, manifest: str, files: Mapping[str, str]) -> None:
    """See that the files of `folder` are those which training wrote, as its `manifest` says.

    Raises:
        UserError: one of `files` (name -> sha256) is another, or is not there.
    """
    for name, expected in sorted(files.items()):
        file = folder / Path(name).name
        if not file.is_file() or file_digest(file) != expected:
            raise UserError(
                f"{file} is not the file that training wrote ({manifest} says so). Train the "
                f"model again, or delete {manifest} if the change is yours."
            )


def check_weights(folder: Path) -> None:
    """See that `folder` holds safetensors.

    Raises:
        UserError: it holds no weights, or only pickles.
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
