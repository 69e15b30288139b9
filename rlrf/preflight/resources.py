"""Check what a run needs: its model, memory, disk, folder, file locks, board and ports."""

from __future__ import annotations

import errno
import fcntl
import math
import shutil
import socket
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.board import Board
from harness.core.errors import UserError
from harness.core.folders import is_in_use
from harness.core.text import plural
from harness.engines import model_folder
from harness.evals.scoring import code_version
from rlrf.artefacts import open_artefacts
from rlrf.config import Config
from rlrf.doctor import Said, gib
from rlrf.run import check_identity, holds_run
from rlrf.training_config import Adapter

MAX_CLOCK_SKEW_SECONDS = 5.0


@dataclass(frozen=True)
class Model:
    """The model that a run starts from, without its weights."""

    folder: Path
    settings: Any  # its transformers configuration
    tokenizer: Any
    parameters: int
    size: int  # bytes of the weights' files

    @property
    def text(self) -> Any:
        """The settings of the language part."""
        return self.settings.get_text_config()

    @cached_property
    def layers(self) -> dict[str, tuple[int, int]]:
        """Name of a layer that an adapter can train -> its numbers of inputs and outputs."""
        import torch
        import transformers

        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(
                self.settings, trust_remote_code=False
            )
        head = model.get_output_embeddings()
        conv = transformers.pytorch_utils.Conv1D
        return {
            name: tuple(module.weight.shape)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | conv) and module is not head
        }

    @property
    def context(self) -> int:
        from harness.engines.loading import context_of

        return context_of(self.settings, self.tokenizer)

    def tokens(self) -> Said:
        """Check that the tokenizer belongs to the model.

        Raises:
            UserError: it has tokens that the model lacks, or no end-of-text token.
        """
        from harness.engines.loading import check_vocabulary, require_end
        from harness.engines.prompts import check_template

        highest = max(self.tokenizer.get_vocab().values(), default=0)
        check_vocabulary(highest + 1, int(self.text.vocab_size), self.folder)
        require_end(self.tokenizer)
        check_template(self.tokenizer)
        if self.tokenizer.chat_template is None:
            return f"{highest + 1:,} tokens", (
                "no chat template: prompts go in as they are, which suits a base model"
            )
        return f"{highest + 1:,} tokens, chat template"


def find_model(config: Config) -> tuple[Model, Said]:
    """Find the model of a run and read its settings and tokenizer."""
    from harness.engines.loading import load_config, load_tokenizer

    folder = model_folder.find(config.model, config.revision)
    settings = load_config(folder)
    parameters, size = _weights(folder)
    found = Model(folder, settings, load_tokenizer(folder), parameters, size)
    architecture = (settings.architectures or [settings.model_type])[0]
    return found, f"{architecture}, {parameters / 1e6:,.1f} million weights, {gib(size)}"


def _weights(folder: Path) -> tuple[int, int]:
    """Count the numbers in the safetensors of `folder`, and the bytes of the files."""
    count = sum(math.prod(shape) for _, shape in model_folder.weights(folder).values())
    return count, sum(file.stat().st_size for file in folder.glob(model_folder.WEIGHTS))


def adapter(config: Adapter, model: Model) -> Said:
    """Check that the adapter's target modules exist."""
    layers = model.layers
    if isinstance(config.target_modules, str):
        return f"on {len(layers)} layers"
    for target in config.target_modules:
        if not any(_names(target, name) for name in layers):
            known = sorted({name.rpartition(".")[2] for name in layers})
            raise UserError(
                f"adapter.target_modules names {target}, and the model has no such layer. It has "
                f"{', '.join(known)}."
            )
    return f"on {sum(_is_adapted(config, name) for name in layers)} layers"


def _is_adapted(config: Adapter, layer: str) -> bool:
    targets = config.target_modules
    return isinstance(targets, str) or any(_names(target, layer) for target in targets)


def _names(target: str, layer: str) -> bool:
    return layer == target or layer.endswith(f".{target}")


def adapter_weights(config: Adapter, model: Model) -> int:
    """Count the numbers in an adapter: rank times inputs and outputs of each adapted layer."""
    sizes = (sum(shape) for name, shape in model.layers.items() if _is_adapted(config, name))
    return config.r * sum(sizes)


