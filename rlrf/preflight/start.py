"""The model that a run starts from: whether it is whole, and what it takes to train it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.errors import UserError, first_line
from harness.engines import model_folder
from rlrf.config import Config
from rlrf.preflight.findings import Said, gib


@dataclass(frozen=True)
class Model:
    folder: Path
    settings: Any  # its transformers configuration
    tokenizer: Any
    parameters: int
    size: int  # bytes of the weights' files

    @property
    def text(self) -> Any:
        """The settings of its language part."""
        return self.settings.get_text_config()

    @cached_property
    def layers(self) -> dict[str, tuple[int, int]]:
        """Name of a layer that an adapter can be on -> its inputs and outputs; no weights."""
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
        from harness.engines.loading import context

        return context(self.settings, self.tokenizer)

    def tokens(self) -> Said:
        """Whether the tokenizer is this model's.

        Raises:
            UserError: it has tokens that the model has not, or no end.
        """
        from harness.engines.template import check_template

        highest = max(self.tokenizer.get_vocab().values(), default=0)
        known = int(self.text.vocab_size)
        if highest >= known:
            raise UserError(
                f"The tokenizer in {self.folder} has {highest + 1:,} tokens and the model "
                f"{known:,}: it is another model's. Save the model's own beside it."
            )
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"The tokenizer in {self.folder} has no token that ends a text (eos_token), so "
                "that every answer would run to its limit."
            )
        check_template(self.tokenizer)
        if self.tokenizer.chat_template is None:
            return f"{highest + 1:,} tokens", (
                "no chat template: prompts go in as they are, which suits a base model"
            )
        return f"{highest + 1:,} tokens, chat template"


def find_model(config: Config) -> tuple[Model, Said]:
    import transformers

    from harness.engines.loading import load_tokenizer

    folder = model_folder.find(config.model, config.revision)
    model_folder.check(folder)
    try:
        settings = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        said = first_line(error)
        raise UserError(f"{folder / model_folder.CONFIG} cannot be used: {said}") from error
    parameters, size = _weights(folder)
    found = Model(folder, settings, load_tokenizer(folder), parameters, size)
    architecture = (settings.architectures or [settings.model_type])[0]
    return found, f"{architecture}, {parameters / 1e6:,.1f} million weights, {gib(size)}"


def _weights(folder: Path) -> tuple[int, int]:
    """How many numbers the safetensors of `folder` hold, and in how many bytes."""
    count = sum(math.prod(shape) for _, shape in model_folder.weights(folder).values())
    return count, sum(file.stat().st_size for file in folder.glob(model_folder.WEIGHTS))


def adapter(config: Config, model: Model) -> Said:
    adapter = config.adapter
    assert adapter is not None  # noqa: S101 (it is looked at where there is one)
    layers = model.layers
    if isinstance(adapter.target_modules, str):
        return f"on {len(layers)} layers"
    for target in adapter.target_modules:
        if not any(_is_at(name, target) for name in layers):
            known = sorted({name.rpartition(".")[2] for name in layers})
            raise UserError(
                f"adapter.target_modules names {target}, and the model has no such layer. It has "
                f"{', '.join(known)}."
            )
    return f"on {sum(_is_adapted(config, name) for name in layers)} layers"


def _is_adapted(config: Config, name: str) -> bool:
    targets = config.adapter.target_modules if config.adapter else []
    return isinstance(targets, str) or any(_is_at(name, target) for target in targets)


def _is_at(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def adapter_weights(config: Config, model: Model) -> int:
    """Numbers in an adapter: rank times inputs and outputs of each layer that has one."""
    if config.adapter is None:
        return 0
    sizes = (sum(shape) for name, shape in model.layers.items() if _is_adapted(config, name))
    return config.adapter.r * sum(sizes)


def memory(config: Config, model: Model) -> Said:
    """An estimate from below: without activations, and with the cache of one response."""
    from harness.engines.batch_size import free_memory, numbers_kept
    from harness.engines.dtype import choose_dtype
    from harness.engines.loading import find_device

    device = find_device(config.engine.device)
    where, free = str(device), free_memory(device)
    dtype = choose_dtype(model.folder, device, config.engine.dtype)
    number = {"float32": 4, "bfloat16": 2, "float16": 2}.get(
        dtype, model.size / max(model.parameters, 1)
    )
    cache = numbers_kept(model.text) * number * model.context
    generating = model.parameters * number + cache
    if config.adapter is None:
        training, reckoned = 16.0 * model.parameters, "weights, gradient and two moments in float32"
    else:
        training = model.parameters * number + 16.0 * adapter_weights(config, model)
        reckoned = "weights as they are, and an adapter with gradient and two moments in float32"
    launch = config.train.launch
    processes = (launch.processes or 1) if launch else 1
    if launch is not None and launch.strategy == "fsdp":
        training /= processes if where != "cpu" else 1
    elif where == "cpu":
        training *= processes
    said = (
        f"at least {gib(training)} to train ({reckoned}; no activations), {gib(generating)} to "
        f"generate (weights, cache of one full context); {gib(free)} free on {where}"
    )
    needed = max(training, generating) if config.executor.kind == "local" else training
    if needed > free:
        hint = "" if config.adapter else ", train an adapter"
        raise UserError(f"{said}. Take a smaller model{hint}, or a larger machine.")
    return said
