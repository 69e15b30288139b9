"""Run large linear layers on a CPU through oneDNN, with weights laid out once.

torch multiplies float32 through a library that lays the weight out anew each time, which costs as
much as the product itself while there are few rows. oneDNN accepts a weight that is laid out
already. Measured gain of a product: 1.6x at 8 rows, 1.2x at 64 and at 2,048 (512 x 1,536; a
vocabulary of 32,000: 2.3x, 1.7x). A call costs some 12 us more, so small layers stay as they are.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

MIN_WEIGHTS = 1 << 18  # a layer of this size gains with any number of rows


class OneDNNLinear(torch.nn.Module):
    """Compute what `linear` computes, without gradients.

    `embeddings` are its weight as torch has it, where that stays in memory in any case.
    """

    def __init__(self, linear: torch.nn.Linear, embeddings: torch.Tensor | None = None) -> None:
        super().__init__()
        self._embeddings = (embeddings,)  # in a tuple, so that it is not saved as a parameter
        self.rounds_as_torch = False
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    @property
    def weight(self) -> torch.Tensor:
        """Copy the weight into its usual layout, for models that read it."""
        dense: torch.Tensor = self._packed.to_dense()
        return dense

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.rounds_as_torch and self._embeddings[0] is not None:
            return functional.linear(inputs, self._embeddings[0], self.bias)
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self._packed, self.bias, "none", [], ""
        )
        return out


def use_onednn(model: Any) -> None:
    """Replace the large linear layers of `model`, if this processor gains by it.

    The model can be saved as before, but not trained. Nothing changes on other devices than a CPU,
    nor on a CPU other than x86, where the gain was not measured.
    """
    if model.device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    embeddings = model.get_input_embeddings().weight
    # One layer at a time is held here: each that is replaced gives its memory back.
    for parent in [part for part in model.modules() if any(True for _ in part.children())]:
        for name, layer in list(parent.named_children()):
            # Subclasses compute something else.
            if type(layer) is torch.nn.Linear and _gains(layer.weight):
                tied = embeddings if layer.weight is embeddings else None
                setattr(parent, name, OneDNNLinear(layer, tied))


@contextlib.contextmanager
def torch_head(model: Any) -> Iterator[None]:
    """Compute logits by torch itself, where the weights of the head are the embeddings.

    oneDNN adds the numbers up in another order, which doubles the difference between the
    log-probabilities of a text and those of stock lm-eval.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, OneDNNLinear):
        yield
        return
    head.rounds_as_torch = True
    try:
        yield
    finally:
        head.rounds_as_torch = False


def _gains(weight: torch.Tensor) -> bool:
    if weight.dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return weight.dtype in (torch.float32, torch.bfloat16) and weight.numel() >= MIN_WEIGHTS