def memory(config: Config, model: Model) -> Said:
    """Estimate memory from below: without activations, and with the cache of one response."""
    from harness.engines.hf import free_memory, numbers_kept
    from harness.engines.loading import choose_dtype, find_device

    device = find_device(config.engine.device)
    where, free = str(device), free_memory(device)
    dtype = choose_dtype(model.folder, device, config.engine.dtype)
    number = {"float32": 4, "bfloat16": 2, "float16": 2}.get(
        dtype, model.size / max(model.parameters, 1)
    )
    cache = numbers_kept(model.text) * number * model.context
    generating = model.parameters * number + cache
    if config.adapter is None:
        training, counted = 16.0 * model.parameters, "weights, gradient and two moments in float32"
    else:
        training = model.parameters * number + 16.0 * adapter_weights(config.adapter, model)
        counted = "weights as they are, and an adapter with gradient and two moments in float32"
    launch = config.train.launch
    processes = (launch.processes or 1) if launch else 1
    if launch is not None and launch.strategy == "fsdp":
        training /= processes if where != "cpu" else 1
    elif where == "cpu":
        training *= processes
    said = (
        f"at least {gib(training)} to train ({counted}; no activations), {gib(generating)} to "
        f"generate (weights, cache of one full context); {gib(free)} free on {where}"
    )
    needed = max(training, generating) if config.executor.kind == "local" else training
    if needed > free:
        hint = "" if config.adapter else ", train an adapter"
        raise UserError(f"{said}. Take a smaller model{hint}, or a larger machine.")
    return said


def disk(config: Config, model: Model, out: Path) -> Said:
    """Check that the candidates of all iterations fit on the disk."""
    candidate = 4 * adapter_weights(config.adapter, model) if config.adapter else model.size
    needed = config.iterations * candidate
    free = shutil.disk_usage(_existing(out)).free
    candidates = f"{config.iterations} {plural('candidate', config.iterations)}"
    said = f"{gib(needed)} for {candidates}; {gib(free)} free for {out}"
    if needed > free:
        raise UserError(f"{said}. Free some, or choose another folder with --out.")
    return said


def _existing(path: Path) -> Path:
    """Return `path` or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def artefacts(url: str) -> Said:
    """Check that artefacts can be written to `url`."""
    open_artefacts(url)
    return url


def run_folder(config: Config, out: Path) -> Said:
    """Check that the folder is free, empty, or holds a run of this configuration."""
    resumed = holds_run(out)
    advice = _file_system(_existing(out))
    if out.is_dir() and is_in_use(out):
        raise UserError(
            f"Another process works in {out}. Wait for it, or choose another with --out."
        )
    if not resumed:
        return f"{out} is {'empty' if out.is_dir() else 'new'}", advice
    check_identity(out, {"config": config.identity, "code": code_version()}, partly=True)
    return f"{out} holds this run, which is resumed", advice


def _file_system(folder: Path) -> str:
    """Check that files can be locked in `folder`, and compare its clock with this machine's.

    Raises:
        UserError: nothing can be written there, or locks have no effect.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".rlrf-doctor-", dir=folder) as scratch:
            file = Path(scratch) / "lock"
            file.write_bytes(b"")
            skew = abs(file.stat().st_mtime - time.time())
            with ExitStack() as opened:
                one, other = (opened.enter_context(open(file, "rb")) for _ in range(2))
                fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass
                else:
                    raise UserError(
                        f"File locks have no effect in {folder}: two processes could spoil one "
                        "run. Choose a folder on another file system."
                    )
    except OSError as error:
        what = "lock files" if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP) else "write"
        raise UserError(
            f"Cannot {what} in {folder} ({error.strerror}). Choose another folder with --out."
        ) from error
    if skew > MAX_CLOCK_SKEW_SECONDS:
        return f"its file server's clock differs from this machine's by {skew:.0f} s: set one"
    return ""


def board(folder: Path) -> Said:
    """Check that the folder can be a board."""
    Board(folder).check_place()
    rows = Board(folder).rows()
    return f"{folder}: {len(rows):,} {plural('row', len(rows))}" if rows else f"{folder} is new"


def metrics(place: str) -> Said:
    """Check that metrics for Prometheus can be served at `place`."""
    from rlrf.monitoring import address, require_package

    require_package()
    host, port = address(place)
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise UserError(
            f"RLRF_METRICS asks for {host}:{port}, which cannot be used "
            f"({error.strerror or error}): name another port."
        ) from error
    return f"{host}:{port} is free"
